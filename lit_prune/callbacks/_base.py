"""The base class of all callbacks of lit-prune, for both packages in which PyTorch Lightning is published."""

import sys
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import lightning.pytorch

# module that defines `Callback` in the other package; it is fully imported before the rest of that package
_OTHER = "pytorch_lightning.callbacks.callback"


class Callback(lightning.pytorch.Callback):
    """A callback of `lightning` and, once `pytorch_lightning` is imported, of that package too.

    The two packages have the same code but separate classes, and the command line of each package accepts only
    callbacks of that package. The `Callback` of `pytorch_lightning` becomes a second base class as soon as that package
    is imported, whether before or after this module. This module does not import `pytorch_lightning`: that takes
    seconds, and the package may not be installed.
    """


class _OtherImported(MetaPathFinder):
    """Import finder of `_OTHER`: uses the other finders, and adds the base class after the module has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _OTHER:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = copy(spec.loader)  # some loaders, such as those of zip archives, load several modules
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
    _add_base(import_module(_OTHER))  # waits if another thread is importing the module right now
