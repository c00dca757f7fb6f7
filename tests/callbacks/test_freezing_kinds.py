"""Frozen parts keep every bit, whatever the layers are and wherever their state is kept."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, default_fused_act_fake_quant
from torch.nn.utils import parametrizations, parametrize, spectral_norm

from lit_prune.callbacks import GlobalL1Pruning, LayerFreezing
from lit_prune.errors import InputError
from lit_prune.functional import freeze
from tests.callbacks.models import CLASSES, OPTIMIZERS, Batches, Classifier, moved, quiet_trainer, snapshot

FLAT = 3 * 8 * 8


def layers(*modules: nn.Module) -> nn.Sequential:
    """Return a network of these layers: images become 192 numbers, then 8, then logits."""
    return nn.Sequential(nn.Flatten(), *modules, nn.Linear(8, CLASSES))


class ScaleNorm(nn.Module):
    """A norm of another library, with a running scale that it updates in training."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.scale.mul_(0.9).add_(inputs.detach().std(), alpha=0.1)
        return inputs / self.scale * self.gain


class Range(nn.Module):
    """A layer that updates its range in both modes, once in place, once by assignment, and once behind autograd."""

    low: Tensor
    high: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Tensor:
        self.low.mul_(0.9).add_(inputs.detach().min(), alpha=0.1)
        self.high = 0.9 * self.high + 0.1 * inputs.detach().max()
        self.calls.data += 1
        # autograd stores the range; putting it back in place would be an error in the backward pass
        return inputs * (self.high - self.low) * self.high.clone()


class DropPath(nn.Module):
    """Dropout of whole samples, of another library."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (torch.rand(len(inputs), 1) < 0.5) if self.training else inputs


class Lazily(nn.Module):
    """A layer that creates a cache in its first forward pass and relies on it afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, FLAT) / 14)
        self.length = 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.length < len(inputs):
            self.length = len(inputs)
            self.register_buffer("cache", torch.linspace(0, 1, self.length)[:, None], persistent=False)
        cache: Any = self.cache
        out: Tensor = inputs @ self.weight.T + cache[: len(inputs)]
        return out


class QuantizedLinear(nn.Linear):
    """A linear layer in quantization-aware training: its weight and its output are quantized."""

    def __init__(self, quantizer: Callable[[], nn.Module]) -> None:
        super().__init__(FLAT, 8)
        self.weight_range = FakeQuantize(MovingAverageMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8)
        self.output_range = quantizer()

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.output_range(F.linear(inputs, self.weight_range(self.weight), self.bias))
        return out


class Tokens(nn.Module):
    """A vision transformer: a class token and positions at its root, blocks, a norm and a head."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 65, 8))
        self.register_buffer("seen", torch.zeros(()))
        self.patch_embed = nn.Conv2d(3, 8, 1)
        self.pos_drop = nn.Dropout(0.1)
        self.norm_pre = nn.LayerNorm(8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = self.seen + self.training  # an ancestor of layers that train remains in training mode
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        tokens = self.norm_pre(self.pos_drop(tokens))
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


class Language(nn.Module):
    """A language model: embeddings of tokens and positions, a recurrent part, and an output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(16, 8)
        self.wpe = nn.Parameter(torch.randn(FLAT, 8))
        self.ln_f = nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True, dropout=0.5)
        self.fc = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 16, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, images: Tensor) -> Tensor:
        tokens = (images.flatten(1)[:, :12] * 4).long().clamp(-8, 7) + 8
        hidden, _ = self.lstm(self.ln_f(self.wte(tokens) + self.wpe[:12]))
        logits: Tensor = self.lm_head(self.fc(hidden[:, -1]))[:, :CLASSES]
        return logits


def _fake() -> nn.Module:
    return FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255)


def _fused() -> nn.Module:
    fused: nn.Module = default_fused_act_fake_quant()
    return fused


def _weight_norm() -> nn.Module:
    normed: nn.Module = parametrizations.weight_norm(nn.Linear(FLAT, 8))
    return normed


