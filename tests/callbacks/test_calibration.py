"""Measuring on a copy of the model leaves model, random state and data as they are."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.aggregation import MeanMetric

from lit_prune import CIFAR10DataModule, LayerFreezing
from lit_prune.callbacks._calibration import calibrate, check_loss, measure, recalibrate
from lit_prune.errors import InputError
from lit_prune.functional import Calibration, SynFlow, Taylor, make_criterion, weight_layers
from tests.callbacks.models import (
    CLASSES,
    Batches,
    Classifier,
    TwoOptimizers,
    conv_net,
    mlp,
    moved,
    quiet_trainer,
    snapshot,
)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "You defined a `validation_step`",
        ".*does not have many workers",
        ".*`IterableDataset`",
        "You have overridden `on_after_batch_transfer`",
        r"Found 1 module\(s\) in eval mode",
    )
]


class Metered(Classifier):
    """A classifier with dropout, norms, a metric, a step counter, and a hook that draws random numbers."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__(conv_net())
        self.mean = MeanMetric()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.batches: list[float] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.seen += 1
        images, labels = batch["a"] if isinstance(batch, dict) else batch
        return images[..., :8, :8] + 0.01 * torch.randn_like(images[..., :8, :8]), labels % CLASSES

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss((batch[0], batch[1] % CLASSES))
        self.batches.append(float(batch[0].sum()))
        self.mean.update(loss.detach())
        self.log("train_mean", self.mean)
        self.log_dict({"noise": random.random() + np.random.rand()})  # noqa: NPY002, S311
        return loss


class Numbers(IterableDataset[tuple[Tensor, Tensor]]):
    """Examples from an iterator that the data set keeps."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.position < 24:
            self.position += 1
            yield torch.full((3, 8, 8), float(self.position)), torch.tensor(self.position % CLASSES)
        self.position = 0


class Module(LightningDataModule):
    """A data module that keeps one loader for all epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.loader = examples(shuffle=True)

    def train_dataloader(self) -> Any:
        return self.loader


def examples(**options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(26, 3, 8, 8, generator=generator), torch.randint(4, (26,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=4, **options)


DATA: dict[str, Callable[[], Any]] = {
    "ours": lambda: CIFAR10DataModule(source="synthetic", batch_size=4, limit_train=26, val_size=4, seed=1),
    "shuffled": lambda: examples(shuffle=True),
    "own generator": lambda: examples(shuffle=True, generator=torch.Generator().manual_seed(5)),
    "persistent workers": lambda: examples(shuffle=True, num_workers=1, persistent_workers=True),
    "stateful": lambda: Batches(6),
    "iterable": lambda: DataLoader(Numbers(), batch_size=4),
    "combined": lambda: CombinedLoader({"a": examples(shuffle=True), "b": examples()}, "max_size"),
    "data module": Module,
}


def whole_state(trainer: Any, model: Any) -> dict[str, Any]:
    """Everything that a measurement could change."""
    tensors = {f"state.{name}": value.clone() for name, value in model.state_dict().items()}
    tensors |= {
        f"grad.{name}": value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }
    tensors |= {f"metric.{name}": value.clone() for name, value in model.mean.metric_state.items()}
    tensors["rng"] = torch.get_rng_state()
    tensors["numpy"] = torch.from_numpy(np.random.get_state()[1].copy())  # type: ignore[index] # noqa: NPY002
    tensors["python"] = torch.tensor(random.getstate()[1])
    modes = {name: module.training for name, module in model.named_modules()}
    trains = {name: value.requires_grad for name, value in model.named_parameters()}
    return tensors | {"modes": modes, "trains": trains, "logged": sorted(trainer.callback_metrics)}


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]) if isinstance(value, Tensor) else value == two[name], name


class Measures(Callback):
    """Computes losses on a copy before some batches, and checks that nothing else changes."""

    def __init__(self, seed: int = 0, count: int = 3) -> None:
        self.seed = seed
        self.count = count
        self.sums: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step not in (0, 2, 9):
            return
        before = whole_state(trainer, pl_module)
        criterion = Taylor(self.count)
        with calibrate(trainer, pl_module, self.count, self.seed) as calibration:
            weights = [ref.tensor for ref in weight_layers(calibration.model)]
            criterion.measure(weights, calibration)
            once = [scores.clone() for scores in criterion(weights)]
            model: Any = calibration.model
            first, model.batches = model.batches[len(pl_module.batches) :], list(pl_module.batches)
            model.load_state_dict(pl_module.state_dict())
            criterion.measure(weights, calibration)
            assert all(map(torch.equal, once, criterion(weights)))
        assert model is not pl_module
        assert len(first) == self.count
        assert any(scores.abs().max() > 0 for scores in once)
        self.sums.append(first)
        assert_same(before, whole_state(trainer, pl_module))


