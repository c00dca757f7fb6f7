"""The command `lit-prune report`: write the results of a study as a document, tables, figures and TensorBoard runs."""
