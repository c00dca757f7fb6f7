"""Networks as files of `torch.export`: graphs that torch runs without the code that they came from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.trained.export.tracing import dynamic, example, traced
from lit_prune.trained.extras import silence_libraries

__all__ = ["run_torchexport", "write_torchexport"]


def write_torchexport(
    module: nn.Module,
    path: str | Path,
    input_size: int,
    batch: int | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    channels: int = 3,
) -> None:
    """Write a network as a file for `torch.export.load`.

    Args:
        module: Maps images (N, channels, size, size) to one tensor; in evaluation mode.
        path: The file.
        input_size: Height and width of the images, in pixels.
        batch: Images in a batch; None leaves their number open.
        metadata: Texts to store with it, each as an extra file.
        channels: Of the images.

    Raises:
        InputError: If the network cannot be written so.
        OSError: If the file cannot be written.
    """
    with silence_libraries(), traced("torch.export"), torch.no_grad():
        images = example(module, batch, channels, input_size)
        program = torch.export.export(module, (images,), dynamic_shapes=dynamic(batch))
    program.example_inputs = None  # images of zeros, which would take more room than they tell
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines, with the paths of this machine
    with silence_libraries(), Path(path).open("wb") as file:
        torch.export.save(program, file, extra_files=dict(metadata or {}))


def run_torchexport(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Open a file of `torch.export`.

    Returns:
        From images to logits.
    """
    with silence_libraries(), Path(path).open("rb") as file:
        module: Any = torch.export.load(file).module()

    def run(images: Tensor) -> Tensor:
        logits: Tensor = module(images)
        return logits

    return run
