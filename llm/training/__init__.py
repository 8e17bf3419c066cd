"""Training: settings, presets, the loop, its curve and its estimate."""
