"""Load a trained network from a Lightning checkpoint or a state dict, and save a changed network."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_prune.cli.parser import CommandParser, one_sentence_errors
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError, expected, one_line, root_cause
from lit_prune.files.atomic import replacing
from lit_prune.files.checkpoint import FORMAT, KEY, Settings, check_state_dict, read_weights, save, stored_settings
from lit_prune.files.trust import BUILT, check_stored_settings, malformed
from lit_prune.functional.packing import unpack_masks
from lit_prune.functional.selection import SAYS_WEIGHT
from lit_prune.models.resnet18 import LitResNet18

# keys of a checkpoint with the state of its training, and with other weights of the network (`WeightAveraging`)
_TRAINING = {"optimizer_states", "lr_schedulers", "current_model_state", "averaging_state"}
# prefix that `torch.compile` adds to parameter names
_COMPILED = "_orig_mod."


@dataclass(frozen=True)
class Network:
    """A trained network, as stored in a file.

    Attributes:
        path: Path of the file.
        content: Content of the checkpoint. For a file that holds only a state dict, `{"state_dict": ...}`.
        model: Model without masks, in evaluation mode and on the CPU; None if its architecture is not known.
        masks: Pruning masks by layer, true where a weight is kept.
        touched: Masks by layer, true where a weight has received a gradient; empty if the file holds no such masks.
        settings: Options of the run that wrote the file, in groups such as "model" and "data", if the file stores them.
        state_dict: Weights by name, with masks applied.
    """

    path: str
    content: dict[str, Any]
    model: LightningModule | None
    masks: dict[str, Tensor]
    touched: dict[str, Tensor]
    settings: Settings
    state_dict: dict[str, Tensor]

    def require_model(self) -> LightningModule:
        """Return the model, or raise an `InputError` if its architecture is not known."""
        if self.model is None:
            raise expected(
                f"the weights of a LitResNet18 in `{self.path}`",
                "those of another network",
                "name the network's class with `--model module.Class`",
            )
        return self.model


def load_network(path: str, model: str | None = None) -> Network:
    """Load a trained network.

    Args:
        path: Checkpoint of `lit-prune fit` or any Lightning Trainer, or a state dict. No code in the file is executed.
        model: Class of the network, a LightningModule, as module.Class; needed unless the network is a `LitResNet18`.
            The `__init__` arguments of the class are read from the checkpoint.

    Returns:
        The network, whose `model` is None if no class is given and the weights are not those of a `LitResNet18`.

    Raises:
        InputError: If the file is invalid, if the class cannot be imported or instantiated, or if the weights do not
            fit the class.
    """
    model_class = None if model is None else import_class("model", model)
    content = read_weights(path)
    settings = stored_settings(content, {"model": LitResNet18, "data": CIFAR10DataModule})
    # skip arguments of a custom class, which `build_class` checks, and optimizers, which only `fit` builds and checks
    used = {
        group: {n: v for n, v in s.items() if n not in BUILT} for group, s in settings.items() if "class_path" not in s
    }
    check_stored_settings(used, {}, path)
    state, masks = _apply_masks(content["state_dict"])
    if model is not None and model_class is not None:
        stored = settings.get("model", {})
        arguments = stored.get("init_args", {}) if "class_path" in stored else content.get("hyper_parameters") or {}
        built: LightningModule | None = build_class("model", model_class, model, arguments, path)
    else:
        built = _build_resnet(state, settings.get("model", {}))
    if built is not None:
        check_state_dict(built, state, path)
        built.load_state_dict(state, strict=False)  # files of PyTorch before 0.4.1 lack `num_batches_tracked`
        built.eval().requires_grad_(False)
    masks |= _unpack_callback_states(content, "masks", state)
    touched = _unpack_callback_states(content, "touched", state)
    return Network(path, content, built, masks, touched, settings, state)


def save_network(network: Network, model: nn.Module, path: str | Path, **changes: Any) -> None:
    """Write a checkpoint for `fit --model.init_from`, `test --ckpt_path` and commands such as `lit-prune inspect`.

    The checkpoint holds the weights of `model`, but no optimizer state. Hyper-parameters and options are copied from
    `network`, but `changes` replace `__init__` arguments of the model. The file is written completely or not at all.
    """
    old = network.content
    hyper_parameters = dict(old.get("hyper_parameters") or {})
    hparams: Any = getattr(model, "hparams", {})
    if not hyper_parameters:
        hyper_parameters = {n: v for n, v in hparams.items() if not n.startswith("_") and not callable(v)}
    content: dict[str, Any] = {
        "pytorch-lightning_version": old.get("pytorch-lightning_version", lightning.__version__),
        "epoch": old.get("epoch", 0),
        "global_step": old.get("global_step", 0),
        "state_dict": in_stored_types(network, model.state_dict()),
        "loops": None,
        "callbacks": {},
        "hyper_parameters": hyper_parameters | changes,
    }
    # the class may have stored values of its own in `on_save_checkpoint`
    content |= {key: value for key, value in old.items() if key not in content and key not in _TRAINING}
    if KEY in old:
        settings = network.settings | {"model": network.settings.get("model", {}) | changes}
        content[KEY] = {"format": FORMAT, "settings": settings}
    with replacing(path) as part:
        save(content, part)


def in_stored_types(network: Network, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state dict to the CPU, with the data types of the network's file; unchanged values keep all their bits."""
    copied = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    for name, value in copied.items():
        stored = network.state_dict.get(name)
        if stored is None or stored.dtype == value.dtype:
            continue
        copied[name] = value.to(stored.dtype)
        if stored.shape == value.shape:
            unchanged = stored.to(value.dtype) == value
            copied[name][unchanged] = stored[unchanged]
    return copied


