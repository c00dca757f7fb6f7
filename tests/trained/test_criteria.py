"""`prune` and `sensitivity` by criteria that need data, by structures and by allocations."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lit_prune.data import CIFAR10DataModule
from lit_prune.functional import weight_layers
from lit_prune.functional.allocation import erk
from lit_prune.trained.network import load_network
from tests.trained.own import WEIGHTS
from tests.trained.test_own_modules import DATA, OWN, checkpoint, trained  # noqa: F401 - fixtures
from tests.trained.test_prune import SMALL, changed, state, zeros
from tests.training.small import SmallNet

BY_DATA = ["taylor", "fisher", "snip", "grasp", "synflow"]


def kept(path: str) -> torch.Tensor:
    return torch.cat([state(path)[f"{name}.weight"].flatten() != 0 for name in ("first", "second", "head")])


def by_largest_channel(weights: Any) -> Any:
    """A criterion of one's own."""
    return (weight.abs() + weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1)) for weight in weights)


class Manual(SmallNet):
    """A network that steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Stepless(LightningModule):
    """A network that is not trained with Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 16, 3, stride=2)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(16, 10)


def test_scores_come_from_the_training_data_of_the_network(run, foreign):
    answer = run("prune", str(foreign), SMALL, "--criterion=taylor", "--amount=0.4", "--seed=3", "--output=out.ckpt")
    assert answer.status == 0, answer.err
    assert "accuracy" not in answer.out
    assert changed(foreign, "out.ckpt") == {"first.weight", "second.weight", "head.weight"}
    # the same by hand: the loss and the images of `tests.training.conftest.TINY`
    model: Any = load_network(str(foreign), SMALL.removeprefix("--model=")).require_model().train().requires_grad_()
    data = CIFAR10DataModule(source="synthetic", limit_train=32, val_size=20, batch_size=8, seed=3)
    data.setup("fit")
    weights = [ref.tensor for ref in weight_layers(model)]
    total = torch.zeros(sum(weight.numel() for weight in weights))
    for images, labels in (data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), weights)
        total += torch.cat([(w * g).abs().flatten() for w, g in zip(weights, gradients, strict=True)]).detach()
    assert (kept("out.ckpt") == (total > total.kthvalue(round(0.4 * len(total))).values)).all()


@pytest.mark.parametrize("name", BY_DATA)
def test_only_the_seed_decides(run, foreign, name):
    argv = ["prune", str(foreign), SMALL, f"--criterion={name}", "--amount=0.5"]
    for number, seed in enumerate(([], ["--seed=0"], ["--seed=1"])):
        torch.manual_seed(number)
        assert run(*argv, *seed, f"--output={number}.ckpt").status == 0
    assert sum(zeros("0.ckpt").values()) == 764
    assert changed("0.ckpt", "1.ckpt") == set()
    # SynFlow uses neither labels nor images
    assert bool((kept("0.ckpt") == kept("2.ckpt")).all()) == (name == "synflow")


@pytest.mark.parametrize("argv", [["--criterion=taylor"], ["--criterion=fisher", "--structure=kernel"]])
def test_sensitivity_prunes_each_layer_as_prune_does(run, foreign, argv):
    images = ["--data.val_size=300", "--data.source=synthetic"]
    answer = run("sensitivity", str(foreign), SMALL, *argv, "--amounts", "0.5", "0.75", *images, "--format=csv")
    assert answer.status == 0, answer.err
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert len(rows) == 6
    for row in rows[1:4:2]:
        part = ["--layers", row["layer"], f"--amount={row['amount']}", "--split=val", "--output=one.ckpt"]
        pruned = run("prune", str(foreign), SMALL, *argv, *part, *images)
        assert f"{float(row['accuracy']):.2%} after" in pruned.out
    # measurements of one criterion are none of another
    other = run("sensitivity", str(foreign), SMALL, "--amounts", "0.5", *images)
    assert other.status == 2
    assert "the same criterion" in other.complaint


def test_a_network_of_ones_own_is_measured_on_its_own_data(run, checkpoint):  # noqa: F811
    argv = ["prune", checkpoint, OWN, DATA, "--criterion=snip", "--amount=0.5"]
    answer = run(*argv, "--output=out.ckpt")
    assert answer.status == 0, answer.err
    before, after = state(checkpoint), state("out.ckpt")
    moved = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(WEIGHTS)
    assert "acc" not in answer.out
    assert "val/acc on 64 val samples" in run(*argv, "--output=two.ckpt", "--split=val").out
    assert all(torch.equal(tensor, state("two.ckpt")[name]) for name, tensor in after.items())
    synflow = run(*argv[:4], "--criterion=synflow", "--amount=0.5", "--output=out.ckpt")
    assert synflow.status == 2
    assert "SynFlow" in synflow.complaint


