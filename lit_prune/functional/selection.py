"""Choose weights and modules of a model by name."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lit_prune.errors import InputError, expected, first_few
from lit_prune.functional.sharding import reshard

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHT_LAYERS = (*CONVOLUTIONS, nn.Linear)

# "weight", "in_proj_weight", "weight_ih_l0", but not "weights_scale"
SAYS_WEIGHT = re.compile(r"(^|_)weight(_|$)")
_NORM = re.compile(r"Norm(\dd)?$")
_EMBEDDING = re.compile(r"(Embeddings?|EmbeddingBag)$")


class WeightRef(NamedTuple):
    """One weight of a model.

    Attributes:
        name: Qualified name of the layer, for example "layer4.0.conv1" ("" if it is the model itself), if its only
            weight is called "weight"; otherwise of the parameter, for example "lstm.weight_ih_l0".
        module: Module that holds the weight.
        parameter: Name of the weight in the module, for example "weight".
    """

    name: str
    module: nn.Module
    parameter: str

    @property
    def parameter_name(self) -> str:
        """Qualified name of the parameter, for example "layer4.0.conv1.weight"."""
        named = self.parameter != "weight" or self.name.endswith(".weight")
        return self.name if named else f"{self.name}.weight".removeprefix(".")

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter that stores the weight: `<parameter>_orig` if `torch.nn.utils.prune` has masked it."""
        masked = torch_mask(self.module, self.parameter) is not None
        parameter = self.module._parameters.get(f"{self.parameter}_orig" if masked else self.parameter)
        if parameter is None:
            raise expected(
                f"layer `{self.name}` to store its weight",
                "one that is computed from other parameters (parametrize, weight norm or spectral norm)",
                "remove the parametrisation, or leave the layer out with `exclude`",
            )
        return parameter


def weight_layers(
    model: nn.Module,
    layers: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str = (),
    parameters: Sequence[str] | str | None = None,
) -> list[WeightRef]:
    """Choose the weights of a model, whatever library its layers come from.

    A weight is a parameter with at least two dimensions and the word `weight` in its name: `weight`, `in_proj_weight`,
    `weight_ih_l0`. Weights of norms and embeddings are not chosen, nor a weight that is tied to an embedding, nor the
    averages in a `torch.optim.swa_utils.AveragedModel`. Norms and embeddings are recognised by the names of their
    classes or base classes. A weight that several modules share counts once, under its first name: it is chosen if
    `layers` matches any of these modules, and left out if `exclude` matches any of them.

    Args:
        model: Any module, masked or not.
        layers: Globs on qualified module names, case-sensitive as in `fnmatch.fnmatchcase`. A glob that matches a
            container chooses every layer in it: "layer4" means the same as "layer4.*". None chooses all layers.
        exclude: Globs of modules to leave out.
        parameters: Globs on qualified names of parameters, for example "*.pos_embed". Then the parameters that match,
            and no others, count as weights, whatever their names, dimensions and modules. None applies the rule above.

    Returns:
        The weights in the order in which the model registers its modules.

    Raises:
        InputError: If a pattern matches nothing, if no weight is left, if a chosen weight has no values yet (lazy
            modules), has no real floating-point numbers (integer, packed or complex), is computed from other parameters
            (`torch.nn.utils.parametrize`, weight or spectral norm), or is part of a `torch.jit.ScriptModule`.
    """
    reshard(model)
    candidates = _by_parameter(model, parameters)
    if layers is not None:
        chosen = set[nn.Module]()
        for pattern in as_patterns("layers", layers):
            found = _inside(model, pattern)
            if not any(ref.module in found for refs in candidates for ref in refs):
                parts = [ref.name.split(".") for refs in candidates for ref in refs]
                names = dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1))
                raise _no_match("layers", "a layer with a weight", pattern, names)
            chosen |= found
        candidates = [refs for refs in candidates if any(ref.module in chosen for ref in refs)]
    if as_patterns("exclude", exclude):
        dropped = {module for _, module in modules_matching(model, exclude, argument="exclude")}
        candidates = [refs for refs in candidates if not any(ref.module in dropped for ref in refs)]

    if not candidates:
        raise expected(
            "at least one layer with a weight to choose",
            f"none in {type(model).__name__}",
            "`layers` and `exclude` leave none, or no parameter counts as a weight; choose some with `parameters`",
        )
    selection = [refs[0] for refs in candidates]
    for ref in selection:
        _check_values(ref)
    return selection


