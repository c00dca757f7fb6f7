"""`lit-prune report`: present the results of a study in tables, figures, verdicts on claims, and TensorBoard."""
