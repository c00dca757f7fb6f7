"""Small LightningModules, each with one property that callbacks get wrong, and data for them.

Build them under a fixed `torch.manual_seed` where two runs are to be compared.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

CLASSES = 4

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: Adam(parameters, lr=0.01, weight_decay=0.01),
    "adamw": lambda parameters: AdamW(parameters, lr=0.01, weight_decay=0.1),
}


def conv_net() -> nn.Sequential:
    """Two convolutions with batch norms and dropout, one linear layer; images (N, 3, 8, 8)."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(3, 6, 3, bias=False),
            bn1=nn.BatchNorm2d(6),
            act1=nn.ReLU(),
            drop=nn.Dropout(0.2),
            conv2=nn.Conv2d(6, 8, 3),
            bn2=nn.BatchNorm2d(8),
            act2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(8, CLASSES),
        )
    )


def mlp() -> nn.Sequential:
    """Four linear layers without norms; any input of 192 numbers."""
    widths = (192, 16, 12, 8, CLASSES)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Transformer(nn.Module):
    """One encoder layer over the pixels of an image: attention, layer norms, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.layer(tokens).mean(dim=1))
        return logits


class Tied(nn.Module):
    """An autoencoder-like net in which `encode` and `decode` share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(192, 192)
        self.decode = nn.Linear(192, 192)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(192, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decode(torch.relu(self.encode(images.flatten(1)))))
        return logits


class MisleadingNames(nn.Module):
    """Names that contain "mask": a buffer and a convolution."""

    causal_mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("causal_mask", torch.ones(6, 6).tril())
        self.roi_mask_conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.roi_mask_conv(images) * self.causal_mask
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


class Classifier(LightningModule):
    """Cross-entropy on (images, labels) with one of `OPTIMIZERS` and, if asked for, a scheduler per step.

    Args:
        net: Maps images to `CLASSES` logits.
        optimizer: A key of `OPTIMIZERS`.
        scheduler: None, "lambda" or "onecycle".
        net_in_hook: Make the net in `configure_model`, from this function, rather than in `__init__`.
    """

    def __init__(
        self,
        net: nn.Module | None = None,
        optimizer: str = "sgd",
        scheduler: str | None = None,
        net_in_hook: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.net_in_hook = net_in_hook
        self.optimizer = optimizer
        self.scheduler = scheduler

    def configure_model(self) -> None:
        if self.net is None and self.net_in_hook is not None:
            self.net = self.net_in_hook()

    def forward(self, images: Tensor) -> Tensor:
        assert self.net is not None
        logits: Tensor = self.net(images)
        return logits

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        return self.loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch[0]))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.optimizer](self.parameters())
        if self.scheduler is None:
            return optimizer
        # not `trainer.estimated_stepping_batches`, which loses the position of a resumed loader
        scheduler = (
            OneCycleLR(optimizer, max_lr=0.1, total_steps=40)
            if self.scheduler == "onecycle"
            else LambdaLR(optimizer, lambda step: 0.95**step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TwoOptimizers(Classifier):
    """A model with manual optimization: SGD for the body, AdamW for the head."""

    def __init__(self) -> None:
        super().__init__(net=conv_net())
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            with self.toggled_optimizer(optimizer):
                # zeros, not None, because optimizers apply decay and momentum to zero gradients
                optimizer.zero_grad(set_to_none=False)
                self.manual_backward(self.loss(batch))
                optimizer.step()

    def configure_optimizers(self) -> Any:
        assert self.net is not None
        body = [p for name, p in self.net.named_parameters() if not name.startswith("fc")]
        return OPTIMIZERS["sgd"](body), OPTIMIZERS["adamw"](self.net.get_submodule("fc").parameters())


class Batches:
    """A loader of random images that can be resumed in the middle of an epoch.

    Args:
        batches: How many of them.
        size: Images in each.
        seed: Of the data.
    """

    def __init__(self, batches: int = 4, size: int = 4, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(batches, size, 3, 8, 8, generator=generator)
        self.labels = torch.randint(CLASSES, (batches, size), generator=generator)
        self.position = 0

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.position %= len(self)
        while self.position < len(self):
            self.position += 1
            yield self.images[self.position - 1], self.labels[self.position - 1]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def quiet_trainer(callbacks: Callback | Sequence[Callback] = (), **kwargs: Any) -> Trainer:
    """Make a Trainer on the CPU without loggers, checkpoints and progress bars."""
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=callbacks, **(defaults | kwargs))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers, by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the names of tensors that differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}