@pytest.mark.parametrize(
    ("name", "said"),
    [("Manual", "automatic optimization"), ("Stepless", "`training_step`")],
)
def test_a_network_without_a_loss_is_refused(run, tmp_path, name, said):
    torch.save({n: t for n, t in SmallNet().state_dict().items() if "acc" not in n}, "small.pt")
    argv = [f"--model=tests.trained.test_criteria.{name}", "--data.source=synthetic"]
    answer = run("prune", "small.pt", *argv, "--criterion=taylor", "--amount=0.5", "--output=out.ckpt")
    assert answer.status == 2
    assert re.search(said, answer.complaint)
    assert not Path("out.ckpt").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--structure=kernel"], None),
        (["--structure=2:4"], {"first": 0, "second": 576, "head": 80}),
        (['--allocation={"first": 0, "head": 0.25}'], {"first": 0, "second": 576, "head": 40}),
        (["--allocation=erk"], None),
    ],
)
def test_structures_and_allocations(run, foreign, argv, expected):
    answer = run("prune", str(foreign), SMALL, "--amount=0.5", *argv, "--output=out.ckpt")
    assert answer.status == 0, answer.err
    found = zeros("out.ckpt")
    kernels = state("out.ckpt")["second.weight"].flatten(0, 1).flatten(1)
    if argv == ["--structure=kernel"]:
        assert 755 < sum(found.values()) <= 764
        assert {int(count) for count in (kernels == 0).sum(1)} == {0, 9}
    elif argv == ["--structure=2:4"]:
        assert {**found, "first": 0} == expected
        assert found["first"] == 0
        assert "leaving out layers that do not divide into whole groups of 2:4: first." in answer.err
        assert ((state("out.ckpt")["second.weight"].movedim(1, -1).reshape(-1, 4) != 0).sum(1) == 2).all()
    elif expected is not None:
        assert found == expected
    else:
        shapes = {name: tuple(state("out.ckpt")[f"{name}.weight"].shape) for name in found}
        sizes = {name: state("out.ckpt")[f"{name}.weight"].numel() for name in found}
        assert found == {name: round(part * sizes[name]) for name, part in erk(shapes, 0.5).items()}


def test_channels_need_an_example_of_the_input(run, foreign):
    answer = run("prune", str(foreign), SMALL, "--amount=0.5", "--structure=channel", "--output=out.ckpt")
    assert answer.status == 2
    assert "example_input_array" in answer.complaint
    assert not Path("out.ckpt").exists()


class Pixelated(SmallNet):
    """A network with an example of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 3, 32, 32)


@pytest.mark.parametrize("criterion", BY_DATA)
def test_channels_are_pruned_by_data(run, foreign, criterion):
    own = f"--model={__name__}.Pixelated"
    argv = ["--structure=channel", "--amount=0.4", f"--criterion={criterion}", "--output=out.ckpt"]
    answer = run("prune", str(foreign), own, *argv)
    assert answer.status == 0, answer.err
    before, after = state(foreign), state("out.ckpt")
    gone = {name: (after[f"{name}.weight"].flatten(1) == 0).all(1) for name in ("first", "second")}
    assert sum(int(empty.sum()) for empty in gone.values()) > 0
    for name, empty in gone.items():
        assert not empty.all()
        for part in ("weight", "bias"):
            now, old = after[f"{name}.{part}"], before[f"{name}.{part}"]
            assert torch.equal(now, torch.where(empty.view(-1, *[1] * (now.dim() - 1)), 0, old))
    # channels of the last layer are outputs
    assert torch.equal(after["head.weight"], before["head.weight"])


def test_sensitivity_counts_zeros_like_prune(run, foreign):
    images = ["--data.source=synthetic", "--data.val_size=100"]
    draw = ["--criterion=random", "--layers", "second"]
    assert run("prune", str(foreign), SMALL, "--amount=0.5", "--layers", "second", "--output=half.ckpt").status == 0
    answer = run("sensitivity", "half.ckpt", SMALL, "--amounts", "0.8", *draw, *images, "--format=csv")
    assert answer.status == 0, answer.err
    (row,) = csv.DictReader(io.StringIO(answer.out))
    argv = ["--amount=0.8", "--output=out.ckpt", "--split=val"]
    printed = run("prune", "half.ckpt", SMALL, *draw, *argv, *images).out
    assert f", {float(row['accuracy']):.2%} after" in printed
    assert zeros("out.ckpt")["second"] == round(0.8 * state("out.ckpt")["second.weight"].numel())


def test_a_criterion_of_ones_own(run, foreign):
    argv = ["--criterion=tests.trained.test_criteria.by_largest_channel", "--amount=0.5", "--output=out.ckpt"]
    assert run("prune", str(foreign), SMALL, *argv).status == 0
    assert sum(zeros("out.ckpt").values()) == 764
    assert run("prune", str(foreign), SMALL, "--amount=0.5", "--output=other.ckpt").status == 0
    assert not (kept("out.ckpt") == kept("other.ckpt")).all()
