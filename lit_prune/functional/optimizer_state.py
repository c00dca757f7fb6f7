"""What an optimizer remembers of weights that are pruned."""

import torch
from torch import nn, optim
from torch.optim import Optimizer

from lit_prune.functional.masking import masked_parameters

__all__ = ["clear_pruned_state", "leaves_zeros_alone"]

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


def leaves_zeros_alone(optimizer: Optimizer) -> bool:
    """Say whether a zero weight with a zero gradient and a cleared state is known to stay zero under an optimizer."""
    return type(optimizer) in _ELEMENTWISE
