"""The commands that work on a trained network, such as `lit-prune inspect`."""
