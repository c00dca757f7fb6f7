"""Freeze and unfreeze parts of a model."""

import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lit_prune.errors import check_choice, expected
from lit_prune.functional.selection import WeightRef, as_patterns, modules_matching, weight_layers

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_NORMS = (*_BATCH_NORMS, *_INSTANCE_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check_selection(fraction: Any = None, layers: Any = None, by: Any = "layers") -> None:
    """Raise an `InputError` unless exactly one of `fraction` and `layers` is given and all arguments are valid."""
    if (fraction is None) == (layers is None):
        raise expected(
            "exactly one of `fraction` and `layers`",
            "neither" if fraction is None else "both",
            "`fraction` freezes the first layers, `layers` freezes layers by name",
        )
    if layers is not None and not as_patterns("layers", layers):
        raise expected("`layers` to name at least one layer", layers, 'give globs like "*.layer1"')
    number = isinstance(fraction, Real) and not isinstance(fraction, bool)
    if fraction is not None and not (number and 0 < fraction <= 1):
        hint = "0.3 freezes the first 30%; leave the callback out to freeze nothing"
        raise expected("`fraction` in (0, 1]", fraction, hint)
    check_choice("by", by, ("layers", "parameters"))


def first_layers(model: nn.Module, fraction: float, by: str = "layers") -> list[WeightRef]:
    """Find the first convolutions and linear layers ("weight layers") of a model, in the order of registration.

    Args:
        model: Any module.
        fraction: Fraction of the model, in (0, 1]. Floating-point error is ignored: a fraction of 0.07 of 100 layers is
            7 layers, although `ceil(0.07 * 100)` is 8.
        by: Meaning of `fraction`: "layers" selects `ceil(fraction * L)` of the L weight layers; "parameters" selects
            the fewest layers that hold at least this fraction of all weights.

    Returns:
        The first weights of `weight_layers(model)`, at least one.

    Raises:
        InputError: If an argument cannot be used or the model has no weight layers.
    """
    check_selection(fraction=fraction, by=by)
    refs = weight_layers(model)
    sizes = [1 if by == "layers" else ref.tensor.numel() for ref in refs]
    # simple fraction close to the float: 3/10 for 0.1 + 0.2, which is 0.30000000000000004
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
    """Choose the modules to freeze. Modules inside a chosen module are frozen only if they are in the result too.

    Args:
        model: Any module.
        fraction: Fraction of the model to freeze: its `first_layers`. Give either `fraction` or `layers`.
        layers: Globs on qualified module names; everything inside a matching module is chosen too.
        by: Meaning of `fraction`: "layers" or "parameters".
        freeze_norm: Whether to freeze norms and dropouts of `torch.nn` and their subclasses: with `fraction`, those
            registered before the first weight layer that stays trainable; with `layers`, those that match.

    Returns:
        Pairs of name and module, in the order of registration.

    Raises:
        InputError: If an argument is invalid, a pattern matches nothing, or the matching modules cannot be frozen.
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
                "`layers` to match modules that can be frozen",
                patterns,
                "the matching modules have no parameters; `freeze_norm=False` leaves out norms and dropouts",
            )
    return [(name, module) for name, module in model.named_modules() if module in frozen]


class Frozen:
    """Modules that are frozen until `thaw` is called.

    Their parameters have no gradients, so optimizers skip them. In each forward pass they compute as in evaluation
    mode: norms use their running statistics and do not update them, dropout does nothing. Calls of `train()` or
    `eval()` do not undo this. A module in several `Frozen` objects stays frozen until the last of them is thawed.

    Args:
        modules: Modules to freeze; modules inside them are not included.
        keep_backward: Whether to leave `requires_grad` as it is. The backward pass then still computes gradients, and
            `drop_gradients` must be called before every optimizer step.

    Attributes:
        parameters: Frozen parameters.
    """

    def __init__(self, modules: Iterable[nn.Module], keep_backward: bool = False) -> None:
        modules = list(modules)
        self.parameters = [p for module in modules for p in module.parameters(recurse=False)]
        self._holds = [_EvalHold(module) for module in modules]
        # parameters that the user has frozen must stay frozen after `thaw`
        self._taken = [] if keep_backward else [p for p in self.parameters if p.requires_grad]
        for parameter in self._taken:
            parameter.requires_grad_(False)
        self.drop_gradients()
        _recompile()

    def drop_gradients(self) -> None:
        """Set the gradients of frozen parameters to None; zeros would let weight decay and momentum move them."""
        for parameter in self.parameters:
            parameter.grad = None

    def thaw(self) -> None:
        """Undo the freeze: gradients are computed as before, and norms and dropouts follow `training` again."""
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
    """Freeze a part of a model until `thaw()` is called on the result.

    Arguments and errors are those of `modules_to_freeze`.

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
    # compiled code does not notice new or removed hooks (`torch._dynamo.config.skip_nnmodule_hook_guards`)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


class _EvalHold:
    """Puts a module into evaluation mode during each of its forward passes."""

    def __init__(self, module: nn.Module) -> None:
        self._training: list[bool] = []
        self._handles: list[RemovableHandle] = [
            module.register_forward_pre_hook(self._enter),
            # prepended, so that nested holds end in reverse order
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
