import re
from collections import OrderedDict
from copy import deepcopy
from math import nan
from operator import attrgetter
from threading import Lock
from typing import Any

import pytest
import pytorch_lightning
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import distributed, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lit_prune.callbacks import LayerFreezing
from lit_prune.errors import InputError
from tests.callbacks.models import (
    OPTIMIZERS,
    Batches,
    Classifier,
    MisleadingNames,
    Tied,
    Transformer,
    TwoOptimizers,
    conv_net,
    mlp,
    moved,
    quiet_trainer,
    snapshot,
)
from tests.processes import run_ddp

FROZEN = {
    "net.conv1.weight",
    "net.bn1.weight",
    "net.bn1.bias",
    "net.bn1.running_mean",
    "net.bn1.running_var",
    "net.bn1.num_batches_tracked",
}


class Snapshots(Callback):
    """Copies the module at the start of each epoch and at the end of training."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.seen.append(snapshot(pl_module))

    def on_train_end(self, trainer, pl_module) -> None:
        self.seen.append(snapshot(pl_module))


class Meddler(Callback):
    """A model that changes modes and gradients, as users do."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        pl_module.eval()
        pl_module.train()

    def on_after_backward(self, trainer, pl_module) -> None:
        for parameter in pl_module.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def part(module: Classifier, name: str) -> Any:
    """Return a submodule or parameter of the network."""
    assert module.net is not None
    return attrgetter(name)(module.net)


def untouched(module: nn.Module) -> bool:
    return all(
        module.training and not module._forward_hooks and not module._forward_pre_hooks for module in module.modules()
    ) and all(parameter.requires_grad for parameter in module.parameters())


def fit_and_watch(module: LightningModule, *callbacks: Callback, **kwargs) -> list[set[str]]:
    """Return the names of the tensors that changed in each epoch."""
    watch = Snapshots()
    quiet_trainer(callbacks=[*callbacks, watch], **kwargs).fit(module, Batches(), Batches(seed=1))
    return [moved(before, after) for before, after in zip(watch.seen, watch.seen[1:], strict=False)]


@pytest.mark.parametrize("unfreeze_epoch", [None, 5])
@pytest.mark.parametrize("kwargs", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_tensors_stay_and_all_others_change(optimizer, kwargs, unfreeze_epoch):
    module = Classifier(conv_net(), optimizer)
    everything = set(snapshot(module))
    epochs = fit_and_watch(module, Meddler(), LayerFreezing(0.3, unfreeze_epoch=unfreeze_epoch), **kwargs)
    assert epochs == [everything - FROZEN] * 2
    assert untouched(module)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("module", [lambda: Classifier(conv_net()), TwoOptimizers], ids=["automatic", "manual"])
def test_everything_trains_after_unfreezing(module, order):
    module = module()
    everything = set(snapshot(module))
    callbacks = [LayerFreezing(0.3, unfreeze_epoch=1), Meddler()][::order]
    assert fit_and_watch(module, *callbacks, max_epochs=3) == [everything - FROZEN, everything, everything]
    assert untouched(module)


def test_unfreezing_at_epoch_0_freezes_nothing():
    modules = [Classifier(conv_net())]
    modules.append(deepcopy(modules[0]))
    for module, callbacks in zip(modules, ([], [LayerFreezing(0.3, unfreeze_epoch=0)]), strict=True):
        torch.manual_seed(0)
        fit_and_watch(module, *callbacks)
    assert not moved(*map(snapshot, modules))


def test_gradients_that_manual_optimization_uses_itself():
    norms = []

    class ByHand(Classifier):
        def __init__(self) -> None:
            super().__init__(conv_net())
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            with torch.no_grad():
                for value in self.parameters():  # steps without the optimizer
                    if value.grad is not None:
                        value -= 0.1 * value.grad  # type: ignore[misc]
            self.clip_gradients(optimizer, 0.01, "norm")
            norms.append(torch.cat([v.grad.flatten() for v in self.parameters() if v.grad is not None]).norm().item())
            optimizer.step()

    module = ByHand()
    everything = set(snapshot(module))
    epochs = fit_and_watch(module, LayerFreezing(0.3, unfreeze_epoch=1))
    assert epochs == [everything - FROZEN, everything]
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-4)


def test_raw_optimizers_in_manual_optimization():
    class Raw(TwoOptimizers):
        def optimizers(self, use_pl_optimizer: bool = True):
            return super().optimizers(use_pl_optimizer=False)

    module = Raw()
    everything = set(snapshot(module))
    epochs = fit_and_watch(module, LayerFreezing(0.3, unfreeze_epoch=1))
    assert epochs == [everything - FROZEN, everything]


