"""What one does with a trained network: look at it, prune it, export it, and know what it costs."""
