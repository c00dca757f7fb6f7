"""Arguments, errors, tables and figures, for all commands."""
