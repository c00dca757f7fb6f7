"""`lit-prune prune`: the right weights become zero, nothing else changes, and the file can be used further."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_prune.functional import RandomScore, compute_masks, weight_layers
from lit_prune.trained.choice import mask_zeros
from lit_prune.trained.network import load_network
from tests.training.conftest import TINY
from tests.training.small import SmallNet

SMALL = "--model=tests.training.small.SmallNet"
WEIGHTS = {"first": 216, "second": 1152, "head": 160}
IMAGES = ["--data.source=synthetic", "--data.val_size=20"]


@pytest.fixture
def small(tmp_path: Path) -> str:
    """The weights of a SmallNet."""
    torch.manual_seed(0)
    torch.save(SmallNet().state_dict(), tmp_path / "small.pt")
    return "small.pt"


def state(path: str | Path) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True)
    found: dict[str, Tensor] = content.get("state_dict", content)
    return found


def zeros(path: str | Path) -> dict[str, int]:
    weights = state(path)
    return {name: int((weights[f"{name}.weight"] == 0).sum()) for name in WEIGHTS}


def changed(before: str | Path, after: str | Path) -> set[str]:
    """Return the names of tensors that differ, and check that they differ only by zeros."""
    old, new = state(before), state(after)
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        assert torch.equal(tensor, torch.where(tensor == 0, 0, old[name])), name
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_only_the_smallest_weights_become_zero(run, small):
    answer = run("prune", small, SMALL, "--amount=0.4", "--output=out.ckpt")
    assert answer.status == 0, answer.err
    assert changed(small, "out.ckpt") == {"first.weight", "second.weight", "head.weight"}
    net = SmallNet()
    net.load_state_dict(state(small))
    masks = compute_masks(weight_layers(net), 0.4)
    assert all(torch.equal(state("out.ckpt")[f"{name}.weight"] != 0, mask) for name, mask in masks.items())
    assert sum(zeros("out.ckpt").values()) == round(0.4 * 1528)
    (total,) = [line.split() for line in answer.out.splitlines() if line.startswith("all ")]
    assert total == ["all", "1,528", "0", "611", "39.99%"]
    assert sorted(path.name for path in Path().iterdir()) == ["out.ckpt", "small.pt"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--layers", "second", "head", "--amount=0.5"], {"first": 0, "second+head": 656}),
        (["--layers=*", "--exclude", "he*", "fir*", "--amount=0.25"], {"first": 0, "second": 288, "head": 0}),
        (["--allocation=uniform", "--amount=0.5"], {"first": 108, "second": 576, "head": 80}),
        (["--allocation=uniform", "--criterion=random", "--amount=0.125"], {"first": 27, "second": 144, "head": 20}),
        (["--criterion=random", "--amount=0.5"], {"first+second+head": 764}),
        (["--amount=0.5", "--max_layer_sparsity=0.5"], {"first": 108, "second": 576, "head": 80}),
        (["--amount=0"], {"first": 0, "second": 0, "head": 0}),
    ],
)
def test_number_of_zeros_by_layer(run, small, argv, expected):
    assert run("prune", small, SMALL, *argv, "--output=out.ckpt").status == 0
    found = zeros("out.ckpt")
    assert {key: sum(found[name] for name in key.split("+")) for key in expected} == expected
    changed(small, "out.ckpt")


def test_random_pruning_depends_only_on_its_seed(run, small):
    for name, argv in {"a": [], "b": ["--seed=0"], "c": ["--seed", "1"]}.items():
        torch.manual_seed(ord(name))
        answer = run("prune", small, SMALL, "--criterion=random", *argv, "--amount=0.5", f"--output={name}.ckpt")
        assert answer.status == 0, answer.err
    assert changed("a.ckpt", "b.ckpt") == set()
    kept = {name: torch.cat([w.flatten() != 0 for w in state(f"{name}.ckpt").values() if w.dim() > 1]) for name in "ac"}
    assert 0.4 < float((kept["a"] == kept["c"]).float().mean()) < 0.6
    net = SmallNet()
    net.load_state_dict(state(small))
    masks = compute_masks(weight_layers(net), 0.5, RandomScore(1))
    assert all(torch.equal(state("c.ckpt")[f"{name}.weight"] != 0, mask) for name, mask in masks.items())


@pytest.mark.parametrize("argv", [[], ["--criterion=random", "--seed=5"], ["--allocation=uniform"]])
def test_existing_zeros_stay_and_count(run, small, argv):
    assert run("prune", small, SMALL, "--criterion=random", "--amount=0.3", "--output=first.ckpt").status == 0
    answer = run("prune", "first.ckpt", SMALL, *argv, "--amount=0.6", "--output=second.ckpt")
    assert answer.status == 0, answer.err
    before, after = state("first.ckpt"), state("second.ckpt")
    assert all(bool((after[name][before[name] == 0] == 0).all()) for name in before)
    assert sum(zeros("second.ckpt").values()) == (
        round(0.6 * 1528) if argv != ["--allocation=uniform"] else 130 + 691 + 96
    )


@pytest.mark.parametrize("argv", [[], ["--allocation=uniform"], ["--criterion=random"]])
def test_an_amount_below_the_present_sparsity_is_refused(run, small, argv):
    assert run("prune", small, SMALL, "--allocation=uniform", "--amount=0.5", "--output=half.ckpt").status == 0
    answer = run("prune", "half.ckpt", SMALL, *argv, "--amount=0.4", "--output=less.ckpt")
    assert answer.status == 2
    assert answer.complaint.startswith(
        "Expected an `amount` above the current sparsity of these weights, 0.5000, but got 0.4. "
    )
    assert not Path("less.ckpt").exists()
    again = run("prune", "half.ckpt", SMALL, *argv, "--amount=0.5", "--output=same.ckpt")
    assert again.status == 0
    assert changed("half.ckpt", "same.ckpt") == set()


def test_a_layer_that_loses_all_weights_is_reported(run, small):
    weights = state(small)
    weights["head.weight"] *= 1e-6
    torch.save(weights, small)
    answer = run("prune", small, SMALL, "--amount=0.3", "--output=out.ckpt")
    assert answer.status == 0
    assert answer.err == (
        "lit-prune: warning: Layer `head` is about to become entirely zero, so its outputs will not depend on its "
        "inputs. HINT: set a `max_layer_sparsity`, or leave such a layer out with `exclude`.\n"
    )


def test_the_change_in_test_accuracy_is_printed(run, foreign):
    argv = ["--amount=0.95", "--output=out.ckpt", *IMAGES, "--limit=200"]
    answer = run("prune", str(foreign), SMALL, *argv)
    assert answer.status == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if "accuracy" in line]
    found = re.fullmatch(
        r"test accuracy on 200 images: ([\d.]+)% before, ([\d.]+)% after \(([+-][\d.]+) points\)", line
    )
    assert found is not None, line
    assert float(found[3]) == pytest.approx(float(found[2]) - float(found[1]), abs=0.011)


def test_scores_are_those_of_the_written_network(run, foreign):
    """`--split` alone is enough to score, on the images of the checkpoint's run."""
    pruned = run("prune", str(foreign), SMALL, "--amount=0.9", "--output=out.ckpt", "--split=val")
    assert pruned.status == 0, pruned.err
    again = run("prune", "out.ckpt", SMALL, "--amount=0.9", "--output=twice.ckpt", "--split=val")
    assert again.status == 0, again.err

    def shares(text: str) -> list[str]:
        (line,) = [line for line in text.splitlines() if line.startswith("val accuracy on 20 images: ")]
        return re.findall(r"([\d.]+)% (?:before|after)", line)

    assert shares(again.out) == [shares(pruned.out)[1]] * 2
    validated = run("validate", "--ckpt_path", str(foreign), SMALL, *TINY)
    assert validated.status == 0, validated.err
    accuracy = re.search(r"val/acc\D+([\d.]+)", validated.out)
    assert accuracy is not None
    assert float(shares(pruned.out)[0]) == pytest.approx(100 * float(accuracy[1]), abs=0.01)


