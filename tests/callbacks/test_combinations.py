"""Pruning by any combination of criterion, structure, allocation and schedule keeps the promises of all pruners."""

import random
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn

from lit_prune import Pruning
from lit_prune.functional import masking, selection
from lit_prune.functional.allocation import allocate
from lit_prune.functional.criteria import CRITERIA
from lit_prune.functional.schedule import SCHEDULES
from lit_prune.functional.structure import NM
from tests.callbacks import parts
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, conv_net, quiet_trainer
from tests.callbacks.test_pruning_resume import Saver, assert_same, final
from tests.processes import run_ddp

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask

AMOUNT, EPOCHS, BATCHES = 0.4, 4, 4


PARTS: dict[str, list[Any]] = {
    "criterion": [*CRITERIA, parts.relative_magnitude, parts.GradientNorm, parts.SummedGradients],
    "structure": ["weight", "kernel", "channel", "block:2x3", "1:3", parts.Columns()],
    "allocation": ["global", "uniform", "erk", {"net.conv2": 0.5}, parts.convolutions_first],
    "schedule": [*SCHEDULES, parts.slow_start],
    "times": [
        {"start_epoch": 1, "end_epoch": 3},
        {"start_step": 3, "end_step": 13, "every_n_steps": 2},
        {"start_epoch": 2},
        {"end_step": 6},
    ],
    "accumulate": [1, 2],
    "optimizer": list(OPTIMIZERS),
}


def pairwise() -> Iterator[dict[str, Any]]:
    """Yield combinations, at random, until every pair of values of two parts has occurred."""
    generator = random.Random(0)  # noqa: S311 - no secret
    left = {
        (one, i, other, j)
        for one, other in combinations(PARTS, 2)
        for i, j in product(range(len(PARTS[one])), range(len(PARTS[other])))
    }
    while left:
        tries = [{name: generator.randrange(len(values)) for name, values in PARTS.items()} for _ in range(30)]
        found = [{(a, t[a], b, t[b]) for a, b in combinations(PARTS, 2)} for t in tries]
        best = max(range(len(tries)), key=lambda number: len(found[number] & left))
        left -= found[best]
        yield {name: PARTS[name][index] for name, index in tries[best].items()}


COMBINATIONS = list(pairwise())
# as few of the first combinations as have all values of all parts
QUICK = next(
    number
    for number in range(len(COMBINATIONS))
    if all(value in [one[part] for one in COMBINATIONS[:number]] for part, values in PARTS.items() for value in values)
)


def name_of(combination: dict[str, Any]) -> str:
    values = [type(value).__name__ if hasattr(value, "fold") else value for value in combination.values()]
    return "-".join(getattr(value, "__name__", str(value)) for value in values)


every_combination = pytest.mark.parametrize(
    "combination",
    [
        pytest.param(combination, id=name_of(combination), marks=() if number < QUICK else pytest.mark.slow)
        for number, combination in enumerate(COMBINATIONS)
    ],
)
few_combinations = pytest.mark.parametrize("combination", COMBINATIONS[:6], ids=map(name_of, COMBINATIONS[:6]))


def pruning(combination: dict[str, Any]) -> Pruning:
    chosen = {name: combination[name] for name in ("criterion", "structure", "allocation", "schedule")}
    if isinstance(chosen["criterion"], type):  # it has a state
        chosen["criterion"] = chosen["criterion"]()
    return Pruning(AMOUNT, seed=3, **chosen, **combination["times"])


def build(combination: dict[str, Any]) -> Classifier:
    torch.manual_seed(5)
    net: Any = conv_net()
    net.drop.p = 0.0  # a resumed process does not have the random state of the one that was stopped
    return Classifier(net, combination["optimizer"])


def fit(model: Classifier, combination: dict[str, Any], *callbacks: Callback, ckpt_path: Path | None = None) -> Any:
    accumulate = combination["accumulate"]
    trainer = quiet_trainer(max_epochs=EPOCHS, callbacks=list(callbacks), accumulate_grad_batches=accumulate)
    trainer.fit(model, Batches(BATCHES * accumulate), Batches(2, seed=1), ckpt_path=ckpt_path, weights_only=True)
    return trainer


