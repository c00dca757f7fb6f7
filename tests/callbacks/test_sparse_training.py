"""SET, RigL and AC/DC in a Trainer."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, WeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from lit_prune import ACDC, SET, LayerFreezing, Pruning, PruningRemoval, RigL, SparsityMonitor
from lit_prune.errors import InputError
from lit_prune.functional import masking, selection
from lit_prune.functional.allocation import erk
from tests.callbacks.criteria import pruned_at
from tests.callbacks.models import (
    OPTIMIZERS,
    Batches,
    Classifier,
    MisleadingNames,
    Tied,
    Transformer,
    TwoOptimizers,
    conv_net,
    mlp,
    quiet_trainer,
)
from tests.callbacks.test_combinations import SaveBetweenSteps
from tests.callbacks.test_pruning_resume import assert_same, final
from tests.processes import run_ddp

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask

EPOCHS, BATCHES = 6, 4  # 24 steps, so that masks change until step 18
KINDS: dict[str, Callable[[], Any]] = {
    "set": lambda: SET(0.6, every_n_steps=3, drop_fraction=0.5),
    "rigl": lambda: RigL(0.6, every_n_steps=5, drop_fraction=0.5),
    "acdc": lambda: ACDC(0.6, start_epoch=1, phase_epochs=1),
}
dynamic = pytest.mark.parametrize("kind", ["set", "rigl"])
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(optimizer: str = "sgd") -> Any:
    torch.manual_seed(5)
    net: Any = conv_net()
    net.drop.p = 0.0  # a resumed process does not have the random state of the one that was stopped
    return Classifier(net, optimizer)


def fit(model: Any, *callbacks: Callback, accumulate: int = 1, ckpt_path: Path | None = None, **options: Any) -> Any:
    options = {"max_epochs": EPOCHS, "accumulate_grad_batches": accumulate} | options
    trainer = quiet_trainer(callbacks=list(callbacks), **options)
    batches = Batches(BATCHES * accumulate)
    trainer.fit(model, batches, Batches(2, seed=1), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def masks_of(model: Any) -> dict[str, Tensor]:
    return {ref.name: mask for ref in weight_layers(model) if (mask := current_mask(ref)) is not None}


class Watch(Callback):
    """Keeps the masks of each optimizer step, and checks weights and optimizer state."""

    def __init__(self) -> None:
        self.masks: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        masks = masks_of(pl_module)
        before = self.masks.get(trainer.global_step - 1, masks)
        seen = self.masks.setdefault(trainer.global_step, masks)
        assert all(torch.equal(masks[name], seen[name]) for name in seen)
        tensors = {ref.name: ref.tensor for ref in weight_layers(pl_module)}
        for name, mask in masks.items():
            zero = ~mask | ~before.get(name, mask)  # pruned, or grown just now
            assert not tensors[name][zero].any()
            for optimizer in trainer.optimizers:
                for value in optimizer.state.get(tensors[name], {}).values():
                    if value.shape == mask.shape:
                        assert not value[zero].any()


@dynamic
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_change_at_the_right_steps_and_keep_their_sparsity(kind: str, accumulate: int, optimizer: str) -> None:
    model, watch = build(optimizer), Watch()
    callback = KINDS[kind]()
    fit(model, callback, watch, accumulate=accumulate)
    steps = EPOCHS * BATCHES
    assert list(watch.masks) == list(range(steps))
    shapes = {ref.name: tuple(ref.tensor.shape) for ref in weight_layers(model)}
    for masks in watch.masks.values():
        for name, fraction in erk(shapes, 0.6).items():
            assert int((~masks[name]).sum()) == round(fraction * masks[name].numel())
    changed = [
        step
        for step in range(1, steps)
        if any(not torch.equal(mask, watch.masks[step - 1][name]) for name, mask in watch.masks[step].items())
    ]
    every = callback.every_n_steps
    assert changed == [step for step in range(1, steps) if step % every == 0 and step < 0.75 * steps]


def test_rigl_grows_where_the_summed_gradients_are_largest() -> None:
    model = build()
    sums: dict[str, Tensor] = {}

    class Gradients(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step < 5:
                for ref in weight_layers(pl_module):
                    sums[ref.name] = sums.get(ref.name, 0) + ref.tensor.grad.detach().clone()

    watch = Watch()
    fit(model, KINDS["rigl"](), watch, Gradients())
    grown_any = False
    for name, new in watch.masks[5].items():
        old = watch.masks[4][name]
        grown, refused = new & ~old, ~new & ~old
        grown_any |= bool(grown.any())
        if grown.any() and refused.any():
            assert sums[name].abs()[grown].min() >= sums[name].abs()[refused].max()
    assert grown_any


def test_set_grows_at_random_and_depends_only_on_its_seed() -> None:
    def run(seed: int, callback: Any) -> dict[str, Tensor]:
        model = build()
        torch.manual_seed(seed)
        fit(model, callback)
        return masks_of(model)

    assert_same(run(0, SET(0.6, 3, seed=1)), run(1, SET(0.6, 3, seed=1)))
    one, other = run(0, SET(0.6, 3, seed=1)), run(0, SET(0.6, 3, seed=2))
    assert any(not torch.equal(mask, other[name]) for name, mask in one.items())


def test_phases_of_acdc_alternate_and_the_last_is_sparse() -> None:
    def levels(epochs: int, **options: Any) -> list[float]:
        model, found = build(), []

        class Level(Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                found.append(float(trainer.callback_metrics["sparsity/masked"]))

        fit(model, ACDC(0.5, **options), SparsityMonitor(), Level(), max_epochs=epochs)
        return found

    assert levels(7, start_epoch=1, phase_epochs=1) == [0, 0.5, 0, 0.5, 0, 0.5, 0.5]
    assert levels(8, start_epoch=2, phase_epochs=2) == [0, 0, 0.5, 0.5, 0, 0, 0.5, 0.5]
    assert levels(8, start_epoch=0, phase_epochs=2) == [0.5, 0.5, 0, 0, 0.5, 0.5, 0.5, 0.5]


def test_acdc_prunes_again_and_weights_return_without_momentum() -> None:
    model, watch = build(), Watch()
    returning: list[Any] = []

    class Returning(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 2 * BATCHES:  # start of the dense phase
                assert not masks_of(pl_module)
                for ref in weight_layers(pl_module):
                    zero = ref.tensor == 0
                    returning.append(bool(zero.any()))
                    assert not trainer.optimizers[0].state[ref.tensor]["momentum_buffer"][zero].any()

    fit(model, KINDS["acdc"](), watch, Returning())
    assert all(returning)
    first, second = watch.masks[BATCHES], watch.masks[3 * BATCHES]
    assert any(not torch.equal(first[name], second[name]) for name in first)


@every_kind
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_at_any_step_is_bit_identical(tmp_path: Path, kind: str, optimizer: str) -> None:
    model = build(optimizer)
    expected = final(fit(model, KINDS[kind](), SaveBetweenSteps(tmp_path)), model)
    masks = masks_of(model)
    assert masks
    for name in ("step-2", "step-5", "step-7", "step-9", "step-13", "step-19", "epoch-1", "epoch-2", "epoch-3"):
        resumed = build(optimizer)
        trainer = fit(resumed, KINDS[kind](), ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(final(trainer, resumed), expected)
        assert_same(masks_of(resumed), masks)


def test_sums_are_saved_only_until_the_masks_change_for_the_last_time(tmp_path: Path) -> None:
    fit(build(), KINDS["rigl"](), SaveBetweenSteps(tmp_path))

    def sums(step: int) -> dict[str, Tensor]:
        states = torch.load(tmp_path / f"step-{step}.ckpt", weights_only=True)["callbacks"]
        (state,) = (state for name, state in states.items() if name.startswith("RigL"))
        return dict(state["sums"])

    assert set(sums(3)) == {"net.conv1", "net.conv2", "net.fc"}
    assert not sums(5 + 10 + 2)  # the next change would be at step 20, after the end
    assert not sums(20)


@every_kind
def test_a_second_model_starts_anew(kind: str) -> None:
    callback = KINDS[kind]()
    first, second, alone = build(), build(), build()
    fit(first, callback)
    fit(second, callback)
    fit(alone, KINDS[kind]())
    assert_same(second.state_dict(), alone.state_dict())


@every_kind
@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_averages_are_as_sparse_as_the_model(kind: str) -> None:
    class Average(Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            for ref in weight_layers(pl_module):  # which holds the averages during validation
                if (mask := current_mask(ref)) is not None:
                    assert not ref.tensor[~mask].any()

    model = build()
    fit(model, KINDS[kind](), WeightAveraging(avg_fn=get_ema_avg_fn(0.5)), Average())
    assert all(not ref.tensor[~current_mask(ref)].any() for ref in weight_layers(model))


@dynamic
def test_after_a_removal_all_weights_train(kind: str) -> None:
    model = build()
    fit(model, KINDS[kind](), PruningRemoval(2))
    assert not masks_of(model)
    assert all((ref.tensor != 0).all() for ref in weight_layers(model))


@dynamic
def test_several_optimizers(kind: str) -> None:
    torch.manual_seed(0)
    model, counts = TwoOptimizers(), set()

    class Count(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            counts.add(sum(int((~mask).sum()) for mask in masks_of(pl_module).values()))

    # how many steps a batch takes is unknown
    message = "manual optimization" if kind == "rigl" else "Expected `end_step` for SET"
    with pytest.raises(InputError, match=message):
        fit(model, KINDS[kind]())
    if kind == "rigl":
        return
    callback = SET(0.6, every_n_steps=3, end_step=20)
    fit(model, callback, Count())
    assert callback._changes == 18 // 3
    assert len(counts) == 1
    assert counts != {0}


@dynamic
@pytest.mark.parametrize(
    "net", [MisleadingNames, Tied, Transformer, mlp, lambda: conv_net().to(memory_format=torch.channels_last)]
)
def test_any_network_keeps_its_sparsity(kind: str, net: Any) -> None:
    model, watch = Classifier(net()), Watch()
    callback = KINDS[kind]()
    fit(model, callback, watch)
    counts = {sum(int((~mask).sum()) for mask in masks.values()) for masks in watch.masks.values()}
    assert counts == {pruned_at(callback, model, 0.6)}
    first, last = watch.masks[0], masks_of(model)
    assert any(not torch.equal(first[name], mask) for name, mask in last.items())


@dynamic
@pytest.mark.parametrize("thaw", [None, 3])
def test_frozen_layers_and_dense_layers_keep_their_weights(kind: str, thaw: int | None) -> None:
    seen: dict[str, list[Tensor]] = {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            for ref in weight_layers(pl_module):
                seen.setdefault(ref.name, []).append(ref.tensor.detach().clone())

    model = build()
    callback = KINDS[kind]()
    sparse = type(callback)(0.6, every_n_steps=3, drop_fraction=0.5, allocation={"net.fc": 0})
    fit(model, sparse, LayerFreezing(layers="net.conv1", unfreeze_epoch=thaw), Keep())
    first = seen["net.conv1"][0]
    assert (first == 0).any()
    frozen = EPOCHS * BATCHES if thaw is None else thaw * BATCHES
    assert all(torch.equal(first, later) for later in seen["net.conv1"][:frozen])
    assert all(not torch.equal(first, later) for later in seen["net.conv1"][frozen:][1:])
    assert all((later != 0).all() for later in seen["net.fc"])
    masks = [later != 0 for later in seen["net.conv2"]]
    assert any(not torch.equal(masks[0], later) for later in masks)


@pytest.mark.filterwarnings(
    "ignore:.*IterableDataset.*", "ignore:Your `IterableDataset`", "ignore:The '.*' does not have many workers"
)
@dynamic
@pytest.mark.parametrize("reason", ["no length", "scheduled accumulation"])
def test_a_training_of_unknown_length_needs_an_end_step(kind: str, reason: str) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(Batches(BATCHES))

    def run(callback: Any) -> Watch:
        watch, callbacks = Watch(), [callback]
        data: Any = DataLoader(Stream(), batch_size=None)
        if reason != "no length":
            data = Batches(BATCHES)
            callbacks.append(GradientAccumulationScheduler({0: 1, 2: 2}))
        trainer = quiet_trainer(callbacks=[*callbacks, watch], max_epochs=EPOCHS)
        trainer.fit(build(), data, Batches(2, seed=1))
        return watch

    with pytest.raises(InputError, match=r"Expected `end_step` for .*, but got None and a training of unknown length"):
        run(KINDS[kind]())
    callback = KINDS[kind]()
    callback.end_step = 12
    watch = run(callback)
    changed = [
        step for step in range(1, 12) if not torch.equal(*(watch.masks[s]["net.conv2"] for s in (step - 1, step)))
    ]
    assert changed == [step for step in range(1, 12) if step % callback.every_n_steps == 0]


class Exact(MixedPrecision):
    """Scales the loss as for float16, but computes in float32."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        super().__init__("16-mixed", "cpu", scaler=scaler)

    def forward_context(self) -> Any:
        return nullcontext()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["rigl", "movement"])
