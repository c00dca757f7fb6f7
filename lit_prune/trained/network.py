"""A trained network as a file holds it: ours, a bare state dict, or somebody else's Lightning checkpoint."""

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
from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import replacing
from lit_prune.files.checkpoint import FORMAT, KEY, Settings, check_fit, read_weights, save, stored_settings
from lit_prune.files.trust import check_stored_settings
from lit_prune.functional.packing import unpack_masks
from lit_prune.models.resnet18 import LitResNet18

__all__ = ["Network", "load_network", "save_network"]

# what `torch.compile` puts before the names of what it compiled
_COMPILED = "_orig_mod."


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        path: The file that it was read from.
        content: All that is in a checkpoint; of bare weights, the `state_dict` alone.
        model: The network, in evaluation mode, on the CPU and without masks; None if nobody knows its architecture.
        masks: For each layer by name, true where a weight is kept, as the pruning callbacks had it.
        touched: For each layer by name, true where a weight has received a gradient; empty if the file does not tell.
        settings: Of the run that wrote it, by group, as far as the file tells.
        state_dict: The weights by name, masks multiplied in.
    """

    path: str
    content: dict[str, Any]
    model: LightningModule | None
    masks: dict[str, Tensor]
    touched: dict[str, Tensor]
    settings: Settings
    state_dict: dict[str, Tensor]

    def require_model(self) -> LightningModule:
        """Return the model.

        Raises:
            InputError: If its architecture is not known.
        """
        if self.model is None:
            raise expected(
                f"the weights of a LitResNet18 in `{self.path}`",
                "those of another network",
                "name its class with `--model module.Class`",
            )
        return self.model


def load_network(path: str, model: str | None = None) -> Network:
    """Read a trained network.

    Args:
        path: A checkpoint of `lit-prune fit` or of any Lightning Trainer, or a state dict. Nothing in it is executed.
        model: module.Class of the LightningModule, for networks that are not ours. Its arguments are the
            checkpoint's hyper-parameters.

    Returns:
        The network; without a model if it is not ours and no class was named.

    Raises:
        InputError: If the file cannot be used, or the class cannot be imported, built or loaded with the weights.
    """
    kind = None if model is None else _class(model)
    content = read_weights(path)
    settings = stored_settings(content, {"model": LitResNet18, "data": CIFAR10DataModule}, path)
    check_stored_settings(_used(settings, model), {"model": {"class_path": model}} if model is not None else {}, path)
    state, masks = _plain(content["state_dict"])
    for found in _states(content, "masks", state):
        masks |= found
    touched: dict[str, Tensor] = {}
    for found in _states(content, "touched", state):
        touched |= found
    built = None
    if model is not None and kind is not None:
        built = _build(model, kind, content, settings, path)
    elif "class_path" not in settings.get("model", {}) and _is_ours(state):
        known = settings.get("model", {})
        kept = {n: v for n, v in known.items() if n in ("output", "softmax_scale", "batch_norm")}
        built = LitResNet18(**LitResNet18.architecture_of(state), **kept)
    if built is not None:
        check_fit(built, state, path)
        built.load_state_dict(state, strict=False)  # counters of batch norms may be missing in old files
        built.eval().requires_grad_(False)
    return Network(path, content, built, masks, touched, settings, state)


def save_network(network: Network, model: nn.Module, path: str | Path, **changes: Any) -> None:
    """Write a checkpoint that `fit --model.init_from`, `test --ckpt_path` and every command here take.

    Args:
        network: Where the model came from; its hyper-parameters and settings are kept, its optimizer's state is not.
        model: Whose weights to write.
        path: The file, written whole or not at all.
        changes: Arguments of the model that are others now.

    Raises:
        OSError: If it cannot be written.
    """
    old = network.content
    own = dict(old.get("hyper_parameters") or {})
    if not own and isinstance(model, LightningModule):
        own = {name: value for name, value in model.hparams.items() if not name.startswith("_") and not callable(value)}
    content: dict[str, Any] = {
        "pytorch-lightning_version": old.get("pytorch-lightning_version", lightning.__version__),
        "epoch": old.get("epoch", 0),
        "global_step": old.get("global_step", 0),
        "state_dict": {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
        "loops": None,
        "callbacks": {},
        "hyper_parameters": own | changes,
    }
    for key in ("hparams_name", "datamodule_hyper_parameters", "datamodule_hparams_name"):
        if key in old:
            content[key] = old[key]
    if KEY in old:
        settings = {group: dict(values) for group, values in network.settings.items()}
        settings["model"] = settings.get("model", {}) | changes
        content[KEY] = {"format": FORMAT, "settings": settings}
    with replacing(path) as part:
        save(content, part)


def _plain(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Multiply masks of `torch.nn.utils.prune` into their weights, and take what compiling adds off the names."""
    named = {name.replace(_COMPILED, ""): tensor for name, tensor in weights.items()}
    state, masks = {}, {}
    for name, tensor in named.items():
        plain = name.removesuffix("_orig")
        if name.endswith("_orig") and (mask := named.get(f"{plain}_mask")) is not None and mask.shape == tensor.shape:
            state[plain] = (tensor * mask).masked_fill(mask == 0, 0.0)  # the product alone leaves zeros with a sign
            if plain.endswith(".weight"):
                masks[plain.removesuffix(".weight")] = mask != 0
        elif not (name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in named):
            state[name] = tensor
    return state, masks


