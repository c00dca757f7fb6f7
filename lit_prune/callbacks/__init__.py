"""Callbacks for any LightningModule: each decides when, `lit_prune.functional` decides what."""

from lit_prune.callbacks.freezing import LayerFreezing

__all__ = ["LayerFreezing"]