@pytest.mark.parametrize(
    ("net", "arguments", "frozen"),
    [
        (conv_net, {"fraction": 0.3, "freeze_norm": False}, {"conv1.weight"}),
        (conv_net, {"layers": "net.conv2"}, {"conv2.weight", "conv2.bias"}),
        (conv_net, {"layers": ["*.fc", "*.bn2"]}, {"fc.*", "bn2.*"}),
        (conv_net, {"fraction": 0.6, "by": "parameters"}, {"conv*", "bn*"}),
        (Transformer, {"layers": "net.layer"}, {"layer.*"}),
        (Transformer, {"fraction": 0.1}, {"embed.*"}),
        (Transformer, {"fraction": 0.2}, {"embed.*", "layer.self_attn.in_proj.*"}),
        (Tied, {"fraction": 0.5}, {"encode.*", "decode.*"}),
        (MisleadingNames, {"fraction": 0.5}, {"roi_mask_conv.*", "causal_mask"}),
    ],
)
def test_arguments_choose_the_frozen_layers(net, arguments, frozen):
    module = Classifier(net())
    everything = set(snapshot(module))
    stays = {name for name in everything if any(_match(name, p) for p in frozen)}
    assert fit_and_watch(module, LayerFreezing(**arguments)) == [everything - stays] * 2


def _match(name: str, pattern: str) -> bool:
    return re.fullmatch("net." + pattern.replace("*", ".*"), name) is not None


def test_permanently_frozen_layers_have_no_backward_pass():
    steps = []

    class Gradients(Callback):
        def on_after_backward(self, trainer, pl_module) -> None:
            got = {name for name, parameter in pl_module.named_parameters() if parameter.grad is not None}
            assert got == {name for name, _ in pl_module.named_parameters()} - FROZEN
            steps.append(trainer.global_step)

    fit_and_watch(Classifier(conv_net()), LayerFreezing(0.3), Gradients())
    assert steps == list(range(8))


def test_gradient_clipping_ignores_frozen_parameters():
    runs = []
    for unfreeze_epoch in (None, 9):
        torch.manual_seed(0)
        module = Classifier(conv_net())
        fit_and_watch(module, LayerFreezing(0.3, unfreeze_epoch=unfreeze_epoch), gradient_clip_val=0.05)
        runs.append(snapshot(module))
    assert not moved(*runs)


@pytest.mark.parametrize("scheduler", ["lambda", "onecycle"])
def test_parameter_groups_and_schedules_survive_unfreezing(scheduler):
    rates: list[list[float]] = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            assert len(trainer.optimizers[0].param_groups) == 1
            rates[-1].append(trainer.optimizers[0].param_groups[0]["lr"])

    for callbacks in ([], [LayerFreezing(0.3, unfreeze_epoch=1)]):
        rates.append([])
        fit_and_watch(Classifier(conv_net(), scheduler=scheduler), *callbacks, Rates())
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 8


def test_an_optimizer_of_trainable_parameters_only():
    class Filtered(Classifier):
        def configure_optimizers(self):
            return OPTIMIZERS["sgd"](p for p in self.parameters() if p.requires_grad)

    module = Filtered(conv_net())
    everything = set(snapshot(module))
    assert fit_and_watch(module, LayerFreezing(0.3)) == [everything - FROZEN] * 2
    module = Filtered(conv_net())
    assert fit_and_watch(module, LayerFreezing(0.3, unfreeze_epoch=1)) == [everything - FROZEN, everything]


class InSetup(Classifier):
    def setup(self, stage: str) -> None:
        if self.net is None:
            self.net = conv_net()


@pytest.mark.parametrize(
    "module", [lambda: Classifier(net_in_hook=conv_net), InSetup], ids=["configure_model", "setup"]
)
@pytest.mark.parametrize("unfreeze_epoch", [None, 1])
def test_layers_created_in_hooks(module, unfreeze_epoch):
    module = module()
    asked = []

    class Asks(Callback):
        def on_fit_start(self, trainer, pl_module) -> None:
            (group,) = trainer.optimizers[0].param_groups
            asked.append([parameter.requires_grad for parameter in group["params"]])

    epochs = fit_and_watch(module, Asks(), LayerFreezing(0.3, unfreeze_epoch=unfreeze_epoch))
    everything = set(snapshot(module))
    assert epochs == [everything - FROZEN, everything if unfreeze_epoch else everything - FROZEN]
    assert asked == [[unfreeze_epoch is not None] * 3 + [True] * 6], "before DDP and optimizers look"
    assert not {"setup", "configure_model"} & vars(module).keys()


