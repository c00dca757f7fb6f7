"""Measure whether the callbacks of a library keep promises about pruning; each function's docstring is a promise."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torchvision import models

from comparisons.common import STEPS, Result, Small, Watch, fit, same

RAMP = [0.2, 0.4, 0.6, 0.8]  # sparsities of gradual pruning, in epochs 1 to 4


@dataclass(frozen=True)
class Pruning:
    """Callbacks of a library that prunes.

    Attributes:
        half: Makes a callback that prunes half of all weights between epochs 0 and 1.
        ramp: Makes a callback that prunes gradually, after each epoch, to the sparsities in `RAMP`.
    """

    half: Callable[[], Callback]
    ramp: Callable[[], Callback]


def zeros(tensors: Any) -> float:
    """Return the fraction of zeros in matrices."""
    matrices = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.dim() > 1]
    count = sum(tensor.numel() for tensor in matrices)
    return sum(int((tensor == 0).sum()) for tensor in matrices) / count if count else 0.0


def zeros_of_layers(model: nn.Module) -> float:
    """Return the fraction of zeros in the attribute `weight` of all layers."""
    return zeros(getattr(layer, "weight", None) for layer in model.modules())


def zero(library: Pruning) -> Result:
    """Pruned weights are exactly zero after every step, with any optimizer."""
    shares = []
    for optimizer in (torch.optim.AdamW, torch.optim.Adagrad, _momentum):
        watch = Watch(step=lambda model: (zeros(model.parameters()), zeros_of_layers(model)))
        fit([library.half(), watch], 3, partial(Small, optimizer=optimizer))
        shares += watch.steps[STEPS:]
    parameters, layers = (min(column) for column in zip(*shares, strict=True))
    text = f"{parameters:.0%} of the parameters are zero after each step"
    if layers != parameters:
        behind = f"{parameters:.0%} of the parameters from which it is computed"
        text = f"after each step, {layers:.0%} of `layer.weight` is zero, but {behind}"
    return Result(abs(parameters - 0.5) < 0.01, text)


def _momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.1)


def names(library: Pruning) -> Result:
    """While weights are pruned, parameters and state dict stay those of the unpruned model."""
    watch = Watch(step=lambda model: (dict(model.named_parameters()), list(model.state_dict())))
    fit([library.half(), watch], 3)
    (before, keys), (after, keys_after) = watch.steps[0], watch.steps[-1]
    objects = [id(parameter) for parameter in after.values()]
    replaced = sum(id(parameter) not in objects for parameter in before.values())
    added = [name for name in keys_after if name not in keys]
    faults = []
    if replaced:
        faults.append(f"{replaced} of {len(before)} parameters are new objects, which the optimizer does not step")
    if added:
        faults.append(f"the state dict has `{'`, `'.join(added[:2])}`, ...")
    if not replaced and objects != [id(parameter) for parameter in before.values()]:
        faults.append("parameters change their order")
    return Result(not faults, "; ".join(faults) or f"the same {len(before)} parameters, and the same keys")


def scored(library: Pruning) -> Result:
    """The checkpoint of an epoch holds the weights that were validated."""
    with tempfile.TemporaryDirectory() as name:
        watch = Watch(scored=_weights)
        fit([library.half(), watch], 2, folder=Path(name))
        for epoch, validated in enumerate(watch.epochs):
            state = torch.load(Path(name) / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
            saved = {name: state[name] for name in validated}
            if not all(torch.equal(saved[name], tensor) for name, tensor in validated.items()):
                shares = f"{zeros(validated.values()):.0%} zeros when validated, {zeros(saved.values()):.0%} when saved"
                return Result(False, f"epoch {epoch} has {shares}")
    return Result(True, f"the same weights in all {len(watch.epochs)} epochs")


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights with which the linear layers compute."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return {f"{name}.weight": layer.weight.detach().clone() for name, layer in layers}


def resume(library: Pruning) -> Result:
    """A resumed run is bit-identical to an uninterrupted one."""
    with tempfile.TemporaryDirectory() as name:
        whole = fit([library.half()], 4, folder=Path(name))
        resumed = fit([library.half()], 4, resume=Path(name) / "epoch=1.ckpt")
    ends = [zeros_of_layers(model) for model in (whole, resumed)]
    if same(whole, resumed):
        return Result(True, f"the same bits, {ends[1]:.0%} zeros")
    return Result(False, f"{ends[1]:.0%} zeros after resuming, {ends[0]:.0%} in an uninterrupted run")


class Conv1D(nn.Module):
    """A layer like `Conv1D` of transformers: a linear layer with a transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16) / 4)

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply rows (..., 16) by the weight."""
        return rows @ self.weight


class Sequences(nn.Module):
    """Feeds sequences to a layer: an LSTM, attention, or a layer whose class is not from torch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 16)
        self.layer: Any = {
            "LSTM": lambda: nn.LSTM(16, 16, batch_first=True),
            "attention": lambda: nn.MultiheadAttention(16, 2, batch_first=True),
            "Conv1D": Conv1D,
        }[kind]()

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (N, 16) to (N, 16)."""
        steps = self.embed(torch.stack([rows, rows.roll(1, 1), rows.roll(2, 1)], 1))
        outputs = self.layer(*[steps] * (3 if isinstance(self.layer, nn.MultiheadAttention) else 1))
        first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return first.mean(1)


WEIGHTS = {"LSTM": "weight_ih_l0", "attention": "in_proj_weight", "Conv1D": "weight"}


def layers(library: Pruning) -> Result:
    """Weights of every kind of layer are pruned."""
    found = {}
    for kind, name in WEIGHTS.items():
        make = partial(_sequences, kind)
        size = getattr(make().backbone.layer, name).numel()
        try:
            weight = getattr(fit([library.half()], 3, make).backbone.layer, name)
        except Exception as error:  # another library may raise anything
            found[kind] = type(error).__name__
        else:
            found[kind] = f"{1 - int(weight.count_nonzero()) / size:.0%}"
    kept = all(share.endswith("%") and share != "0%" for share in found.values())
    return Result(kept, "pruned: " + ", ".join(f"{kind} {share}" for kind, share in found.items()))


def _sequences(kind: str) -> Small:
    return Small(Sequences(kind))


def ramp(library: Pruning, share: Callable[[Any], float] = zeros_of_layers) -> Result:
    """Gradual pruning reaches the requested sparsity after each step."""
    watch = Watch(step=share)
    fit([library.ramp(), watch], len(RAMP) + 1)
    found = watch.steps[2 * STEPS - 1 :: STEPS]
    wanted, got = (", ".join(f"{share:.0%}" for share in shares) for shares in (RAMP, found))
    close = all(abs(a - b) < 0.03 for a, b in zip(RAMP, found, strict=True))  # a channel is 3% of a layer
    return Result(close, f"asked for {wanted}; got {got}")


def average(library: Pruning) -> Result:
    """An average of the weights is as sparse as the model."""
    model = fit([library.half(), EMAWeightAveraging(decay=0.5)], 4)
    share = zeros_of_layers(model)
    return Result(abs(share - 0.5) < 0.01, f"the average has {share:.0%} zeros")


class Sharded(Small):
    """A model that FSDP2 splits between processes."""

    def configure_model(self) -> None:
        """Split the model."""
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        fully_shard(self.backbone, mesh=mesh)
        fully_shard(self.head, mesh=mesh)


def fsdp2(library: Pruning) -> Result:
    """Weights that FSDP2 splits between two processes are pruned."""
    watch = Watch(step=lambda model: [_whole(p) for p in model.parameters()])
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    fit([library.half(), watch], 2, Sharded, strategy=strategy, devices=2)
    share = zeros(watch.steps[-1])
    return Result(abs(share - 0.5) < 0.01, f"{share:.0%} of the parameters are zero")


def _whole(parameter: Any) -> Any:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def channels(smaller: Callable[[nn.Module], nn.Module]) -> Result:
    """Pruned channels are removed from networks of any architecture.

    Args:
        smaller: Removes half of the channels of a network for images of 32 pixels, and returns the network.
    """
    made: dict[str, Callable[[], nn.Module]] = {
        "ResNet-18": lambda: models.resnet18(num_classes=10),
        "MobileNetV3": lambda: models.mobilenet_v3_small(num_classes=10),
        "ViT": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10),
    }
    found = {}
    for name, make in made.items():
        model = make().eval()
        before = sum(parameter.numel() for parameter in model.parameters())
        try:
            after = smaller(model)
            after(torch.zeros(2, 3, 32, 32))
        except Exception as error:  # another library may raise anything
            found[name] = type(error).__name__
        else:
            found[name] = f"{sum(parameter.numel() for parameter in after.parameters()) / before:.0%}"
    kept = all(share.endswith("%") and share != "100%" for share in found.values())
    return Result(kept, "parameters left: " + ", ".join(f"{name} {share}" for name, share in found.items()))


PROMISES = {f.__name__: f for f in (zero, names, scored, resume, layers, ramp, average, fsdp2)}
