"""Speed up inference of pruned networks: convert layers to sparse or smaller products where these are faster."""
