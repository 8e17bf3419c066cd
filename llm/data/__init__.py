"""Instruction data: rows, templates, splits, batches."""
