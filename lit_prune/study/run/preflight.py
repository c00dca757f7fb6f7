"""Before a study starts: check its settings, load its initial weights, and estimate its duration."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
import yaml
from torch.nn.functional import cross_entropy

from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError
from lit_prune.models.fused_adam import ready_fused_adam
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import has_default_model, run_settings
from lit_prune.training.cli import Parsers, TrainingCLI
from lit_prune.training.launcher import check_strategy

_IMAGENET = "IMAGENET1K_V1"


def check_settings(plan: Plan, experiments: Iterable[Experiment], out: Path) -> None:
    """Parse the configuration of every experiment, in order to find errors before the first run starts.

    Raises:
        InputError: If a configuration is invalid; the message names the experiment.
    """
    parsers: Parsers = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "fit.yaml"
        for experiment in experiments:
            try:
                settings = run_settings(plan, experiment, plan.seeds[0], out)
                check_strategy((settings.get("trainer") or {}).get("strategy"))
                path.write_text(yaml.safe_dump(settings), encoding="utf-8")
                with redirect_stdout(StringIO()):
                    TrainingCLI(["fit", "--config", str(path), "--print_config"], parsers=parsers)
            except SystemExit:
                continue
            except InputError as error:
                raise InputError(f"In `{experiment.name}`: {error}") from error


def check_initial_weights(plan: Plan, *, download: bool) -> None:
    """Load the initial weights once, before the first run starts. Weights to download are only loaded if `download`.

    Raises:
        InputError: If the weights cannot be loaded.
    """
    weights = plan.initial_weights
    if weights in (None, "random") or not has_default_model(plan.settings) or (weights == _IMAGENET and not download):
        return
    try:
        LitResNet18(weights=weights, stem=(plan.settings.get("model") or {}).get("stem", "imagenet"))
    except InputError as error:
        if weights != _IMAGENET:
            raise
        options = "For a study, these options are `--weights FILE` and `--weights random`."
        raise InputError(f"{error} {options}") from error


def default_jobs(threads: int) -> int:
    """Return the default number of parallel runs: 1 on a GPU, otherwise the number of cores / `threads`."""
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def estimate_epoch_seconds(plan: Plan) -> float | None:
    """Estimate the duration of an epoch by timing a few training steps on this machine's CPU.

    Returns:
        Seconds; None if the model or the data are custom, or if a GPU is available.
    """
    settings = plan.settings.get("data") or {}
    own_data = isinstance(settings, str) or "class_path" in settings
    if own_data or not has_default_model(plan.settings) or torch.cuda.is_available():
        return None
    data = CIFAR10DataModule(**settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        model = LitResNet18(channels=(plan.settings.get("model") or {}).get("channels"))
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        ready_fused_adam(optimizer)
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
    step = statistics.median(seconds[2:])  # without the first two steps, which are slower
    total = 50_000 if data.source == "cifar10" else 10_000
    training = data.limit_train or total - data.val_size
    # an image takes about a third as long in validation as in training
    return step * (training + data.val_size / 3) / data.batch_size
