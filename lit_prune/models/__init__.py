"""The network of the study, and what it is made of."""
