"""The configuration of one run, made from an experiment and a seed."""

from pathlib import Path
from typing import Any

from lit_prune.errors import expected
from lit_prune.files.nested import merge
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.training.run_folder import CHECKPOINTS, LAST

# settings that a study decides -> hint for those who set them
_DECIDED = {
    "seed_everything": "set `seeds` in the plan, or give `--seeds`",
    "name": "the study names its runs by plan, experiment and seed",
    "ckpt_path": "set `parent` of the experiment",
    "config": "write the settings into the plan",
    "threads": "set `threads` in the plan, or give `--threads`",
    "trainer.logger": "the report reads the files of the study's own loggers",
    "trainer.default_root_dir": "give `--out`",
    "trainer.fast_dev_run": "it leaves nothing to report",
    "trainer.enable_checkpointing": "runs are scored and resumed from their checkpoints",
}
# values of these settings that change nothing, besides None
_HARMLESS = {"trainer.fast_dev_run": False, "trainer.enable_checkpointing": True}
_QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def run_folder(out: Path, experiment: str, seed: int) -> Path:
    """Return the folder of a run."""
    return out / experiment / f"seed={seed}"


def run_settings(plan: Plan, experiment: Experiment, seed: int, out: Path) -> dict[str, Any]:
    """Make the configuration of `lit-prune fit` for one run, with its seed in place of every `$seed`.

    Raises:
        InputError: If the plan sets what a study decides.
    """
    config = merge(plan.settings, experiment.overrides)
    config["trainer"] = _QUIET | (config.get("trainer") or {})
    given = config | {f"trainer.{name}": value for name, value in config["trainer"].items()}
    for name, hint in _DECIDED.items():
        if (value := given.get(name)) is not None and value != _HARMLESS.get(name):
            raise expected(f"no `{name}` in the settings of a study", value, hint)
    config = {key: _insert_seed(value, seed) for key, value in config.items()}
    config |= {"seed_everything": seed, "threads": plan.threads}
    config.setdefault("on_nan", "continue")  # a diverged run is a result, and reported as such
    config["name"] = f"{plan.name}-{experiment.name.replace('/', '-')}-seed{seed}"
    parent = None
    if experiment.parent is not None:
        parent = str(parent_checkpoint(run_folder(out, experiment.parent, seed), experiment.checkpoint))
    if not has_default_model(config):
        return config if parent is None else config | {"init_from": parent}
    model = config["model"] = dict(config.get("model") or {})
    if parent is not None:
        model |= {"weights": None, "init_from": parent}
    elif plan.initial_weights is not None:
        model["weights"] = None if plan.initial_weights == "random" else plan.initial_weights
    return config


def has_default_model(config: dict[str, Any]) -> bool:
    """Return whether a configuration leaves the class of the model at its default, this project's ResNet-18."""
    model = config.get("model")
    return not isinstance(model, str) and "class_path" not in (model or {})


def count_epochs(plan: Plan, experiment: Experiment) -> int:
    """Return the largest number of epochs of a run, 1 for a run without training."""
    epochs = (merge(plan.settings, experiment.overrides).get("trainer") or {}).get("max_epochs", 30)
    return epochs if experiment.train and isinstance(epochs, int) and epochs > 0 else 1


def parent_checkpoint(folder: Path, which: str) -> Path:
    """Return a run's "last" or "best" checkpoint; for a run that monitors no metric, the best is the last one."""
    best = sorted((folder / CHECKPOINTS).glob("best*.ckpt")) if which == "best" else []
    return best[0] if best else folder / CHECKPOINTS / LAST


def _insert_seed(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        return {key: _insert_seed(item, seed) for key, item in value.items()}
    if isinstance(value, list):
        return [_insert_seed(item, seed) for item in value]
    return seed if value == "$seed" else value
