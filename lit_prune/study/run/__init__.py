"""The command `lit-prune study`, which runs the experiments of a plan."""