def train(data: Any, *callbacks: Callback) -> tuple[Any, Metered]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = Metered()
    trainer = quiet_trainer(callbacks=list(callbacks), max_epochs=2, num_sanity_val_steps=0, limit_val_batches=0)
    trainer.fit(model, data)
    return trainer, model


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.gate
def test_a_training_is_the_same_to_the_bit(data: Callable[[], Any]) -> None:
    plain, measures = train(data()), Measures()
    measured = train(data(), measures)
    assert measured[1].batches == plain[1].batches
    assert len(plain[1].batches) >= 12
    assert_same(whole_state(*plain), whole_state(*measured))
    assert len(measures.sums) == 3
    again = Measures()
    train(data(), again)
    assert again.sums == measures.sums


@pytest.mark.parametrize("name", ["shuffled", "persistent workers"])
@pytest.mark.gate
def test_the_seed_decides_about_batches(name: str) -> None:
    measures = [Measures(seed) for seed in (0, 0, 1)]
    for one in measures:
        train(DATA[name](), one)
    assert measures[0].sums == measures[1].sums
    assert measures[0].sums[0] != measures[2].sums[0]
    assert measures[0].sums[0] == measures[0].sums[1]  # also later in the training


def test_a_short_loader_is_started_again() -> None:
    measures = Measures(count=20)
    train(examples(), measures)
    assert [len(sums) for sums in measures.sums] == [20, 20, 20]


