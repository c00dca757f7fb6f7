"""What an optimizer remembers of weights that are pruned, or rewound."""

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from lit_prune.functional.masking import masked_parameters

__all__ = ["clear_pruned_state", "clear_state", "keeps_zeros", "remembered_gradients"]

# a weight, a gradient and a state of zero stay zero under these, decay and momentum included
_ELEMENTWISE = {
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Adagrad,
    optim.Adadelta,
    optim.Rprop,
}

# what each keeps of past gradients, and of nothing else: not zero where one of them was not, until it fades out
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


def clear_pruned_state(optimizer: Optimizer, model: nn.Module) -> None:
    """Forget what an optimizer and the gradients know of pruned weights, so that nothing moves them.

    Momenta and second moments become zero where the model's masks are, as in a fresh optimizer; so do stored
    gradients. Rprop's step sizes are kept: no weight moves by them alone, and from zero they would not grow.

    Args:
        optimizer: Any optimizer; its state for other parameters is not touched.
        model: The model with the masks.
    """
    for module in model.modules():
        for name in masked_parameters(module):
            parameter = module.get_parameter(f"{name}_orig")
            pruned = module.get_buffer(f"{name}_mask") == 0
            state = optimizer.state.get(parameter, {})
            remembered = [value for key, value in state.items() if key != "step_size"]
            for value in [parameter.grad, *remembered]:
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(pruned, 0)


def clear_state(optimizer: Optimizer) -> None:
    """Forget all that an optimizer and the gradients know, as if the optimizer were new; its settings stay.

    That is exact for torch's own elementwise optimizers, step counts included. Of others, whatever has the shape of a
    parameter becomes zero, and the rest stays, since what they can do without is not known.

    Args:
        optimizer: Any optimizer. Learning rates, which a scheduler may have changed, are not touched.
    """
    optimizer.zero_grad(set_to_none=False)  # not None: whether a parameter takes part stays as it was
    if type(optimizer) in _ELEMENTWISE - {optim.Adagrad}:
        optimizer.state.clear()  # they make it at the next step
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if type(optimizer) is optim.Adagrad:
                    value.fill_(group["initial_accumulator_value"] if key == "sum" else 0)
                elif isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value.zero_()


def keeps_zeros(optimizer: Optimizer) -> bool:
    """Say whether a zero weight with a zero gradient and a cleared state is known to stay zero under an optimizer."""
    return type(optimizer) in _ELEMENTWISE


def remembered_gradients(optimizer: Optimizer) -> dict[nn.Parameter, Tensor]:
    """Return what an optimizer remembers of the gradients that its parameters have had.

    Args:
        optimizer: Any optimizer.

    Returns:
        For each parameter of which it keeps such a memory, a tensor of its shape: not zero where a gradient of the
        last steps was not. There is none under weight decay that counts as a gradient, as in Adam but not in AdamW.
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
