"""Inputs and kills that nobody would write by hand: what docs/reliability.md reports."""
