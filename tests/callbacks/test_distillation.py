"""The loss grows by the distance to a teacher, which stays outside the model, the checkpoint and the random state."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lit_prune import Distillation, GlobalL1Pruning
from lit_prune.errors import InputError
from lit_prune.training.callbacks.compiled_training import CompiledTraining
from tests.callbacks.models import CLASSES, Batches, Classifier, TwoOptimizers, conv_net, mlp, quiet_trainer, snapshot
from tests.callbacks.test_pruning_resume import Saver, assert_same, final
from tests.processes import run_ddp

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


class Losses(Callback):
    """Records the loss of each step, and the gradients of the first."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: dict[str, Tensor] = {}

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if not self.gradients:
            self.gradients = {name: value.grad.clone() for name, value in pl_module.named_parameters()}


def student(seed: int = 1, make: Callable[[], nn.Sequential] = mlp) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(make())


def fit(model: Any, *callbacks: Callback, **options: Any) -> Any:
    trainer = quiet_trainer(callbacks=list(callbacks), **options)
    trainer.fit(model, Batches())
    return trainer


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_teacher_gets_the_precision_of_the_trainer(precision: Any) -> None:
    teacher, seen = student(0), Losses()
    fit(student(), Distillation(teacher), seen, max_steps=1, precision=precision)
    assert len(seen.losses) == 1


def save(model: nn.Module, path: Path) -> str:
    torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("given", ["path", "module"])
def test_loss_and_gradients(tmp_path: Path, given: str) -> None:
    """By hand: probabilities at temperature T, and their divergence, from the definitions."""
    weight, temperature = random.uniform(0.1, 2), random.uniform(1, 6)  # noqa: S311
    teacher, model, by_hand = student(0).double(), student(), student().double()
    seen = Losses()
    distillation = Distillation(save(teacher, tmp_path / "t.pt") if given == "path" else teacher, weight, temperature)
    trainer = fit(model, distillation, seen, max_steps=1, precision="64-true")

    images, labels = next(iter(Batches()))
    logits, wanted = by_hand(images.double()), teacher(images.double()).detach()
    p, q = ((each / temperature).exp() for each in (wanted, logits))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    distance = temperature**2 * sum(p[i, c] * (p[i, c] / q[i, c]).log() for i in range(4) for c in range(CLASSES)) / 4
    loss = F.cross_entropy(logits, labels) + weight * distance
    loss.backward()
    assert float(distance.detach()) > 1e-3
    assert seen.losses == [pytest.approx(float(loss.detach()), rel=1e-9)]
    assert float(trainer.callback_metrics["distillation"]) == pytest.approx(float(distance.detach()), rel=1e-6)
    for name, value in by_hand.named_parameters():
        torch.testing.assert_close(seen.gradients[name], value.grad, rtol=1e-9, atol=1e-12)


def test_a_student_that_equals_its_teacher_trains_as_without() -> None:
    model, plain = student(), student()
    one, two = Losses(), Losses()
    trainer = fit(model, Distillation(student()), one, max_steps=1)
    fit(plain, two, max_steps=1)
    assert one.losses == two.losses
    assert float(trainer.callback_metrics["distillation"]) == 0


def test_a_distilled_student_comes_closer_to_its_teacher() -> None:
    teacher = student(0)
    images = Batches().images.flatten(0, 1)

    def distance(model: Classifier) -> float:
        with torch.no_grad():
            return float(F.kl_div(model(images).log_softmax(1), teacher(images).softmax(1), reduction="batchmean"))

    plain, distilled = student(), student()
    fit(plain, max_epochs=20)
    fit(distilled, Distillation(teacher, weight=1.0, temperature=2.0), max_epochs=20)
    assert distance(distilled) < distance(plain) / 2


