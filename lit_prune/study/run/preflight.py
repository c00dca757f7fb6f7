"""What can be known of a study's runs before one of them is started: their settings, their weights, their time."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
import yaml
from torch.nn.functional import cross_entropy

from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import is_ours, run_settings
from lit_prune.training.cli import TrainingCLI

__all__ = ["check_settings", "default_jobs", "seconds_per_epoch", "with_weights"]

_IMAGENET = "IMAGENET1K_V1"


def check_settings(plan: Plan, experiments: Iterable[Experiment], out: Path) -> None:
    """Parse the configuration of every experiment, as its run will.

    Raises:
        InputError: If one cannot be used; the message names the experiment.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "fit.yaml"
        for experiment in experiments:
            try:
                settings = run_settings(plan, experiment, plan.seeds[0], out)
                path.write_text(yaml.safe_dump(settings), encoding="utf-8")
                with redirect_stdout(StringIO()):
                    TrainingCLI(["fit", "--config", str(path), "--print_config"])
            except SystemExit:
                continue
            except InputError as error:
                raise InputError(f"In `{experiment.name}`: {error}") from error


def with_weights(plan: Plan, typed: str | None) -> tuple[Plan, str]:
    """Decide what experiments without a parent start from.

    Args:
        plan: The study.
        typed: What was given with `--weights`, if anything.

    Returns:
        The plan with weights that can be had, and a sentence if they are not those that it names.

    Raises:
        InputError: If weights that were typed cannot be used.
    """
    weights = typed or plan.initial_weights
    if weights is None or weights == "random" or not is_ours(plan.settings):
        return replace(plan, initial_weights=weights), ""
    stem = (plan.settings.get("model") or {}).get("stem", "imagenet")
    try:
        LitResNet18(weights=weights, stem=stem)
    except InputError as error:
        if typed is not None or weights != _IMAGENET:
            raise
        return replace(plan, initial_weights="random"), f"ImageNet's weights cannot be had, so they are random: {error}"
    return replace(plan, initial_weights=weights), ""


def default_jobs(threads: int) -> int:
    """How many runs at once suit this machine: one on a GPU, otherwise as there are cores."""
    return 1 if torch.cuda.is_available() else max(1, len(_cores()) // threads)


def seconds_per_epoch(plan: Plan) -> float | None:
    """Estimate the time of an epoch from a few steps on this machine's CPU; None if it cannot be known beforehand."""
    settings = plan.settings.get("data") or {}
    own_data = isinstance(settings, str) or "class_path" in settings
    if own_data or not is_ours(plan.settings) or torch.cuda.is_available():
        return None
    data = CIFAR10DataModule(**settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        model = LitResNet18()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        images, labels = torch.randn(data.batch_size, 3, 32, 32), torch.randint(10, (data.batch_size,))
        seconds = []
        for _ in range(6):
            began = time.perf_counter()
            loss: torch.Tensor = cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    step = statistics.median(seconds[2:])
    total = 50_000 if data.source == "cifar10" else 10_000
    training = data.limit_train or total - data.val_size
    # an image that is only scored takes about a third of one that is trained on
    return step * (training + data.val_size / 3) / data.batch_size


def _cores() -> Sequence[int] | set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
