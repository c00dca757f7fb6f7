"""`lit-prune cost`."""
