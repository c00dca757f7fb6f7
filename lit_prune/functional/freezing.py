"""What freezing a part of a model means, and how it is undone."""

import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lit_prune.errors import expected
from lit_prune.functional.selection import WeightRef, as_patterns, modules_matching, weight_layers

__all__ = ["Frozen", "check_choice", "first_layers", "freeze", "modules_to_freeze"]

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check_selection(fraction: Any = None, layers: Any = None, by: Any = "layers") -> None:
    """Check what `modules_to_freeze` can check without a model.

    Raises:
        InputError: If not exactly one of `fraction` and `layers` is given, or if one of the values cannot be used.
    """
    if (fraction is None) == (layers is None):
        raise expected(
            "exactly one of `fraction` and `layers`",
            "neither" if fraction is None else "both",
            "`fraction` counts layers from the input on, `layers` names them",
        )
    if layers is not None and not as_patterns("layers", layers):
        raise expected("`layers` to name something", layers, 'give globs like "backbone.layer1"')
    if fraction is not None:
        real = isinstance(fraction, Real) and not isinstance(fraction, bool)
        if not (real and 0 < fraction <= 1):
            raise expected(
                "`fraction` in (0, 1]", fraction, "0.3 freezes the first 30%; leave the callback out to freeze nothing"
            )
    if by not in ("layers", "parameters"):
        raise expected('`by` to be "layers" or "parameters"', by, "it says what `fraction` is a fraction of")


def first_layers(model: nn.Module, fraction: float, by: str = "layers") -> list[WeightRef]:
    """Find the weight layers that come first in a model.

    The order is the one in which modules are registered, which is not always the order of the forward pass.

    Args:
        model: Any module.
        fraction: In (0, 1]. A product that is whole but for rounding counts as whole: 0.1 of 30 layers are 3.
        by: "layers" takes `ceil(fraction * L)` of the L weight layers; "parameters" takes
            the fewest layers whose weights are at least that fraction of all weights.

    Returns:
        The first weights of `weight_layers(model)`, at least one.

    Raises:
        InputError: If an argument cannot be used or the model has no weight layers.
    """
    check_selection(fraction=fraction, by=by)
    refs = weight_layers(model)
    sizes = [1 if by == "layers" else ref.tensor.numel() for ref in refs]
    # the simple fraction that was meant by a float: 3/10 by 0.1 + 0.2
    wanted = ceil(Fraction(float(fraction)).limit_denominator(1_000_000) * sum(sizes))
    count = 1
    while sum(sizes[:count]) < wanted:
        count += 1
    return refs[:count]


def modules_to_freeze(
    model: nn.Module,
    fraction: float | None = None,
    layers: Sequence[str] | str | None = None,
    by: str = "layers",
    freeze_norm: bool = True,
) -> list[tuple[str, nn.Module]]:
    """Decide which modules a freeze takes, each with the parameters of its own.

    Args:
        model: Any module.
        fraction: Take the `first_layers`. Exactly one of `fraction` and `layers` is to be given.
        layers: Take what these globs on qualified module names match, and everything inside it.
        by: What `fraction` counts: "layers" or "parameters".
        freeze_norm: With `fraction`, also take every norm and dropout that is registered before the first weight
            layer that stays trainable. False leaves norms and dropouts out, with `layers` too.
            Norms and dropouts are those of `torch.nn` and their subclasses.

    Returns:
        Name and module in the order of registration.

    Raises:
        InputError: If an argument cannot be used, a pattern matches nothing, or nothing is left to freeze.
    """
    check_selection(fraction, layers, by)
    if fraction is not None:
        frozen = {ref.module for ref in first_layers(model, fraction, by)}
        trainable = {ref.module for ref in weight_layers(model)} - frozen
        if freeze_norm:
            for module in model.modules():
                if module in trainable:
                    break
                if isinstance(module, _NORMS + _DROPOUTS):
                    frozen.add(module)
    else:
        patterns = as_patterns("layers", layers or ())
        frozen = {module for _, module in modules_matching(model, patterns)}
        if not freeze_norm:
            frozen = {module for module in frozen if not isinstance(module, _NORMS + _DROPOUTS)}
        if not any(isinstance(module, _DROPOUTS) or [*module.parameters(recurse=False)] for module in frozen):
            raise expected(
                "`layers` to match something that can be frozen",
                patterns,
                "what it matches has no parameters; `freeze_norm=False` leaves out norms and dropouts",
            )
    return [(name, module) for name, module in model.named_modules() if module in frozen]


class Frozen:
    """Modules that are frozen, until `thaw` is called.

    Their own parameters have no gradients that an optimizer could follow, and they compute as in eval mode: norms
    use their running statistics and leave them alone, dropout passes everything on. This is held during
    each forward pass and does not touch `training` otherwise, so that no `train()` or `eval()` undoes it.

    Several freezes may overlap: a module is frozen as long as one of them lasts.

    Args:
        modules: The modules; what is inside them is not included.
        keep_backward: Leave `requires_grad` as it is. The backward pass then still computes the gradients
            and `drop_gradients` has to be called before every step of an optimizer.

    Attributes:
        parameters: The frozen parameters.
    """

    def __init__(self, modules: Iterable[nn.Module], keep_backward: bool = False) -> None:
        modules = list(modules)
        self.parameters = [p for module in modules for p in module.parameters(recurse=False)]
        self._holds = [_EvalHold(module) for module in modules]
        # the user's own frozen parameters are not ours to thaw
        self._taken = [] if keep_backward else [p for p in self.parameters if p.requires_grad]
        for parameter in self._taken:
            parameter.requires_grad_(False)
        self.drop_gradients()
        _recompile()

    def drop_gradients(self) -> None:
        """Set the gradients of the frozen parameters to None, which optimizers pass over.

        A gradient of zero would not do: weight decay and momentum move such parameters.
        """
        for parameter in self.parameters:
            parameter.grad = None

    def thaw(self) -> None:
        """Undo everything: gradients are computed as before, norms and dropouts follow `training` again."""
        self.drop_gradients()
        for parameter in self._taken:
            parameter.requires_grad_(True)
        for hold in self._holds:
            hold.remove()
        self._taken, self._holds = [], []
        _recompile()


def freeze(
    model: nn.Module,
    fraction: float | None = None,
    layers: Sequence[str] | str | None = None,
    by: str = "layers",
    freeze_norm: bool = True,
) -> Frozen:
    """Freeze a part of a model; see `modules_to_freeze` for the arguments.

    Returns:
        The freeze, with `thaw()` to end it.

    Raises:
        InputError: As `modules_to_freeze` does.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        >>> frozen = freeze(model, fraction=0.5)
        >>> [p.requires_grad for p in model.parameters()]
        [False, False, False, False, True, True]
        >>> frozen.thaw()
        >>> all(p.requires_grad for p in model.parameters())
        True
    """
    return Frozen(module for _, module in modules_to_freeze(model, fraction, layers, by, freeze_norm))


def _recompile() -> None:
    # compiled code does not notice hooks that come or go (`torch._dynamo.config.skip_nnmodule_hook_guards`)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


class _EvalHold:
    """Lets a module compute as in eval mode, whatever `training` says between its forward passes."""

    def __init__(self, module: nn.Module) -> None:
        self._training: list[bool] = []
        self._handles: list[RemovableHandle] = [
            module.register_forward_pre_hook(self._enter),
            # first in, last out, so that holds can be nested; also after an exception
            module.register_forward_hook(self._leave, prepend=True, always_call=True),
        ]

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._training.append(module.training)
        module.training = False

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        module.training = self._training.pop()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
