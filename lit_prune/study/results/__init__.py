"""Results of a study: measures and curves of its runs, and verdicts on its claims."""
