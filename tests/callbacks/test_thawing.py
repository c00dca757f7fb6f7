"""Layers that are frozen at first and thawed in phases."""

import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lit_prune.callbacks import LayerFreezing
from lit_prune.errors import InputError
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, TwoOptimizers, mlp, moved, quiet_trainer, snapshot
from tests.processes import run_ddp

EPOCH = len(Batches())
# the four layers of `mlp`, from the front to the end
FIRST, SECOND, THIRD, LAST = ({f"net.{i}.weight", f"net.{i}.bias"} for i in (1, 3, 5, 7))
PHASES: Any = [
    {"epoch": 1, "layers": "net.5", "lr_factor": 0.3},
    {"epoch": 2, "fraction": 0.25, "lr_factor": 0.1},
    {"epoch": 3},
]


def thawing(**arguments: Any) -> LayerFreezing:
    return LayerFreezing(**{"fraction": 0.75, "phases": PHASES, **arguments})


class Trained(Classifier):
    """Four linear layers, with several schedules; values of a metric are made up.

    Args:
        optimizer: A key of `OPTIMIZERS`.
        scheduler: None, "onecycle" or "plateau".
        metric: Values of "score" in successive validations.
        groups: Factors of the learning rates of the four layers; one parameter group each. None makes one group.
    """

    def __init__(
        self,
        optimizer: str = "sgd",
        scheduler: str | None = None,
        metric: Iterable[float] = (),
        groups: Iterable[float] | None = None,
    ) -> None:
        super().__init__(mlp(), optimizer, scheduler)
        self.metric = list(metric)
        self.groups = None if groups is None else list(groups)

    def on_validation_epoch_end(self) -> None:
        if self.metric and not self.trainer.sanity_checking:
            done = self.trainer.global_step // (EPOCH // max(1, round(1 / self.trainer.val_check_interval))) - 1
            self.log("score", self.metric[done])

    def configure_optimizers(self) -> Any:
        if self.groups is None:
            optimizer = OPTIMIZERS[self.optimizer](self.parameters())
            rates: Any = 0.1
        else:
            assert isinstance(self.net, nn.Sequential)
            optimizer = OPTIMIZERS[self.optimizer](self.net[1].parameters())
            (group,) = optimizer.param_groups
            rate = group["lr"]
            group["lr"] = rate * self.groups[0]
            for i, factor in zip((3, 5, 7), self.groups[1:], strict=True):
                optimizer.add_param_group({"params": list(self.net[i].parameters()), "lr": rate * factor})
            rates = [0.1 * factor for factor in self.groups]
        if self.scheduler == "onecycle":
            schedule = OneCycleLR(optimizer, max_lr=rates, total_steps=40)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        if self.scheduler == "plateau":
            plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "score"}}
        return optimizer


