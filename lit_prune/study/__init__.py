"""Studies: `plan` describes experiments, `run` trains them, `results` reads their files, and `report` shows them."""
