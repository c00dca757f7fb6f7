"""A model and a data module of `pytorch_lightning`, for commands whose other classes are those of `lightning`."""

from collections.abc import Iterable

import pytorch_lightning
import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from tests.training.small import SmallNet


class OtherNet(pytorch_lightning.LightningModule):
    """The layers and steps of `SmallNet`, with the optimizer as a hyper-parameter."""

    def __init__(self, optimizer: OptimizerCallable = torch.optim.Adam) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer = optimizer
        self.first, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 16, 3, stride=2), nn.Linear(16, 10)
        self.train_acc, self.val_acc = (MulticlassAccuracy(10, average="micro") for _ in range(2))

    forward = SmallNet.forward
    training_step = SmallNet.training_step
    validation_step = test_step = SmallNet.validation_step
    _score = SmallNet._score

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        probabilities: Tensor = self(batch[0]).softmax(1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class Untested(OtherNet):
    """A model without a `test_step`."""

    test_step = pytorch_lightning.LightningModule.test_step  # type: ignore[assignment]


def make_other() -> OtherNet:
    """Make a model; a command can name this function instead of the class."""
    return OtherNet()


class OtherData(pytorch_lightning.LightningDataModule):
    """Noise, the same in every split, which it counts on the way to the model."""

    class_names = tuple("abcdefghij")
    predict_names = tuple(f"{number}.png" for number in range(8))

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.transferred = 0

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        self.transferred += len(batch[0])
        return batch

    def train_dataloader(self) -> Iterable[list[Tensor]]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(8, 3, 16, 16, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(8)), batch_size=self.hparams["batch_size"])

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader
