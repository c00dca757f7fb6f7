"""`lit-prune cost`: measure FLOPs, file size and latency of networks."""
