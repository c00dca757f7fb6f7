"""`lit-prune export`."""
