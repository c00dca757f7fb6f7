"""Write and run files of `torch.export`: graphs that torch runs without the network's code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.trained.export.tracing import dynamic_shapes, example_images, one_sentence_failures
from lit_prune.trained.extras import silence_libraries
from lit_prune.trained.scoring import Run


def write_torchexport(
    module: nn.Module,
    path: str | Path,
    input_size: int,
    batch: int | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    channels: int = 3,
) -> None:
    """Write a network as a file for `torch.export.load`; the arguments are those of `write_onnx`.

    Raises:
        InputError: If the network cannot be traced.
        OSError: If the file cannot be written.
    """
    with silence_libraries(), one_sentence_failures("torch.export"), torch.no_grad():
        images = example_images(module, batch, channels, input_size)
        program = torch.export.export(module, (images,), dynamic_shapes=dynamic_shapes(batch))
    program.example_inputs = None  # images of zeros, which would only make the file larger
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines, with paths of this machine
    with silence_libraries(), Path(path).open("wb") as file:
        torch.export.save(program, file, extra_files=dict(metadata or {}))


def run_torchexport(path: str | Path) -> Run:
    """Open a file of `torch.export`, and return the function that computes logits from images."""
    with silence_libraries(), Path(path).open("rb") as file:
        module: Any = torch.export.load(file).module()

    def run(images: Tensor) -> Tensor:
        logits: Tensor = module(images)
        return logits

    return run
