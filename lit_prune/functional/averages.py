"""Find averages and other copies of a model's weights."""

import re
from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim.swa_utils import AveragedModel

from lit_prune.functional.selection import averaged_modules, parameters_outside_averages

_DIGITS = re.compile(r"\d+")


def find_averages(model: nn.Module, others: Sequence[nn.Module] = ()) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Find averages of a model or of parts of it, and the module that each of them averages.

    Args:
        model: Model that may contain a `torch.optim.swa_utils.AveragedModel`.
        others: Averages outside the model; averages inside them are found too.

    Yields:
        Pairs of an average (the `module` of an `AveragedModel`) and the module of the same class whose parameters have
        the same names and shapes; if there are several such modules, the one whose values are closest to the average.
    """
    inside = averaged_modules(model)
    averages = [module.module for module in model.modules() if module in inside and isinstance(module, AveragedModel)]
    for average in [*averages, *others]:
        sources = [other for other in model.modules() if other not in inside and _same_parameters(average, other)]
        if sources:
            yield average, min(sources, key=lambda source: _distance(average, source))
    for average in others:
        yield from find_averages(average)


def find_untrained_copies(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of names: a module that is not trained, and the trained module that it seems to be a copy of.

    Modules whose names differ only in numbers, such as `layer1.0` and `layer1.1`, are repeated blocks, not copies.
    """
    named = [(name, module) for name, module in model.named_modules() if any(True for _ in module.parameters())]
    done = set[nn.Module]()
    for name, module in named:
        if module in done or any(parameter.requires_grad for parameter in module.parameters()):
            continue
        for other, source in named:
            if _DIGITS.sub("", name) == _DIGITS.sub("", other):
                continue
            trained = all(parameter.requires_grad for parameter in source.parameters())
            if trained and _same_parameters(module, source):
                done.update(module.modules())
                yield name, other
                break


def _same_parameters(module: nn.Module, other: nn.Module) -> bool:
    if type(module) is not type(other) or module is other:
        return False
    left, right = (
        {name: value.shape for name, value in parameters_outside_averages(one).items()} for one in (module, other)
    )
    return bool(left) and left == right


def _distance(module: nn.Module, other: nn.Module) -> float:
    left, right = parameters_outside_averages(module), parameters_outside_averages(other)
    return sum(float((value - right[name].to(value.device)).abs().sum().detach()) for name, value in left.items())
