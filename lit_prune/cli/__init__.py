"""What all commands share: parsing of arguments, error messages, signals, tables and figures."""
