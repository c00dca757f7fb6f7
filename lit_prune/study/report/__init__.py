"""A study's results as tables, figures, verdicts and for TensorBoard."""
