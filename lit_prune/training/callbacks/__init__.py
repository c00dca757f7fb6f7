"""The callbacks that the command line adds to the Trainer."""

from lit_prune.training.callbacks.checkpoint_on_signal import CheckpointOnSignal
from lit_prune.training.callbacks.compiled_training import CompiledTraining
from lit_prune.training.callbacks.finite_loss import FiniteLoss
from lit_prune.training.callbacks.predictions import PredictionTable
from lit_prune.training.callbacks.progress import LayerSummary, Progress
from lit_prune.training.callbacks.running_metrics import RunningMetrics
from lit_prune.training.callbacks.save_config import SaveRunConfig
from lit_prune.training.callbacks.summary import RunSummary

__all__ = [
    "CheckpointOnSignal",
    "CompiledTraining",
    "FiniteLoss",
    "LayerSummary",
    "PredictionTable",
    "Progress",
    "RunSummary",
    "RunningMetrics",
    "SaveRunConfig",
]
