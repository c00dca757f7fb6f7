"""A model and data as users write them: several inputs, layers of other kinds, and no images."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

WORDS, LENGTH, CLASSES = 20, 6, 3


class Conv1D(nn.Module):
    """A linear layer with its weight the other way round, as in GPT-2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Encoder(nn.Module):
    """Attention, a recurrent layer and two linear ones; the first two have weights of other names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.position = nn.Parameter(torch.randn(LENGTH, width) / 10)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.recurrent = nn.LSTM(width, width, batch_first=True)
        self.mix = Conv1D(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        x = self.embedding(words) + self.position
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = self.mix(self.recurrent(x)[0]).relu()
        known = torch.arange(LENGTH) < lengths[:, None]
        logits: Tensor = self.head((x * known[..., None]).sum(1) / lengths[:, None])
        return logits


WEIGHTS = [
    "encoder.attention.in_proj_weight",
    "encoder.attention.out_proj",
    "encoder.recurrent.weight_ih_l0",
    "encoder.recurrent.weight_hh_l0",
    "encoder.mix",
    "encoder.head",
]


class Sentences(LightningModule):
    """Classifies sentences; a batch is a dictionary."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = Encoder(width)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.encoder(*args, **kwargs)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.encoder(batch["words"], batch["lengths"])
        return nn.functional.cross_entropy(logits, batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.encoder(batch["words"], batch["lengths"])
        self.log("val/loss", nn.functional.cross_entropy(logits, batch["labels"]))
        self.log("val/acc", (logits.argmax(1) == batch["labels"]).float().mean())
        self.log("val/sure", logits.softmax(1).amax(1).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class Named(Sentences):
    """Gives its inputs by name."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.example_input_array = {"words": torch.arange(2 * LENGTH).view(2, LENGTH), "lengths": torch.tensor([3, 6])}


class Ordered(Sentences):
    """Gives its inputs in order."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.example_input_array = torch.arange(2 * LENGTH).view(2, LENGTH), torch.tensor([3, 6])


class Explicit(Named):
    """Takes two inputs."""

    def forward(self, words: Tensor, lengths: Tensor) -> Any:
        return self.encoder(words, lengths)


class Steps(Sentences):
    """Computes in its steps alone."""

    forward = LightningModule.forward


class SentenceData(LightningDataModule):
    """Sentences whose label depends on their first words. Without `size`, it has to come from a checkpoint."""

    def __init__(self, size: int, batch_size: int = 8, root: str = ".") -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        assert self.trainer is not None, "data modules may ask their Trainer"
        generator = torch.Generator().manual_seed(3)
        words = torch.randint(WORDS, (int(self.hparams["size"]), LENGTH), generator=generator)
        lengths = torch.randint(1, LENGTH + 1, (len(words),), generator=generator)
        named = zip(words, lengths, words[:, 0] % CLASSES, strict=True)
        self.sentences: Any = [{"words": w, "lengths": n, "labels": label} for w, n, label in named]

    def train_dataloader(self) -> Any:
        return DataLoader(self.sentences, self.hparams["batch_size"])

    def val_dataloader(self) -> Any:
        return DataLoader(self.sentences, self.hparams["batch_size"])

    test_dataloader = val_dataloader
