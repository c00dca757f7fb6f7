"""`lit-prune inspect`."""