def test_transfer_hooks_and_precision_are_those_of_the_training() -> None:
    """In the first step, the loss on the copy is the loss of the training."""

    class Still(Classifier):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] * 2, batch[1]

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            assert device == torch.device("cpu")
            return batch[0] + 1, batch[1]

        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            loss = super().training_step(batch, 0)
            losses.append(float(loss.detach()))  # type: ignore[union-attr]
            dtypes.append(self(batch[0]).dtype)
            return {"loss": loss}

    class Once(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            with calibrate(trainer, pl_module, 1, 0) as calibration:
                assert all(loss.requires_grad for loss in calibration.losses())

    losses: list[float] = []
    dtypes: list[torch.dtype] = []
    quiet_trainer(callbacks=Once(), max_steps=1, precision="bf16-mixed").fit(
        Still(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), examples()
    )
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert dtypes == [torch.bfloat16] * 2


def test_what_cannot_be_copied_is_refused() -> None:
    class Keeps(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.last = self.loss(batch)  # with its graph
            return self.last

    class Locked(Batches):
        def __init__(self) -> None:
            super().__init__()
            self.lock = Lock()

    for model, data, what in (
        (Keeps(conv_net()), Batches(), "model"),
        (Classifier(conv_net()), Locked(), "training data"),
    ):
        with pytest.raises(InputError, match=f"The {what} cannot be copied, but `recalibrate`"):
            quiet_trainer(callbacks=At(1, lambda trainer, it: measure(trainer, it, Taylor(1), [], 0))).fit(model, data)


class At(Callback):
    """Calls a function before a step."""

    def __init__(self, step: int, action: Callable[[Any, Any], Any]) -> None:
        self.step = step
        self.action = action

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.action(trainer, pl_module)


def test_manual_optimization_and_split_models_are_refused() -> None:
    trainer: Any = quiet_trainer()
    with pytest.raises(InputError, match="automatic optimization with `recalibrate`"):
        check_loss(trainer, TwoOptimizers(), "`recalibrate`")
    check_loss(trainer, Classifier(conv_net()), "`recalibrate`")


@pytest.mark.parametrize("name", ["taylor", "fisher", "snip", "grasp", "synflow"])
def test_scores_are_those_of_the_model(name: str) -> None:
    """Scores equal those that a copy of the model would get by hand, without dropout and norms."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Softplus(), nn.Linear(6, CLASSES))
    found: list[list[Tensor]] = []

    def action(trainer: Any, pl_module: Any) -> None:
        refs = weight_layers(pl_module)
        score = measure(trainer, pl_module, make_criterion(name), refs, 0)
        found.append([scores.clone() for scores in score([ref.tensor for ref in refs])])
        copied = deepcopy(net)
        criterion: Any = make_criterion(name)
        weights = [ref.tensor for ref in weight_layers(copied)]
        batches = (list(Batches(4)) * 3)[: criterion.batches]
        by_hand = Calibration(copied, batches, lambda batch, _: F.cross_entropy(copied(batch[0]), batch[1]))
        criterion.measure(weights, by_hand)
        found.append(list(criterion(weights)))

    class Fresh(Batches):
        def __iter__(self) -> Any:
            self.position = 0
            return super().__iter__()

    model: LightningModule = Classifier(net)
    quiet_trainer(callbacks=At(2, action), max_epochs=1).fit(model, Fresh(4))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
        assert one.abs().max() > 0


def test_recalibrate_averages_statistics_over_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(180, CLASSES))
    net[2].eval().requires_grad_(False)
    net.append(nn.InstanceNorm1d(1, track_running_stats=True))
    net.append(nn.Flatten())
    model: Any = Classifier(net[:5])
    data = Batches(5)
    wanted: list[Tensor] = []

    def action(trainer: Any, pl_module: Any) -> None:
        net[2].eval()
        before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        maps = [net[0](images) for images in data.images]
        wanted.append(torch.stack([each.mean((0, 2, 3)) for each in maps]).mean(0))
        wanted.append(torch.stack([each.transpose(0, 1).flatten(1).var(1) for each in maps]).mean(0))
        state = torch.get_rng_state()
        recalibrate(trainer, pl_module, 5, 0)
        assert torch.equal(torch.get_rng_state(), state)
        after = pl_module.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == {"net.1.running_mean", "net.1.running_var"}
        torch.testing.assert_close(net[1].running_mean, wanted[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(net[1].running_var, wanted[1], rtol=1e-5, atol=1e-6)
        assert net[1].momentum == 0.1
        assert net[1].training

    class Fresh(Batches):
        def __iter__(self) -> Any:
            self.position = 0
            return super().__iter__()

    quiet_trainer(callbacks=At(3, action), max_epochs=1).fit(model, Fresh(5))
    assert wanted


def test_norms_that_keep_their_statistics_are_left_alone() -> None:
    """As `LitResNet18(batch_norm="frozen")` has them: in training mode, but normalising by running statistics."""

    class Frozen(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES))
    net[1].running_mean.fill_(0.3)  # type: ignore[operator]
    seen: list[Tensor] = []

    def action(trainer: Any, pl_module: Any) -> None:
        recalibrate(trainer, pl_module, 2, 0)
        seen.extend([net[1].running_mean.clone(), net[2].running_mean.clone()])  # type: ignore[operator]

    quiet_trainer(callbacks=At(0, action), max_steps=1).fit(Classifier(net), Batches())
    assert torch.equal(seen[0], torch.full((4,), 0.3))
    assert seen[1].abs().min() > 0


def test_without_norms_nothing_is_read() -> None:
    class Unreadable(Batches):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError

    net = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    quiet_trainer(callbacks=At(0, lambda trainer, it: recalibrate(trainer, it, 2, 0)), max_steps=1).fit(
        Classifier(net), Unreadable()
    )


def test_synflow_needs_one_batch() -> None:
    assert SynFlow().batches == 1


def test_frozen_norms_are_left_alone() -> None:
    """Frozen layers compute as in evaluation mode, whatever their mode says; so do their copies."""
    model: Any = Classifier(conv_net())
    seen: list[tuple[Any, Any]] = []

    def action(trainer: Any, pl_module: Any) -> None:
        before = snapshot(pl_module)
        recalibrate(trainer, pl_module, 2, 0)
        seen.append((before, snapshot(pl_module)))

    freezing = LayerFreezing(layers=["net.conv1", "net.bn1"])
    quiet_trainer(callbacks=[freezing, At(2, action)], max_steps=3).fit(model, Batches())
    assert moved(*seen[0]) == {"net.bn2.running_mean", "net.bn2.running_var"}


def test_compiled_networks_are_measured_without_compiling() -> None:
    net, scores = mlp(), []
    wraps: list[Any] = [lambda it: it, lambda it: torch.compile(it, backend=fail)]
    for wrap in wraps:
        refs: list[Any] = []

        def action(trainer: Any, pl_module: Any, refs: list[Any] = refs) -> None:
            refs += weight_layers(pl_module)
            score = measure(trainer, pl_module, make_criterion("grasp"), refs, 0)
            scores.append([each.clone() for each in score([ref.tensor for ref in refs])])
            raise ZeroDivisionError  # ends the training

        with pytest.raises(ZeroDivisionError):
            quiet_trainer(callbacks=At(0, action)).fit(Classifier(wrap(deepcopy(net))), Batches())
    assert all(map(torch.equal, *scores))


def fail(graph: Any, inputs: Any) -> Any:
    """A backend that compiles nothing."""
    raise AssertionError