def test_the_teacher_leaves_no_trace(tmp_path: Path) -> None:
    class Drawing(nn.Module):
        """Draws from every global random state, also in evaluation mode."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = student(0, conv_net)
            self.modes: list[bool] = []

        def forward(self, images: Tensor) -> Tensor:
            self.modes.append(self.training or self.inner.training)
            np.random.rand()  # noqa: NPY002
            random.random()  # noqa: S311
            logits: Tensor = self.inner(images + torch.rand_like(images))
            return logits

    teacher = Drawing()
    before = snapshot(teacher)
    states: list[Any] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            states.append((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()))  # type: ignore[index] # noqa: NPY002
            own = {*map(id, teacher.parameters())}
            assert not own & {*map(id, pl_module.parameters())}
            assert all(not module._forward_hooks for module in teacher.modules())

    for callbacks in ([Look()], [Distillation(teacher), Look(), Saver(tmp_path)]):
        model = student(1, conv_net)
        names = list(model.state_dict())
        torch.manual_seed(2)
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002
        trainer: Any = quiet_trainer(callbacks=callbacks)
        trainer.fit(model, Batches())
    assert states[: len(states) // 2] == states[len(states) // 2 :]
    assert list(model.state_dict()) == names
    assert not any(module._forward_hooks for module in model.modules())
    assert "training_step" not in vars(trainer.strategy)
    assert teacher.modes == [False] * 8
    assert all(value.grad is None for value in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in snapshot(teacher).items())
    checkpoint = torch.load(tmp_path / "step-4.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == names
    assert not any("istillation" in name for name in checkpoint["callbacks"])


def test_resuming_is_bit_identical(tmp_path: Path) -> None:
    def build() -> Classifier:
        model = student(5, conv_net)
        model.net.drop.p = 0.0  # type: ignore[union-attr]
        return model

    path = save(student(0, conv_net), tmp_path / "teacher.pt")

    def callbacks() -> list[Callback]:
        return [GlobalL1Pruning(0.5, end_epoch=2), Distillation(path)]

    model = build()
    expected = final(fit(model, *callbacks(), Saver(tmp_path), max_epochs=3), model)
    for name in ("step-2", "step-4", "step-9", "epoch-1"):
        resumed = build()
        trainer = quiet_trainer(callbacks=callbacks(), max_epochs=3)
        trainer.fit(resumed, Batches(), ckpt_path=tmp_path / f"{name}.ckpt", weights_only=True)
        assert_same(final(trainer, resumed), expected)
    plain = build()
    assert not torch.equal(
        torch.cat([value.flatten() for value in plain.parameters()]),
        torch.cat([value.flatten() for value in model.parameters()]),
    )


@pytest.mark.parametrize("swap", [1, -1])
def test_pruning_and_distillation_in_any_order(tmp_path: Path, swap: int) -> None:
    """Both wrap the training step; a second `fit` of the same trainer finds it unwrapped."""
    path, model = save(student(0), tmp_path / "t.pt"), student()
    pruning: list[Callback] = [GlobalL1Pruning(0.5), Distillation(path)]
    seen = Losses()
    trainer = quiet_trainer(callbacks=[*pruning[::swap], seen], max_epochs=1)
    for epochs in (1, 2):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(model, Batches())
        assert "training_step" not in vars(trainer.strategy)
    assert len(seen.losses) == 8
    assert sum(int((value == 0).sum()) for value in model.parameters()) > 1000


def test_a_named_submodule_and_several_calls() -> None:
    class Direct(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.net is not None
            return {"loss": F.cross_entropy(self.net(batch[0]) + self.net(2 * batch[0]), batch[1]), "other": 1}

    torch.manual_seed(3)
    model, teacher = Direct(mlp()), mlp()
    images, labels = next(iter(Batches()))
    with torch.no_grad():
        pairs = [(model.net(x), teacher(x)) for x in (images, 2 * images)]  # type: ignore[misc]
        loss = F.cross_entropy(pairs[0][0] + pairs[1][0], labels)
        for ours, theirs in pairs:
            logs, wanted = (ours / 4).log_softmax(1), (theirs / 4).softmax(1)
            loss += 0.5 * 16 * F.kl_div(logs, wanted, reduction="batchmean") / 2
    seen = Losses()
    trainer = fit(model, Distillation(teacher, module="net"), seen, max_steps=1)
    assert seen.losses == [pytest.approx(float(loss), rel=1e-5)]
    assert "distillation/net" in trainer.callback_metrics
    with pytest.raises(InputError, match="`training_step` does not call the LightningModule"):
        fit(Direct(mlp()), Distillation(mlp()))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_outputs_of_transformers_and_skipped_batches() -> None:
    class Wrapped(Classifier):
        def forward(self, images: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(images))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                return None
            return F.cross_entropy(self(images=batch[0]).logits, batch[1])

    seen = Losses()
    fit(Wrapped(mlp()), Distillation(Wrapped(mlp())), seen, max_epochs=1)
    assert len(seen.losses) == 3


def test_an_average_may_teach() -> None:
    """Pruning masks averages of the model that callbacks hold; a teacher is not one of them."""
    teacher, model = AveragedModel(student(0)), student()
    fit(model, Distillation(teacher), GlobalL1Pruning(0.9))
    assert all((value != 0).all() for name, value in teacher.named_parameters() if name.endswith("weight"))


@pytest.mark.gate
def test_a_compiled_network_is_distilled_too() -> None:
    teacher, losses = student(0), []
    for callbacks in ([], [CompiledTraining(backend="aot_eager")]):
        seen = Losses()
        fit(student(), Distillation(teacher), *callbacks, seen)
        losses.append(seen.losses)
    assert losses[0] == losses[1]


class OwnData(Classifier):
    """A model whose images differ between processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


