"""Make the configuration of `lit-prune fit` for one run of a study: one experiment with one seed."""

from pathlib import Path
from typing import Any

from lit_prune.errors import expected
from lit_prune.files.nested import merge
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.training.run_folder import BEST, CHECKPOINTS, LAST

# settings that a plan must not contain, because the study sets them -> what to do instead
_DECIDED = {
    "seed_everything": "set `seeds` in the plan, or give `--seeds`",
    "name": "the study names its runs by plan, experiment and seed",
    "ckpt_path": "set `parent` in the experiment",
    "config": "write the settings into the plan",
    "threads": "set `threads` in the plan, or give `--threads`",
    "trainer.logger": "leave it out; the report needs the files that the study's loggers write",
    "trainer.default_root_dir": "give `--out`",
    "trainer.fast_dev_run": "leave it out; a fast development run writes no results",
    "trainer.enable_checkpointing": "leave it out; runs are tested and resumed from their checkpoints",
}
# values that a plan may nevertheless contain, because they change nothing; None is always allowed
_HARMLESS = {"trainer.fast_dev_run": False, "trainer.enable_checkpointing": True}
_QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def run_folder(out: Path, experiment: str, seed: int) -> Path:
    """Return the folder of the run of one experiment with one seed."""
    return out / experiment / f"seed={seed}"


def run_settings(plan: Plan, experiment: Experiment, seed: int, out: Path) -> dict[str, Any]:
    """Return the configuration of `lit-prune fit` for one run; the run's seed replaces every value `$seed`.

    Raises:
        InputError: If the plan contains a setting that only the study may set, such as `seed_everything`.
    """
    config = merge(plan.settings, experiment.overrides)
    config["trainer"] = _QUIET | (config.get("trainer") or {})
    given = config | {f"trainer.{name}": value for name, value in config["trainer"].items()}
    for name, hint in _DECIDED.items():
        if (value := given.get(name)) is not None and value != _HARMLESS.get(name):
            raise expected(f"no `{name}` in the settings of a study", value, hint)
    config = {key: _insert_seed(value, seed) for key, value in config.items()}
    config |= {"seed_everything": seed, "threads": plan.threads}
    config.setdefault("on_nan", "continue")  # because a diverged run is also a result, and the report shows it
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
    """Return whether a configuration uses the default model, this project's ResNet-18."""
    model = config.get("model")
    return not isinstance(model, str) and "class_path" not in (model or {})


def count_epochs(plan: Plan, experiment: Experiment) -> int:
    """Return the maximum number of epochs of an experiment; 1 if it does not train or has no maximum."""
    epochs = (merge(plan.settings, experiment.overrides).get("trainer") or {}).get("max_epochs", 30)
    return epochs if experiment.train and isinstance(epochs, int) and epochs > 0 else 1


def parent_checkpoint(folder: Path, which: str) -> Path:
    """Return the path of a run's "last" or "best" checkpoint; if it has no best one, return the last."""
    best = sorted((folder / CHECKPOINTS).glob(f"{BEST}*.ckpt")) if which == "best" else []
    return best[0] if best else folder / CHECKPOINTS / LAST


def _insert_seed(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        return {key: _insert_seed(item, seed) for key, item in value.items()}
    if isinstance(value, list):
        return [_insert_seed(item, seed) for item in value]
    return seed if value == "$seed" else value
