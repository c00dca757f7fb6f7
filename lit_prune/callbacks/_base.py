"""The base class of all our callbacks, for both packages in which PyTorch Lightning is published."""

import sys
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import lightning.pytorch

# the module of the other `Callback`; unlike the package around it, it is complete while the package is being imported
_OTHER = "pytorch_lightning.callbacks.callback"


class Callback(lightning.pytorch.Callback):
    """A callback of `lightning` and, where that is used, of `pytorch_lightning`.

    The two packages have the same content but different classes, and the command line of each accepts only its own
    callbacks. `pytorch_lightning`'s class becomes a base as soon as it is imported, before or after this module.
    Importing it here would cost seconds in every program, and it need not be installed.
    """


class _OtherImported(MetaPathFinder):
    """Finder of `_OTHER` that lets the other finders find it, and adds the base as soon as it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _OTHER:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = copy(spec.loader)  # some loaders, such as those of archives, serve several modules
            load = spec.loader.exec_module

            def load_and_add(module: ModuleType) -> None:
                load(module)
                _add_base(module)

            spec.loader.exec_module = load_and_add  # type: ignore[method-assign]
        return spec


def _add_base(module: ModuleType) -> None:
    Callback.__bases__ = (lightning.pytorch.Callback, module.Callback)


sys.meta_path.insert(0, _OtherImported())
if sys.modules.get(_OTHER) is not None:
    _add_base(import_module(_OTHER))  # waits for a thread that is importing it right now