def test_a_module_can_be_copied_before_its_hooks_run():
    """Averages are copies that are made in `setup`; they must not copy the trainer with its data."""

    class Copies(Callback):
        def setup(self, trainer, pl_module, stage: str) -> None:
            trainer.lock = Lock()  # cannot be copied
            copied = deepcopy(pl_module)
            assert not {id(trainer), id(pl_module)} & set(map(id, vars(copied).values()))

    fit_and_watch(InSetup(conv_net()), LayerFreezing(0.3), Copies())


class StopAt(Callback):
    """Raises an error after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise KeyError("crash")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
@pytest.mark.parametrize("step", [2, 4, 6, 8, 10])  # an epoch has 4: in the middle of one, and at its last batch
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_bit_identical(tmp_path, optimizer, step):
    net = conv_net()
    net.drop = nn.Identity()  # the state of the random generator is not in a checkpoint
    module = Classifier(net, optimizer, scheduler="onecycle")
    start = deepcopy(module)

    def fit(module, *callbacks, **kwargs) -> None:
        trainer = quiet_trainer(max_epochs=3, callbacks=[LayerFreezing(0.3, unfreeze_epoch=1), *callbacks])
        trainer.fit(module, Batches(), Batches(seed=1), **kwargs)

    fit(module)
    files = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    crashing = deepcopy(start)
    with pytest.raises(KeyError, match="crash"):
        fit(crashing, files, StopAt(step))
    assert untouched(crashing)
    for resumed in (deepcopy(start), crashing):  # in another process, in the same one
        fit(resumed, ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
        assert not moved(snapshot(module), snapshot(resumed))
    assert moved(snapshot(start), snapshot(resumed)) == set(snapshot(start))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
def test_a_run_resumed_after_an_epochs_validation(tmp_path):
    whole = Classifier(mlp())
    start, module = deepcopy(whole), deepcopy(whole)
    quiet_trainer(max_epochs=4, callbacks=LayerFreezing(0.3, unfreeze_epoch=2)).fit(whole, Batches(), Batches(seed=1))
    files = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="val_loss", save_top_k=-1)
    quiet_trainer(max_epochs=3, callbacks=[LayerFreezing(0.3, unfreeze_epoch=2), files]).fit(
        module, Batches(), Batches(seed=1)
    )
    for epoch in range(3):
        resumed = deepcopy(start)
        quiet_trainer(max_epochs=4, callbacks=LayerFreezing(0.3, unfreeze_epoch=2)).fit(
            resumed, Batches(), Batches(seed=1), ckpt_path=tmp_path / f"epoch={epoch}.ckpt", weights_only=True
        )
        assert not moved(snapshot(whole), snapshot(resumed))


@pytest.mark.parametrize(("unfreeze_epoch", "later"), [(None, {"conv1", "bn1", "drop", "fc"}), (1, {"fc"})])
def test_a_checkpoint_lists_frozen_modules(tmp_path, unfreeze_epoch, later):
    module = Classifier(conv_net())
    files = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    freezings = [LayerFreezing(0.3, unfreeze_epoch=unfreeze_epoch), LayerFreezing(layers="net.fc")]
    trainer = quiet_trainer(max_epochs=2, callbacks=[*freezings, files])
    trainer.fit(module, Batches(), Batches(seed=1))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    paths = [tmp_path / name for name in ("epoch=0.ckpt", "epoch=1.ckpt", "end.ckpt")]
    found = [torch.load(path, weights_only=True) for path in paths]
    noted = [{name.removeprefix("net.") for name in content["lit_prune_frozen"]} for content in found]
    assert noted == [{"conv1", "bn1", "drop", "fc"}, later, later]
    assert not any("LayerFreezing" in key for content in found for key in content["callbacks"])


@pytest.mark.parametrize("method", ["validate", "test"])
def test_evaluation_changes_nothing(method):
    module = Classifier(conv_net())
    before = snapshot(module)
    evaluate = getattr(quiet_trainer(callbacks=LayerFreezing(0.3)), method)
    evaluate(module, Batches(), verbose=False)
    assert not moved(before, snapshot(module))
    assert untouched(module)


def test_evaluation_between_two_fits_of_one_trainer():
    module = Classifier(conv_net())
    freezing, watch = LayerFreezing(0.3, unfreeze_epoch=1), Snapshots()
    trainer = quiet_trainer(callbacks=[freezing, watch], max_epochs=1)
    everything = set(snapshot(module))
    for _ in range(2):
        trainer.fit(module, Batches(), Batches(seed=1))
        trainer.validate(module, Batches(), verbose=False)
        trainer.fit_loop.max_epochs = 2
    start, middle, again, end = watch.seen
    assert moved(start, middle) == everything - FROZEN
    assert not moved(middle, again)
    assert moved(again, end) == everything


def test_one_callback_for_two_models_in_turn():
    freezing = LayerFreezing(0.3)
    for module in (Classifier(conv_net()), Classifier(mlp()), TwoOptimizers()):
        before = snapshot(module)
        fit_and_watch(module, freezing)
        first = next(name for name in before if name.endswith("weight"))
        assert first not in moved(before, snapshot(module))
        assert untouched(module)
        fit_and_watch(module)
        assert moved(before, snapshot(module)) == before.keys()


def test_several_freezes_end_one_by_one():
    module = Classifier(mlp())
    callbacks = [LayerFreezing(layers=f"net.{i}", unfreeze_epoch=epoch) for i, epoch in ((1, 2), (3, 1))]
    assert len({callback.state_key for callback in callbacks}) == 2
    first, second = ({f"net.{i}.weight", f"net.{i}.bias"} for i in (1, 3))
    everything = set(snapshot(module))
    epochs = fit_and_watch(module, *callbacks, LayerFreezing(layers="net.1", unfreeze_epoch=1), max_epochs=3)
    assert epochs == [everything - first - second, everything - first, everything]


def test_parameters_frozen_by_the_user_stay_frozen():
    module = Classifier(conv_net())
    part(module, "conv1.weight").requires_grad_(False)
    part(module, "fc.bias").requires_grad_(False)
    everything = set(snapshot(module))
    users = {"net.conv1.weight", "net.fc.bias"}
    epochs = fit_and_watch(module, LayerFreezing(0.3, unfreeze_epoch=1))
    assert epochs == [everything - FROZEN - users, everything - users]
    fit_and_watch(module, LayerFreezing(0.3))
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == users


def test_norms_with_equal_values_are_different_modules():
    module = Classifier(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(3, 6, 3, bias=False),
                bn1=nn.BatchNorm2d(6),
                conv2=nn.Conv2d(6, 6, 3),
                bn2=nn.BatchNorm2d(6),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(6, 4),
            )
        )
    )
    everything = set(snapshot(module))
    epochs = fit_and_watch(module, LayerFreezing(0.3, unfreeze_epoch=1))
    assert epochs == [everything - FROZEN, everything]


def test_modules_that_a_strategy_replaces():
    class Synchronises(Callback):
        def on_fit_start(self, trainer, pl_module) -> None:
            pl_module.net = nn.SyncBatchNorm.convert_sync_batchnorm(pl_module.net)

    module = Classifier(conv_net())
    everything = set(snapshot(module))
    assert fit_and_watch(module, Synchronises(), LayerFreezing(0.3)) == [everything - FROZEN] * 2
    assert isinstance(part(module, "bn1"), nn.SyncBatchNorm)
    assert untouched(module)


def test_a_frozen_model_can_be_copied_during_training():
    copies = []

    class Copies(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            copies.append(deepcopy(pl_module.net))

    fit_and_watch(Classifier(conv_net()), LayerFreezing(0.3), Copies())
    before = snapshot(copies[-1])
    copies[-1](torch.randn(4, 3, 8, 8))
    assert {f"net.{name}" for name in moved(before, snapshot(copies[-1]))}.isdisjoint(FROZEN)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")
@pytest.mark.parametrize("order", [1, -1])
def test_weight_averaging_keeps_frozen_tensors(order):
    module = Classifier(conv_net())
    before = snapshot(module)
    averaging = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.9))
    quiet_trainer(callbacks=[averaging, LayerFreezing(0.3)][::order]).fit(module, Batches(), Batches(seed=1))
    assert moved(before, snapshot(module)) == before.keys() - FROZEN
    assert untouched(module)


def test_stochastic_weight_averaging_is_refused_with_frozen_norms():
    module = Classifier(conv_net())
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    with pytest.raises(InputError, match="no StochasticWeightAveraging together with frozen batch norms"):
        fit_and_watch(module, averaging, LayerFreezing(0.3))
    assert untouched(module)
    weight = part(module, "conv1.weight").detach().clone()
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    fit_and_watch(module, averaging, LayerFreezing(0.3, freeze_norm=False))
    assert torch.equal(weight, part(module, "conv1.weight"))


def test_a_trainer_of_pytorch_lightning():
    class Deep(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(32, 32)

        def forward(self, x):
            return self.layer(self.body(x))

    module = Deep()
    before = snapshot(module)
    pytorch_lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LayerFreezing(0.5)],  # type: ignore[list-item]
    ).fit(module, torch.randn(3, 2, 32))
    assert moved(before, snapshot(module)) == {"body.weight", "body.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"fraction": bad}, f"`fraction` in (0, 1], but got {bad}. ") for bad in (0, 2, nan, "a")),
        ({}, "exactly one of `fraction` and `layers`, but got neither"),
        ({"fraction": 0.3, "layers": "*"}, "exactly one of `fraction` and `layers`, but got both"),
        ({"fraction": 0.3, "by": "x"}, "`by` to be one of 'layers', 'parameters', but got 'x'"),
        ({"fraction": 0.3, "unfreeze_epoch": -1}, "`unfreeze_epoch` to be a non-negative integer, but got -1"),
        ({"fraction": 0.3, "unfreeze_epoch": True}, "`unfreeze_epoch` to be a non-negative integer, but got True"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        LayerFreezing(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "net.conv3"}, "to match a module, but got `net.conv3`, which matches none"),
        ({"layers": "net"}, "at least one parameter to train, but got every parameter of Classifier frozen"),
    ],
)
def test_bad_choices_are_refused_before_training(arguments, message):
    module = Classifier(conv_net())
    before = snapshot(module)
    with pytest.raises(InputError, match=re.escape(message)):
        fit_and_watch(module, LayerFreezing(**arguments))
    assert not moved(before, snapshot(module))
    assert untouched(module)


def test_a_whole_model_may_be_frozen_until_an_epoch():
    module = Classifier(conv_net())
    everything = set(snapshot(module))
    assert fit_and_watch(module, LayerFreezing(layers="net", unfreeze_epoch=1)) == [set(), everything]


def test_strategies_that_shard_parameters_are_refused():
    trainer = quiet_trainer()
    trainer.strategy.__class__ = FSDPStrategy
    with pytest.raises(InputError, match="a strategy that LayerFreezing supports, but got FSDPStrategy"):
        LayerFreezing(0.3).setup(trainer, Classifier(conv_net()), "fit")


class Ranked(Classifier):
    """A model whose data differ between processes; one process can compute the mean gradient."""

    def train_dataloader(self) -> Batches:
        return Batches(seed=self.trainer.global_rank)

    def val_dataloader(self) -> Batches:
        return Batches(seed=2)


class ReplicasAgree(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        all_of_them = [torch.empty_like(mine) for _ in range(2)]
        distributed.all_gather(all_of_them, mine)
        assert torch.equal(*all_of_them)


def _ddp_worker(rank: int, path: str) -> None:
    results = {}
    for unfreeze_epoch in (1, None):
        torch.manual_seed(0)
        module = Ranked(net_in_hook=mlp)
        freezing = LayerFreezing(0.5, unfreeze_epoch=unfreeze_epoch)
        quiet_trainer(strategy="ddp", devices=2, callbacks=[freezing, ReplicasAgree()]).fit(module)
        results[unfreeze_epoch] = snapshot(module)
    if rank == 0:
        torch.save(results, path)


class Halves:
    """A model that trains on the batches of both processes, joined."""

    def __len__(self) -> int:
        return len(Batches())

    def __iter__(self):
        for both in zip(Batches(seed=0), Batches(seed=1), strict=True):
            yield tuple(torch.cat(parts) for parts in zip(*both, strict=True))


@pytest.mark.gate
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    run_ddp(_ddp_worker, str(tmp_path / "results.pt"))
    results = torch.load(tmp_path / "results.pt")

    starts = []
    for unfreeze_epoch in (1, None):
        torch.manual_seed(0)
        module = Classifier(mlp())
        starts.append(snapshot(module))
        freezing = LayerFreezing(0.5, unfreeze_epoch=unfreeze_epoch)
        quiet_trainer(callbacks=freezing).fit(module, Halves(), Batches(seed=2))
        torch.testing.assert_close(results[unfreeze_epoch], snapshot(module), rtol=0, atol=1e-6)
    frozen = {"net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias"}
    assert moved(starts[0], results[1]) == starts[0].keys()
    assert moved(starts[1], results[None]) == starts[1].keys() - frozen
