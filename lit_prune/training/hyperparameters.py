"""The hyper-parameters shown in TensorBoard's HParams tab."""

from typing import Any

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
    if "class_path" in model or "class_path" in data:
        plain = flatten({"model": model, "data": data})
        return {name: value for name, value in plain.items() if isinstance(value, bool | int | float | str)}
    callbacks = trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
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
    return "none" if config is None else str(config["class_path"]).rsplit(".", 1)[-1]
