"""What `scripts/gpu.py` measures: each function is one part, and returns results that JSON can hold."""

import csv
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from lit_prune import CIFAR10DataModule, LitResNet18
from lit_prune.data import cifar10
from lit_prune.errors import one_line
from lit_prune.functional import apply_masks, compute_masks, weight_layers
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from lit_prune.trained.cost.measure import describe_machine
from lit_prune.training.callbacks import CompiledTraining
from lit_prune.training.cli import TrainingCLI
from measurements.callbacks import measure_monitor, measure_threshold
from measurements.common import BareStep, Measurement, Settings, summary, take_turns, wait_for
from measurements.training import FixedLoop, PlainLoop

ROOT = Path(__file__).parents[2]
EPOCH = 352  # batches of 128 in an epoch of `--config original`: 45,000 training images
Result = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Device, images, sizes and time of one part.

    Attributes:
        device: "cuda", or "cpu" for a rehearsal.
        source: Images to train on.
        data_dir: Folder with the CIFAR-10 data.
        rehearses: Whether to run everything once with tiny sizes, and without a compiler.
        seconds: Time that the part has.
    """

    device: str
    source: Literal["synthetic", "cifar10"]
    data_dir: Path
    rehearses: bool
    seconds: float

    def settings(self, rounds: int, steps: int) -> Settings:
        """Return settings with these numbers, or with small ones in a rehearsal."""
        return Settings(self.source, self.data_dir, *((1, 1) if self.rehearses else (rounds, steps)))

    @property
    def channels(self) -> dict[str, int] | None:
        """Number of channels of each layer: few in a rehearsal, otherwise None for the default."""
        return dict.fromkeys(FULL_CHANNELS, 8) if self.rehearses else None

    def network(self, **arguments: Any) -> LitResNet18:
        """Return a network to train."""
        return LitResNet18(channels=self.channels, **arguments).train()

    def step(self, model: nn.Module, mode: str | None = None, **arguments: Any) -> Callable[[int], None]:
        """Return a function that trains a network for a number of steps, compiled in a mode of `torch.compile`."""
        if mode is not None:
            model.compile(**({"backend": "eager"} if self.rehearses else {"mode": mode}))
        return BareStep(model, device=self.device, **arguments).run


def find_source(data_dir: Path) -> Literal["synthetic", "cifar10"]:
    """Return "cifar10" if its arrays or its archive are in a folder, and otherwise "synthetic"."""
    known = [data_dir / cifar10.FOLDER / "train_images.npy", data_dir / cifar10.ARCHIVE]
    return "cifar10" if any(path.is_file() for path in known) else "synthetic"


def describe_setup(setup: Setup) -> Result:
    """Describe the processor, the GPU, the versions and the images."""
    found: Result = describe_machine() | {"cores": os.cpu_count(), "source": setup.source}
    if setup.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_gb": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return found


def run_tests(setup: Setup) -> Result:
    """Run the tests marked `gpu`."""
    paths = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if _has_gpu_tests(path)]
    chosen = [ROOT / "tests" / "data" / "test_loader.py"] if setup.rehearses else paths
    options = ["-m", "gpu", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, chosen)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])}
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    output = [] if done.returncode == 0 else lines[-60:]
    return {"counts": counts, "failures": failures, "output": output, "seconds": time.perf_counter() - began}


def _has_gpu_tests(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return "pytest.mark.gpu" in text or "DEVICES" in text


def measure_steps(setup: Setup) -> Result:
    """Compare training steps on one batch in GPU memory: ours in several forms, and the original study's."""
    settings, step = setup.settings(5, 100), setup.step
    plain = setup.network()
    for layer in plain.modules():
        layer.__class__ = vars(type(layer)).get("plain_class", type(layer))
    contenders = {
        "original loop": FixedLoop(settings, setup.device).run,
        "ours": step(setup.network()),
        "ours, no cropping": step(plain),
        "ours, bf16": step(setup.network(), dtype=torch.bfloat16),
        "ours, compiled": step(setup.network(), "default"),
        "ours, CUDA graphs": step(setup.network(), "reduce-overhead"),
        "ours, CUDA graphs, bf16": step(setup.network(), "reduce-overhead", dtype=torch.bfloat16),
    }
    measurement = Measurement(take_turns(settings, contenders))
    for name in [*contenders][1:]:
        measurement.compare(f"original loop / {name}", "original loop", name)
    return measurement.content()


