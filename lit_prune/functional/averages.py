"""Find averages and other copies of a model's weights inside the model."""

from collections.abc import Iterator

from torch import nn
from torch.optim.swa_utils import AveragedModel


def averaged_copies(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Find the averages of weights inside a model, and what they are averages of.

    Args:
        model: Model that may contain a `torch.optim.swa_utils.AveragedModel`.

    Returns:
        Pairs of an `AveragedModel`'s `module` and the module of the same class whose parameters have the same names and
        shapes. If there are several, the one whose values are closest to the average.
    """
    averages = [module.module for module in model.modules() if isinstance(module, AveragedModel)]
    inside = {inner for average in averages for inner in average.modules()}
    pairs = []
    for average in averages:
        sources = [other for other in model.modules() if other not in inside and _same_parameters(average, other)]
        if sources:
            pairs.append((average, min(sources, key=lambda source: _distance(average, source))))
    return pairs


def frozen_copies(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of modules without gradients and of the trained modules that they seem to be copies of."""
    named = [(name, module) for name, module in model.named_modules() if any(True for _ in module.parameters())]
    done = set[nn.Module]()
    for name, module in named:
        if module in done or any(parameter.requires_grad for parameter in module.parameters()):
            continue
        for other, source in named:
            trained = all(parameter.requires_grad for parameter in source.parameters())
            if trained and _same_parameters(module, source):
                done.update(module.modules())
                yield name, other
                break


def _same_parameters(module: nn.Module, other: nn.Module) -> bool:
    if type(module) is not type(other) or module is other:
        return False
    left, right = ({name: value.shape for name, value in one.named_parameters()} for one in (module, other))
    return bool(left) and left == right


def _distance(module: nn.Module, other: nn.Module) -> float:
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    return sum(float((left.detach() - right.detach().to(left.device)).abs().sum()) for left, right in pairs)
