"""From tables of results to figures; what is drawn is also written as numbers, beside each picture."""
