"""Write folders of studies with made-up numbers, in any state."""

import json
import math
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.validation import read_plan

__all__ = ["LAYERS", "SMALL", "full_content", "make_study", "run_folder"]

Which = Collection[tuple[str, int]]

LAYERS = (
    "backbone.conv1",
    *(f"backbone.layer{stage}.{block}.conv{n}" for stage in (1, 2, 3, 4) for block in (0, 1) for n in (1, 2)),
    "head.0",
    "head.2",
)
_PRUNE = {"class_path": "GlobalL1Pruning", "init_args": {"amount": 0.1}}
_REMOVE = {"class_path": "PruningRemoval", "init_args": {"epoch": 0}}

SMALL: dict[str, Any] = {
    "name": "small",
    "seeds": [0, 1, 2],
    "initial_weights": "random",
    "groups": {"task1": "Task 1: losses", "task5": "Task 5: unfrozen"},
    "settings": {
        "data": {"source": "synthetic", "limit_train": 400, "val_size": 100, "batch_size": 32},
        "trainer": {"max_epochs": 4, "callbacks": [{"class_path": "SparsityMonitor"}]},
    },
    "experiments": [
        {"name": "task1/logits"},
        {"name": "task1/softmax", "overrides": {"model": {"output": "softmax"}}},
        {
            "name": "task3/prune-10",
            "parent": "task1/logits",
            "train": False,
            "overrides": {"trainer": {"callbacks+": [_PRUNE]}},
        },
        {
            "name": "task4/finetuned-10",
            "parent": "task1/logits",
            "overrides": {"trainer": {"callbacks+": [_PRUNE]}},
        },
        {
            "name": "task5/finetuned-10",
            "parent": "task1/logits",
            "overrides": {"trainer": {"callbacks+": [_PRUNE, _REMOVE]}},
        },
    ],
    "claims": [
        {
            "said": "Softmax fails",
            "contrasts": [
                {"of": "task1/softmax", "measure": "final_test_acc", "minus": "task1/logits", "between": [None, -0.05]}
            ],
        },
        {
            "said": "Sparsity stays constant",
            "contrasts": [{"of": "task4/finetuned-10", "measure": "sparsity_range", "between": [0, 0], "exact": True}],
        },
    ],
}


def full_content(epochs: int = 8) -> dict[str, Any]:
    """Return the plan of the study `full`, 31 experiments with three seeds, for fewer epochs."""
    content = load_plan("full").as_dict()
    content["settings"]["trainer"]["max_epochs"] = epochs
    return content


def run_folder(folder: Path, experiment: str, seed: int) -> Path:
    return folder / experiment / f"seed={seed}"


