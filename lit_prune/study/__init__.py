"""Studies, which repeat experiments with several random seeds: their plans, runs, results and reports."""
