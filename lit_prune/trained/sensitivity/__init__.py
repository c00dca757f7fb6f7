"""`lit-prune sensitivity`."""