def test_sums_are_those_without_a_scaler(kind: str, fused: bool) -> None:
    class Scaled(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01, fused=fused)

    def sums(**options: Any) -> dict[str, Tensor]:
        torch.manual_seed(5)
        callback = RigL(0.6, every_n_steps=8) if kind == "rigl" else Pruning(0.6, "movement", start_step=8)
        fit(Scaled(mlp()), callback, max_steps=6, limit_val_batches=0, **options)
        found: dict[str, Tensor] = callback._sums if isinstance(callback, RigL) else callback.criterion.state_dict()
        return found

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9, growth_interval=2)  # the scale doubles every two steps
    plain, scaled = sums(), sums(plugins=Exact(scaler))
    assert scaler.get_scale() > 2**9
    assert_same(scaled, plain)


def test_steps_that_a_scaler_skips_do_not_count() -> None:
    class Sums(Callback):
        """Adds up -weight x gradient over the steps that change weights."""

        def __init__(self) -> None:
            self.sums: dict[str, Tensor] = {}

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step != 1:
                for ref in weight_layers(pl_module):
                    past = self.sums.get(ref.name, torch.zeros_like(ref.tensor))
                    self.sums[ref.name] = torch.addcmul(past, ref.tensor, ref.tensor.grad, value=-1).detach()

    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step == 1:
                pl_module.net.fc.bias.grad[0] = float("inf")

    pruner, sums = Pruning(0.6, "movement", start_step=8), Sums()
    fit(build(), pruner, sums, Overflow(), max_steps=4, plugins=Exact(torch.amp.GradScaler("cpu", init_scale=16.0)))
    assert_same(pruner.criterion.state_dict(), sums.sums)


