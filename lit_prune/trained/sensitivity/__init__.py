"""`lit-prune sensitivity`: measure what pruning each layer alone costs."""
