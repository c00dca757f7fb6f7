"""From an experiment and a seed to the configuration of one run."""

from pathlib import Path
from typing import Any

from lit_prune.errors import expected
from lit_prune.files.nested import merge
from lit_prune.study.plan.plan import Experiment, Plan

__all__ = ["epochs_of", "is_ours", "parent_checkpoint", "run_folder", "run_settings"]

# what a study decides -> what to say to those who would
_DECIDED = {
    "seed_everything": "`seeds` of the plan, or `--seeds`, says which are run",
    "name": "it is made of those of the plan, the experiment and the seed",
    "ckpt_path": "an experiment's `parent` says what it starts from",
    "config": "write the settings into the plan",
    "threads": "`threads` of the plan, or `--threads`, says how many",
}
# what of a Trainer a study decides -> the values that change nothing, and what to say of others
_FIXED: dict[str, tuple[tuple[object, ...], str]] = {
    "logger": ((None,), "the report reads what the study's own loggers write"),
    "default_root_dir": ((None,), "`--out` says where its runs are"),
    "fast_dev_run": ((None, False), "a rehearsal leaves nothing to report"),
    "enable_checkpointing": ((None, True), "runs are scored, and gone on with, from their checkpoints"),
}
_QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def run_folder(out: Path, experiment: str, seed: int) -> Path:
    """Where a run is."""
    return out / experiment / f"seed={seed}"


def run_settings(plan: Plan, experiment: Experiment, seed: int, out: Path) -> dict[str, Any]:
    """Make the configuration of one run.

    Args:
        plan: The study.
        experiment: One of its experiments.
        seed: One of its seeds. The word `$seed` in settings stands for it.
        out: The study's folder.

    Returns:
        A configuration of `lit-prune fit`.

    Raises:
        InputError: If the settings name what a study decides itself.
    """
    config = merge(plan.settings, experiment.overrides)
    for name, hint in _DECIDED.items():
        if config.get(name) is not None:
            raise expected(f"no `{name}` in the settings of a study", config[name], hint)
    trainer = config["trainer"] = _QUIET | (config.get("trainer") or {})
    for name, (harmless, hint) in _FIXED.items():
        if trainer.get(name) not in harmless:
            raise expected(f"no `trainer.{name}` in a study", trainer[name], hint)
    config = {key: _with_seed(value, seed) for key, value in config.items()}
    config |= {"seed_everything": seed, "threads": plan.threads}
    # a run that diverges is a result, and is called one in the report
    config.setdefault("on_nan", "continue")
    config["name"] = f"{plan.name}-{experiment.name.replace('/', '-')}-seed{seed}"
    parent = None
    if experiment.parent is not None:
        parent = str(parent_checkpoint(run_folder(out, experiment.parent, seed), experiment.checkpoint))
    if not is_ours(config):
        return config if parent is None else config | {"init_from": parent}
    model = config["model"] = dict(config.get("model") or {})
    if parent is not None:
        model |= {"weights": None, "init_from": parent}
    elif plan.initial_weights is not None:
        model["weights"] = None if plan.initial_weights == "random" else plan.initial_weights
    return config


def is_ours(config: dict[str, Any]) -> bool:
    """Say whether a configuration is about this project's model, not somebody else's."""
    model = config.get("model")
    return not isinstance(model, str) and "class_path" not in (model or {})


def epochs_of(plan: Plan, experiment: Experiment) -> int:
    """How many epochs a run may take: one, if it is only scored."""
    epochs = (merge(plan.settings, experiment.overrides).get("trainer") or {}).get("max_epochs", 30)
    return epochs if experiment.train and isinstance(epochs, int) and epochs > 0 else 1


def parent_checkpoint(folder: Path, which: str) -> Path:
    """Find the checkpoint of a run that its children start from.

    Args:
        folder: The run's folder.
        which: "last" or "best". Where there is no best one, nothing was monitored, and the last is taken.
    """
    best = sorted((folder / "checkpoints").glob("best*.ckpt")) if which == "best" else []
    return best[0] if best else folder / "checkpoints" / "last.ckpt"


def _with_seed(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        return {key: _with_seed(item, seed) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_seed(item, seed) for item in value]
    return seed if value == "$seed" else value