def test_gradients_that_overflow_do_not_count() -> None:
    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step == 1:
                pl_module.net.fc.weight.grad[0, 0] = float("inf")

    model, watch = build(), Watch()
    plugin = Exact(torch.amp.GradScaler("cpu", init_scale=16.0))
    fit(model, KINDS["rigl"](), Overflow(), watch, plugins=plugin)
    assert any(not torch.equal(watch.masks[4][name], mask) for name, mask in watch.masks[5].items())


def test_acdc_ends_sparse_whatever_limit_of_the_trainer_comes_first() -> None:
    model = build()
    fit(model, ACDC(0.5, start_epoch=1, phase_epochs=1), max_epochs=9, max_steps=BATCHES * 3 + 2)
    assert masks_of(model)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    model = build()
    with pytest.warns(UserWarning, match="stopped in a dense phase of ACDC"):
        fit(model, ACDC(0.5, start_epoch=1, phase_epochs=1), Stop(), max_epochs=9)
    assert not masks_of(model)


@every_kind
def test_a_loaded_state_can_be_saved_before_training(kind: str) -> None:
    callback = KINDS[kind]()
    fit(build(), callback, max_epochs=5, max_steps=13)
    state = callback.state_dict()
    other = KINDS[kind]()
    other.load_state_dict(state)
    again = other.state_dict()
    assert again.keys() == state.keys()
    assert_same(again.get("sums", {}), state.get("sums", {}))


