"""Measurements of `benchmark.py`."""
