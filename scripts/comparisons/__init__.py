"""Measure whether libraries keep promises about pruning and freezing: the cells of docs/comparison.md."""
