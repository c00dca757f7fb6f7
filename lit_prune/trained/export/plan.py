"""Prepare an export: the module and weights to write, and the metadata to store with them."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from lit_prune import __version__
from lit_prune.data.augment import MEAN, STD
from lit_prune.errors import InputError, expected
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.inputs import SIZE, Inputs, defines_forward
from lit_prune.trained.layers import weight_tensors
from lit_prune.trained.network import Network, in_stored_types
from lit_prune.trained.scoring import make_data, wants_data, wants_scores

# formats that store the network's operations, not only its weights
GRAPHS = ("onnx", "torchexport")
# formats that need the class of the network, and run it
NETWORKS = (*GRAPHS, "accelerated")


@dataclass(frozen=True)
class Export:
    """An export that is ready to be written.

    Attributes:
        network: Network to export.
        options: Parsed options.
        module: Copy of the network, made of torch's own layers and without masks; None if the architecture is not
            known.
        state: State dict to write.
        dense_bytes: Size of the state dict in bytes, before `--crop`.
        metadata: Strings to store with the weights, by name.
        inputs: Inputs of the network; None if they are not known.
        weights: Number of weights in all layers, after `--crop`.
        zeros: Number of these weights that are zero.
        dropped: Number of weights that `--crop` removed.
        sparsity: `zeros / weights`.
    """

    network: Network
    options: Namespace
    module: nn.Module | None
    state: dict[str, Tensor]
    dense_bytes: int
    metadata: dict[str, str]
    inputs: Inputs | None
    weights: int
    zeros: int
    dropped: int
    sparsity: float

    @property
    def batch(self) -> int | None:
        """Batch size; None if the file takes batches of any size."""
        return None if self.options.batch in (None, "dynamic") else int(self.options.batch)


def prepare(network: Network, options: Namespace) -> Export:
    """Copy a network into torch's own layers, without masks.

    With `--crop`, the copy also lacks dead taps: kernel positions that only ever see padding.

    Raises:
        InputError: If the architecture is not known and an option needs it, if the class has no `forward` and the
            format needs it, or if options do not suit the inputs of the network.
    """
    needs_model = options.format in NETWORKS or options.crop or wants_scores(options)
    model = network.require_model() if needs_model else network.model
    inputs = None if model is None else _find_inputs(model, options)

    def stored_state(module: nn.Module) -> dict[str, Tensor]:
        state = module.state_dict()
        return state if options.format in NETWORKS else in_stored_types(network, state)

    module, state, crops = None, network.state_dict, {}
    if model is not None:
        module = plain_copy(model).to(memory_format=torch.contiguous_format)
        state = stored_state(module)
    before = state
    if module is not None and options.crop and inputs is not None and inputs.image_size is not None:
        layers = dict(module.named_modules())
        channels, size, _ = inputs.image_size
        module = crop_kernels(module, size, channels)
        state = stored_state(module)
        # kernel size and padding, to rebuild cropped convolutions: the shape of a weight does not show the padding
        crops = {
            name: {"kernel_size": list(layer.kernel_size), "padding": [int(zeros) for zeros in layer.padding]}
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != layers[name].kernel_size
        }
    # a layer is listed by its own name, or by that of a weight that is not called "weight"
    listed = [name for layer in weight_tensors(network) for name in (f"{layer}.weight".removeprefix("."), layer)]
    names = [name for name in listed if name in state]
    total, weights = (sum(tensors[name].numel() for name in names) for tensors in (before, state))
    zeros = weights - sum(int(state[name].count_nonzero()) for name in names)
    sparsity = zeros / weights if weights else 0.0
    metadata = _metadata(network, options, inputs, sparsity)
    if crops:
        metadata["cropped_convolutions"] = json.dumps(crops)
    dense_bytes = sum(tensor.nbytes for tensor in before.values())
    dropped = total - weights
    return Export(network, options, module, state, dense_bytes, metadata, inputs, weights, zeros, dropped, sparsity)


def _find_inputs(model: nn.Module, options: Namespace) -> Inputs | None:
    """Return the inputs of a network; None if they are not known and not needed, because only weights are written."""
    if not defines_forward(model) and options.format in NETWORKS:
        what = f"a network with a `forward` for `--format {options.format}`"
        hint = "define `forward` in the class, or write only the weights with `--format safetensors`"
        raise expected(what, f"{type(model).__name__}, which defines none", hint)
    inputs = Inputs.of(model, options.input_size)
    _check_options(inputs, options)
    if options.format == "accelerated":  # the other formats are traced, which checks the same
        inputs.check_accepted_by(model)
    if options.format in NETWORKS or options.crop or inputs.are_accepted_by(model):
        return inputs
    if wants_scores(options):
        hint = "leave out `--limit` and all `--data` options to write only the weights"
        raise expected(f"a network that computes logits for {inputs}", f"{type(model).__name__}, which does not", hint)
    return None


def _check_options(inputs: Inputs, options: Namespace) -> None:
    """Raise an `InputError` for options that do not suit the inputs of the network."""
    shape = inputs.image_size
    if options.crop and (shape is None or shape[1] != shape[2]):
        raise expected("a network that takes square images for `--crop`", f"{inputs}", "leave `--crop` out")
    if wants_scores(options) and (shape is None or shape[1:] != (SIZE, SIZE)):
        hint = "leave out `--limit` and all `--data` options to check on random inputs only"
        raise expected(f"a network that takes images of {SIZE}x{SIZE} to check on test images", f"{inputs}", hint)
    if options.batch is not None and not inputs.have_rows:
        hint = "leave `--batch` out: the file takes inputs of these shapes"
        raise expected("inputs with the same number of rows for `--batch`", f"{inputs}", hint)


def _metadata(network: Network, options: Namespace, inputs: Inputs | None, sparsity: float) -> dict[str, str]:
    """Describe the inputs, sparsity, classes and preprocessing for users of the file, as JSON strings."""
    values: dict[str, Any] = {}
    if inputs is not None and (shape := inputs.image_size) is not None:
        sizes = dict(zip(("channels", "height", "width"), shape, strict=True))
        values["input"] = {"layout": "NCHW", **sizes, "dtype": "float32"}
    elif inputs is not None:
        values["inputs"] = inputs.describe()
    values["sparsity"] = round(sparsity, 6)
    if isinstance(network.model, LitResNet18) and (network.settings.get("data") or wants_data(options)):
        try:
            values["class_names"] = make_data(network, options).class_names
        except InputError:  # a custom data module, whose class names are not known
            pass
        else:
            values["preprocessing"] = {
                "colours": "RGB",
                "pixels": [0, 255],
                "scale": 1 / 255,
                "mean": MEAN,
                "std": STD,
                "formula": "(pixel * scale - mean) / std, for each colour",
            }
    return {"lit_prune_version": __version__} | {name: json.dumps(value) for name, value in values.items()}
