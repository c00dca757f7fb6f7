"""`lit-prune inspect`: show a trained network layer by layer."""
