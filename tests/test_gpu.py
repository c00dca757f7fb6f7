"""What holds on the CPU holds on a GPU, too; `scripts/gpu.py` is rehearsed, and its tables are written."""

import json
import time
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from measurements.gpu_table import describe
from measurements.parts import run_parts

from lit_prune import CIFAR10DataModule, GlobalL1Pruning, LayerFreezing, LitResNet18, PruningRemoval, SparsityMonitor
from lit_prune.data import synthetic
from lit_prune.data.augment import augment, normalise
from lit_prune.data.loader import Images, TrainLoader
from lit_prune.errors import InputError
from lit_prune.functional import (
    apply_masks,
    compute_masks,
    hold_masks,
    sparsity_report,
    weight_layers,
)
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from tests.devices import DEVICES

CHANNELS = dict.fromkeys(FULL_CHANNELS, 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_masks_are_those_of_the_cpu(device: str, allocation: str) -> None:
    amount = float(np.random.default_rng().uniform(0.05, 0.95))
    model = LitResNet18(channels=CHANNELS)
    with torch.no_grad():
        model.get_parameter("head.0.weight").round_(decimals=1)  # ties
    wanted = compute_masks(weight_layers(model), amount, allocation=allocation)
    found = compute_masks(weight_layers(model.to(device)), amount, allocation=allocation)
    assert found.keys() == wanted.keys()
    for name, mask in found.items():
        assert torch.equal(mask.cpu(), wanted[name]), name


@pytest.mark.parametrize("device", DEVICES)
def test_masked_weights_stay_zero_and_the_others_move(device: str) -> None:
    model = LitResNet18(channels=CHANNELS)
    apply_masks(model, compute_masks(weight_layers(model), 0.6))
    model.to(device)  # masks follow their weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    hold_masks(model, optimizer)
    before = {ref.name: ref.tensor.detach().clone() for ref in weight_layers(model)}
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 32, 32, device=device)).square().sum().backward()
        optimizer.step()
    assert sparsity_report(weight_layers(model)).sparsity == pytest.approx(0.6, abs=1e-4)
    for ref in weight_layers(model):
        assert torch.equal(ref.tensor == 0, before[ref.name] == 0)
        assert not torch.equal(ref.tensor, before[ref.name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["none", "flip", "standard"])
def test_batches_are_those_of_the_cpu(device: str, how: Any) -> None:
    split = synthetic.draw_split("test")
    host, there = (TrainLoader(Images(*split), 64, seed=4, device=one) for one in (None, torch.device(device)))
    for left, right in zip(host, there, strict=True):
        assert left.key is not None
        images = augment(right.images, how, left.key)
        assert images.device.type == device
        assert torch.equal(augment(left.images, how, left.key), images.cpu())
        torch.testing.assert_close(normalise(augment(left.images, how, left.key)), normalise(images).cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_callbacks_freeze_prune_remove_and_measure(device: str, precision: Any) -> None:
    seed_everything(0, verbose=False)
    model = LitResNet18(channels=CHANNELS)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    monitor = SparsityMonitor()
    trainer = Trainer(
        accelerator=device,
        devices=1,
        precision=precision,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            LayerFreezing(fraction=0.3),
            GlobalL1Pruning(0.5, exclude="head*"),
            monitor,
            PruningRemoval(epoch=5),
        ],
    )
    trainer.fit(model, CIFAR10DataModule(source="synthetic", limit_train=32, val_size=20, batch_size=8))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["sparsity/global"] == pytest.approx(0.5, abs=1e-3)
    assert metrics["sparsity/masked"] == pytest.approx(0.5, abs=1e-3)
    assert 0 < metrics["gradient/untouched"] < 1
    assert np.isfinite(metrics["train/loss"])
    after = {name: value.cpu() for name, value in model.state_dict().items()}
    bias = "backbone.bn1.bias"  # of a frozen layer that has no weights to prune
    assert torch.equal(after[bias], start[bias])
    assert not torch.equal(after["head.2.weight"], start["head.2.weight"])


@pytest.mark.gate
def test_everything_is_rehearsed_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path("page.md")
    page.write_text(f"# Page\n\n{gpu.START}\nold\n{gpu.END}\n\nAfter.\n", encoding="utf-8")
    chosen = ["machine", "masks", "monitor", "semi_structured", "accuracy"]  # the gate rehearses all of them
    only = [f"--only={name}" for name in chosen]
    assert gpu.main(["--rehearse", "--out=out", "--write=page.md", *only]) == 0
    assert {path.stem for path in Path("out").iterdir()} == {*chosen}
    results = {name: json.loads((Path("out") / f"{name}.json").read_text(encoding="utf-8")) for name in chosen}
    assert results["machine"]["source"] == "synthetic"
    assert set(results["masks"]["original"]["ratios"]) == {"masked / dense, eager", "masked / dense, CUDA graphs"}
    assert all("CUDA" in layer["error"] for layer in results["semi_structured"].values())
    (recipe,) = results["accuracy"]["runs"]
    assert 0 <= recipe["test_accuracy"] <= 1
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith(f"# Page\n\n{gpu.START}\n\nMeasured on no GPU: a rehearsal")
    assert text.endswith(f"{gpu.END}\n\nAfter.\n")
    assert "**Masks**" in text
    # what is finished is not measured again
    capsys.readouterr()
    assert gpu.main(["--rehearse", "--out=out", *only]) == 0
    assert capsys.readouterr().out.count("finished before") == len(chosen)


def test_parts_that_fail_hang_or_die_leave_a_sentence_and_run_again(tmp_path: Path) -> None:
    def fail(seconds: float) -> Any:
        raise InputError("There is no data")

    def hang(seconds: float) -> Any:
        time.sleep(60)

    def die(seconds: float) -> Any:
        import os

        os._exit(7)

    parts: Any = {
        "good": (30, lambda seconds: {"given": seconds}),
        "fails": (30, fail),
        "breaks": (30, lambda seconds: {"never": 1 // 0}),
        "hangs": (2, hang),
        "dies": (30, die),
    }
    results = run_parts(parts, tmp_path, 100)
    assert results["good"]["given"] == pytest.approx(30)
    assert results["fails"] == {"error": "There is no data"}
    assert results["breaks"]["error"].startswith("ZeroDivisionError: ")
    assert results["hangs"] == {"error": "stopped after 2 s"}
    assert results["dies"] == {"error": "its process ended with status 7"}
    parts["fails"] = (30, lambda seconds: {"now": True})
    parts["good"] = (30, fail)
    again = run_parts({name: parts[name] for name in ("good", "fails")}, tmp_path, 100)
    assert again["good"] == results["good"]
    assert again["fails"] == {"now": True}
    assert run_parts({"late": (30, fail)}, tmp_path, 0) == {}


def test_the_tables_show_what_was_measured() -> None:
    ratio = {"median": 1.01, "low": 1.0, "high": 1.02}
    text = describe(
        {
            "machine": {"card": "Card X", "memory_gb": 80, "cuda": "13", "cores": 16, "source": "cifar10"},
            "step": {
                "seconds_per_step": {"original loop": ratio, "ours": {"median": 0.001, "low": 0.001, "high": 0.002}},
                "ratios": {"original loop / ours": {"median": 15.5, "low": 15.0, "high": 16.0}},
            },
            "accuracy": {
                "warm_up_seconds": 31.0,
                "runs": [
                    {"epochs": 10, "seconds": 30.0, "epoch": ratio, "test_accuracy": 0.9444},
                    {"epochs": 16, "seconds": 50.0, "epoch": ratio, "test_accuracy": 0.952},
                ],
            },
            "threshold": {"error": "stopped after 3 s"},
            "tests": {"counts": {"passed": 3, "failed": 1}, "failures": ["FAILED tests/x.py::y"]},
        }
    )
    assert "Measured on one Card X (80 GB), CUDA 13" in text
    assert "CIFAR-10 images" in text
    assert "| ours | 1.00 (1.00 to 2.00) | 15.50 (15.00 to 16.00) |" in text
    assert "Time to 94%: 30.0 s; 95%: 50.0 s; 96%: not reached." in text
    assert "Not measured: stopped after 3 s" in text
    assert "3 passed, 1 failed\n- `FAILED tests/x.py::y`" in text
    assert "**Masks**" not in text
