"""What libraries do about promises of pruning and freezing."""
