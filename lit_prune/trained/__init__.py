"""Commands on a trained network."""
