"""Make zeros pay: convert layers to sparse or smaller products, each only where it is measurably faster."""
