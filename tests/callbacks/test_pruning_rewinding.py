"""Lottery tickets: zeros chosen by trained weights, everything else rewound."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, LearningRateFinder
from torch import Tensor

from lit_prune.callbacks import (
    GlobalL1Pruning,
    GlobalRandomPruning,
    LayerFreezing,
    LocalL1Pruning,
    PruningRemoval,
)
from lit_prune.errors import InputError
from lit_prune.functional import compute_masks, selection
from tests.callbacks.criteria import REWINDING, pruned_at
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, conv_net, mlp, moved, quiet_trainer, snapshot
from tests.callbacks.test_pruning import Watch, zeros

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers


class Starts(Callback):
    """Copies the model and counts optimizer state at the first batch of each epoch."""

    def __init__(self) -> None:
        self.models: list[dict[str, Tensor]] = []
        self.known: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.models.append(snapshot(pl_module))
            self.known.append(len(trainer.optimizers[0].state))
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(model: Any, *callbacks: Callback, epochs: int = 4, **kwargs: Any) -> Any:
    trainer = quiet_trainer(callbacks=list(callbacks), max_epochs=epochs, **kwargs)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    return trainer


def assert_ticket(now: dict[str, Tensor], then: dict[str, Tensor], pruned: int) -> None:
    """Check that two snapshots are equal, except for a number of zeros."""
    assert now.keys() == then.keys()
    changed = 0
    for name, value in now.items():
        different = value != then[name]
        assert not value[different].any(), name
        changed += int(different.sum())
    assert changed == pruned > 0


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("pruner", REWINDING.values(), ids=REWINDING)
@pytest.mark.parametrize("epoch", [0, 1])
def test_kept_weights_are_rewound_and_trained_weights_decide(pruner: Any, epoch: int, optimizer: str) -> None:
    model, starts = Classifier(conv_net(), optimizer, scheduler="lambda"), Starts()
    dense, dense_starts = Classifier(conv_net(), optimizer, scheduler="lambda"), Starts()
    dense.load_state_dict(model.state_dict())
    pruning = pruner(0.5, start_epoch=2, rewind_to=epoch)
    torch.manual_seed(1)  # of the dropout
    fit(model, pruning, starts)
    torch.manual_seed(1)
    fit(dense, dense_starts)
    # before pruning, both runs train alike
    assert not moved(starts.models[1], dense_starts.models[1])
    assert moved(starts.models[0], starts.models[1])
    assert_ticket(starts.models[2], starts.models[epoch], pruned_at(pruning, model, 0.5))
    # the smallest of the trained weights, not of the rewound ones
    dense.load_state_dict(dense_starts.models[2])
    if pruning.allocation is None:
        for name, mask in compute_masks(weight_layers(dense), 0.5).items():
            assert torch.equal(starts.models[2][f"{name}.weight"] != 0, mask)
    assert starts.known == [0, starts.known[1], 0, starts.known[1]]
    assert starts.known[1] > 0
    # learning rates and training continue
    assert starts.rates == dense_starts.rates
    assert len(set(starts.rates)) == 4
    assert moved(starts.models[2], starts.models[3])


def test_iterative_magnitude_pruning_rewinds_each_time() -> None:
    model, starts = Classifier(mlp()), Starts()
    pruning = GlobalL1Pruning(1 - 0.5**3, end_epoch=6, schedule="geometric", every_n_epochs=2, rewind_to=0)
    kept = []

    class Kept(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            kept.append(pruning.state_dict()["origin"] is not None)

    fit(model, pruning, starts, Kept(), epochs=8)
    total = pruned_at(pruning, model, 1)
    for epoch, sparsity in ((2, 0.5), (4, 0.75), (6, 0.875)):
        assert_ticket(starts.models[epoch], starts.models[0], round(sparsity * total))
        assert moved(starts.models[epoch], starts.models[epoch + 1])
        assert zeros(model) == round(0.875 * total)
    # the copy is released at the last pruning
    assert kept == [True] * 6 + [False] * 2


def test_statistics_of_norms_are_rewound_too() -> None:
    model, starts = Classifier(conv_net()), Starts()
    fit(model, GlobalL1Pruning(0.3, start_epoch=2, rewind_to=0), starts, epochs=3)
    assert starts.models[1]["net.bn1.num_batches_tracked"] == 4
    assert starts.models[2]["net.bn1.num_batches_tracked"] == 0
    assert not starts.models[2]["net.bn1.running_mean"].any()


@pytest.mark.parametrize("order", [1, -1])
def test_all_pruners_of_an_epoch_choose_before_the_model_is_rewound(order: int) -> None:
    torch.manual_seed(3)
    model, starts = Classifier(conv_net()), Starts()
    dense, dense_starts = Classifier(conv_net()), Starts()
    dense.load_state_dict(model.state_dict())
    callbacks = [
        GlobalL1Pruning(0.5, start_epoch=2, rewind_to=0, layers=["*.conv1"]),
        LocalL1Pruning(0.5, start_epoch=2, layers=["*.conv2"]),
        GlobalRandomPruning(0.25, start_epoch=2, rewind_to=0, layers=["*.fc"]),
    ][::order]
    torch.manual_seed(1)
    fit(model, *callbacks, starts, epochs=3)
    torch.manual_seed(1)
    fit(dense, dense_starts, epochs=3)
    assert_ticket(starts.models[2], starts.models[0], 81 + 216 + 8)
    dense.load_state_dict(dense_starts.models[2])
    for layer in ("*.conv1", "*.conv2"):
        ((name, mask),) = compute_masks(weight_layers(dense, layer), 0.5).items()
        assert torch.equal(starts.models[2][f"{name}.weight"] != 0, mask)


def test_a_rewound_model_trains_dense_after_a_removal_in_the_same_epoch() -> None:
    model, starts, watch = Classifier(mlp()), Starts(), Watch()
    pruning = GlobalL1Pruning(0.5, start_epoch=2, rewind_to=0)
    fit(model, PruningRemoval(2), pruning, starts, watch, epochs=3)
    assert_ticket(starts.models[2], starts.models[0], pruned_at(pruning, model, 0.5))
    assert watch.training[-1][1] < watch.training[-4][1]


def test_frozen_layers_stay_frozen() -> None:
    model, starts = Classifier(conv_net()), Starts()
    freezing = LayerFreezing(layers="net.conv1")
    fit(model, freezing, GlobalL1Pruning(0.5, start_epoch=2, exclude="*.conv1", rewind_to=0), starts)
    assert all(torch.equal(seen["net.conv1.weight"], starts.models[0]["net.conv1.weight"]) for seen in starts.models)
    assert_ticket(starts.models[2], starts.models[0], 232)


def test_a_second_fit_prunes_again_without_rewinding() -> None:
    model, starts = Classifier(mlp()), Starts()
    trainer = fit(
        model, GlobalL1Pruning(0.5, start_epoch=1, rewind_to=0), PruningRemoval("end"), starts, epochs=3
    )  # fmt: skip
    end = snapshot(model)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert not moved(end, starts.models[3])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_learning_rate_finder_does_not_count_as_training(tmp_path: Path) -> None:
    class Tunable(Classifier):
        lr = 0.01

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    model, starts = Tunable(mlp()), Starts()
    before = snapshot(model)
    pruning = GlobalL1Pruning(0.5, start_epoch=1, rewind_to=0)
    fit(model, pruning, LearningRateFinder(num_training_steps=6), starts, epochs=2, default_root_dir=tmp_path)
    assert not moved(before, starts.models[0])
    assert_ticket(starts.models[1], before, pruned_at(pruning, model, 0.5))


class Saver(Checkpoint):
    """Keeps a checkpoint of the middle of epoch 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 6:
            trainer.save_checkpoint(self.folder / "step-6.ckpt")