def test_nothing_is_scored_by_default(run, small):
    answer = run("prune", small, SMALL, "--amount=0.5", "--output=out.ckpt")
    assert "accuracy" not in answer.out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--criterion=random", "--layers", "second", "head"],
        ["--allocation=uniform", "--exclude=first"],
        ["--allocation=erk"],
        ["--structure=2:4", "--layers", "second", "--criterion=random"],
        ["--structure=kernel", '--allocation={"head": 0, "second": 0.75}'],
    ],
)
@pytest.mark.parametrize("pruned", [False, True])
def test_the_suggested_command_keeps_all_zeros_in_training(run, foreign, argv, pruned):
    file = str(foreign)
    if pruned:  # zeros outside the chosen layers have to stay, too
        assert run("prune", file, SMALL, "--amount=0.3", "--output=first.ckpt").status == 0
        file = "first.ckpt"
    answer = run("prune", file, SMALL, "--amount=0.5", *argv, "--output=out.ckpt")
    assert answer.status == 0, answer.err
    command = answer.out[answer.out.index("lit-prune fit ") :].replace("\\\n", " ")
    _, *words = shlex.split(command)
    assert words[:5] == ["fit", "--model", SMALL.removeprefix("--model="), "--init_from", "out.ckpt"]
    before = zeros("out.ckpt")
    fitted = run(*words, *TINY, "--trainer.max_epochs=1", "--name=tuned")
    assert fitted.status == 0, fitted.err
    last = "lightning_logs/tuned/version_0/checkpoints/last.ckpt"
    assert zeros(last) == before
    assert changed_anywhere("out.ckpt", last)


def changed_anywhere(before: str, after: str) -> bool:
    old, new = state(before), state(after)
    return any(not torch.equal(old[f"{name}.weight"], new[f"{name}.weight"]) for name in WEIGHTS)


@pytest.mark.slow
def test_a_pruned_resnet_can_be_tested_and_fine_tuned(run, checkpoint):
    assert run("prune", str(checkpoint), "--amount=0.6", "--output=out.ckpt").status == 0
    before = load_network("out.ckpt")
    tested = run("test", "--ckpt_path=out.ckpt", *IMAGES, "--trainer.accelerator=cpu")
    assert tested.status == 0, tested.err
    callback = ["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.6"]
    argv = [*TINY, "--model.init_from=out.ckpt", "--model.weights=null", "--trainer.max_epochs=1", "--name=tuned"]
    fitted = run("fit", *argv, *callback)
    assert fitted.status == 0, fitted.err
    after = load_network("lightning_logs/tuned/version_0/checkpoints/last.ckpt")
    for ref, other in zip(weight_layers(before.require_model()), weight_layers(after.require_model()), strict=True):
        assert torch.equal(ref.tensor == 0, other.tensor == 0)


def test_masking_zeros_does_not_change_weights():
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[0] = 0
    before = [ref.tensor.clone() for ref in weight_layers(model)]
    mask_zeros(model, weight_layers(model))
    refs = weight_layers(model)
    assert all(torch.equal(ref.tensor, weight) for ref, weight in zip(refs, before, strict=True))
    masks = compute_masks(refs, 0.5, RandomScore(3))
    assert not masks["0"][0].any()
    assert sum(int((~mask).sum()) for mask in masks.values()) == 12
