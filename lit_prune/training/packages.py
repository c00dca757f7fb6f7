"""PyTorch Lightning is published as two packages, `lightning.pytorch` and `pytorch_lightning`; commands work with both.

A model is trained by the Trainer of its own package, with loggers and checkpoints of that package. The data module may
be one of the other package, which `adapt_data` makes acceptable to the Trainer.
"""

from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

LIGHTNING = "lightning.pytorch"
_OTHER = "pytorch_lightning"
_BASES = {"LightningModule", "LightningDataModule", "Trainer"}


def package_of(kind: type) -> str:
    """Return the package of a class of models, data modules or trainers."""
    return _OTHER if _base_of(kind).__module__.startswith(f"{_OTHER}.") else LIGHTNING


def find_package(class_path: str | None) -> str:
    """Return the package of the class at a path, or of the class that the function at this path returns.

    Without a path, or if the import fails, which the parser reports later, this is `lightning.pytorch`.
    """
    try:
        found = _import(class_path or "")
        return package_of(found if isinstance(found, type) else get_type_hints(found)["return"])
    except Exception:  # a custom module may raise anything
        return LIGHTNING


def import_from(package: str, name: str) -> Any:
    """Import a class or function of a package, such as "Trainer" or "callbacks.ModelCheckpoint"."""
    return _import(f"{package}.{name}")


@cache
def derive(kind: type, package: str, name: str) -> Any:
    """Return a subclass of `kind` and of a package's class `name`, such as "loggers.CSVLogger", in this order."""
    return type(kind.__name__, (kind, import_from(package, name)), {"__module__": kind.__module__})


def has_test(trainer: Any) -> bool:
    """Return whether a trained model can be tested: whether a `test_step` and a `test_dataloader` are defined."""
    is_overridden = import_from(package_of(type(trainer)), "utilities.model_helpers.is_overridden")
    model, data = trainer.lightning_module, trainer.datamodule
    loads = is_overridden("test_dataloader", model) or (data is not None and is_overridden("test_dataloader", data))
    return bool(loads and is_overridden("test_step", model))


def adapt_data(data: Any, package: str) -> Any:
    """Make a data module an instance of a package's `LightningDataModule`, in addition to its own class; return it.

    Hooks that its class does not override become those of `package`, because the Trainer compares hooks with these to
    find out which ones are overridden.
    """
    kind, base = type(data), import_from(package, "LightningDataModule")
    if isinstance(data, base):
        return data
    own = _base_of(kind)
    methods = {name: getattr(base, name) for parent in base.__mro__[:-1] for name in vars(parent)}
    inherited = {
        name: method
        for name, method in methods.items()
        if callable(method) and not name.startswith("__") and getattr(kind, name, None) is getattr(own, name, method)
    }
    # worker processes of a DataLoader may receive a copy, and cannot import the new class
    inherited["__reduce__"] = lambda self: (_restore, (kind, package), self.__getstate__())
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    data.__class__ = type(kind.__name__, (kind, base), inherited | names)
    return data


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _restore(kind: Any, package: str) -> Any:
    return adapt_data(kind.__new__(kind), package)


def _base_of(kind: type) -> type:
    """Return the class of Lightning from which a class is derived."""
    packages = ("lightning", _OTHER)
    return next(base for base in kind.__mro__ if base.__name__ in _BASES and base.__module__.split(".")[0] in packages)