class Watch(Callback):
    """Records the model at the start of each epoch and of each batch, and learning rates at the end of each batch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Tensor]] = []
        self.batches: list[dict[str, Tensor]] = []
        self.rates: list[list[float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(snapshot(pl_module))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(snapshot(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.rates.append([group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(snapshot(pl_module))
        self.batches.append(snapshot(pl_module))

    def changes(self, of: str = "epochs") -> list[set[str]]:
        seen = getattr(self, of)
        return [moved(before, after) for before, after in pairwise(seen)]


def fit(module: Any, *callbacks: Callback, ckpt_path: Any = None, **kwargs: Any) -> Any:
    trainer = quiet_trainer(callbacks=callbacks, **{"max_epochs": 5, **kwargs})
    trainer.fit(module, Batches(), Batches(seed=1), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kwargs", [{}, {"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 3}], ids=str)
def test_layers_thaw_from_the_end_to_the_front(optimizer, kwargs):
    module, watch = Trained(optimizer), Watch()
    trainer = fit(module, thawing(), watch, **kwargs)
    everything = set(snapshot(module))
    thawed = [LAST, LAST | THIRD, LAST | THIRD | SECOND, everything, everything]
    assert watch.changes() == thawed
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [8]
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.parametrize("order", [1, -1])
def test_manual_optimization(order):
    module, watch = TwoOptimizers(), Watch()
    phases: Any = [{"epoch": 1, "layers": ["*.conv2", "*.bn2"], "lr_factor": 0.5}]
    fit(module, *[LayerFreezing(layers=["*.conv*", "*.bn*"], phases=phases), watch][::order], max_epochs=3)
    everything = set(snapshot(module))
    first = {name for name in everything if name.startswith(("net.conv1", "net.bn1"))}
    head = {"net.fc.weight", "net.fc.bias"}
    assert watch.changes() == [head, everything - first, everything - first]


def test_layers_that_no_phase_thaws_have_no_backward_pass():
    got = []

    class Gradients(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            got.append({name for name, parameter in pl_module.named_parameters() if parameter.grad is not None})

    fit(Trained(), thawing(phases=[{"epoch": 1, "fraction": 0.5}]), Gradients(), max_epochs=2)
    # DDP decides at the start of training which gradients it synchronises
    assert got == [THIRD | LAST] * 2 * EPOCH


@pytest.mark.parametrize("scheduler", [None, "onecycle", "plateau"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_factors_train_like_parameter_groups_of_their_own(optimizer, scheduler):
    score = [3.0, 4.0, 2.0, 5.0, 6.0]
    ours, reference = Trained(optimizer, scheduler, score), Trained(optimizer, scheduler, score, (1, 0.1, 0.3, 1))
    reference.load_state_dict(ours.state_dict())
    start = snapshot(ours)
    watch, theirs, plain = Watch(), Watch(), Watch()
    # Adam amplifies rounding errors of small gradients
    fit(ours, thawing(), watch, precision="64-true")
    fit(reference, thawing(phases=[{**phase, "lr_factor": 1} for phase in PHASES]), theirs, precision="64-true")
    for name, value in snapshot(ours).items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-9, atol=1e-12)
    unscaled = Trained(optimizer, scheduler, score)
    unscaled.load_state_dict(start)
    fit(unscaled, thawing(phases=[{**phase, "lr_factor": 1} for phase in PHASES]), plain, precision="64-true")
    for name in SECOND | THIRD:
        assert (snapshot(ours)[name] - snapshot(unscaled)[name]).abs().max() > 1e-3
    # the learning rates of the optimizer are not touched
    assert watch.rates == plain.rates
    assert {len(rates) for rates in watch.rates} == {1}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
def test_a_run_that_was_resumed_after_thawing_is_not_frozen_again(tmp_path):
    # Lightning #21901: BackboneFinetuning leaves `requires_grad` false in such a run
    module = Trained("adam")
    start = deepcopy(module)
    files = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(module, thawing(), files, max_epochs=4)
    resumed, watch, flags = deepcopy(start), Watch(), []

    class Flags(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            flags.append(all(parameter.requires_grad for parameter in pl_module.parameters()))

    fit(resumed, thawing(), watch, Flags(), ckpt_path=tmp_path / "epoch=3.ckpt", max_epochs=6)
    assert watch.changes() == [set(snapshot(module))] * 2
    assert flags == [True] * 2 * EPOCH


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise KeyError("stop")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.gate
def test_a_resumed_run_is_bit_identical_from_any_step(tmp_path, optimizer):
    module = Trained(optimizer, "onecycle")
    start = deepcopy(module)
    files = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(module, thawing(), files, max_epochs=4)
    for step in range(1, 4 * EPOCH):
        resumed = deepcopy(start)
        again = fit(resumed, thawing(), ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=4)
        assert not moved(snapshot(module), snapshot(resumed)), step
        assert _equal(whole.optimizers[0], again.optimizers[0])


def _equal(a: Optimizer, b: Optimizer) -> bool:
    states = [optimizer.state_dict() for optimizer in (a, b)]
    values = [[value for entry in state["state"].values() for value in entry.values()] for state in states]
    same = [torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(*values, strict=True)]
    return bool(same) and all(same) and states[0]["param_groups"] == states[1]["param_groups"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
def test_a_run_that_is_interrupted_twice(tmp_path):
    # finetuning-scheduler #30: the second resume adds parameter groups that exist already
    module = Trained("adamw", "onecycle")
    start = deepcopy(module)
    fit(module, thawing(), max_epochs=4)
    path = None
    for number, step in enumerate((6, 11)):
        part = deepcopy(start)
        files = ModelCheckpoint(tmp_path / f"{number}", filename="last", every_n_train_steps=step - 1)
        with pytest.raises(KeyError):
            fit(part, thawing(), files, Interrupt(step), max_epochs=4, ckpt_path=path)
        assert all(parameter.requires_grad for parameter in part.parameters())
        path = tmp_path / f"{number}" / "last.ckpt"
    resumed = deepcopy(start)
    trainer = fit(resumed, thawing(), max_epochs=4, ckpt_path=path)
    assert not moved(snapshot(module), snapshot(resumed))
    assert len(trainer.optimizers[0].param_groups) == 1


# phases start before epochs 4 and 7, after two validations in a row that were not better than an earlier one
SCORES = [5.0, 4.0, 4.0, 4.5, 9.0, 9.0, nan, 1.0, 1.0]
PATIENT: Any = [
    {"patience": 2, "layers": "net.5", "lr_factor": 0.3},
    {"patience": 2, "fraction": 0.25, "lr_factor": 0.1},
    {"epoch": 8},
]
PATIENTLY = [*[LAST] * 4, *[LAST | THIRD] * 3, LAST | THIRD | SECOND, LAST | THIRD | SECOND | FIRST]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_phase_starts_early_if_the_metric_does_not_improve(mode):
    scores = SCORES if mode == "min" else [-value for value in SCORES]
    module, watch = Trained(metric=scores), Watch()
    fit(module, thawing(phases=PATIENT, monitor="score", mode=mode), watch, max_epochs=9)
    assert watch.changes() == PATIENTLY


def test_any_number_improves_a_metric_that_was_nan():
    module, watch = Trained(metric=[nan, nan, 1, 2, 3, 4, 5]), Watch()
    phases: Any = [{"patience": 2, "layers": "net.5"}]
    fit(module, thawing(phases=phases, monitor="score", mode="max"), watch, max_epochs=7)
    assert watch.changes() == [LAST] * 7


def test_a_phase_starts_at_its_epoch_if_the_metric_improves():
    module, watch = Trained(metric=range(9, 0, -1)), Watch()
    phases: Any = [{"patience": 1, "epoch": 2, "layers": "net.5"}, {"patience": 1, "layers": "net.3"}]
    fit(module, thawing(phases=phases, monitor="score"), watch)
    assert watch.changes() == [LAST] * 2 + [LAST | THIRD] * 3


def test_a_phase_starts_between_two_validations_of_an_epoch():
    module, watch = Trained(metric=[1, 2, 3, 4, 5, 6]), Watch()
    phases: Any = [{"patience": 2, "layers": "net.5"}]
    fit(module, thawing(phases=phases, monitor="score"), watch, max_epochs=3, val_check_interval=0.5)
    # the first value is the best, so the third validation starts the phase, after the sixth batch
    assert watch.changes("batches") == [LAST] * 6 + [LAST | THIRD] * 6


def test_a_metric_of_training_without_validation():
    class Logs(Trained):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("score", [1.0, 2.0, 3.0, 0.0][self.current_epoch], on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    module, watch = Logs(), Watch()
    phases: Any = [{"patience": 2, "layers": "net.5"}]
    callbacks = [thawing(phases=phases, monitor="score"), watch]
    quiet_trainer(callbacks=callbacks, max_epochs=4, limit_val_batches=0).fit(module, Batches(), Batches(seed=1))
    assert watch.changes() == [LAST] * 3 + [LAST | THIRD]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
@pytest.mark.gate
def test_a_run_with_early_phases_resumes_bit_identically(tmp_path):
    # Lightning does not update ReduceLROnPlateau at the end of the epoch in which it resumes
    module = Trained("adam", "onecycle", SCORES)
    start = deepcopy(module)

    def patiently() -> LayerFreezing:
        return thawing(phases=PATIENT, monitor="score")

    steps = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    epochs = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="score", save_top_k=-1)
    fit(module, patiently(), steps, epochs, max_epochs=9)
    # a run that resumes from a checkpoint of an epoch's last batch does not validate that epoch
    middle = [tmp_path / f"step={step}.ckpt" for step in range(9 * EPOCH) if step % EPOCH in (1, 3)]
    for path in [*middle, *(tmp_path / f"epoch={epoch}.ckpt" for epoch in range(8))]:
        resumed = deepcopy(start)
        fit(resumed, patiently(), ckpt_path=path, max_epochs=9)
        assert not moved(snapshot(module), snapshot(resumed)), path


def test_a_second_fit_continues_and_another_model_starts_over():
    callback, watch = thawing(phases=PATIENT, monitor="score"), Watch()
    module = Trained(metric=SCORES)
    trainer = quiet_trainer(callbacks=[callback, watch], max_epochs=5)
    trainer.fit(module, Batches(), Batches(seed=1))
    trainer.fit_loop.max_epochs = 9
    trainer.fit(module, Batches(), Batches(seed=1))
    del watch.epochs[5]  # seen at the end of the first `fit`
    assert watch.changes() == PATIENTLY
    other, seen = Trained(metric=SCORES), Watch()
    fit(other, callback, seen, max_epochs=2)
    assert seen.changes() == [LAST] * 2


def test_a_checkpoint_lists_the_modules_that_are_frozen_in_its_phase(tmp_path):
    files = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(Trained(), thawing(), files, max_epochs=4)
    found = [torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True) for epoch in range(4)]
    listed = [content["lit_prune_frozen"] for content in found]
    assert listed == [["net.1", "net.3", "net.5"], ["net.1", "net.3"], ["net.1"], []]
    # Lightning warns about states of callbacks that a Trainer does not have
    assert not any("LayerFreezing" in key for content in found for key in content["callbacks"])


def test_containers_are_in_training_mode_while_a_part_of_them_trains():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(192, 8), nn.Linear(8, 4)
            self.modes: list[bool] = []

        def forward(self, images: Tensor) -> Tensor:
            self.modes.append(self.training)
            logits: Tensor = self.second(self.first(images.flatten(1)))
            return logits

    block = Block()
    module = Classifier(nn.Sequential(block, nn.Linear(4, 4)))
    phases: Any = [{"epoch": 1, "layers": "net.0.second"}, {"epoch": 2}]
    fit(module, LayerFreezing(layers="net.0", phases=phases), max_epochs=3, limit_val_batches=0)
    assert block.modes == [False] * EPOCH + [True] * 2 * EPOCH


CONFIG = """
callbacks:
- class_path: lit_prune.callbacks.LayerFreezing
  init_args:
    fraction: 0.75
    monitor: val_loss
    phases:
    - {epoch: 3, layers: [net.5], lr_factor: 0.1}
    - {epoch: 6, fraction: 0.2, patience: 2}
    - epoch: 9
