"""What TensorBoard's HParams tab compares."""

from typing import Any

from lit_prune.files.checkpoint import Settings
from lit_prune.files.nested import flatten

__all__ = ["hyperparameters"]


def hyperparameters(settings: Settings, trainer: Any, foreign: bool) -> dict[str, bool | int | float | str]:
    """Choose what to compare runs by: the same names, each of one type, in every run.

    Args:
        settings: Of model, data and run, as a checkpoint keeps them.
        trainer: The Trainer's settings.
        foreign: Whether model or data are somebody else's, of which every plain value is taken.
    """
    model, data = settings["model"], settings["data"]
    callbacks = trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    if foreign:
        plain = flatten({"model": model, "data": data})
        return {k: v for k, v in plain.items() if isinstance(v, bool | int | float | str)}
    return {
        "optimizer": _class_name(model["optimizer"]),
        "lr": float(model["optimizer"]["init_args"].get("lr", float("nan"))),
        "lr_scheduler": _class_name(model["lr_scheduler"]),
        "output": model["output"],
        "batch_norm": model["batch_norm"],
        "stem": model["stem"],
        "weights": str(model["init_from"] or model["weights"] or "random"),
        "source": data["source"],
        "augment": data["augment"],
        "batch_size": data["batch_size"],
        "limit_train": data["limit_train"] or 0,
        "max_epochs": trainer.max_epochs or 0,
        "precision": str(trainer.precision or "32-true"),
        "callbacks": ", ".join(_class_name(callback) for callback in callbacks) or "none",
        "seed": int(settings["run"]["seed_everything"]),
    }


def _class_name(config: Any) -> str:
    if config is None:
        return "none"
    return str(config["class_path"]).rsplit(".", 1)[-1]
