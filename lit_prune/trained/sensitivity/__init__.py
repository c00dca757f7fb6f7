"""`lit-prune sensitivity`: measure how much accuracy pruning each layer alone costs."""
