"""The callbacks of every run of the command line."""

from lit_prune.training.callbacks.checkpoint_on_signal import CheckpointOnSignal
from lit_prune.training.callbacks.finite_loss import FiniteLoss
from lit_prune.training.callbacks.predictions import PredictionTable
from lit_prune.training.callbacks.running_metrics import RunningMetrics
from lit_prune.training.callbacks.save_config import SaveRunConfig
from lit_prune.training.callbacks.summary import RunSummary

__all__ = ["CheckpointOnSignal", "FiniteLoss", "PredictionTable", "RunSummary", "RunningMetrics", "SaveRunConfig"]
