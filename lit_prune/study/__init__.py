"""Experiments as data: what to run (`plan`), how to run and resume it (`run`), and what came out (`report`)."""
