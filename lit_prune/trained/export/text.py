"""Format the report of `lit-prune export`."""

from collections.abc import Sequence

from lit_prune.trained.export.check import Check
from lit_prune.trained.export.plan import GRAPHS, Export

_WIDTH = 10
_SAME = "a zero weight takes as many bytes as any other"


def format_report(export: Export, details: str, checks: Sequence[Check], size: int) -> str:
    """Describe the exported file and how it was checked.

    Args:
        export: What was written.
        details: Version of the operators of an ONNX file, or the report of an accelerated network.
        checks: Comparisons of the file with the network.
        size: Size of the file in bytes.
    """
    accelerated = export.options.format == "accelerated"
    kind = _format_kind(export, "" if accelerated else details)
    lines = [("written", f"{export.options.output}: {kind}")]
    kinds = [f"random {export.inputs.unit}" if export.inputs else "", "test images"]
    lines += zip(["logits", ""], map(_format_difference, checks, kinds), strict=False)
    if not checks:
        lines.append(("checked", "the weights read back from the file equal those written, bit for bit"))
    for network, file in filter(None, (check.scores for check in checks)):
        found = f"{file.accuracy:.2%} of {file.images:,} test images ({file.right:,} right)"
        lines.append(("accuracy", f"{found}; the checkpoint has {network.accuracy:.2%} ({network.right:,} right)"))
    lines += [("weights", _format_weights(export)), *_format_bytes(export, size)]
    keys = "none; a state dict holds only tensors"
    if export.options.format != "state_dict" or export.options.compress:
        unknown = "" if "class_names" in export.metadata else "; class names and preprocessing are not known"
        keys = ", ".join(export.metadata) + unknown
    lines.append(("metadata", keys))
    text = "\n".join(f"{name:{_WIDTH}}  {text}".rstrip() for name, text in lines)
    return f"{text}\n\n{details}" if accelerated else text


def _format_kind(export: Export, details: str) -> str:
    options = export.options
    if options.compress:
        return "compressed weights, which `lit_prune.load_compressed` reads"
    if options.format == "accelerated":
        return f"for `lit_prune.load_accelerated`, for any number of {export.inputs}, fastest for {export.batch or 1}"
    if options.format not in GRAPHS or export.inputs is None:
        return f"{options.format}, {len(export.state)} tensors"
    batch = "any number of" if export.batch is None else f"batches of {export.batch}"
    inputs = f"{batch} {export.inputs}"
    if export.inputs.image_size is None:
        inputs = f"{batch} rows of {export.inputs}" if export.inputs.have_rows else str(export.inputs)
    return f"{options.format}{details}, for {inputs}"


def _format_difference(check: Check, kind: str) -> str:
    changed = f"; for {check.changed:,} of them, the file predicts another class" if check.scores else ""
    return (
        f"differ from the checkpoint's by at most {check.difference:.2g} on {check.images:,} {kind} "
        f"(allowed: {check.bound:.2g}){changed}"
    )


def _format_weights(export: Export) -> str:
    text = f"{export.weights:,}, {export.zeros:,} of them zero ({export.sparsity:.2%})"
    if not export.options.crop:
        return text
    share = export.dropped / (export.dropped + export.weights)
    removed = f"removed: {export.dropped:,} others ({share:.1%} of all), which only see padding in {export.inputs}"
    return f"{text}; {removed}"


def _format_bytes(export: Export, size: int) -> list[tuple[str, str]]:
    accelerated = export.options.format == "accelerated"
    if not export.options.compress:
        return [("bytes", f"{size:,}" + (f"; {_SAME}" if export.zeros and not accelerated else ""))]
    dense = export.dense_bytes
    rows = [("dense", f"{dense:>13,}"), ("masked", f"{dense:>13,}  {_SAME}")]
    if export.options.crop:
        rows.append(("cropped", f"{sum(tensor.nbytes for tensor in export.state.values()):>13,}"))
    rows.append(("compressed", f"{size:>13,}  {size / dense:.1%} of dense, at {export.sparsity:.2%} sparsity"))
    return [("bytes" if n == 0 else "", f"{name:{_WIDTH}}{text}") for n, (name, text) in enumerate(rows)]
