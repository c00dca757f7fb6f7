"""What callbacks have to know about a `fit` that begins."""

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_prune.errors import expected

__all__ = ["builds_late", "callbacks_of", "continues", "overrides", "refuse_averaging"]


def overrides(pl_module: LightningModule, hook: str) -> bool:
    """Say whether a module defines a hook that its base class leaves empty."""
    # the base class may be the one of lightning.pytorch or of pytorch_lightning
    base = next(cls for cls in type(pl_module).__mro__ if cls.__name__ == "LightningModule")
    return getattr(type(pl_module), hook) is not getattr(base, hook)


def builds_late(pl_module: LightningModule) -> bool:
    """Say whether layers may be missing in a callback's `setup`, which comes before the module's own hooks."""
    return any(overrides(pl_module, hook) for hook in ("setup", "configure_model"))


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return all callbacks of a trainer."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def continues(trainer: Trainer, pl_module: LightningModule, previous: LightningModule | None) -> bool:
    """Say whether a trainer goes on with the same model, rather than beginning with it or with another one."""
    return pl_module is previous and trainer.current_epoch > 0


def refuse_averaging(trainer: Trainer, callback: Callback, names: set[str]) -> None:
    """Refuse callbacks, given by their class names, that average weights.

    Raises:
        InputError: If there is one of these, or of their subclasses.
    """
    for other in callbacks_of(trainer):
        if names & {base.__name__ for base in type(other).__mro__}:
            raise expected(
                f"no {type(other).__name__} beside {type(callback).__name__}",
                "both",
                "averages of pruned and unpruned weights are not zero; average in a run of its own",
            )