class SaveBetweenSteps(Saver):
    """Saves after batches that end with an optimizer step: a checkpoint has no accumulated gradients."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class Watch(Callback):
    """Checks that exactly the masked weights are zero in each batch; keeps their number."""

    def __init__(self) -> None:
        self.masked: dict[int, set[int]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        masked = 0
        for ref in weight_layers(pl_module):
            if (mask := current_mask(ref)) is not None:
                assert torch.equal(ref.tensor != 0, mask)
                masked += int((~mask).sum())
        self.masked.setdefault(trainer.global_step, set()).add(masked)


@pytest.mark.filterwarnings("ignore:Layers? .* entirely zero")
@every_combination
def test_sparsity_follows_the_schedule_and_a_resumed_run_is_bit_identical(
    tmp_path: Path, combination: dict[str, Any]
) -> None:
    model, pruner, watch = build(combination), pruning(combination), Watch()
    whole = fit(model, combination, pruner, watch, SaveBetweenSteps(tmp_path))
    expected = final(whole, model)

    # masks change only between optimizer steps, and never shrink
    assert all(len(counts) == 1 for counts in watch.masked.values())
    counts = [min(counts) for _, counts in sorted(watch.masked.items())]
    assert counts == sorted(counts)
    structure: Any = pruner.structure
    grouped = structure is not None and not isinstance(structure, NM)
    largest = max(structure.fold(ref.tensor).shape[1] for ref in pruner.weights) if grouped else 1
    sizes = {ref.name: ref.tensor.numel() for ref in pruner.weights}
    shapes = {ref.name: tuple(ref.tensor.shape) for ref in pruner.weights}
    uniform = [AMOUNT] * len(sizes)
    shares = uniform if pruner.allocation is None else allocate(pruner.allocation, shapes, AMOUNT)
    asked = sum(share * size for share, size in zip(shares, sizes.values(), strict=True))
    report = pruner.report()
    assert {layer.name: layer.weights for layer in report.layers} == sizes
    assert asked - largest * len(sizes) <= report.masked <= asked + 0.5 * len(sizes)
    if pruner.allocation is not None:
        for layer, share in zip(report.layers, shares, strict=True):
            assert share * layer.weights - largest <= layer.masked + 0.5
            assert layer.masked <= share * layer.weights + 0.5

    # the checkpoint loads into a model without masks
    plain = build(combination)
    plain.load_state_dict(torch.load(tmp_path / "epoch-3.ckpt", weights_only=True)["state_dict"])
    assert sum(int((ref.tensor == 0).sum()) for ref in pruner.choose(plain)) == report.zeros

    # in the middle of an epoch and of the ramp, and at the end of an epoch
    for name in ("step-3", "step-9", "epoch-2"):
        resumed = build(combination)
        again = pruning(combination)
        trainer = fit(resumed, combination, again, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(final(trainer, resumed), expected)
        assert again.report() == report


@pytest.mark.filterwarnings("ignore:Layers? .* entirely zero", "ignore:You're using the WeightAveraging callback")
@few_combinations
def test_averages_are_as_sparse_as_the_model(combination: dict[str, Any]) -> None:
    model, pruner = build(combination), pruning(combination)
    averaging = WeightAveraging(avg_fn=get_ema_avg_fn(0.5))
    fit(model, combination, pruner, averaging)
    # when `fit` ends, the callback has copied the averages to the model
    assert pruner.report().zeros >= pruner.report().masked > 0
    for ref in pruner.weights:
        if (mask := current_mask(ref)) is not None:
            assert not ref.tensor[~mask].any()


class Save(Callback):
    """Keeps the masks of each process."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        masks = {ref.name: current_mask(ref) for ref in weight_layers(pl_module)}
        torch.save(masks, self.folder / f"{self.number}-rank{trainer.global_rank}.pt")


class OwnData(Classifier):
    """A model whose images differ between processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


def train(rank: int, folder: Path, combination: dict[str, Any], number: int) -> None:
    torch.manual_seed(0)
    trainer = quiet_trainer(
        strategy="ddp", devices=2, max_epochs=EPOCHS, callbacks=[pruning(combination), Save(folder, number)]
    )
    trainer.fit(OwnData(conv_net()), Batches(BATCHES))


@pytest.mark.gate
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=() if number < 2 else pytest.mark.slow) for number in range(8)]
)
def test_processes_have_equal_masks(tmp_path: Path, number: int) -> None:
    run_ddp(train, tmp_path, COMBINATIONS[number], number)
    ours, theirs = (torch.load(tmp_path / f"{number}-rank{rank}.pt") for rank in range(2))
    masked = [name for name, mask in ours.items() if mask is not None]
    assert masked
    for name in masked:
        assert torch.equal(ours[name], theirs[name])
