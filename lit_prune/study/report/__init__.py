"""The command `lit-prune report`, which writes the results of a study to a Markdown document and for TensorBoard."""