def fit_options(network: Network, path: str | Path) -> str:
    """Return options of `fit` that start from a file which `save_network` wrote for a `LitResNet18`."""
    source = " --data.source synthetic" if network.settings.get("data", {}).get("source") == "synthetic" else ""
    return f"--model.init_from {shlex.quote(str(path))}{source}"


def _apply_masks(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Apply the masks of `torch.nn.utils.prune`, undo the renaming by `torch.compile`; return weights and masks."""
    named = {name.replace(_COMPILED, ""): tensor for name, tensor in weights.items()}
    state, masks = {}, {}
    for name, tensor in named.items():
        plain = name.removesuffix("_orig")
        if name.endswith("_orig") and (mask := named.get(f"{plain}_mask")) is not None and mask.shape == tensor.shape:
            state[plain] = (tensor * mask).masked_fill(mask == 0, 0.0)  # the product alone would have negative zeros
            if SAYS_WEIGHT.search(plain.rpartition(".")[2]):
                masks[plain.removesuffix(".weight")] = mask != 0
        elif not (name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in named):
            state[name] = tensor
    return state, masks


def _unpack_callback_states(content: Mapping[str, Any], key: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unpack the masks that callbacks stored under `key` in a checkpoint; return them by layer."""
    masks: dict[str, Tensor] = {}
    for callback in content.get("callbacks", {}).values():
        packed = callback.get(key) if isinstance(callback, Mapping) else None
        if isinstance(packed, Mapping):
            # only masks of the weights' shapes: in an untrusted file, a huge mask could use up all memory
            fitting = {
                n: mask
                for n, mask in packed.items()
                if _fits(state.get(f"{n}.weight".removeprefix("."), state.get(n)), mask)
            }
            masks |= unpack_masks(fitting)
    return masks


def _fits(weight: Tensor | None, packed: Any) -> bool:
    if weight is None or not isinstance(packed, Mapping) or packed.get("shape") != list(weight.shape):
        return False
    bits = packed.get("bits")
    return isinstance(bits, Tensor) and bits.dtype == torch.uint8 and bits.numel() == (weight.numel() + 7) // 8


def _build_resnet(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> LitResNet18 | None:
    """Build the `LitResNet18` from which `state` was saved; return None if another network was saved."""
    if "class_path" in settings or not {"backbone.conv1.weight", "head.2.weight"} <= state.keys():
        return None
    kept = {name: value for name, value in settings.items() if name in ("output", "softmax_scale", "batch_norm")}
    return LitResNet18(**LitResNet18.architecture_of(state), **kept)


def build_class(
    group: str, kind: type, name: str, stored: Any, path: str, given: Mapping[str, Any] | None = None
) -> Any:
    """Instantiate a custom class with arguments that a checkpoint stores.

    Args:
        group: Option that names the class, "model" or "data".
        kind: The class.
        name: Import path of the class, as given by the user.
        stored: Arguments in the checkpoint; those that the class does not have are ignored.
        path: Path of the checkpoint, for messages.
        given: Arguments of the user, which replace stored ones.

    Raises:
        InputError: If the stored arguments are malformed or unsafe, or if the class rejects its arguments.
    """
    if not isinstance(stored, Mapping):
        raise malformed(path, f"{group}.init_args")
    given = given or {}
    parameters = signature(kind).parameters
    # the `__init__` of Lightning's classes takes any arguments, and ignores them
    owner = next(base for base in kind.__mro__ if "__init__" in vars(base)).__module__.split(".")[0]
    takes_any = owner not in ("lightning", "pytorch_lightning") and any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    stored = {key: value for key, value in stored.items() if (takes_any or key in parameters) and key not in given}
    check_stored_settings({group: {"class_path": name, "init_args": stored}}, {group: {"class_path": name}}, path)
    parser = CommandParser(prog="lit-prune")
    parser.add_subclass_arguments(kind, group, required=True)
    with one_sentence_errors([f"--{group}={name}"]):
        config = parser.parse_object({group: {"class_path": name, "init_args": stored | dict(given)}})
    try:
        return parser.instantiate(config)[group]
    except Exception as error:  # a custom class may raise anything
        cause = root_cause(error)
        if isinstance(cause, InputError):
            raise cause from error
        reason = f"{type(cause).__name__} ({one_line(cause)})"
        raise InputError(f"`--{group} {name}` cannot be built with the arguments in `{path}`: {reason}.") from error


def import_class(group: str, name: str) -> Any:
    """Import the custom class that the option "--model" or "--data" names, or raise an `InputError`."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute) if module else None
    except Exception as error:  # a custom module may raise anything
        found = error
    wanted = {"model": "LightningModule", "data": "LightningDataModule"}[group]
    # compare names, because `lightning.pytorch` and `pytorch_lightning` each have a class of this name
    if not isinstance(found, type) or all(base.__name__ != wanted for base in found.__mro__):
        reason = f" ({one_line(found)})" if isinstance(found, Exception) else ""
        raise expected(
            f"`--{group}` to name a subclass of {wanted}",
            f"`{name}`{reason}",
            "give module.Class, from an installed package or from the current folder",
        )
    return found