class OwnData(Classifier):
    """A model whose images differ between processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


class Save(Callback):
    """Keeps the masks of each step and process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        torch.save(masks_of(pl_module), self.folder / f"{trainer.global_step}-rank{trainer.global_rank}.pt")


def train(rank: int, folder: Path, kind: str) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    trainer = quiet_trainer(strategy="ddp", devices=2, max_epochs=EPOCHS, callbacks=[KINDS[kind](), Save(folder)])
    trainer.fit(OwnData(conv_net()), Batches(BATCHES))


@pytest.mark.parametrize("kind", [pytest.param("set", marks=pytest.mark.slow), "rigl"])
def test_processes_have_equal_masks(tmp_path: Path, kind: str) -> None:
    run_ddp(train, tmp_path, kind)
    steps = sorted({int(path.name.split("-")[0]) for path in tmp_path.glob("*-rank0.pt")})
    assert len(steps) > 10
    for step in steps:
        ours, theirs = (torch.load(tmp_path / f"{step}-rank{rank}.pt") for rank in range(2))
        assert ours
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SET(1.0), "`amount` in [0, 1)"),
        (lambda: SET(0.5, every_n_steps=0), "`every_n_steps` to be a positive integer"),
        (lambda: RigL(0.5, drop_fraction=1), "`drop_fraction` in (0, 1), but got 1"),
        (lambda: RigL(0.5, drop_fraction=0.0), "`drop_fraction` in (0, 1), but got 0.0"),
        (lambda: RigL(0.5, end_step=-1), "`end_step` to be a non-negative integer"),
        (lambda: RigL(0.5, allocation="erdos"), "`allocation`"),
        (lambda: ACDC(0.5, start_epoch=-1), "`start_epoch`"),
        (lambda: ACDC(0.5, phase_epochs=0), "`phase_epochs` to be a positive integer"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make()


@every_kind
def test_a_training_without_end_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"Expected (`end_step` for|`max_epochs` with)"):
        fit(build(), KINDS[kind](), max_epochs=-1, max_time="00:00:01:00")
