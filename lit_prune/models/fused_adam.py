"""Let torch's fused Adam update `channels_last` parameters without copying them, and with state of any layout."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

_CHANNELS = (0, 2, 3, 1)  # order of dimensions in which a `channels_last` tensor is contiguous


def ready_fused_adam(optimizer: Optimizer) -> None:
    """Change how a fused Adam or AdamW reads its tensors; updates and the state dict stay the same, bit by bit.

    On CPU, the fused step of torch 2.14 copies a tensor for each parameter that is not contiguous, which takes longer
    than the update itself. Here, it receives contiguous views of `channels_last` parameters, gradients and averages
    instead. The fused step also assumes that averages have the memory layout of their parameter. With a state that was
    saved from parameters of another layout, it would compute wrong updates, so a loaded state is converted to the
    layout of the parameters.

    Args:
        optimizer: Any optimizer; one that is neither Adam nor AdamW keeps its step. A copy of it (pickle, `deepcopy`)
            has torch's own step.
    """
    if not isinstance(optimizer, Adam) or "_init_group" in vars(optimizer):
        return
    collect: Any = optimizer._init_group

    # torch collects the tensors of a step with this method; its arguments are the lists to fill
    def collect_views(group: dict[str, Any], parameters: list[Tensor], *others: list[Tensor]) -> Any:
        has_complex = collect(group, parameters, *others)
        gradients, *averages, _ = others  # the last list has the step counts; that of maxima may be empty
        for index, parameter in enumerate(parameters if group["fused"] else ()):
            if parameter.is_cpu and parameter.dim() == 4 and not parameter.is_contiguous():
                for values in (parameters, gradients, *filter(None, averages)):
                    values[index] = values[index].detach().permute(_CHANNELS)
                gradients[index] = gradients[index].contiguous()  # a copy only if it was set by hand
        return has_complex

    optimizer._init_group = collect_views  # type: ignore[method-assign]
    optimizer.register_load_state_dict_post_hook(_match_layouts)


def _match_layouts(optimizer: Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