def _states(content: Mapping[str, Any], key: str, state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """What the callbacks of the run remember of each weight under a key, as far as it fits the weights."""
    found = []
    for callback in content.get("callbacks", {}).values():
        packed = callback.get(key) if isinstance(callback, Mapping) else None
        if isinstance(packed, Mapping):
            # a stranger's file may say anything; to unpack by a wrong shape could take all memory
            fitting = {name: entry for name, entry in packed.items() if _fits(state.get(f"{name}.weight"), entry)}
            found.append(unpack_masks(fitting))
    return found


def _fits(weight: Tensor | None, entry: Any) -> bool:
    if weight is None or not isinstance(entry, Mapping) or entry.get("shape") != list(weight.shape):
        return False
    bits = entry.get("bits")
    return isinstance(bits, Tensor) and bits.dtype == torch.uint8 and bits.numel() == (weight.numel() + 7) // 8


def _is_ours(state: Mapping[str, Tensor]) -> bool:
    return "backbone.conv1.weight" in state and "head.2.weight" in state


def _used(settings: Settings, model: str | None) -> Settings:
    """The settings from which something may be built: those of a class that nobody names are looked at by nobody."""
    used = {}
    for group, values in settings.items():
        if isinstance(values, Mapping) and "class_path" in values:
            if group == "model" and model is not None:
                used[group] = {**values, "class_path": model}
        else:
            used[group] = values
    return used


def _build(name: str, kind: type, content: Mapping[str, Any], settings: Settings, path: str) -> LightningModule:
    """Make somebody else's module with the arguments that its checkpoint holds."""
    takes = signature(kind).parameters
    known = settings.get("model", {})
    given = known.get("init_args", {}) if "class_path" in known else dict(content.get("hyper_parameters") or {})
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        given = {argument: value for argument, value in given.items() if argument in takes}
    parser = CommandParser(prog="lit-prune")
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    with one_sentence_errors([f"--model={name}"]):
        config = parser.parse_object({"model": {"class_path": name, "init_args": given}})
    try:
        built: LightningModule = parser.instantiate(config).model
    except InputError:
        raise
    except Exception as error:  # whatever somebody else's class does
        found = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        hint = f"its arguments are those that `{path}` was written with"
        raise expected(f"`--model {name}` to be built", found, hint) from error
    return built


def _class(name: str) -> type[LightningModule]:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute) if module else None
    except Exception as error:  # whatever somebody else's module does
        found = error
    if not isinstance(found, type) or not issubclass(found, LightningModule):
        why = f" ({' '.join(str(found).split()).rstrip('.')})" if isinstance(found, Exception) else ""
        raise expected(
            "`--model` to name a class of LightningModule",
            f"`{name}`{why}",
            "give module.Class, of an installed package or of this folder",
        )
    return found
