"""Parse arguments, print errors and tables: what all commands share."""
