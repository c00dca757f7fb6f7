"""Write the weights of a network without its graph, as safetensors or a state dict, optionally compressed."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch as safetensors
import torch
from torch import Tensor

from lit_prune.errors import UnfinishedError
from lit_prune.files.checkpoint import read_state_dict, save
from lit_prune.files.compressed import read_compressed, write_compressed


def write_weights(
    state: Mapping[str, Tensor], path: Path, kind: str, compress: bool, metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """Write weights in the format "safetensors" or "state_dict", and return the weights read back from the file.

    With `compress`, the file holds only nonzero values, in the format that `load_compressed` reads, whatever `kind` is.
    A "state_dict" without `compress` holds no metadata.

    Raises:
        InputError: If a tensor cannot be stored.
        UnfinishedError: If the weights read back differ from `state` in any bit.
        OSError: If the file cannot be written.
    """
    # torch negates and conjugates lazily: until it is resolved, such a view stores the original values
    state = {name: tensor.detach().cpu().resolve_conj().resolve_neg() for name, tensor in state.items()}
    if compress:
        write_compressed(state, path, metadata)
        stored = read_compressed(path, sum(tensor.nbytes for tensor in state.values()))[0]
    elif kind == "safetensors":
        # safetensors refuses tensors that share memory
        tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
        path.write_bytes(safetensors.save(tensors, {"format": "pt"} | dict(metadata)))
        stored = safetensors.load_file(path)
    else:
        save({name: tensor.clone() for name, tensor in state.items()}, path)
        stored = read_state_dict(path)
    if stored.keys() != state.keys() or not all(same_bits(stored[name], tensor) for name, tensor in state.items()):
        raise UnfinishedError(
            "The weights read back from the file differ from those that were written. The file was not kept; check "
            "this machine's memory and disk."
        )
    return stored


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bits, including those of NaNs and negative zeros."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b))
    return torch.equal(first, second)
