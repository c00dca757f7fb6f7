"""`lit-prune cost`: measure FLOPs, bytes and latency of networks."""
