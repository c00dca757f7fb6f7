"""The callbacks of every run of the command line."""
