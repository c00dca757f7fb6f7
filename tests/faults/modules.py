"""A small custom model and its data, and callbacks that make something fail at a given epoch."""

import os
import resource
import shutil
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Line(LightningModule):
    """Two linear layers.

    Args:
        hidden: Number of hidden units; each takes about 80 bytes of a checkpoint.
    """

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", self._loss(batch))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        probabilities: Tensor = self.net(batch[0]).softmax(1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        points, labels = batch
        return F.cross_entropy(self.net(points), labels)


class Points(LightningDataModule):
    """Points of two classes.

    Args:
        points: Number of points for training, and as many for validation and test.
    """

    class_names = ("below", "above")

    def __init__(self, points: int = 64) -> None:
        super().__init__()
        self.points = points
        self.predict_names = [f"point-{number:05d}.png" for number in range(points)]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self._draw(0), 16, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self._draw(1), 16)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self._draw(2), 16)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self._draw(3), batch_size=256)

    def _draw(self, seed: int) -> TensorDataset:
        points = torch.randn(self.points, 4, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(points, (points.sum(1) > 0).long())


class FillDisk(Callback):
    """Fills a small disk at the start of an epoch.

    Args:
        folder: Where the disk is mounted.
        epoch: The epoch, counted from 0.
        room: Bytes that stay free.
    """

    armed = True  # tests clear it for the resumed run, which has the same callbacks

    def __init__(self, folder: str, epoch: int, room: int = 0) -> None:
        self.folder, self.epoch, self.room = folder, epoch, room

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from tests.faults.conftest import Disk

        if self.armed and trainer.current_epoch == self.epoch:
            Disk(Path(self.folder)).leave(self.room)


class RemoveFolder(Callback):
    """Removes the run's folder during training, as a user who tidies up would.

    Args:
        epoch: The epoch at whose start it is removed, counted from 0.
        validating: Whether to remove it in the validation of this epoch instead.
        above: Number of parent folders to remove as well.
    """

    def __init__(self, epoch: int, validating: bool = False, above: int = 0) -> None:
        self.epoch, self.validating, self.above = epoch, validating, above

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch and not self.validating:
            self._remove(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch and self.validating and not trainer.sanity_checking:
            self._remove(trainer)

    def _remove(self, trainer: Trainer) -> None:
        folder = Path(str(trainer.log_dir))
        assert (folder / "metrics.csv").is_file()
        shutil.rmtree([folder, *folder.parents][self.above])


class Hungry(Line):
    """Allocates memory in its second epoch until there is none left.

    Args:
        of: What allocates it, "torch" or "python".
        until: Path of a file; once it exists, nothing is allocated.
    """

    def __init__(self, of: str, until: str) -> None:
        super().__init__()
        self.of, self.until = of, until

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 0 or Path(self.until).exists():
            return
        # a limit as that of a container; without one, the kernel kills the process as in `Killed`
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
        hoard: list[object] = []
        while True:
            hoard.append(torch.ones(16 << 18) if self.of == "torch" else bytearray(16 << 20))


class Killed(Line):
    """Kills its process in the second epoch, as the kernel does when memory runs out.

    Args:
        until: Path of a file; once it exists, the process is not killed.
    """

    def __init__(self, until: str) -> None:
        super().__init__()
        self.until = until

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1 and not Path(self.until).exists():
            os.kill(os.getpid(), signal.SIGKILL)
