"""What a study runs, and what it claims."""