def _integers() -> nn.Module:
    table = nn.Linear(FLAT, 8, bias=False)
    table.weight = nn.Parameter(torch.randint(-9, 9, (8, FLAT), dtype=torch.int8), requires_grad=False)
    table.forward = lambda inputs: inputs @ table.weight.T.float() / 90  # type: ignore[method-assign,assignment]
    return nn.Sequential(table, nn.Linear(8, 8))


HALF: dict[str, Any] = {"fraction": 0.5}
# network, arguments, patterns of the tensors that stay
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], list[str]]] = {
    "spectral norm": (lambda: layers(spectral_norm(nn.Linear(FLAT, 8))), HALF, ["1.*"]),
    "spectral norm, by name": (lambda: layers(spectral_norm(nn.Linear(FLAT, 8))), {"layers": "net.1"}, ["1.*"]),
    "spectral norm of a transposed convolution": (
        lambda: nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(3, 8, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
        ),
        HALF,
        ["0.*"],
    ),
    "parametrized spectral norm": (lambda: layers(parametrizations.spectral_norm(nn.Linear(FLAT, 8))), HALF, ["1.*"]),
    "parametrized spectral norm, norms not frozen": (
        lambda: layers(parametrizations.spectral_norm(nn.Linear(FLAT, 8)), nn.BatchNorm1d(8)),
        {"fraction": 0.5, "freeze_norm": False},
        ["1.*"],
    ),
    "weight norm": (lambda: layers(_weight_norm(), nn.ReLU()), HALF, ["1.*"]),
    "third-party norm": (lambda: layers(nn.Linear(FLAT, 8), ScaleNorm()), HALF, ["[12].*"]),
    "third-party norm, not frozen": (
        lambda: layers(nn.Linear(FLAT, 8), ScaleNorm()),
        {"fraction": 0.5, "freeze_norm": False},
        ["1.*"],
    ),
    "buffers written in both modes": (lambda: layers(nn.Linear(FLAT, 8), Range()), HALF, ["[12].*"]),
    "buffers written in both modes, by name": (
        lambda: layers(nn.Linear(FLAT, 8), Range()),
        {"layers": "net.2"},
        ["2.*"],
    ),
    "lazy cache": (lambda: layers(Lazily()), HALF, ["1.weight"]),
    "fake quantizer": (lambda: layers(QuantizedLinear(_fake)), HALF, ["1.*"]),
    "fused fake quantizer": (lambda: layers(QuantizedLinear(_fused)), {"layers": ["net.1"]}, ["1.*"]),
    "vision transformer": (
        Tokens,
        {"fraction": 0.1},
        ["cls_token", "pos_embed", "patch_embed.*", "norm_pre.*"],
    ),
    "vision transformer, first block": (
        Tokens,
        HALF,
        ["cls_token", "pos_embed", "patch_embed.*", "norm_pre.*", "blocks.0.*"],
    ),
    "language model": (Language, {"fraction": 0.1}, ["w[tp]e.*", "ln_f.*", "lstm.*", "lm_head.*"]),
    "integers": (lambda: layers(_integers()), {"fraction": 0.6}, ["1.*"]),
    "integers, by name": (lambda: layers(_integers()), {"layers": "net.1.0"}, ["1.0.*"]),
    "integers, counted by parameters": (lambda: layers(_integers()), {"fraction": 0.9, "by": "parameters"}, ["1.0.*"]),
}


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("unfreeze_epoch", [None, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_tensors_keep_every_bit(kind, unfreeze_epoch):
    build, arguments, patterns = KINDS[kind]
    module = Classifier(build(), "adamw")
    # values that a quantizer has observed, a scale that was learned
    module(torch.randn(32, 3, 8, 8))
    before = snapshot(module)
    stays = {name for name in before if any(re.fullmatch(f"net.{pattern}", name) for pattern in patterns)}
    trainer = quiet_trainer(callbacks=LayerFreezing(**arguments, unfreeze_epoch=unfreeze_epoch), max_epochs=1)
    trainer.fit(module, Batches(), Batches(seed=1))
    changed = moved(before, snapshot(module))
    assert changed.isdisjoint(stays)
    constant = {name for name in before if "observer_enabled" in name or "fake_quant_enabled" in name}
    assert changed == before.keys() - stays - constant - {"net.1.0.weight" if "integers" in kind else ""}
    if unfreeze_epoch:
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, Batches(), Batches(seed=1))
        buffers = {name for name, _ in module.named_buffers()}
        after = moved(before, snapshot(module))
        assert after >= before.keys() - buffers - {"net.1.0.weight"}
        if "quantizer" not in kind:
            assert after >= buffers & before.keys()
    hooks = [(*part._forward_pre_hooks.values(), *part._forward_hooks.values()) for part in module.modules()]
    assert not any("_EvalHold" in repr(hook) for own in hooks for hook in own)


@pytest.mark.parametrize("hooked_first", [True, False])
def test_frozen_modules_and_their_hooks_are_in_evaluation_mode_and_their_ancestors_are_not(hooked_first):
    net = Tokens()
    seen: dict[str, set[bool]] = {}

    class Watch(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            for name, part in net.named_modules():
                part.register_forward_pre_hook(lambda p, _, name=name: seen.setdefault(name, set()).add(p.training))

    callbacks = [Watch(), LayerFreezing(0.1)][:: 1 if hooked_first else -1]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=1, limit_val_batches=0)
    trainer.fit(Classifier(net), Batches(), Batches(seed=1))
    assert {name for name, modes in seen.items() if modes == {False}} == {"patch_embed", "pos_drop", "norm_pre"}
    assert seen[""] == seen["blocks.0"] == seen["head"] == {True}


def test_a_frozen_recurrent_layer_has_no_dropout_and_a_backward_pass():
    net = nn.Sequential(nn.Flatten(2), nn.LSTM(64, 8, num_layers=2, dropout=0.5, batch_first=True))
    inputs = torch.randn(5, 3, 64, requires_grad=True)
    expected, _ = net.eval()(inputs)
    net.train()
    modes = []

    class Watched(nn.LSTM):
        def forward(self, *args: Any) -> Any:
            modes.append((self.training, self.dropout))
            return super().forward(*args)

    net[1].__class__ = Watched
    frozen = freeze(net, layers="1")
    out, _ = net(inputs)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    out.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    frozen.thaw()
    assert not torch.equal(net(inputs)[0], expected)
    # cuDNN computes no gradients of recurrent layers in evaluation mode
    assert modes == [(True, 0.0), (True, 0.5)]


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_frozen_fake_quantizer_computes_with_its_ranges():
    quantizer = _fake()
    quantizer(torch.linspace(0, 1, 100))
    quantizer.disable_observer()  # type: ignore[operator]
    wide = 100 * torch.randn(50)
    expected = quantizer(wide)
    quantizer.enable_observer()  # type: ignore[operator]
    net = nn.Sequential(quantizer)
    frozen = freeze(net, layers="0")
    before = snapshot(net)
    assert torch.equal(net(wide), expected)
    assert not moved(before, snapshot(net))
    frozen.thaw()
    assert not torch.equal(net(wide), expected)
    assert moved(before, snapshot(net))


def test_a_module_that_both_parts_use_is_frozen_in_both():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(FLAT, 8)
            self.norm = nn.BatchNorm1d(8)
            self.second = nn.Linear(8, 8)
            self.last = nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.norm(self.first(images.flatten(1)))
            logits: Tensor = self.last(self.norm(self.second(hidden)))
            return logits

    module = Classifier(Shared())
    before = snapshot(module)
    quiet_trainer(callbacks=LayerFreezing(0.3)).fit(module, Batches(), Batches(seed=1))
    assert moved(before, snapshot(module)) == {f"net.{a}.{b}" for a in ("second", "last") for b in ("weight", "bias")}


def test_dropouts_of_any_library_do_nothing_while_they_are_frozen():
    net = layers(nn.Linear(FLAT, 8), DropPath(), nn.RReLU())
    losses = []
    for callbacks in ([LayerFreezing(0.5)], [LayerFreezing(0.5, freeze_norm=False)]):
        module = Classifier(net)
        draws = torch.get_rng_state()
        quiet_trainer(callbacks=callbacks, max_epochs=1).fit(module, Batches(), Batches(seed=1))
        losses.append(torch.equal(draws, torch.get_rng_state()))
    assert losses == [True, False]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("order", [1, -1])
def test_a_frozen_layer_can_be_pruned(order, optimizer):
    module = Classifier(layers(nn.Linear(FLAT, 8), nn.BatchNorm1d(8)), optimizer)
    before = snapshot(module)
    callbacks = [LayerFreezing(0.5), GlobalL1Pruning(0.5, start_epoch=1, layers="net.1")]
    quiet_trainer(callbacks=callbacks[::order], max_epochs=3).fit(module, Batches(), Batches(seed=1))
    after = snapshot(module)
    weight, old = after["net.1.weight"], before["net.1.weight"]
    assert int((weight == 0).sum()) == FLAT * 8 // 2
    assert torch.equal(weight[weight != 0], old[weight != 0])
    assert moved(before, after) == {"net.1.weight", "net.3.weight", "net.3.bias"}


@pytest.mark.parametrize("arguments", [HALF, {"layers": "net.student"}])
def test_a_teacher_that_counts_towards_the_fraction_is_named(arguments):
    class Distilled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = layers(nn.Linear(FLAT, 8)).requires_grad_(False)
            self.student = layers(nn.Linear(FLAT, 8))
            self.head = nn.Linear(CLASSES, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.student(images) + self.teacher(images))
            return logits

    trainer = quiet_trainer(callbacks=LayerFreezing(**arguments), max_epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Classifier(Distilled()), Batches(), Batches(seed=1))
    said = [str(warning.message) for warning in caught if "copy" in str(warning.message)]
    assert len(said) == ("fraction" in arguments)
    assert all("`net.teacher` is not trained and seems to be a copy of `net.student`" in message for message in said)


@pytest.mark.parametrize("order", [1, -1])
def test_equal_blocks_of_one_network_are_no_copies(order):
    blocks = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES))
    callbacks = [LayerFreezing(0.5), GlobalL1Pruning(0.5)][::order]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_trainer(callbacks=callbacks, max_epochs=1).fit(Classifier(blocks), Batches(), Batches(seed=1))
    assert not [warning for warning in caught if "copy" in str(warning.message)]


