"""A compiled network trains like any other, and nothing that is saved or copied shows that it was compiled."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lit_prune import CIFAR10DataModule, GlobalL1Pruning, LayerFreezing, LitResNet18, PruningRemoval, SparsityMonitor
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from lit_prune.study.run.options import parse
from lit_prune.training.callbacks import CompiledTraining
from tests.training.conftest import NARROW, TINY, Run
from tests.training.small import SmallNet

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Counting(CompiledTraining):
    """Compiles without a compiler, and counts the batches that the compiled code computes, by mode."""

    def __init__(self) -> None:
        super().__init__(backend=self._compile)  # type: ignore[arg-type]
        self.calls: list[bool] = []

    def _compile(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls.append(torch.is_grad_enabled())
            return graph.forward(*args)

        return call


class Inner(SmallNet):
    """A module whose steps do not call the module itself."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.net = nn.ModuleList([nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net[0](batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.net[0](batch[0])


def narrow() -> LitResNet18:
    return LitResNet18(channels=dict.fromkeys(FULL_CHANNELS, 8))


def everything() -> list[Callback]:
    return [
        LayerFreezing(fraction=0.3, unfreeze_epoch=1),
        GlobalL1Pruning(0.5, start_epoch=1, end_epoch=2),
        PruningRemoval(epoch=3),
        SparsityMonitor(),
    ]


def fit(
    make: Callable[[], LightningModule], *callbacks: Callback, ckpt_path: Path | None = None, **options: Any
) -> LightningModule:
    seed_everything(0, verbose=False)
    torch.compiler.reset()
    module = make()
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings = {"accelerator": "cpu", "max_epochs": 4, "enable_checkpointing": saves, **QUIET, **options}
    trainer = Trainer(callbacks=list(callbacks), **settings)
    data = CIFAR10DataModule(source="synthetic", limit_train=40, val_size=20, batch_size=8, seed=1)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.parametrize("make", [narrow, SmallNet, Inner])
@pytest.mark.gate
def test_the_network_is_compiled_in_training_steps_alone(make: Callable[[], LightningModule]) -> None:
    counting = Counting()
    module = fit(make, counting, max_epochs=2)
    assert counting.calls == [True] * 10  # one graph a batch; two epochs of five
    assert all(inner._compiled_call_impl is None for inner in module.modules())
    batches = len(counting.calls)
    assert module.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert len(counting.calls) == batches


@pytest.mark.parametrize("make", [SmallNet, pytest.param(narrow, marks=pytest.mark.slow)])
def test_freezing_pruning_and_removal_do_the_same(make: Callable[[], LightningModule]) -> None:
    # in float64, because training amplifies differences of rounding
    plain = fit(make, *everything(), precision="64-true")
    compiled = fit(make, *everything(), CompiledTraining(backend="aot_eager"), precision="64-true")
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name)
    reports = [sparsity_report(weight_layers(module)) for module in (plain, compiled)]
    assert reports[0].sparsity == reports[1].sparsity > 0


def test_frozen_layers_stay_and_the_others_move() -> None:
    seed_everything(0, verbose=False)
    start = SmallNet().state_dict()
    module = fit(SmallNet, LayerFreezing(fraction=0.3), CompiledTraining(backend="aot_eager"), max_epochs=1)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {"second.weight", "second.bias", "head.weight", "head.bias"}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.gate
def test_checkpoints_are_plain_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    def run(**options: Any) -> LightningModule:
        saved = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
        return fit(SmallNet, *everything()[:3], CompiledTraining(backend="aot_eager"), saved, **options)

    whole = run()
    path = tmp_path / "step=12.ckpt"  # in the middle of an epoch
    assert torch.load(path, weights_only=True)["state_dict"].keys() == SmallNet().state_dict().keys()
    resumed = run(ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_averages_and_copies_of_a_compiled_network_are_plain() -> None:
    class Copying(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert pl_module._compiled_call_impl is not None
            self.copied = deepcopy(pl_module)

    copying = Copying()
    both = [
        fit(SmallNet, WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.5)), *last, max_epochs=2)
        for last in ([], [copying, CompiledTraining(backend="eager")])
    ]
    assert all(module._compiled_call_impl is None for module in copying.copied.modules())
    images = torch.randn(2, 3, 32, 32)
    torch.nn.init.zeros_(copying.copied.get_parameter("head.weight"))  # the copy computes with its own weights
    assert len(set(copying.copied.eval()(images).argmax(1).tolist())) == 1
    for name, value in both[0].state_dict().items():
        torch.testing.assert_close(both[1].state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_failed_training_leaves_the_network_as_it_was() -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ZeroDivisionError

    module = SmallNet()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        enable_checkpointing=False,
        callbacks=[CompiledTraining(backend="eager"), Fails()],
        **QUIET,
    )
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, CIFAR10DataModule(source="synthetic", limit_train=8, val_size=20, batch_size=8))
    assert all(inner._compiled_call_impl is None for inner in module.modules())


@pytest.mark.parametrize(
    ("option", "mode"),
    [([], None), (["--compile"], "default"), (["--compile=true"], "default"), (["--compile=max-autotune"],) * 2],
    ids=["off", "on", "true", "mode"],
)
def test_the_option_compiles_with_a_mode_that_suits_the_device(
    run: Run, monkeypatch: pytest.MonkeyPatch, option: list[str], mode: Any
) -> None:
    modes = []

    def compile_nothing(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        modes.append(options["mode"])
        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    answer = run("fit", *TINY, NARROW, "--trainer.max_epochs=1", *option)
    assert answer.status == 0, answer.err
    assert set(modes) == ({mode if isinstance(mode, str) else "max-autotune"} if mode else set())


def test_an_unknown_mode_is_refused(run: Run) -> None:
    answer = run("fit", *TINY, NARROW, "--compile=fastest")
    assert answer.status == 2
    assert "compile" in answer.complaint


def test_a_study_compiles_all_of_its_runs() -> None:
    assert {"compile": True} in parse(["--preset", "quick", "--compile"]).settings
    assert {"compile": True} not in parse(["--preset", "quick"]).settings


@pytest.mark.slow
def test_the_compiler_of_torch_trains_like_eager_code(run: Run) -> None:
    networks = []
    for options in ([], ["--compile"]):
        answer = run("fit", *TINY, NARROW, "--trainer.max_epochs=2", f"--name=x{len(options)}", *options)
        assert answer.status == 0, answer.err
        path = f"lightning_logs/x{len(options)}/version_0/checkpoints/last.ckpt"
        networks.append(torch.load(path, weights_only=True)["state_dict"])
    for name, value in networks[0].items():
        torch.testing.assert_close(networks[1][name], value, rtol=1e-3, atol=1e-3, msg=name)
