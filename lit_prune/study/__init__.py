"""Studies: experiments as data (`plan`), running them (`run`), their results (`results`), and the report (`report`)."""
