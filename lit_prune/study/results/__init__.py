"""What the runs of a study have come to."""
