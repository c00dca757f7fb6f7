"""The hyper-parameters shown in TensorBoard's HParams tab."""

from typing import Any

from jsonargparse import Namespace

from lit_prune.files.checkpoint import Settings
from lit_prune.files.nested import flatten


def choose_hyperparameters(settings: Settings, trainer: Any) -> dict[str, bool | int | float | str]:
    """Return the hyper-parameters of a run.

    With our model and data, all runs have hyper-parameters of the same names and types, so that they can be compared.
    With a custom model or custom data, the hyper-parameters are all numbers, booleans and strings among the settings of
    model and data.

    Args:
        settings: Settings of model, data and run, as stored in a checkpoint.
        trainer: Options of the Trainer.
    """
    model, data = settings["model"], settings["data"]
    # a study replaces both values
    names = {"experiment": settings["run"]["name"], "parent": str(model.get("init_from") or "none")}
    if "class_path" in model or "class_path" in data:
        plain = flatten({"model": model, "data": data})
        return names | {name: value for name, value in plain.items() if isinstance(value, bool | int | float | str)}
    callbacks = trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return {
        **names,
        **_describe_callbacks(callbacks, trainer.max_epochs or -1),
        "optimizer": _class_name(model["optimizer"]),
        "lr": float(model["optimizer"]["init_args"].get("lr", float("nan"))),
        "lr_scheduler": _class_name(model["lr_scheduler"]),
        "output": model["output"],
        "batch_norm": model["batch_norm"],
        "stem": model["stem"],
        "weights": "parent" if model["init_from"] else str(model["weights"] or "random"),
        "source": data["source"],
        "augment": data["augment"],
        "batch_size": data["batch_size"],
        "limit_train": data["limit_train"] or 0,
        "max_epochs": trainer.max_epochs or 0,
        "precision": str(trainer.precision or "32-true"),
        "callbacks": ", ".join(_class_name(callback) for callback in callbacks) or "none",
        "seed": int(settings["run"]["seed_everything"]),
    }


def _describe_callbacks(callbacks: list[Namespace], max_epochs: int) -> dict[str, int | float | str]:
    """Return the main arguments of the first callback of each kind; an epoch or step of -1 means never."""
    arguments = [(_class_name(one), one.init_args.as_dict()) for one in callbacks if "init_args" in one]
    pruning: dict[str, Any] = next((one for _, one in arguments if "amount" in one), {})
    freezing: dict[str, Any] = next((one for name, one in arguments if name == "LayerFreezing"), {})
    removal: dict[str, Any] = next((one for name, one in arguments if name == "PruningRemoval"), {})
    ramps = "schedule" in pruning  # the `end_step` of `SET` and `RigL` ends changes of the masks
    steps = [pruning.get(name) for name in ("start_step", "end_step")]
    unit = "step" if ramps and steps != [None, None] else "epoch"
    start = pruning.get(f"start_{unit}") or 0
    end = pruning.get(f"end_{unit}") if ramps else None
    times = {"start_epoch": -1, "end_epoch": -1, "start_step": -1, "end_step": -1}
    if pruning:
        times |= {f"start_{unit}": start, f"end_{unit}": start if end is None else end}
    return {
        "amount": float(pruning.get("amount", 0.0)),
        **times,
        "schedule": pruning.get("schedule", "none") if end is not None else "at once" if pruning else "none",
        "rewind_to": _or_never(pruning.get("rewind_to")),
        "removal_epoch": max_epochs if removal.get("epoch") == "end" else removal.get("epoch", -1),
        "fraction": float(freezing.get("fraction") or 0.0),
        "unfreeze_epoch": _or_never(freezing.get("unfreeze_epoch")),
    }


def _or_never(epoch: int | None) -> int:
    return -1 if epoch is None else epoch


def _class_name(config: Any) -> str:
    return "none" if config is None else str(config["class_path"]).rsplit(".", 1)[-1]
