"""A small model, random data and a Trainer, shared by all comparisons."""

import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

STEPS = 4  # batches in an epoch


@dataclass(frozen=True)
class Result:
    """Whether a library keeps a promise.

    Attributes:
        kept: Whether it keeps the promise.
        text: What was measured.
    """

    kept: bool
    text: str

    def __str__(self) -> str:
        return f"{'yes' if self.kept else 'no'}: {self.text}"


class Small(LightningModule):
    """A backbone with a normalization layer, and a head.

    Args:
        backbone: Maps (N, 16) to (N, 16); by default, two linear layers around a normalization layer.
        optimizer: Makes an optimizer from parameters.
    """

    def __init__(self, backbone: nn.Module | None = None, optimizer: Any = torch.optim.AdamW) -> None:
        super().__init__()
        self.backbone = backbone or nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)
        self.optimizer = optimizer

    def forward(self, rows: Tensor) -> Tensor:
        """Compute outputs (N, 4) of rows (N, 16)."""
        outputs: Tensor = self.head(self.backbone(rows))
        return outputs

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss of a batch."""
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of the parameters that require gradients, as Lightning's own callbacks ask for."""
        made: torch.optim.Optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        return made


class Watch(Callback):
    """Passes the model to functions, `step` after each batch and `scored` after each validation; keeps the results."""

    def __init__(self, step: Callable[[Any], Any] | None = None, scored: Callable[[Any], Any] | None = None) -> None:
        self.functions = step, scored
        self.steps: list[Any] = []
        self.epochs: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Watch a step."""
        if self.functions[0] is not None:
            self.steps.append(self.functions[0](pl_module))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Watch a validation."""
        if self.functions[1] is not None:
            self.epochs.append(self.functions[1](pl_module))


def rows() -> DataLoader[Any]:
    """Make a loader of random rows, in batches (16, 16), with their classes."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(16 * STEPS, 16, generator=generator)
    return DataLoader(TensorDataset(data, data[:, :4].argmax(1)), batch_size=16)


def fit(
    callbacks: list[Callback],
    epochs: int = 4,
    make: Callable[[], Small] = Small,
    folder: Path | None = None,
    resume: Path | None = None,
    **settings: Any,
) -> Small:
    """Train a new model, always from the same weights, and return it.

    Args:
        callbacks: Callbacks of the library and of the measurement.
        epochs: Number of epochs.
        make: Makes the model.
        folder: Folder for the checkpoints of all epochs. None writes none.
        resume: Checkpoint to resume from.
        settings: Further arguments of the Trainer.
    """
    torch.manual_seed(0)
    model = make()
    saving = [] if folder is None else [ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(
            **{"devices": 1, **settings},
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[*callbacks, *saving],
            default_root_dir=root,
            enable_checkpointing=bool(saving),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, rows(), rows(), ckpt_path=resume, weights_only=False)
    return model


def describe(error: BaseException) -> Result:
    """Return the failure of a library as a result."""
    line = next(iter(str(error).strip().splitlines()), "")
    return Result(False, f"{type(error).__name__}: {textwrap.shorten(line, 70, placeholder=' ...')}")


def same(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two models have bit-identical state dicts."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
