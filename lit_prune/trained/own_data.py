"""Score a network on the user's own data module, by a metric that the network logs itself.

The Trainer runs `validation_step` or `test_step`, so batches may have any form, and `forward` any arguments.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_prune.cli.failures import describe_failure
from lit_prune.errors import InputError, closest_hint, expected, one_line
from lit_prune.files.checkpoint import KEY
from lit_prune.functional.extras import silence_libraries
from lit_prune.trained.network import Network, build_class, import_class
from lit_prune.training.packages import import_from, package_of

Split = Literal["train", "val", "test"]

_STEPS = {"train": "training_step", "val": "validation_step", "test": "test_step"}
STAGES = {"train": "fit", "val": "validate", "test": "test"}


@dataclass(frozen=True)
class OwnBatches:
    """Batches of a custom data module, loaded once, so that all networks are scored on the same ones.

    Attributes:
        parts: Batches of each data loader.
        samples: Number of samples in all batches: for each batch, the length of its first tensor.
        split: Split of the data; `measure` works for "val" and "test" only.
        metric: Name of the metric to read; None for the first one whose name contains "acc".
    """

    parts: list[list[Any]]
    samples: int
    split: Split
    metric: str | None

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Iterate over the batches; yield a list of the tensors in each batch."""
        return (list(_tensors(batch, set())) for part in self.parts for batch in part)

    def measure(self, model: nn.Module) -> tuple[str, float]:
        """Return the name of the metric, and its value for a model.

        Raises:
            InputError: If the step of the model fails or does not log the metric, if its name contains
                "loss", or if its value is not in [0, 1].
        """
        parts: list[Any] = self.parts
        loaders = [DataLoader(part, batch_size=None, collate_fn=_unchanged) for part in parts]
        with silence_libraries(), one_sentence(f"The `{_STEPS[self.split]}` of {type(model).__name__}"):
            trainer = make_trainer(model)
            run = trainer.validate if self.split == "val" else trainer.test
            results = run(model, dataloaders=loaders if len(loaders) > 1 else loaders[0], verbose=False)
        return self._choose({name: float(value) for result in results for name, value in result.items()})

    def _choose(self, logged: Mapping[str, float]) -> tuple[str, float]:
        step = f"`{_STEPS[self.split]}`"
        hint = "log a fraction that is higher for better networks, such as an accuracy, and name it with `--metric`"
        name = self.metric or next((name for name in logged if re.search("acc", name, re.IGNORECASE)), None)
        if name is None:
            found = ", ".join(f"`{name}`" for name in logged) or "no metric"
            raise expected(f"{step} to log an accuracy", found, hint)
        if name not in logged:
            raise expected(f"{step} to log the `--metric`", f"no `{name}`", closest_hint(name, logged, hint))
        if "loss" in name.lower():  # it may lie in [0, 1] by chance
            raise expected("a metric that is higher for better networks", f"`{name}`", hint)
        if not 0 <= logged[name] <= 1:
            raise expected(f"`{name}` in [0, 1]", f"{logged[name]:.4g}", hint)
        return name, logged[name]


def load_own_batches(network: Network, options: Namespace, split: Split, count: int | None = None) -> OwnBatches:
    """Load the batches of the data module that `--data` names.

    Its arguments are read from the checkpoint, but options `--data.NAME` replace them. At most `count` batches are
    loaded. If `count` is None, `--limit` limits the samples: the batch that reaches the limit is the last, and whole.
    Several loaders are read one after the other or, in training, at the same time: a batch then has one of each loader.

    Raises:
        InputError: If the network cannot be evaluated on this split, or if the data module fails or has no batches.
    """
    kind, step = type(network.require_model()), _STEPS[split]
    if getattr(kind, step).__qualname__.startswith("LightningModule."):
        other = ", or give `--split val`" if split == "test" and "split" in options else ""
        logs = ", and log an accuracy in it with `self.log`" if split != "train" else ""
        hint = f"define it{logs}{other}"
        raise expected(f"a network with a `{step}`", f"{kind.__name__}, which defines none", hint)
    name = options.data.class_path
    settings = network.settings.get("data", {})
    stored = settings.get("init_args", {}) if "class_path" in settings else {}
    if KEY not in network.content:
        stored = network.content.get("datamodule_hyper_parameters") or {}
    given = options.data.as_dict().get("init_args", {})
    data = build_class("data", import_class("data", name), name, stored, network.path, given)
    parts: dict[int, list[Any]] = {}
    samples = loaded = 0
    with silence_libraries(), one_sentence(f"Loading the {split} data of {name}"):
        data.trainer = make_trainer(data)
        data.prepare_data()
        data.setup(STAGES[split])
        loaders = getattr(data, f"{split}_dataloader")()
        for batch, _, part in iter(CombinedLoader(loaders, "max_size_cycle" if split == "train" else "sequential")):
            batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, part), part)
            parts.setdefault(part, []).append(batch)
            loaded += 1
            samples += next((len(tensor) for tensor in _tensors(batch, set()) if tensor.dim()), 1)
            if loaded == count or (count is None and options.limit is not None and samples >= options.limit):
                break
    if not parts:
        raise expected(f"{split} batches of {name}", "none", "check its arguments")
    return OwnBatches(list(parts.values()), samples, split, options.metric)


def make_trainer(module: Any) -> Any:
    """Return a Trainer that prints and writes nothing, from the Lightning package of a model or data module."""
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = import_from(package_of(type(module)), "Trainer")
    return trainer(accelerator="cpu", devices=1, **dict.fromkeys(names, False))


def _unchanged(batch: Any) -> Any:
    return batch


def _tensors(batch: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors in nested containers and objects."""
    if isinstance(batch, Tensor):
        yield batch
    elif id(batch) not in seen:
        seen.add(id(batch))
        items = batch if isinstance(batch, Mapping | list | tuple) else getattr(batch, "__dict__", ())
        for item in items.values() if isinstance(items, Mapping) else items:
            yield from _tensors(item, seen)


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Turn an error of the user's code into an `InputError`."""
    try:
        yield
    except Exception as error:  # custom code may raise anything
        if describe_failure(error) is not None and type(error).__name__ != "MisconfigurationException":
            raise
        reason = f"{type(error).__name__} ({one_line(error)})"
        raise InputError(f"{what} failed: {reason}. Set LIT_PRUNE_TRACEBACK=1 to see where.") from error
