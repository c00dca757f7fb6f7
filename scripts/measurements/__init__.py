"""What `benchmark.py` can measure."""
