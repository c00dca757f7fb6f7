"""Results of a study's runs: measures, curves, verdicts."""