def measure_epochs(setup: Setup) -> Result:
    """Compare the epochs of `lit-prune fit --config original` with those of the original study's loop.

    Epochs of `lit-prune fit` include their validation. Those of the loop, which does not validate, are extrapolated
    from a few steps.
    """
    settings, found = setup.settings(1, 60), dict[str, Result]()
    loop = PlainLoop(settings, setup.device)
    loop.run(min(5, settings.steps))
    began = time.perf_counter()
    loop.run(settings.steps)
    wait_for(setup.device)
    found["original loop"] = {"seconds": [(time.perf_counter() - began) / settings.steps * EPOCH]}
    options = {
        "ours": [],
        "ours, compiled": ["--compile"],
        "ours, compiled, bf16": ["--compile", "--trainer.precision=bf16-mixed"],
    }
    for name, added in options.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = _fit(setup, Path(folder), 2 if setup.rehearses else 6, *([] if setup.rehearses else added))
        # the first epochs include compilation, so only the last three count
        found[name] = {"seconds": seconds[-3:], "first": seconds[0]}
    for name in options:
        ratios = [found["original loop"]["seconds"][0] / one for one in found[name]["seconds"]]
        found[name]["original loop / ours"] = statistics.median(ratios)
    return {"epochs": found, "source": setup.source}


def _fit(setup: Setup, folder: Path, epochs: int, *options: str) -> list[float]:
    """Train as the original study did, with `lit-prune fit`; return the seconds of each epoch with its validation."""
    tiny = ["--data.limit_train=64", "--data.val_size=20"] if setup.rehearses else []
    if setup.rehearses:
        tiny.append(f"--model.channels={str(setup.channels).replace(' ', '')}")
    argv = [
        "fit",
        "--config=original",
        "--model.weights=null",
        f"--data.source={setup.source}",
        f"--data.data_dir={setup.data_dir.absolute()}",
        f"--trainer.accelerator={setup.device}",
        "--trainer.devices=1",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.max_epochs={epochs}",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        *tiny,
        *options,
    ]
    TrainingCLI(argv)
    (path,) = folder.rglob("metrics.csv")
    with path.open(encoding="utf-8") as file:
        return [float(row["time/epoch"]) for row in csv.DictReader(file) if row.get("time/epoch")]


def measure_masks(setup: Setup) -> Result:
    """Compare steps with 30% of the weights masked to steps without masks, at two sizes."""

    def masked(model: LitResNet18) -> LitResNet18:
        apply_masks(model, compute_masks(weight_layers(model), 0.3))
        return model

    results: Result = {}
    graphs = partial(setup.step, mode="reduce-overhead")
    sizes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "original": ({}, {}),
        "cifar stem, batch 512, bf16": ({"stem": "cifar"}, {"batch_size": 512, "dtype": torch.bfloat16}),
    }
    for name, (arguments, batch) in sizes.items():
        if setup.rehearses:
            batch = batch | {"batch_size": 8}
        contenders = {}
        for kind, make in (("eager", setup.step), ("CUDA graphs", graphs)):
            contenders[f"dense, {kind}"] = make(setup.network(**arguments), **batch)
            contenders[f"masked, {kind}"] = make(masked(setup.network(**arguments)), **batch)
        measurement = Measurement(take_turns(setup.settings(5, 50), contenders))
        for kind in ("eager", "CUDA graphs"):
            measurement.compare(f"masked / dense, {kind}", f"masked, {kind}", f"dense, {kind}")
        results[name] = measurement.content()
    return results


def measure_thresholds(setup: Setup) -> Result:
    """Compare the time in which lit-prune and torch find the smallest 30% of the weights."""
    return measure_threshold(setup.settings(5, 2), setup.device, setup.network()).content()


def measure_monitors(setup: Setup) -> Result:
    """Measure how much of an epoch is spent in the hooks of `SparsityMonitor`."""
    return measure_monitor(setup.settings(3, 35), setup.device, setup.network()).content()


# name: (outputs, inputs, rows of the other factor): the layers of a transformer, and convolutions as matrix products
LAYERS = {
    "transformer of width 768: attention, 128 tokens": (2304, 768, 128),
    "transformer of width 768: projection, 1,024 tokens": (768, 768, 1024),
    "transformer of width 768: first MLP layer, 1,024 tokens": (3072, 768, 1024),
    "transformer of width 768: second MLP layer, 1,024 tokens": (768, 3072, 1024),
    "transformer of width 768: first MLP layer, 8,192 tokens": (3072, 768, 8192),
    "transformer of width 4,096: attention, 4,096 tokens": (4096, 4096, 4096),
    "transformer of width 4,096: first MLP layer, 4,096 tokens": (11008, 4096, 4096),
    "ResNet: 3x3, 64 channels, 128 images of 32x32": (64, 576, 131072),
    "ResNet: 3x3, 256 channels, 128 images of 8x8": (256, 2304, 8192),
    "ResNet: 3x3, 512 channels, 128 images of 4x4": (512, 4608, 2048),
}


