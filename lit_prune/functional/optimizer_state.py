"""Clear the optimizer state of pruned or rewound weights, and read the averages of gradients in it."""

from typing import Any

from torch import Tensor, nn, optim
from torch.optim import Optimizer

from lit_prune.functional.masking import clear, masks_of
from lit_prune.functional.sharding import local
from lit_prune.functional.step_hooks import with_inner

# For each optimizer, the state key of its average or sum of past gradients or their squares, which stays non-zero for
# many steps after a non-zero gradient. With these optimizers and Rprop, a weight stays zero if the weight, its gradient
# and its state are zero, even with weight decay.
_MEMORIES = {
    optim.SGD: "momentum_buffer",
    optim.Adam: "exp_avg",
    optim.AdamW: "exp_avg",
    optim.Adamax: "exp_avg",
    optim.NAdam: "exp_avg",
    optim.RAdam: "exp_avg",
    optim.RMSprop: "square_avg",
    optim.Adagrad: "sum",
    optim.Adadelta: "square_avg",
}
_ELEMENTWISE = {*_MEMORIES, optim.Rprop}


def clear_pruned_state(optimizer: Optimizer, model: nn.Module) -> None:
    """Clear the state and gradients of pruned weights, so that an optimizer does not move them.

    Momenta, second moments and gradients become zero where the model's masks are zero. Rprop's step sizes are kept,
    because they do not move a weight whose gradient is zero. The state of LBFGS, which mixes all weights, is cleared.

    Args:
        optimizer: Any optimizer. Except for LBFGS, its state for weights that are not pruned is not changed.
        model: Model with the masks.
    """
    if isinstance(optimizer, optim.LBFGS):
        optimizer.state.clear()
    states = [inner.state for inner in with_inner(optimizer)]
    for parameter, mask in masks_of(model):
        items = [item for state in states for item in state.get(parameter, {}).items()]
        values = [parameter.grad, *(value for key, value in items if key != "step_size")]
        clear((value, mask) for value in values if _has_elements(value, parameter))


def clear_state(optimizer: Optimizer) -> None:
    """Clear gradients and all state, as if the optimizer were new; learning rates and other settings stay.

    The state of parameters is that of a new optimizer, step counts and copies of weights included. What an optimizer
    keeps in its parameter groups, such as the step count of a schedule-free one, stays.
    """
    optimizer.zero_grad(set_to_none=False)  # None would make the next step skip parameters
    for inner in with_inner(optimizer):
        _clear_state(inner)


def _clear_state(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, optim.Adagrad):
        optimizer.state.clear()  # recreated in the next step
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                value.fill_(group["initial_accumulator_value"] if key == "sum" else 0)


def _has_elements(value: Any, parameter: nn.Parameter) -> bool:
    """Return whether a value has one float for each element of a parameter, unlike codes of 8-bit optimizers."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return False
    return type(local(value)) is Tensor and value.is_floating_point()


def keeps_zeros(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is known to leave a weight at zero while its gradient and state are zero."""
    return type(optimizer) in _ELEMENTWISE


def remembered_gradients(optimizer: Optimizer) -> dict[nn.Parameter, Tensor]:
    """Return, for each parameter, the running average or sum of past gradients, or of their squares, in the state.

    Parameters without such a state, or with weight decay that is added to the gradient (as in Adam, but not in AdamW),
    are left out.
    """
    memory = _MEMORIES.get(type(optimizer))
    if memory is None:
        return {}
    remembered = {}
    for group in optimizer.param_groups:
        decoupled = isinstance(optimizer, optim.AdamW) or group.get("decoupled_weight_decay", False)
        if group.get("weight_decay", 0) and not decoupled:
            continue
        for parameter in group["params"]:
            value = optimizer.state.get(parameter, {}).get(memory)
            if value is not None:
                remembered[parameter] = value
    return remembered
