"""What `lit-prune export` says at its end."""

from collections.abc import Sequence

from lit_prune.trained.export.check import TOLERANCE, Check
from lit_prune.trained.export.plan import GRAPHS, Export

__all__ = ["report"]

_WIDTH = 10
_SAME = "a zero takes as much room as any other number"


def report(export: Export, opset: int | None, checks: Sequence[Check], size: int) -> str:
    """Say what was written, and how it was checked.

    Args:
        export: What was written.
        opset: The version of the operators of an ONNX file.
        checks: On random images, and on test images if they were asked for.
        size: Of the file, in bytes.

    Returns:
        Lines, each with a word for what it is about.
    """
    lines = [("written", f"{export.given.output}: {_kind(export, opset)}")]
    lines += zip(["logits", ""], map(_difference, checks, ["random", "test"]), strict=False)
    if not checks:
        lines.append(("checked", "every weight came back from the file bit for bit"))
    lines += [("accuracy", _accuracy(found)) for found in checks if found.scores]
    lines += [("weights", _weights(export)), *_bytes(export, size), ("metadata", _metadata(export))]
    return "\n".join(f"{name:{_WIDTH}}  {text}".rstrip() for name, text in lines)


def _kind(export: Export, opset: int | None) -> str:
    given = export.given
    if given.compress:
        return "compressed weights, which `lit_prune.load_compressed` reads"
    if given.format not in GRAPHS:
        return f"{given.format}, {len(export.state)} tensors"
    batch = "any number of" if export.batch is None else f"batches of {export.batch}"
    operators = "" if opset is None else f" with operators of version {opset}"
    return f"{given.format}{operators}, for {batch} images of {export.channels}x{given.input_size}x{given.input_size}"


def _difference(found: Check, kind: str) -> str:
    changed = f"; {found.changed:,} of them change their class" if kind == "test" else ""
    return (
        f"differ by at most {found.difference:.2g} on {found.images:,} {kind} images, where {found.bound:.2g} is "
        f"allowed ({TOLERANCE:g} of the largest){changed}"
    )


def _accuracy(found: Check) -> str:
    assert found.scores is not None  # noqa: S101 - only where it is asked for
    network, file = found.scores
    return (
        f"{file.accuracy:.2%} of {file.images:,} test images ({file.right:,} right), and {network.accuracy:.2%} "
        f"({network.right:,}) by the checkpoint itself"
    )


def _weights(export: Export) -> str:
    text = f"{export.weights:,}, {export.zeros:,} of them zero ({export.sparsity:.2%})"
    if not export.given.crop:
        return text
    size = export.given.input_size
    share = export.dropped / (export.dropped + export.weights)
    return f"{text}; {export.dropped:,} more ({share:.1%}) are left out, for they see padding alone at {size}x{size}"


def _bytes(export: Export, size: int) -> list[tuple[str, str]]:
    if not export.given.compress:
        return [("bytes", f"{size:,}" + (f"; {_SAME}" if export.zeros else ""))]
    dense = sum(tensor.nbytes for tensor in export.whole.values())
    rows = [("dense", f"{dense:>13,}"), ("masked", f"{dense:>13,}  {_SAME}")]
    if export.given.crop:
        rows.append(("cropped", f"{sum(tensor.nbytes for tensor in export.state.values()):>13,}"))
    rows.append(("compressed", f"{size:>13,}  {size / dense:.1%} of dense, at {export.sparsity:.2%} sparsity"))
    return [("bytes" if n == 0 else "", f"{name:{_WIDTH}}{text}") for n, (name, text) in enumerate(rows)]


def _metadata(export: Export) -> str:
    if export.given.format == "state_dict" and not export.given.compress:
        return "none: a state dict holds tensors alone"
    unknown = "" if "class_names" in export.metadata else "; class names and preprocessing are not known"
    return ", ".join(export.metadata) + unknown
