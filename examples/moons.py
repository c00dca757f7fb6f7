"""A LightningModule and a LightningDataModule for the study in moons.yaml: classify points on two half-moons."""

import math

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class MoonsClassifier(LightningModule):
    """A small multilayer perceptron that classifies points in the plane.

    Args:
        hidden: Number of units in each of the two hidden layers.
        lr: Learning rate of SGD with momentum.
    """

    def __init__(self, hidden: int = 32, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of points and labels; log the loss and the accuracy."""
        return self._evaluate("train", batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a batch."""
        self._evaluate("valid", batch)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a batch."""
        self._evaluate("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def _evaluate(self, stage: str, batch: list[Tensor]) -> Tensor:
        points, labels = batch
        logits = self.net(points)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_accuracy": accuracy}, on_step=False, on_epoch=True)
        return loss


class MoonsData(LightningDataModule):
    """Random points on two half-moons with Gaussian noise.

    Args:
        points: Number of points in each of the training, validation and test sets.
        noise: Standard deviation of the noise.
        batch_size: Number of points in a batch.
    """

    def __init__(self, points: int = 256, noise: float = 0.15, batch_size: int = 32) -> None:
        super().__init__()
        self.points, self.noise, self.batch_size = points, noise, batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of the training points."""
        return DataLoader(self._draw(0), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of the validation points."""
        return DataLoader(self._draw(1), self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of the test points."""
        return DataLoader(self._draw(2), self.batch_size)

    def _draw(self, seed: int) -> TensorDataset:
        random = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.points) % 2
        angle = math.pi * torch.rand(self.points, generator=random)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
        points = torch.where(labels[:, None] == 0, upper, lower)
        return TensorDataset(points + self.noise * torch.randn(points.shape, generator=random), labels)