"""


def test_phases_in_a_configuration_file(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--callbacks", type=list[Callback])
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    for _ in range(2):
        config = parser.parse_args([f"--config={path}"])
        (callback,) = parser.instantiate(config).callbacks
        assert callback.phases == [
            {"epoch": 3, "layers": ["net.5"], "lr_factor": 0.1},
            {"epoch": 6, "fraction": 0.2, "patience": 2},
            {"epoch": 9},
        ]
        path.write_text(parser.dump(config))  # as Lightning saves it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": []}, "`phases` to be a list of dictionaries, but got []"),
        ({"phases": {"epoch": 1}}, "`phases` to be a list of dictionaries, but got {'epoch': 1}"),
        ({"phases": [3]}, "`phases` to be a list of dictionaries, but got [3]"),
        ({"phases": [{}]}, "`phases[0].epoch` to be a non-negative integer, but got None"),
        ({"phases": [{"epoch": -1}]}, "`phases[0].epoch` to be a non-negative integer, but got -1"),
        ({"phases": [{"epoch": 2}, {"epoch": 2}]}, "`phases[1].epoch` to be larger than 2"),
        ({"phases": [{"epochs": 2}]}, "`phases[0]` to have no other keys than epoch, layers, fraction, lr_factor, "),
        ({"phases": [{"epochs": 2}]}, "but got `epochs`. HINT: did you mean `epoch`."),
        ({"phases": [{"epoch": 2, "fraction": 0}]}, "`fraction` in (0, 1], but got 0"),
        ({"phases": [{"epoch": 2, "fraction": 0.1, "layers": "a"}]}, "exactly one of `fraction` and `layers`"),
        ({"phases": [{"epoch": 2, "layers": ""}]}, "`layers` to name layers, but got an empty name"),
        *(
            ({"phases": [{"epoch": 2, "lr_factor": bad}]}, "`phases[0].lr_factor` to be a positive number, but got")
            for bad in (0, -1, inf, nan, True, "x")
        ),
        ({"phases": [{"patience": 2}]}, "a `monitor` for phases with `patience`, but got none"),
        ({"phases": [{"patience": 0}], "monitor": "a"}, "`phases[0].patience` to be a positive integer, but got 0"),
        ({"phases": [{"epoch": 2}], "monitor": "a"}, "a phase with `patience`, as `monitor` is set, but got none"),
        ({"phases": None, "monitor": "a"}, "`phases` to be a list of dictionaries, but got None"),
        ({"unfreeze_epoch": 3}, "`unfreeze_epoch` or `phases`, but got both"),
        ({"mode": "lowest"}, "`mode` to be one of 'min', 'max', but got 'lowest'"),
    ],
)
def test_bad_phases_are_refused_at_construction(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        thawing(**arguments)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"epoch": 1, "layers": "net.9"}], "`layers` to match a module, but got `net.9`, which matches none"),
        ([{"epoch": 1, "layers": "net.7"}], "every phase to thaw modules that are frozen, but got one with `layers`"),
        ([{"epoch": 1, "fraction": 0.75}], "but got one with `fraction` 0.75, which thaws none. HINT: "),
        ([{"epoch": 1, "fraction": 0.5}, {"epoch": 2, "layers": "net.5"}], "`layers` ['net.5'], which thaws none"),
    ],
)
def test_phases_that_thaw_nothing_are_refused_before_training(phases, message):
    module = Trained()
    before = snapshot(module)
    with pytest.raises(InputError, match=re.escape(message)):
        fit(module, thawing(phases=phases))
    assert not moved(before, snapshot(module))
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_metric_that_is_not_logged_is_refused_after_the_first_validation():
    phases: Any = [{"patience": 1}]
    with pytest.raises(
        InputError, match=r"`monitor` to be a logged metric, but got 'loss'\. HINT: log .*: `val_loss`\."
    ):
        fit(Trained(), thawing(phases=phases, monitor="loss"))


class Ranked(Trained):
    """A model whose data and metric differ between processes."""

    def train_dataloader(self) -> Batches:
        return Batches(seed=self.trainer.global_rank)

    def val_dataloader(self) -> Batches:
        return Batches(seed=2)

    def on_validation_epoch_end(self) -> None:
        # 2 and 0, 1 and 1, 0 and 2, ...: the mean never improves, one of the values does
        rank = self.trainer.global_rank
        self.log("score", float(self.current_epoch if rank else 2 - self.current_epoch), sync_dist=False)


class ReplicasAgree(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        all_of_them = [torch.empty_like(mine) for _ in range(2)]
        torch.distributed.all_gather(all_of_them, mine)
        assert torch.equal(*all_of_them)


DDP: dict[str, Any] = {
    "epochs": {"phases": PHASES},
    "early": {
        "phases": [
            {"patience": 1, "layers": "net.5", "lr_factor": 0.5},
            {"patience": 1, "epoch": 4, "layers": "net.3"},
        ],
        "monitor": "score",
    },
}


def _train_in_two_processes(rank: int, folder: Path, strategy: str) -> None:
    for case, arguments in DDP.items():
        torch.manual_seed(0)
        module, watch = Ranked("adam"), Watch()
        callbacks = [thawing(**arguments), ReplicasAgree(), watch]
        quiet_trainer(strategy=strategy, devices=2, max_epochs=5, callbacks=callbacks).fit(module)
        torch.save((watch.changes(), snapshot(module)), folder / f"{case}-{rank}.pt")


class Halves:
    """A loader of the batches of both processes, joined."""

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for both in zip(Batches(seed=0), Batches(seed=1), strict=True):
            yield tuple(torch.cat(parts) for parts in zip(*both, strict=True))


@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    # Lightning #20340: gradients of layers that BackboneFinetuning has unfrozen are not synchronised
    run_ddp(_train_in_two_processes, tmp_path, "ddp")
    expected = {
        "epochs": [LAST, LAST | THIRD, LAST | THIRD | SECOND, *[LAST | THIRD | SECOND | FIRST] * 2],
        "early": [*[LAST] * 2, *[LAST | THIRD] * 2, LAST | THIRD | SECOND],
    }
    for case, arguments in DDP.items():
        (changes, ours), (theirs, other) = (torch.load(tmp_path / f"{case}-{rank}.pt") for rank in range(2))
        assert changes == theirs == expected[case]
        assert not moved(ours, other)
        torch.manual_seed(0)
        module = Trained("adam", metric=[1.0] * 5)
        quiet_trainer(callbacks=thawing(**arguments), max_epochs=5).fit(module, Halves(), Batches(seed=2))
        torch.testing.assert_close(ours, snapshot(module), rtol=0, atol=2e-6)
