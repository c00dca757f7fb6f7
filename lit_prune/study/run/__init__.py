"""`lit-prune study`: running the experiments of a plan."""