def resume(path: Path, pruning: Callback) -> list[tuple[int, int]]:
    watch = Watch()
    trainer = quiet_trainer(callbacks=[pruning, watch], max_epochs=5)
    trainer.fit(Classifier(mlp()), Batches(), Batches(2), ckpt_path=path, weights_only=True)
    return watch.training


@pytest.mark.parametrize(
    ("wrote", "resumed"),
    [
        (None, GlobalL1Pruning(0.5, start_epoch=3, rewind_to=0)),
        (None, GlobalL1Pruning(0.5, start_epoch=3, rewind_to=1)),
        # the state has the values of another epoch
        (GlobalL1Pruning(0.5, start_epoch=3, rewind_to=0), GlobalL1Pruning(0.5, start_epoch=3, rewind_to=1)),
        # the values were released after the last pruning
        (GlobalL1Pruning(0.5, start_epoch=1, rewind_to=0), GlobalL1Pruning(0.8, start_epoch=2, rewind_to=0)),
    ],
)
def test_a_run_without_the_values_to_rewind_to_is_refused(tmp_path: Path, wrote: Any, resumed: Any) -> None:
    fit(Classifier(mlp()), Saver(tmp_path), *([wrote] if wrote else []), epochs=2)
    start = f"the weights from the start of epoch {resumed.rewind_to}, to rewind to, but got a run that continues"
    with pytest.raises(InputError, match=f"{start} in epoch 1 without them"):
        resume(tmp_path / "step-6.ckpt", resumed)


def test_arguments_may_change_on_resume_while_the_values_are_kept(tmp_path: Path) -> None:
    fit(Classifier(mlp()), Saver(tmp_path), GlobalL1Pruning(0.5, start_epoch=3, rewind_to=0), epochs=2)
    # prune more and later, rewind to a later epoch, do not rewind
    for epoch in (0, 2, None):
        pruning = GlobalL1Pruning(0.6, start_epoch=4, rewind_to=epoch)
        assert resume(tmp_path / "step-6.ckpt", pruning)[-1] == (4, pruned_at(pruning, Classifier(mlp()), 0.6))


def test_states_of_older_versions_load() -> None:
    pruning = GlobalL1Pruning(0.5)
    fit(Classifier(mlp()), pruning, epochs=1)
    state = pruning.state_dict()
    del state["origin"], state["rewound"]
    again = GlobalL1Pruning(0.5)
    again.load_state_dict(state)
    assert again.state_dict()["reached"] == 0.5