def make_study(
    folder: Path,
    content: Mapping[str, Any] = SMALL,
    *,
    seed: int = 0,
    diverged: Which = (),
    unfinished: Which = (),
    failed: Which = (),
    missing: Which = (),
    without: Collection[str] = (),
) -> Plan:
    """Write a study's folder.

    Args:
        folder: Folder of the study, made if it does not exist.
        content: Plan of the study. `trainer.max_epochs` in its settings is the number of epochs, by default 4.
        seed: Random seed of the made-up numbers.
        diverged: (experiment, seed) of runs with NaN losses after their first epoch, or in their only one.
        unfinished: (experiment, seed) of runs that stopped half-way.
        failed: (experiment, seed) of runs that stopped half-way with an error.
        missing: (experiment, seed) of runs that never started.
        without: Columns to leave out of every `metrics.csv`.

    Returns:
        The plan.
    """
    plan = read_plan(content, "a test")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan.as_dict(), sort_keys=False), encoding="utf-8")
    epochs = plan.settings.get("trainer", {}).get("max_epochs", 4)
    for experiment in plan.experiments:
        for run_seed in plan.seeds:
            which = (experiment.name, run_seed)
            if which in missing:
                continue
            draws = random.Random(f"{seed} {which}")  # noqa: S311 - made-up numbers, not secrets
            ended = which not in unfinished and which not in failed
            here = run_folder(folder, *which)
            here.mkdir(parents=True)
            (here / "config.yaml").write_text(f"seed_everything: {run_seed}\n", encoding="utf-8")
            count = (epochs if ended else max(1, epochs // 2)) if experiment.train else 1
            rows = _epochs(plan, experiment, count, draws, which in diverged)
            (here / "metrics.csv").write_text(_csv(rows, without), encoding="utf-8")
            if which in failed:
                (here / "error.txt").write_text("The optimizer ran out of memory.\n", encoding="utf-8")
            if ended:
                result = _result(plan, experiment, run_seed, epochs, rows, draws)
                (here / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return plan


def _epochs(
    plan: Plan, experiment: Experiment, count: int, draws: random.Random, diverged: bool
) -> list[dict[str, float]]:
    """Make up the metrics of each epoch, training and validation together."""
    added = experiment.overrides.get("trainer", {}).get("callbacks+", [])
    amounts = [c["init_args"]["amount"] for c in added if "amount" in c.get("init_args", {})]
    amount = amounts[0] + draws.uniform(-1e-7, 1e-7) if amounts else 0.0
    removed = any(c["class_path"].endswith("PruningRemoval") for c in added)
    dead = amount * 0.7 + (draws.uniform(-0.002, 0.002) if amount else 0.0)
    top = (0.3 if "softmax" in experiment.name else 0.8) * (1 - 0.5 * max(0.0, amount - 0.8)) + draws.gauss(0, 0.004)
    speed, begin = draws.uniform(0.6, 1.0), 0.0 if experiment.parent is None else 3.0
    names = plan.metrics
    rows = []
    for epoch in range(count):
        learned = 1 - math.exp(-(epoch + 1 + begin) * speed)
        val = min(1.0, top * learned + draws.gauss(0, 0.003))
        lost = math.nan if diverged and (epoch >= 1 or count == 1) else 0.0
        row = {
            names.get("val_loss"): 2.3 * (1 - val) + 0.02 * epoch + lost,
            names.get("val_acc"): val,
            "sparsity/global": amount,
            "sparsity/masked": amount,
            "sparsity/regrown": 0.0,
            "sparsity/ever_pruned": amount,
        }
        if removed:
            row["sparsity/global"] = dead + (amount - dead) * 0.02 * math.exp(-2 * epoch)
            row |= {"sparsity/masked": 0.0, "sparsity/regrown": 1 - row["sparsity/global"] / amount if amount else 0.0}
        for index, layer in enumerate(LAYERS):
            row[f"sparsity/layer/{layer}"] = min(1.0, row["sparsity/global"] * (0.2 + 1.8 * index / len(LAYERS)))
        if experiment.train:
            row |= {
                "lr": 0.001,
                names.get("train_loss"): 2.3 * (1 - val) * 0.8 + lost,
                names.get("train_acc"): min(1.0, val * (1 + 0.02 * epoch)),
                "gradient/untouched": 0.62 + draws.uniform(-0.001, 0.001),
                "gradient/untouched_pruned": dead,
                "time/epoch": 12 + draws.random(),
            }
        rows.append({name: value for name, value in row.items() if name is not None} | {"epoch": epoch})
    return rows


def _csv(rows: list[dict[str, float]], without: Collection[str]) -> str:
    """Write two rows for each epoch, validation first, as Lightning does."""
    header = ["epoch", "step", *sorted({name for row in rows for name in row} - {"epoch", *without})]
    lines = [",".join(header)]
    for row in rows:
        for first in (True, False):
            cells = {name: value for name, value in row.items() if name.startswith("val") == first}
            if set(cells) - {"epoch"}:
                cells |= {"epoch": row["epoch"], "step": row["epoch"]}
                lines.append(",".join(repr(cells[name]) if name in cells else "" for name in header))
    return "\n".join(lines) + "\n"


def _result(
    plan: Plan, experiment: Experiment, seed: int, epochs: int, rows: list[dict[str, float]], draws: random.Random
) -> dict[str, Any]:
    accuracy, loss = plan.metrics.get("val_acc", ""), plan.metrics.get("val_loss", "")
    best = max(range(len(rows)), key=lambda index: rows[index].get(accuracy, 0.0))

    def score(row: Mapping[str, float]) -> dict[str, float]:
        scores = {
            "test_loss": row.get(loss, math.nan) * 1.02,
            "test_acc": row.get(accuracy, 0.0) - 0.01 * draws.random(),
        }
        return {plan.metrics[role]: value for role, value in scores.items() if role in plan.metrics}

    tests = {"last": score(rows[-1])} | ({"best": score(rows[best])} if experiment.train else {})
    return {
        "format": 1,
        "experiment": experiment.name,
        "seed": seed,
        "epochs": epochs if experiment.train else 0,
        "initial_weights": "parent" if experiment.parent else plan.initial_weights,
        "best_epoch": best if experiment.train else None,
        "test": tests,
        "environment": {
            "lit_prune": "0.1.0",
            "torch": "2.15.0",
            "lightning": "2.6.6",
            "python": "3.11.4",
            "device": "cpu",
            "threads": plan.threads,
        },
        "seconds": 12.5 * len(rows),
    }