def train(rank: int, folder: Path, static: bool) -> None:
    from lightning.pytorch.strategies import DDPStrategy

    torch.manual_seed(0)
    model, seen = OwnData(mlp()), Losses()
    strategy = DDPStrategy(static_graph=static)
    fit(model, Distillation(str(folder / "t.pt")), seen, strategy=strategy, devices=2)
    torch.save({"weights": snapshot(model), "losses": seen.losses}, folder / f"{rank}.pt")


@pytest.mark.gate
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("static", [False, True])
def test_ddp(tmp_path: Path, static: bool) -> None:
    save(student(0), tmp_path / "t.pt")
    run_ddp(train, tmp_path, static)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, theirs["weights"][name]) for name, value in ours["weights"].items())
    for rank, found in enumerate((ours, theirs)):
        torch.manual_seed(0)
        model, teacher = Classifier(mlp()), student(0)
        images, labels = next(iter(Batches()))
        with torch.no_grad():
            logs, wanted = ((net(images + rank) / 4).log_softmax(1) for net in (model, teacher))
            distance = F.kl_div(logs, wanted, reduction="batchmean", log_target=True)
            loss = F.cross_entropy(model(images + rank), labels) + 0.5 * 16 * distance
        assert found["losses"][0] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": 3}, "`teacher` to be a path or a module"),
        ({"weight": 0}, "a finite `weight` above 0"),
        ({"weight": float("nan")}, "a finite `weight` above 0"),
        ({"weight": True}, "a finite `weight` above 0"),
        ({"temperature": -1.0}, "a finite `temperature` above 0"),
        ({"temperature": "hot"}, "a finite `temperature` above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distillation(**{"teacher": mlp()} | arguments)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = student()
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    cases: list[tuple[Any, Distillation, str]] = [
        (model, Distillation(str(tmp_path / "none.ckpt")), "none.ckpt"),
        (model, Distillation(save(student(0, conv_net), tmp_path / "other.pt")), "weights of a Classifier in"),
        (model, Distillation(model), "a `teacher` with parameters of its own"),
        (model, Distillation(mlp(), module="nett"), "did you mean `net`"),
        (model, Distillation(wide), r"logits of shape \(4, 4\) from the teacher.*\(4, 7\)"),
        (model, Distillation(nn.Sequential(nn.Flatten(0), nn.Linear(768, 4))), r"logits \(examples, classes"),
        (TwoOptimizers(), Distillation(conv_net()), "automatic optimization with Distillation"),
    ]
    for case, distillation, message in cases:
        with pytest.raises(InputError, match=message):
            fit(case, distillation)
        assert not any(module._forward_hooks for module in case.modules())
