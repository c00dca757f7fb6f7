"""Choose weights and modules of a model by name."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from lit_prune.errors import InputError, expected

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHT_LAYERS = (*CONVOLUTIONS, nn.Linear)


class WeightRef(NamedTuple):
    """The weight of one layer of a model.

    Attributes:
        name: Qualified name of the layer, for example "layer4.0.conv1"; "" for the model itself.
        module: Convolution or linear layer.
        parameter: Name of the weight in the layer: "weight", also while it is masked.
    """

    name: str
    module: nn.Module
    parameter: str

    @property
    def tensor(self) -> nn.Parameter:
        """Parameter that an optimizer holds: `weight`, or `weight_orig` while the layer is masked."""
        parameter = stored_parameter(self.module, self.parameter)
        if parameter is None:
            raise expected(
                f"layer `{self.name}` to store its weight",
                "one that is computed from other parameters (parametrize, weight norm or spectral norm)",
                "remove the parametrisation, or leave the layer out with `exclude`",
            )
        return parameter


def weight_layers(
    model: nn.Module, layers: Sequence[str] | str | None = None, exclude: Sequence[str] | str = ()
) -> list[WeightRef]:
    """Choose the weights of convolutions (also transposed ones) and linear layers, subclasses included.

    Biases, norms, embeddings, and the weight of an output layer that is tied to an embedding are never chosen. A weight
    that several layers share counts once, under its first name: it is chosen if `layers` matches any of these layers,
    and left out if `exclude` matches any of them.

    Args:
        model: Any module, masked or not.
        layers: Globs on qualified module names, case-sensitive as in `fnmatch.fnmatchcase`. A glob that matches a
            container chooses every layer in it: "layer4" means the same as "layer4.*". None chooses all layers.
        exclude: Globs of layers to leave out.

    Returns:
        The weights in the order in which the model registers its modules.

    Raises:
        InputError: If a pattern matches nothing, if no layer is left, or if a chosen weight has no values yet (lazy
            modules) or is computed from other parameters (`torch.nn.utils.parametrize`, weight or spectral norm).
    """
    candidates = _by_parameter(model)
    if layers is not None:
        chosen = set[nn.Module]()
        for pattern in as_patterns("layers", layers):
            found = _inside(model, pattern)
            if not any(ref.module in found for refs in candidates for ref in refs):
                parts = [ref.name.split(".") for refs in candidates for ref in refs]
                names = dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1))
                raise _no_match("layers", "a convolution or linear layer", pattern, names)
            chosen |= found
        candidates = [refs for refs in candidates if any(ref.module in chosen for ref in refs)]
    if as_patterns("exclude", exclude):
        dropped = {module for _, module in modules_matching(model, exclude, argument="exclude")}
        candidates = [refs for refs in candidates if not any(ref.module in dropped for ref in refs)]

    if not candidates:
        raise expected(
            "at least one convolution or linear layer to choose",
            f"none in {type(model).__name__}",
            "`layers` and `exclude` leave none, or the model has no such layer",
        )
    selection = [refs[0] for refs in candidates]
    for ref in selection:
        if is_lazy(ref.tensor):
            raise expected(
                f"a weight with values in layer `{ref.name}`",
                "a lazy one that has no shape yet",
                "run one batch through the model first, or leave the layer out with `exclude`",
            )
    return selection


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
            named = model.named_modules(remove_duplicate=False)
            raise _no_match(argument, "a module", pattern, [name for name, _ in named])
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


def _by_parameter(model: nn.Module) -> list[list[WeightRef]]:
    """Group weight layers by parameter; drop those that share it with another kind of layer, such as an embedding."""
    groups: dict[int, list[WeightRef]] = {}
    foreign = set[int]()
    for name, module in model.named_modules():
        if not isinstance(module, WEIGHT_LAYERS):
            foreign.update(map(id, module.parameters(recurse=False)))
        elif (parameter := stored_parameter(module)) is not None:
            groups.setdefault(id(parameter), []).append(WeightRef(name, module, "weight"))
        elif getattr(module, "weight", None) is not None:
            groups[id(module)] = [WeightRef(name, module, "weight")]
    return [refs for key, refs in groups.items() if key not in foreign]


def stored_parameter(module: nn.Module, name: str = "weight") -> nn.Parameter | None:
    """Return the parameter that stores a weight, masked or not; None if the weight is computed or does not exist."""
    masked = module._buffers.get(f"{name}_mask") is not None
    return module._parameters.get(f"{name}_orig" if masked else name)


def _no_match(argument: str, kind: str, pattern: str, names: Iterable[str]) -> InputError:
    names = [name for name in names if name]  # not the model itself
    close = get_close_matches(pattern.replace("*", "").rstrip("."), names, n=3, cutoff=0.5)
    shown = ", ".join(f"`{name}`" for name in close or names[:3])
    which = "close matches are" if close else "names in this model are, for example,"
    hint = f"{which} {shown}" if names else "this model has none"
    return expected(f"every pattern in `{argument}` to match {kind}", f"`{pattern}`, which matches none", hint)