def passed_over(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return, by name, the parameters with at least two dimensions that `weight_layers` leaves out by default."""
    weights = {
        id(_own_parameters(ref.module).get(ref.parameter)) for refs in _by_parameter(model, None) for ref in refs
    }
    return {
        name: value
        for name, value in parameters_outside_averages(model).items()
        if value.dim() > 1 and id(value) not in weights
    }


def parameters_outside_averages(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model by qualified name, without those of averages inside it."""
    averages = {id(value) for module in averaged_modules(model) for value in module.parameters(recurse=False)}
    return {name: value for name, value in model.named_parameters() if id(value) not in averages}


def averaged_modules(model: nn.Module) -> set[nn.Module]:
    """Return each `torch.optim.swa_utils.AveragedModel` inside a model, with all modules in it."""
    averages = [module for module in model.modules() if isinstance(module, AveragedModel) and module is not model]
    return {inner for average in averages for inner in average.modules()}


def describe_passed_over(model: nn.Module) -> str | None:
    """Describe the parameters that `passed_over` finds, with their share; None if it finds none."""
    if not (left := passed_over(model)):
        return None
    total = sum(value.numel() for value in parameters_outside_averages(model).values())
    share = sum(value.numel() for value in left.values()) / total
    names = first_few(left)
    return f"{share:.1%} of the parameters, since they are in norms or embeddings or not called weight: {names}"


def group_weights_by_layer(model: nn.Module) -> list[list[WeightRef]]:
    """Group the weights of a model by module, in the order of registration.

    Weights that `weight_layers` leaves out by default, such as those of norms and embeddings, are not included. Lazy
    and integer weights, for which `weight_layers` raises an `InputError`, are included.
    """
    layers: dict[nn.Module, list[WeightRef]] = {}
    for refs in _by_parameter(model, None):
        layers.setdefault(refs[0].module, []).append(refs[0])
    return list(layers.values())


def find_weight(model: nn.Module, name: str) -> WeightRef | None:
    """Find a weight by the name that `weight_layers` gives it; None if the model has no such parameter."""
    named = dict(model.named_modules(remove_duplicate=False))
    path, _, parameter = name.rpartition(".")
    for owner, key in ((name, "weight"), (path, parameter)):
        if owner in named and (key in named[owner]._parameters or torch_mask(named[owner], key) is not None):
            return WeightRef(name, named[owner], key)
    return None


def torch_mask(module: nn.Module, name: str) -> Tensor | None:
    """Return the mask of a parameter that `torch.nn.utils.prune` has masked; None if it has not."""
    # the parameters of a `torch.jit.ScriptModule` are not in a dictionary
    masked = not isinstance(module, torch.jit.ScriptModule) and f"{name}_orig" in module._parameters
    return module._buffers.get(f"{name}_mask") if masked else None


def modules_matching(
    model: nn.Module, patterns: Sequence[str] | str, argument: str = "layers"
) -> list[tuple[str, nn.Module]]:
    """Find the modules that globs match, together with everything inside them.

    Args:
        model: Any module.
        patterns: Globs on qualified module names, case-sensitive as in `fnmatch.fnmatchcase`.
        argument: Name of the argument that holds the patterns, for messages.

    Returns:
        Pairs of name and module, each module once under its first name, in the order of registration.

    Raises:
        InputError: If a pattern matches no module; the message names close matches.
    """
    chosen = set[nn.Module]()
    for pattern in as_patterns(argument, patterns):
        found = _inside(model, pattern)
        if not found:
            names = [name for name, _ in model.named_modules(remove_duplicate=False)]
            weights = [name for name, _ in model.named_parameters() if name == pattern]
            raise _no_match(argument, "a module", pattern, names + weights)
        chosen |= found
    return [(name, module) for name, module in model.named_modules() if module in chosen]


def as_patterns(argument: str, value: Sequence[str] | str) -> list[str]:
    """Return one pattern or several as a list, or raise an `InputError` that names the argument."""
    patterns = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise expected(f"`{argument}` to be a glob or a list of globs", value, 'give module names like "*.layer4.*"')
    return patterns


def _inside(model: nn.Module, pattern: str) -> set[nn.Module]:
    """Return the modules that a pattern matches under any of their names, and their descendants."""
    # the name of the model itself is "", which only a wildcard should match
    matched = [
        module for name, module in model.named_modules(remove_duplicate=False) if pattern and fnmatchcase(name, pattern)
    ]
    return {inner for module in matched for inner in module.modules()}


def _by_parameter(model: nn.Module, parameters: Sequence[str] | str | None) -> list[list[WeightRef]]:
    """Group weights by parameter; without `parameters`, drop those that are shared with a norm or an embedding."""
    groups: dict[int, list[WeightRef]] = {}
    dropped = set[int]()
    patterns = None if parameters is None else as_patterns("parameters", parameters)
    averages = averaged_modules(model)
    for prefix, module in model.named_modules():
        if module in averages:
            continue
        own = _own_parameters(module)
        names = weight_names(module) if patterns is None else _matching_names(prefix, module, patterns)
        for name in names:
            bare = names == ["weight"] and not prefix.endswith(".weight")
            label = prefix if bare else f"{prefix}.{name}".removeprefix(".")
            # a computed weight is not a parameter, so its module is the key
            groups.setdefault(id(own.get(name, module)), []).append(WeightRef(label, module, name))
        if patterns is None and _is_norm_or_embedding(module):
            dropped.update(map(id, module.parameters(recurse=False)))
    for pattern in patterns or ():
        if not any(_matching_names(prefix, module, [pattern]) for prefix, module in model.named_modules()):
            raise _no_match("parameters", "a parameter", pattern, [name for name, _ in model.named_parameters()])
    return [refs for key, refs in groups.items() if key not in dropped]


def weight_names(module: nn.Module) -> list[str]:
    """List a module's own weights, without those of submodules, by name; masked and computed ones are included."""
    if _is_norm_or_embedding(module):
        return []
    if _is_packed(module):
        return ["weight"]
    own = _own_parameters(module)
    computed = [name for name in getattr(module, "parametrizations", ()) if SAYS_WEIGHT.search(name)]
    if not computed and "weight" not in own and ("weight_v" in own or isinstance(module, WEIGHT_LAYERS)):
        return ["weight"] if isinstance(getattr(module, "weight", None), Tensor) else []
    plain = [name for name, value in own.items() if SAYS_WEIGHT.search(name) and (is_lazy(value) or value.dim() > 1)]
    return computed + plain


def _matching_names(prefix: str, module: nn.Module, patterns: Iterable[str]) -> list[str]:
    names = {name: f"{prefix}.{name}".removeprefix(".") for name in _own_parameters(module)}
    return [name for name, whole in names.items() if any(fnmatchcase(whole, pattern) for pattern in patterns)]


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return a module's own parameters by name; the suffix `_orig`, which `torch.nn.utils.prune` adds, is removed."""
    own = list(module.named_parameters(recurse=False, remove_duplicate=False))
    masked = {
        f"{name}_orig": name for key, _ in own if torch_mask(module, name := key.removesuffix("_orig")) is not None
    }
    return {masked.get(key, key): value for key, value in own}


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm of any library: whether its class or a base class is called `...Norm`."""
    return any(_NORM.search(base.__name__) for base in type(module).__mro__)


def _is_norm_or_embedding(module: nn.Module) -> bool:
    return is_norm(module) or any(_EMBEDDING.search(base.__name__) for base in type(module).__mro__)


def _is_packed(module: nn.Module) -> bool:
    """Return whether a module is a quantized layer, whose `weight` is a method; the container inside it has none."""
    return hasattr(module, "_packed_params") and callable(getattr(module, "weight", None))


def _check_values(ref: WeightRef) -> None:
    """Raise an `InputError` unless a weight is a parameter with floating-point values."""
    hint = "leave the layer out with `exclude`"
    if isinstance(ref.module, torch.jit.ScriptModule):
        raise expected(f"layer `{ref.name}` to be an ordinary module", "a `torch.jit.ScriptModule`", hint)
    if _is_packed(ref.module):
        raise expected(f"floating-point values in layer `{ref.name}`", f"a packed {type(ref.module).__name__}", hint)
    tensor: Any = ref.tensor
    if is_lazy(tensor):
        what = f"a weight with values in layer `{ref.name}`"
        raise expected(what, "a lazy one that has no shape yet", f"run one batch through the model first, or {hint}")
    packed = is_traceable_wrapper_subclass(tensor) and not hasattr(tensor, "placements")  # DTensor has placements
    if packed or not tensor.is_floating_point():
        kind = type(tensor.data).__name__ if packed else str(tensor.dtype).removeprefix("torch.")
        raise expected(f"floating-point values in layer `{ref.name}`", kind, hint)


def _no_match(argument: str, kind: str, pattern: str, names: Iterable[str]) -> InputError:
    names = [name for name in names if name]  # not the model itself
    if pattern in names:  # the name of a weight of a layer that has several, such as `lstm.weight_ih_l0`
        hint = "choose single weights of a layer with `parameters`"
        return expected(f"every pattern in `{argument}` to match {kind}", f"`{pattern}`, a weight of a layer", hint)
    close = get_close_matches(pattern.replace("*", "").rstrip("."), names, n=3, cutoff=0.5)
    shown = ", ".join(f"`{name}`" for name in close or names[:3])
    which = "close matches are" if close else "names in this model are, for example,"
    hint = f"{which} {shown}" if names else "this model has none"
    return expected(f"every pattern in `{argument}` to match {kind}", f"`{pattern}`, which matches none", hint)
