"""`lit-prune sensitivity`: measure, for each layer, the loss of accuracy if only this layer is pruned."""
