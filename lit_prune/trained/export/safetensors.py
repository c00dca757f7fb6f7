"""Weights as safetensors: a header of JSON, and bytes that nothing has to be executed for."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lit_prune.trained.extras import import_extra

__all__ = ["read_safetensors", "write_safetensors"]


def write_safetensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights as safetensors.

    Args:
        state: Tensors by name. Those that share their memory are written once each, which the format asks for.
        path: The file.
        metadata: Texts to store with them.

    Raises:
        InputError: If the package is not installed.
        OSError: If the file cannot be written.
    """
    torch_files = import_extra("safetensors.torch", "export")
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    Path(path).write_bytes(torch_files.save(whole, {"format": "pt"} | dict(metadata or {})))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights, and the texts that were stored with them.

    Raises:
        InputError: If the package is not installed.
    """
    with import_extra("safetensors", "export").safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
