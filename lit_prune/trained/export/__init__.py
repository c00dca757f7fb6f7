"""`lit-prune export`: write a trained network for other tools, and check the file."""