def measure_semi_structured(setup: Setup) -> Result:
    """Compare products with 2:4 sparse weights to dense ones, layer by layer, in bfloat16."""
    results: Result = {}
    rounds, repeats = (1, 1) if setup.rehearses else (7, 50)
    for name, (outputs, inputs, rows) in LAYERS.items():
        if setup.rehearses:
            outputs, inputs, rows = 64, 64, 64
        weight = torch.randn(outputs, inputs, device=setup.device, dtype=torch.bfloat16)
        groups = weight.view(-1, 4)
        groups.scatter_(1, groups.abs().topk(2, largest=False).indices, 0)
        values = torch.randn(rows, inputs, device=setup.device, dtype=torch.bfloat16)
        try:
            sparse = torch.sparse.to_sparse_semi_structured(weight)
            error = float(
                (F.linear(values, sparse) - F.linear(values, weight)).norm() / F.linear(values, weight).norm()
            )
        except (RuntimeError, NotImplementedError, AttributeError) as problem:
            results[name] = {"error": one_line(problem)}
            continue

        def multiply(count: int, values: Tensor = values, factor: Any = weight) -> None:
            for _ in range(count):
                F.linear(values, factor)
            wait_for(setup.device)

        contenders: dict[str, Callable[[int], None]] = {"dense": multiply, "2:4": partial(multiply, factor=sparse)}
        settings = Settings(setup.source, setup.data_dir, rounds, repeats)
        measurement = Measurement(take_turns(settings, contenders))
        measurement.compare("dense / 2:4", "dense", "2:4")
        results[name] = measurement.content() | {"relative_error": error}
    return results


class Recipe(LitResNet18):
    """`LitResNet18` for small images with smoothed labels in training."""

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=0.1 if self.training else 0.0)


class Clock(Callback):
    """Records the seconds of each training epoch."""

    def __init__(self, device: str) -> None:
        self.device, self.epochs, self._began = device, list[float](), 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the time since the epoch started."""
        wait_for(self.device)
        self.epochs.append(time.perf_counter() - self._began)


def measure_accuracy(setup: Setup) -> Result:
    """Train with the CIFAR stem for fixed numbers of epochs, each run once, and measure time and test accuracy.

    The recipe was fixed in advance; the test images choose nothing. SGD with Nesterov momentum, one cycle of the
    learning rate, weight decay 5e-4, label smoothing 0.1, flips and shifts, batches of 500 images, bfloat16, compiled
    training on 49,500 images; nothing is validated.
    """
    began, runs = time.perf_counter(), list[Result]()
    _train(setup, 1, steps=3)  # compiles, and loads what the first steps need
    warm = time.perf_counter() - began
    for epochs in (1,) if setup.rehearses else (10, 16, 24, 40):
        left = setup.seconds - (time.perf_counter() - began)
        if runs and epochs * runs[-1]["epoch"]["median"] > 0.9 * left - 5:
            break
        runs.append(_train(setup, epochs))
    return {"source": setup.source, "warm_up_seconds": warm, "runs": runs}


def _train(setup: Setup, epochs: int, steps: int | None = None) -> Result:
    seed_everything(0, verbose=False)
    sizes = {"batch_size": 500, "val_size": 500, "eval_batch_size": 500}
    if setup.rehearses:
        sizes = {"batch_size": 8, "val_size": 20, "limit_train": 16}
    data = CIFAR10DataModule(setup.data_dir, source=setup.source, augment="standard", **sizes)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup("fit")
    total = epochs * len(data.train_dataloader())
    model = Recipe(
        stem="cifar",
        channels=setup.channels,
        optimizer=lambda p: torch.optim.SGD(p, 0.4, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.4, total_steps=total, pct_start=0.25, cycle_momentum=False
        ),
    )
    clock = Clock(setup.device)
    trainer = Trainer(
        accelerator=setup.device,
        devices=1,
        precision="32-true" if setup.rehearses else "bf16-mixed",
        max_epochs=epochs,
        limit_train_batches=steps,
        limit_val_batches=0,
        limit_test_batches=1 if setup.rehearses else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, *([] if setup.rehearses else [CompiledTraining()])],
    )
    began = time.perf_counter()
    trainer.fit(model, data)
    wait_for(setup.device)
    seconds = time.perf_counter() - began
    scores = trainer.test(model, data, verbose=False)[0] if steps is None else {}
    epoch = summary(clock.epochs[1:] or clock.epochs)
    return {"epochs": epochs, "seconds": seconds, "epoch": epoch, "test_accuracy": scores.get("test/acc")}


def measure_jobs(setup: Setup) -> Result:
    """Train one, two and four networks at once on one GPU, in a process each, and compare the epochs per minute."""
    results: Result = {}
    for count in (1,) if setup.rehearses else (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("fork").Pool(count) as pool:
            jobs = [(setup, Path(folder) / str(number)) for number in range(count)]
            epochs = pool.starmap(_train_alone, jobs)
        middle = statistics.median(second for seconds in epochs for second in seconds)
        results[str(count)] = {"epoch_seconds": middle, "epochs_per_minute": 60 * count / middle}
    return results


def _train_alone(setup: Setup, folder: Path) -> list[float]:
    torch.set_num_threads(2)
    # without the first epoch, in which the processes start
    return _fit(setup, folder, 2 if setup.rehearses else 5)[1:]
