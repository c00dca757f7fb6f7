"""Measurements and tables of `benchmark.py`, `gpu.py`, `cost_table.py` and `sparse_table.py`."""