def _scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(FLAT, 8), nn.BatchNorm1d(8)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (_scripted, HALF, "an ordinary module to freeze as `net.1`, but got a `torch.jit.ScriptModule`. HINT: "),
        (_scripted, {"layers": "net.1"}, "an ordinary module to freeze as `net.1`, but got a `torch.jit.ScriptModule`"),
        (lambda: nn.LazyLinear(8), HALF, "values to freeze in layer `net.1`, but got a lazy module that has no shape"),
        (lambda: nn.LazyLinear(8), {"fraction": 0.1, "by": "parameters"}, "values to freeze in layer `net.1`"),
        (nn.LazyBatchNorm1d, {"layers": "net.1"}, "values to freeze in layer `net.1`"),
    ],
)
def test_modules_that_cannot_be_frozen_are_refused_by_name(build, arguments, message):
    module = Classifier(layers(build()))
    with pytest.raises(InputError, match=re.escape(message)):
        quiet_trainer(callbacks=LayerFreezing(**arguments)).fit(module, Batches(), Batches(seed=1))
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
def test_modules_that_cannot_be_frozen_may_train():
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(FLAT, FLAT), _scripted(), nn.Linear(8, CLASSES)))
    before = snapshot(module)
    quiet_trainer(callbacks=LayerFreezing(layers="net.1"), max_epochs=1).fit(module, Batches(), Batches(seed=1))
    assert moved(before, snapshot(module)) == before.keys() - {"net.1.weight", "net.1.bias"}


def test_a_parametrized_weight_is_read_without_a_forward_pass():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = parametrizations.spectral_norm(nn.Linear(FLAT, 8))
            self.last = nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            weight: Any = self.first.weight
            logits: Tensor = self.last(F.linear(images.flatten(1), weight))
            return logits

    module = Classifier(Tied())
    assert parametrize.is_parametrized(module.net.first)  # type: ignore[union-attr,arg-type]
    before = snapshot(module)
    quiet_trainer(callbacks=LayerFreezing(0.5), max_epochs=1).fit(module, Batches(), Batches(seed=1))
    assert moved(before, snapshot(module)) == {"net.last.weight", "net.last.bias"}
