"""Plans of studies: the experiments with their settings, and the claims to test."""
