"""Write networks with sparse or smaller layers where these are faster."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lit_prune.accelerated.accelerate import accelerate
from lit_prune.accelerated.files import load_accelerated, save_accelerated
from lit_prune.trained.inputs import Inputs


def write_accelerated(
    module: nn.Module, path: Path, inputs: Inputs, batch: int, metadata: Mapping[str, str]
) -> nn.Module:
    """Accelerate a network for batches of size `batch`, save it, and return the network that the file holds.

    Raises:
        InputError: If the network cannot be run or saved.
        UnfinishedError: As `lit_prune.accelerate` does, if outputs differ too much.
        OSError: If the file cannot be written.
    """
    save_accelerated(accelerate(module, inputs.arguments(batch)), path, metadata)
    return load_accelerated(path, module)
