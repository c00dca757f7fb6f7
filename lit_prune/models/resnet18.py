"""`LitResNet18`: torchvision's ResNet-18 with a head of two linear layers, as a LightningModule."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchvision.models import ResNet18_Weights, resnet18

from lit_prune.errors import InputError, check_choice, expected, one_line
from lit_prune.files.checkpoint import check_state_dict, read_state_dict
from lit_prune.models.cropped_conv import crop_convolutions
from lit_prune.models.fused_adam import ready_fused_adam
from lit_prune.models.resnet18_channels import channels_of, check_channels, set_channels

Output = Literal["logits", "softmax", "scaled_softmax"]
BatchNorm = Literal["train", "frozen"]
Stem = Literal["imagenet", "cifar"]

CLASSES = 10
_IMAGENET = "IMAGENET1K_V1"


class LitResNet18(LightningModule):
    """ResNet-18 for images of ten classes, trained with cross entropy.

    Logged once an epoch: `train/loss`, `train/acc`, `val/loss`, `val/acc` and `lr` (of the first parameter group, in
    the last step of the epoch). Logged by `Trainer.test`: `test/loss`, `test/acc`, and `test/acc/<class>` for every
    class that has test images. Losses are in nats per image, accuracies are fractions of images.

    Args:
        weights: Initial weights: None (random), "IMAGENET1K_V1" (torchvision's, for the backbone), or the path of a
            checkpoint or state dict of this model, or of a state dict of torchvision's ResNet-18, whose classifier is
            ignored.
        init_from: Path of a checkpoint or state dict of this model. Training starts from all of its weights, with a new
            optimizer, at epoch 0. To resume a run, use `fit --resume` or `Trainer.fit(ckpt_path=...)` instead.
        output: Input of the cross entropy, which applies softmax itself: "logits", as usual; "softmax", the
            probabilities, as in the first experiment of the original study (then the loss cannot fall below
            log(1 + 9/e) = 1.46, and its gradient vanishes for confident outputs, right or wrong); or "scaled_softmax",
            the probabilities times `softmax_scale`. Predictions are always the softmax of the logits.
        softmax_scale: Factor s of "scaled_softmax". With s = 10, the lowest possible loss log(1 + 9 exp(-s)) is 0.0004,
            and the gradient for equally likely classes is that of "logits".
        batch_norm: "train" normalises training batches by their own statistics; "frozen" normalises them by the
            running statistics of the initial weights, as the original study did. Scales and shifts are always trained.
        stem: First layers: "imagenet" is a 7x7 convolution of stride 2 and max-pooling; "cifar" is a 3x3 convolution
            of stride 1: every layer after it gets 16 times as many pixels as with "imagenet".
        channels: Number of output channels of each layer that has fewer than in a ResNet-18, by the layer's name in
            `lit_prune.models.resnet18_channels.FULL_CHANNELS`. Default: those of the network that the initial
            weights come from, which `lit-prune shrink` may have made narrower.
        optimizer: Function that creates the optimizer for given parameters. Default: Adam with learning rate 1e-3.
        lr_scheduler: Function that creates the scheduler for an optimizer. OneCycleLR and CyclicLR step after every
            batch, others after every epoch. ReduceLROnPlateau monitors `val/loss` unless its `monitor` is set.

    Raises:
        InputError: If an argument cannot be used, or weights cannot be read, downloaded or loaded.
    """

    def __init__(
        self,
        weights: str | None = None,
        init_from: str | None = None,
        output: Output = "logits",
        softmax_scale: float = 10.0,
        batch_norm: BatchNorm = "train",
        stem: Stem = "imagenet",
        channels: dict[str, int] | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-3, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        check_choice("output", output, get_args(Output))
        check_choice("batch_norm", batch_norm, get_args(BatchNorm))
        check_choice("stem", stem, get_args(Stem))
        if not (softmax_scale > 0 and math.isfinite(softmax_scale)):
            raise expected("a finite `softmax_scale` above 0", softmax_scale, "10 is a good value")
        state = _read_weights(weights, init_from, stem)
        if channels is None and state is not None:
            channels = channels_of(state)
        check_channels(channels or {})
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if "_instantiator" in self.hparams:  # LightningCLI passes both as configurations, which can be saved
            self.save_hyperparameters()
        # a checkpoint contains all weights; loading it must not need the file of the initial weights
        origin = init_from or weights
        self.hparams.update(weights=None, init_from=None, initial_weights=origin, channels=channels)
        self.output = output
        self.softmax_scale = softmax_scale
        self._make_optimizer = optimizer
        self._make_scheduler: Callable[[Optimizer], Any] | None = lr_scheduler

        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()
        if stem == "cifar":
            self.backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.backbone.maxpool = nn.Identity()
        self.head = nn.Sequential(nn.Linear(512, 100), nn.ReLU(inplace=True), nn.Linear(100, CLASSES))
        if channels:
            set_channels(self.backbone, self.head, channels)
        crop_convolutions(self.backbone)
        if batch_norm == "frozen":
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.__class__ = _FrozenBatchNorm2d
        self.to(memory_format=torch.channels_last)
        if origin is not None and state is not None:
            self._load(state, origin, whole=init_from is not None)

        self.train_loss = MeanLoss()
        self.train_acc = _accuracy()
        self.val_acc = _accuracy()
        self.test_acc = _accuracy()
        self.test_confusion = MulticlassConfusionMatrix(CLASSES, validate_args=False)
        self.example_input_array = torch.zeros(2, 3, 32, 32)
        self._has_logged = False  # the metrics of the training epoch

    @staticmethod
    def architecture_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the `__init__` arguments that rebuild the network a state dict was saved from."""
        stem = "cifar" if state["backbone.conv1.weight"].shape[-1] == 3 else "imagenet"
        return {"stem": stem, "channels": channels_of(state)}

    def plain_module(self) -> nn.Module:
        """Return an `nn.Sequential` of the same backbone and head, for `lit_prune.functional.plain.plain_copy`."""
        return nn.Sequential(OrderedDict(backbone=self.backbone, head=self.head))

    @property
    def lr(self) -> float:
        """Learning rate that was set or, otherwise, that of the optimizer, for Lightning's `LearningRateFinder`."""
        stored = self.__dict__.get("_lr")
        return float(self.trainer.optimizers[0].param_groups[0]["lr"]) if stored is None else stored

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = value
        if self._trainer is None:  # a subclass sets `lr` in its `__init__`
            return
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] = value
        for config in self.trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [value] * len(config.scheduler.base_lrs)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(N, 10)` of normalised images `(N, 3, H, W)`."""
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return self.head(features)  # type: ignore[no-any-return]

    def on_train_start(self) -> None:
        """Let the next training step log the metrics of its epoch; a resumed run may start in the middle of one."""
        self._has_logged = False

    on_train_epoch_start = on_train_start

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch `(images, labels)`."""
        images, labels = batch
        logits = self(images)
        loss = self._loss(logits, labels)
        self.train_loss.update(loss.detach(), len(labels))
        self.train_acc.update(logits, labels)
        # `log` takes longer than a step on a GPU; Lightning computes these metrics at the end of the epoch
        if not self._has_logged or self.trainer.is_last_batch:
            self._has_logged = True
            for name, metric in (("train/loss", self.train_loss), ("train/acc", self.train_acc)):
                self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(labels))
        if self.trainer.is_last_batch:
            lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log("lr", lr, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of a batch `(images, labels)`."""
        self._score("val", batch, self.val_acc)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of a batch `(images, labels)`, and count its predictions by class."""
        logits = self._score("test", batch, self.test_acc)
        self.test_confusion.update(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        """Log the accuracy of each class that has test images."""
        confusion = self.test_confusion.compute()
        self.test_confusion.reset()
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", range(CLASSES))
        for name, row, right in zip(names, confusion, confusion.diagonal(), strict=True):
            if row.sum():
                self.log(f"test/acc/{name}", right / row.sum(), sync_dist=True)

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return class probabilities `(N, 10)` of a batch `images` or `(images, ...)`."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return F.softmax(self(images), dim=1)

    def configure_optimizers(self) -> Any:
        """Create the optimizer, and the scheduler if there is one.

        Raises:
            InputError: If the settings of the optimizer or the scheduler are invalid.
        """
        try:
            optimizer = self._make_optimizer(self.parameters())
            scheduler = None if self._make_scheduler is None else self._make_scheduler(optimizer)
        except (ValueError, TypeError) as error:
            what = "settings that the optimizer and scheduler accept"
            raise expected(what, one_line(error), "see their documentation") from error
        _check_optimizer(optimizer)
        ready_fused_adam(optimizer)
        _check_scheduler(scheduler)
        if self.trainer.gradient_clip_val:
            # In mixed precision a fused optimizer unscales gradients after clipping, so Lightning raises an error. With
            # this attribute set to False, Lightning unscales them before clipping, as for any other optimizer.
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if scheduler is None:
            return optimizer
        config: dict[str, Any] = {"scheduler": scheduler}
        if isinstance(scheduler, OneCycleLR | CyclicLR):
            config["interval"] = "step"
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = getattr(scheduler, "monitor", "val/loss")
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the hyperparameter `initial_weights`."""
        self.hparams["initial_weights"] = checkpoint.get("hyper_parameters", {}).get("initial_weights")

    def _score(self, stage: str, batch: tuple[Tensor, Tensor], accuracy: MulticlassAccuracy) -> Tensor:
        images, labels = batch
        logits: Tensor = self(images)
        loss = self._loss(logits, labels)
        accuracy.update(logits, labels)
        self.log(f"{stage}/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        self.log(f"{stage}/acc", accuracy, on_step=False, on_epoch=True, batch_size=len(labels))
        return logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.output == "softmax":
            logits = F.softmax(logits, dim=1)
        elif self.output == "scaled_softmax":
            logits = self.softmax_scale * F.softmax(logits, dim=1)
        return F.cross_entropy(logits, labels)

    def _load(self, state: Mapping[str, Tensor], origin: str, whole: bool) -> None:
        module: nn.Module = self
        if not whole and not any(name.startswith("backbone.") for name in state):
            # the model has a head in place of torchvision's last layer
            module, state = self.backbone, {name: state[name] for name in state if name not in ("fc.weight", "fc.bias")}
        check_state_dict(module, state, origin)
        module.load_state_dict(state)


class MeanLoss(Metric):
    """Mean loss of all images of an epoch.

    Unlike `torchmetrics.MeanMetric`, it does not check for NaN, for which the CPU would have to wait for the GPU.
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Add the mean loss of a batch of `count` images."""
        self.total = self.total + loss.to(self.total.dtype) * count
        self.images = self.images + count

    def compute(self) -> Tensor:
        """Return the mean loss in nats per image."""
        return self.total / self.images


class _FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that normalises by its running statistics in training mode too.

    Setting an ordinary batch norm to evaluation mode is not enough, because Trainers and callbacks change the mode.
    """

    plain_class = nn.BatchNorm2d

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _check_optimizer(optimizer: Optimizer) -> None:
    """Raise an `InputError` for an optimizer or a learning rate with which training fails although torch accepts it."""
    # LBFGS cannot flatten `channels_last` gradients; SparseAdam needs sparse ones
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise expected("an optimizer for dense `channels_last` weights", type(optimizer).__name__, "use Adam or SGD")
    for group in optimizer.param_groups:
        if not math.isfinite(group.get("lr", 0.0)):
            raise expected("a finite learning rate `lr`", float(group["lr"]), "Adam's default is 0.001")


def _check_scheduler(scheduler: Any) -> None:
    """Raise an `InputError` for a period below 1, with which the scheduler would fail in a later epoch."""
    for name in ("step_size", "T_max", "T_0"):
        length = getattr(scheduler, name, 1)
        if not isinstance(length, int | float) or not length >= 1:
            raise expected(
                f"`{name}` of {type(scheduler).__name__} to be at least 1", length, "give a number of epochs"
            )


def _accuracy() -> MulticlassAccuracy:
    # checking the arguments would take longer than computing the metric
    return MulticlassAccuracy(CLASSES, average="micro", validate_args=False)


def _read_weights(weights: str | None, init_from: str | None, stem: Stem) -> Mapping[str, Tensor] | None:
    """Read the initial weights; return None if they are random."""
    if weights is not None and init_from is not None:
        raise expected("one of `weights` and `init_from`", "both", "give only `init_from` to load a whole model")
    if weights == _IMAGENET:
        if stem != "imagenet":
            raise expected(f"`stem` 'imagenet' with {_IMAGENET} weights", repr(stem), "these weights fit no other stem")
        return _download()
    path = init_from if weights is None else weights
    return None if path is None else read_state_dict(path)


def _download() -> Mapping[str, Tensor]:
    """Load torchvision's ImageNet weights from its cache, or download them."""
    source = ResNet18_Weights.IMAGENET1K_V1
    try:
        state: Mapping[str, Tensor] = source.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, no permission, no disk space, a wrong hash, a damaged cache
        raise InputError(
            f"Cannot download {source.url} ({one_line(error)}). Download it on another machine and give its path as "
            "`weights`, or train from random weights."
        ) from error
    return state
