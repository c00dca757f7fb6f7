"""A network that trains in milliseconds and logs the same metrics as `LitResNet18`."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy


class SmallNet(LightningModule):
    """Two convolutions with batch norm between them, and a linear head."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.first, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 16, 3, stride=2), nn.Linear(16, 10)
        self.train_acc, self.val_acc = (MulticlassAccuracy(10, average="micro") for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(torch.relu(self.norm(self.first(images)))).relu()
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._score("train", batch, self.train_acc)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score("val", batch, self.val_acc)

    def _score(self, stage: str, batch: tuple[Tensor, Tensor], accuracy: MulticlassAccuracy) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = nn.functional.cross_entropy(logits, labels)
        accuracy.update(logits, labels)
        self.log(f"{stage}/loss", loss.detach(), on_step=False, on_epoch=True)
        self.log(f"{stage}/worst", loss.detach(), on_step=False, on_epoch=True, reduce_fx="max")
        self.log(f"{stage}/acc", accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class OtherNames(SmallNet):
    """A network that logs metrics of given names."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def _score(self, stage: str, batch: tuple[Tensor, Tensor], accuracy: MulticlassAccuracy) -> Tensor:
        for name in self.names:
            self.log(name, 0.25, on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Scored(SmallNet):
    """A network that can be tested, too."""

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class Diverging(SmallNet):
    """A network whose loss becomes NaN or infinite at a given step, in all processes or in one."""

    def __init__(self, step: int, value: str = "nan", rank: int | None = None) -> None:
        super().__init__()
        self.step, self.value, self.rank = step, float(value), rank

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        diverges = self.trainer.global_step >= self.step and self.rank in (None, self.global_rank)
        return loss * self.value if diverges else loss
