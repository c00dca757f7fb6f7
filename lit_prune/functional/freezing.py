"""Freeze and unfreeze parts of a model."""

import re
import sys
from collections.abc import Collection, Iterable, MutableMapping, Sequence
from fractions import Fraction
from math import ceil
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from lit_prune.errors import check_choice, expected
from lit_prune.functional.selection import WeightRef, as_patterns, group_weights_by_layer, is_norm, modules_matching
from lit_prune.functional.step_hooks import hookable

# class names of dropouts in any library: "Dropout", "DropPath", "DropBlock2d"; `RReLU` draws random slopes in training
_DROPOUT = re.compile("Drop|StochasticDepth|RReLU")
# how many `Frozen` objects keep each parameter frozen, and how many of them have switched its gradients off
_FREEZES: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
_TAKEN: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()


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
    """Find the weights of a model's first layers, in the order of registration.

    A layer is a module with one or several of the weights that `weight_layers` describes. Here, a weight may also be
    computed from other parameters (parametrize, weight norm or spectral norm) or hold integers.

    Args:
        model: Any module.
        fraction: Fraction of the model, in (0, 1]. Floating-point error is ignored: a fraction of 0.07 of 100 layers is
            7 layers, although `ceil(0.07 * 100)` is 8.
        by: Meaning of `fraction`: "layers" selects `ceil(fraction * L)` of the L layers; "parameters" selects the
            fewest layers that hold at least this fraction of all weights.

    Returns:
        The weights of the first layers, of at least one layer.

    Raises:
        InputError: If an argument cannot be used, if the model has no layers with weights, or, with "parameters", if a
            weight has no values yet (lazy modules).
    """
    check_selection(fraction=fraction, by=by)
    layers = group_weights_by_layer(model)
    if not layers:
        raise expected(
            f"layers with weights in {type(model).__name__}", "none", "freeze modules by name, with `layers`"
        )
    sizes = [1 if by == "layers" else sum(map(_count_values, refs)) for refs in layers]
    # simple fraction close to the float: 3/10 for 0.1 + 0.2, which is 0.30000000000000004
    wanted = ceil(Fraction(float(fraction)).limit_denominator(1_000_000) * sum(sizes))
    count = 1
    while sum(sizes[:count]) < wanted:
        count += 1
    return [ref for refs in layers[:count] for ref in refs]


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
        fraction: Fraction of the model to freeze: its `first_layers`; all other modules that are registered before the
            first layer that trains, such as embeddings and normalization layers; and the own parameters of all modules
            that contain this layer, such as the class token of a transformer. Give either `fraction` or `layers`.
        layers: Globs on qualified module names; everything inside a matching module is chosen too.
        by: Meaning of `fraction`: "layers" or "parameters".
        freeze_norm: Whether to freeze normalization layers and dropouts of any library, recognised by class names:
            `...Norm`, `...Norm2d`, `Drop...`, `StochasticDepth`.

    Returns:
        Pairs of name and module, in the order of registration. With `fraction`, modules of torch that have no state and
        compute the same in training and in evaluation mode, such as `torch.nn.ReLU`, are left out.

    Raises:
        InputError: If an argument is invalid, a pattern matches nothing, the matching modules contain nothing to
            freeze, or one of them cannot be frozen (a lazy module without values, or a `torch.jit.ScriptModule`).
    """
    check_selection(fraction, layers, by)
    if fraction is not None:
        chosen = _before_the_first_that_trains(model, {ref.module for ref in first_layers(model, fraction, by)})
    else:
        chosen = modules_matching(model, layers or ())
    if not freeze_norm:
        chosen = [(name, module) for name, module in chosen if not _is_norm_or_dropout(name, module)]
    if not any(_has_state(module) or _is_dropout(module) for _, module in chosen):
        raise expected(
            "`layers` to match modules that can be frozen",
            as_patterns("layers", layers or ()),
            "the matching modules have no parameters; `freeze_norm=False` leaves out normalization layers and dropouts",
        )
    for name, module in chosen:
        _check_can_be_frozen(name, module)
    return chosen


def modules_still_frozen(
    model: nn.Module,
    frozen: Sequence[tuple[str, nn.Module]],
    fraction: float | None = None,
    layers: Sequence[str] | str | None = None,
    by: str = "layers",
) -> list[tuple[str, nn.Module]]:
    """Choose the modules that remain frozen when a part of the frozen modules is thawed.

    Args:
        model: Model with the modules.
        frozen: Names and modules that are frozen now, for example from `modules_to_freeze`.
        fraction: Fraction of the model that remains frozen.
        layers: Globs on qualified names of modules to thaw, with everything inside them. Without `fraction` and
            `layers`, everything is thawed.
        by: Meaning of `fraction`: "layers" or "parameters".

    Raises:
        InputError: If an argument is invalid, a pattern matches nothing, or no frozen module would be thawed.
    """
    if fraction is None and layers is None:
        return []
    check_selection(fraction, layers, by)
    if layers is not None:
        thawed = {module for _, module in modules_matching(model, layers)}
        remaining = [(name, module) for name, module in frozen if module not in thawed]
    else:
        kept = {module for _, module in modules_to_freeze(model, fraction, by=by)}
        remaining = [(name, module) for name, module in frozen if module in kept]
    if len(remaining) == len(frozen):
        what = "every phase to thaw modules that are frozen"
        got = f"`fraction` {fraction}" if layers is None else f"`layers` {as_patterns('layers', layers)}"
        hint = "phases thaw from the end to the front: give a smaller `fraction`, or `layers` that are still frozen"
        raise expected(what, f"one with {got}, which thaws none", hint)
    return remaining


def _before_the_first_that_trains(model: nn.Module, frozen: set[nn.Module]) -> list[tuple[str, nn.Module]]:
    """List the modules before the first layer that trains, without activations, poolings and containers of torch.

    A module that contains this layer is listed only if it has parameters of its own: PyTorch lists these before those
    of its submodules, so a transformer's class token is frozen with the first layers.
    """
    trains = next((refs[0].module for refs in group_weights_by_layer(model) if refs[0].module not in frozen), None)
    chosen = []
    for name, module in model.named_modules():
        if module is trains:
            break
        contains = module is model or (trains is not None and any(inner is trains for inner in module.modules()))
        if any(True for _ in module.parameters(recurse=False)) if contains else _depends_on_mode_or_state(module):
            chosen.append((name, module))
    return chosen


def _depends_on_mode_or_state(module: nn.Module) -> bool:
    # torch's activations, poolings and containers do not
    return _has_state(module) or _is_dropout(module) or not type(module).__module__.startswith("torch.nn.modules")


def _has_state(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(own) or hasattr(module, "_packed_params")


def _is_dropout(module: nn.Module) -> bool:
    return any(_DROPOUT.search(base.__name__) for base in type(module).__mro__)


def _is_norm_or_dropout(name: str, module: nn.Module) -> bool:
    # parametrizations, such as spectral norm, are a part of their layer
    return (is_norm(module) or _is_dropout(module)) and "parametrizations" not in name.split(".")


def _count_values(ref: WeightRef) -> int:
    """Count the values of a weight, or of the largest parameter from which it is computed; 0 in a quantized layer."""
    starts = (ref.parameter, f"parametrizations.{ref.parameter}.")
    sources = [value for key, value in ref.module.named_parameters() if key.startswith(starts)]
    if any(map(is_lazy, sources)):
        raise _without_values(ref.name)
    return max((value.numel() for value in sources), default=0)


def _check_can_be_frozen(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        hint = "script the model after training, or freeze other modules by name, with `layers`"
        raise expected(f"an ordinary module to freeze as `{name}`", "a `torch.jit.ScriptModule`", hint)
    if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
        raise _without_values(name)


def _without_values(name: str) -> Exception:
    what = f"values to freeze in layer `{name}`"
    return expected(what, "a lazy module that has no shape yet", "run one batch through the model before training")


class Frozen:
    """Modules that are frozen until `thaw` is called.

    Their parameters have no gradients, so optimizers skip them. In each forward pass, the modules compute as in
    evaluation mode: normalization layers use their running statistics and do not update them, dropout does nothing,
    spectral norm makes no power iterations. Whatever a forward pass writes into their buffers, such as the ranges of a
    fake quantizer, is discarded. Calls of `train()` or `eval()` do not undo this. A module in several `Frozen` objects
    stays frozen until the last of them is thawed. A module that also contains trained parameters is not put into
    evaluation mode.

    Args:
        modules: Modules to freeze; modules inside them are not included.
        keep_backward: True leaves `requires_grad` of all parameters unchanged; a collection of modules leaves it
            unchanged for the parameters of these modules. The backward pass then still computes their gradients, and
            `drop_gradients` must be called before every optimizer step.

    Attributes:
        parameters: Frozen parameters.
    """

    def __init__(self, modules: Iterable[nn.Module], keep_backward: bool | Collection[nn.Module] = False) -> None:
        modules = list(modules)
        kept = (modules if keep_backward else ()) if isinstance(keep_backward, bool) else keep_backward
        self.parameters = [p for module in modules for p in module.parameters(recurse=False)]
        frozen = set(map(id, self.parameters))
        whole = [module for module in modules if all(id(p) in frozen for p in module.parameters())]
        self._holds = [_EvalHold(module) for module in whole]
        taken = (p for module in modules if module not in kept for p in module.parameters(recurse=False))
        # parameters that the user has frozen must stay frozen after `thaw`
        self._taken = [parameter for parameter in taken if parameter.requires_grad or parameter in _TAKEN]
        self._held = list(self.parameters)
        for counts, chosen in ((_FREEZES, self._held), (_TAKEN, self._taken)):
            for parameter in chosen:
                counts[parameter] = counts.get(parameter, 0) + 1
        for parameter in self._taken:
            parameter.requires_grad_(False)
        self.drop_gradients()
        _reset_compiler()

    def drop_gradients(self) -> None:
        """Set the gradients of frozen parameters to None: zeros would let weight decay and momentum move them."""
        for parameter in self.parameters:
            parameter.grad = None

    def thaw(self) -> None:
        """Undo the freeze: gradients are computed as before, and modules obey their `training` flag again."""
        self.drop_gradients()
        for counts, chosen in ((_FREEZES, self._held), (_TAKEN, self._taken)):
            for parameter in chosen:
                counts[parameter] = counts.get(parameter, 1) - 1
                if not counts[parameter]:
                    del counts[parameter]
        for parameter in self._taken:
            parameter.requires_grad_(parameter not in _TAKEN)
        for hold in self._holds:
            hold.remove()
        self._held, self._taken, self._holds = [], [], []
        _reset_compiler()


def is_frozen(parameter: nn.Parameter) -> bool:
    """Return whether a parameter does not train: it has no gradients, or a `Frozen` object drops them."""
    return not parameter.requires_grad or parameter in _FREEZES


def freeze(
    model: nn.Module,
    fraction: float | None = None,
    layers: Sequence[str] | str | None = None,
    by: str = "layers",
    freeze_norm: bool = True,
) -> Frozen:
    """Freeze a part of a model until `thaw()` is called on the result.

    Arguments and errors are those of `modules_to_freeze`.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        >>> frozen = freeze(model, fraction=0.5)
        >>> [p.requires_grad for p in model.parameters()]
        [False, False, False, False, True, True]
        >>> frozen.thaw()
        >>> all(p.requires_grad for p in model.parameters())
        True
    """
    return Frozen(module for _, module in modules_to_freeze(model, fraction, layers, by, freeze_norm))


def _reset_compiler() -> None:
    # code from `torch.compile` does not notice new or removed hooks (`torch._dynamo.config.skip_nnmodule_hook_guards`)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


class ScaledUpdates:
    """Multiplies the updates of some parameters by a factor: they train as with the learning rate times the factor.

    No further parameter group is needed. After each step, a parameter that moved from a to b is set to
    a + factor * (b - a). For optimizers whose update is proportional to the learning rate (SGD with momentum, Adam,
    AdamW, and most others; not LBFGS and Rprop), this has the effect of the learning rate times the factor, except for
    rounding. A copy of the chosen parameters is kept in memory.

    Args:
        optimizer: Optimizer whose updates are scaled.
        parameters: Parameters with scaled updates; those that the optimizer does not update are ignored.
        factor: Factor that multiplies the updates.

    Examples:
        >>> weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
        >>> optimizer = torch.optim.Adam(weights, lr=0.5)
        >>> scaled = ScaledUpdates(optimizer, weights[1:], factor=0.5)
        >>> sum(weights).backward()
        >>> _ = optimizer.step()
        >>> [round(weight.item(), 4) for weight in weights]
        [-0.5, -0.25]
    """

    def __init__(self, optimizer: Optimizer, parameters: Iterable[nn.Parameter], factor: float) -> None:
        self._chosen = set(map(id, parameters))
        self._factor = factor
        self._moving: list[Tensor] = []
        # kept between steps, because allocating memory takes longer than copying
        self._before: list[Tensor] = []
        self._handles = [
            hookable(optimizer).register_step_pre_hook(self._remember),
            hookable(optimizer).register_step_post_hook(self._scale),
        ]

    def _remember(self, optimizer: Optimizer, *_: Any) -> None:
        every = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self._moving = [parameter.detach() for parameter in every if id(parameter) in self._chosen]
        if len(self._moving) != len(self._before):
            self._before = [parameter.clone() for parameter in self._moving]
        elif self._moving:
            torch._foreach_copy_(self._before, self._moving)

    def _scale(self, *_: Any) -> None:
        if self._moving:
            torch._foreach_lerp_(self._moving, self._before, 1 - self._factor)

    def remove(self) -> None:
        """Stop scaling the updates."""
        for handle in self._handles:
            handle.remove()


class _EvalHold:
    """Makes each forward pass of a module compute as in evaluation mode and leave the buffers unchanged."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # cuDNN has no backward pass for recurrent layers in evaluation mode, so only their dropout is switched off
        self._settings = {"dropout": 0.0} if isinstance(module, nn.RNNBase) else {"training": False}
        # torch's own normalization layers do not write to buffers in evaluation mode
        self._writes = not (is_norm(module) and type(module).__module__.startswith("torch.nn.modules"))
        self._left: list[tuple[dict[str, Any], dict[str, Tensor]]] = []
        # prepended, so that other hooks of the module, such as that of spectral norm, run in evaluation mode; several
        # holds of one module nest: the last registered one is entered first, and left last
        self._handles: list[RemovableHandle] = [
            module.register_forward_pre_hook(self._enter, prepend=True),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, module: nn.Module, args: Any) -> None:
        settings = {key: getattr(module, key) for key in self._settings}
        buffers = self._stored_buffers()
        self._left.append((settings, buffers))
        for key, value in self._settings.items():
            setattr(module, key, value)
        for key, buffer in buffers.items():
            # zero disables the observers of fake quantizers, which run in evaluation mode too
            module._buffers[key] = torch.zeros_like(buffer) if key == "observer_enabled" else buffer.clone()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        settings, buffers = self._left.pop()
        for key, value in settings.items():
            setattr(module, key, value)
        module._buffers.update(buffers)

    def _stored_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that a forward pass might write to, except caches, which are not in the state dict."""
        if not self._writes:
            return {}
        own, caches = self._module._buffers, self._module._non_persistent_buffers_set
        return {key: buffer for key, buffer in own.items() if buffer is not None and key not in caches}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        while self._left:  # left over from a forward pass that Ctrl-C interrupted
            self._leave(self._module, None, None)
