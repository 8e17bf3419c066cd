"""Benchmarks: tasks, the two protocols, decoding."""
