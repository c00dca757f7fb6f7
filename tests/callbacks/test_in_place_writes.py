"""Whatever a project writes into its weights, pruned weights are zero in every forward pass and in every file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn

from lit_prune.callbacks import GlobalL1Pruning
from lit_prune.functional import masking, selection
from tests.callbacks.models import Batches, Classifier, mlp, quiet_trainer, snapshot

# typed as Any, because mypy does not know which modules and tensors a model contains
current_mask: Any = masking.current_mask
weight_layers: Any = selection.weight_layers

EPOCHS = 3
PRUNED = round(0.5 * sum(weight.numel() for weight in mlp().parameters() if weight.dim() > 1))


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {ref.parameter_name: mask for ref in weight_layers(model) if (mask := current_mask(ref)) is not None}


def zero(values: Tensor) -> bool:
    """Return whether all bits are zero, so that -0.0 is not 0.0."""
    return not values.detach().contiguous().view(torch.uint8).any()


class Inspector(Callback):
    """Looks at the weights of every layer in each of its forward passes."""

    def __init__(self) -> None:
        self.training = self.validation = self.wrong = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def look(layer: Any, inputs: Any) -> None:
            mask = current_mask(selection.WeightRef("", layer, "weight"))
            if mask is not None:
                stage = "training" if trainer.training else "validation"
                setattr(self, stage, getattr(self, stage) + 1)
                self.wrong += not zero(layer.weight[~mask])

        for ref in weight_layers(pl_module):
            ref.module.register_forward_pre_hook(look)


def fit(model: Any, *callbacks: Callback, amount: float = 0.5, **kwargs: Any) -> Inspector:
    """Train with pruning before the second epoch, and check every forward pass and the result."""
    inspector = Inspector()
    pruning = GlobalL1Pruning(amount, start_epoch=1)
    trainer = quiet_trainer([*callbacks, pruning, inspector], **{"max_epochs": EPOCHS, **kwargs})
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert inspector.training >= (EPOCHS - 1) * 4 * 4
    assert inspector.validation >= (EPOCHS - 1) * 2 * 4
    assert inspector.wrong == 0
    assert sum(int((~mask).sum()) for mask in masks(model).values()) == PRUNED
    state = model.state_dict()
    for name, mask in masks(model).items():
        assert zero(state[name][~mask])
        assert state[name][mask].all()
    return inspector


def clamp(weight: Tensor) -> None:
    """As in non-negative and monotonic networks."""
    weight.data.clamp_(min=1e-3)


def centre(weight: nn.Parameter) -> None:
    """Weights of mean zero and norm one in each row, by assignment of new data."""
    weight.data = nn.functional.normalize(weight.data - weight.data.mean(1, keepdim=True), dim=1)


@torch.no_grad()
def orthogonalise(weight: Tensor) -> None:
    """The nearest matrix with orthogonal rows, as in orthogonal and Lipschitz networks."""
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    weight.copy_(left @ right)


@torch.no_grad()
def noise(weight: Tensor) -> None:
    """As in variational training and in networks that are trained for analog hardware."""
    weight += 0.01 * torch.randn_like(weight)


WRITES: list[Callable[[Any], None]] = [clamp, centre, orthogonalise, noise]
HOOKS = [
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_epoch_end",
    "on_validation_end",
]


def writing(owner: Any, hook: str, write: Callable[[Any], None]) -> Any:
    """Make a module or a callback write to all weights in a hook."""

    def write_all(pl_module: Any) -> None:
        for ref in weight_layers(pl_module):
            write(ref.tensor)

    if isinstance(owner, Callback):
        methods: Any = {hook: lambda self, trainer, pl_module, *_: write_all(pl_module)}
    else:
        methods = {hook: lambda self, *_: write_all(self)}
    owner.__class__ = type("Writing", (type(owner),), methods)
    return owner


# each hook with two kinds of writes; torch refuses writes between forward and backward that it can see
TURNS = [
    (hook, write, optimizer)
    for turn, hook in enumerate(HOOKS)
    for write, optimizer in ((WRITES[turn % 4], "sgd"), (WRITES[(turn + 1) % 4], "adam"))
    if hook != "on_before_zero_grad" or write in (clamp, centre)
]


@pytest.mark.parametrize(("hook", "write", "optimizer"), TURNS)
def test_writes_in_any_hook_of_the_module(hook: str, write: Any, optimizer: str) -> None:
    fit(writing(Classifier(mlp(), optimizer), hook, write))


@pytest.mark.parametrize(("hook", "write", "optimizer"), TURNS[::2])
def test_writes_in_any_hook_of_another_callback(hook: str, write: Any, optimizer: str) -> None:
    fit(Classifier(mlp(), optimizer), writing(Callback(), hook, write))


def test_what_a_module_writes_stays_where_it_is_not_pruned() -> None:
    model = writing(Classifier(mlp()), "on_train_batch_end", clamp)
    fit(model)
    for name, mask in masks(model).items():
        assert (model.state_dict()[name][mask] >= 1e-3).all()


class StepsItself(Classifier):
    """Writes to its weights right after the optimizer, and clamps them in its own `optimizer_step`."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for ref in weight_layers(self):
            clamp(ref.tensor)


@pytest.mark.filterwarnings("ignore:You.re using the WeightAveraging callback with a model that overrides")
@pytest.mark.parametrize("weights_only", [True, False])
def test_files_of_any_step_are_sparse_also_those_of_an_average(tmp_path: Path, weights_only: bool) -> None:
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, save_weights_only=weights_only)
    writer = writing(Callback(), "on_train_batch_end", clamp)
    model = StepsItself(mlp())
    fit(model, saver, EMAWeightAveraging(decay=0.9), writer)
    files = [torch.load(file, weights_only=True) for file in tmp_path.glob("*.ckpt")]
    assert len(files) == EPOCHS * 4
    for saved in files:
        if saved["epoch"] > 0:
            for state in (saved["state_dict"], saved.get("current_model_state", saved["state_dict"])):
                zeros = sum(int((state[name].view(torch.int32) == 0).sum()) for name in masks(model))
                assert zeros == PRUNED


class SharpnessAware(torch.optim.SGD):
    """Steps with the gradient at a disturbed point, for which it calls its closure twice (Foret et al., 2021)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure()
        disturbances = []
        for group in self.param_groups:
            for parameter in group["params"]:
                disturbances.append((parameter, 0.1 * parameter.grad.sign() + 0.01))  # moves every entry
                parameter.add_(disturbances[-1][1])
        closure()
        for parameter, disturbance in disturbances:
            parameter.sub_(disturbance)
        super().step()
        return loss


class WithOptimizer(Classifier):
    """A classifier with any optimizer, and a penalty with large gradients for pruned weights."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__(mlp())
        self.make = make
        self.norms: list[Tensor] = []

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) + sum(((value - 1) ** 2).sum() for value in self.parameters())

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        optimizer.register_step_post_hook(self.note)
        return optimizer

    def note(self, *_: Any) -> None:
        """Remember the norm of the gradients of what is not pruned."""
        gradients = []
        for name, value in self.named_parameters():
            if value.grad is not None:
                mask = masks(self).get(name)
                gradients.append(value.grad.flatten() if mask is None else value.grad[mask])
        if gradients:
            self.norms.append(torch.cat(gradients).norm())


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: SharpnessAware(parameters, 0.01, momentum=0.9),
        lambda parameters: torch.optim.LBFGS(parameters, 0.1, max_iter=3),
        lambda parameters: torch.optim.LBFGS(parameters, max_iter=3, line_search_fn="strong_wolfe"),
        lambda parameters: torch.optim.Adafactor(parameters, 0.01),
        lambda parameters: torch.optim.ASGD(parameters, 0.01, t0=3),
    ],
    ids=["sam", "lbfgs", "lbfgs-wolfe", "adafactor", "asgd"],
)
def test_optimizers_that_mix_entries_or_compute_the_loss_several_times(make: Any) -> None:
    model = WithOptimizer(make)
    before = snapshot(model)
    inspector = fit(model)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if isinstance(make([nn.Parameter(torch.zeros(1))]), SharpnessAware | torch.optim.LBFGS):
        assert inspector.training > EPOCHS * 4 * 4


class Manual(WithOptimizer):
    """Manual optimization, in one of several ways."""

    def __init__(self, way: str, make: Callable[[Any], Any] | None = None) -> None:
        super().__init__(make or (lambda parameters: torch.optim.SGD(parameters, 0.001, momentum=0.9)))
        self.automatic_optimization = False
        self.way = way
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer="raw" not in self.way)
        optimizer.zero_grad()
        if "closure" in self.way:

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = self.loss(batch)
                loss.backward()
                return loss

            optimizer.step(closure)
            return
        if "scaler" in self.way:
            self.manual_backward(self.scaler.scale(self.loss(batch)))
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.parameters(), 0.1)
            self.scaler.step(optimizer)
            self.scaler.update()
            return
        self.manual_backward(self.loss(batch))
        if "sam" in self.way:
            with torch.no_grad():
                disturbances = [0.05 * value.grad / value.grad.norm() for value in self.parameters()]  # type: ignore[union-attr,operator]
                for value, disturbance in zip(self.parameters(), disturbances, strict=True):
                    value += disturbance  # type: ignore[misc]
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            with torch.no_grad():
                for value, disturbance in zip(self.parameters(), disturbances, strict=True):
                    value -= disturbance  # type: ignore[misc]
        if "lightning" in self.way:
            self.clip_gradients(optimizer, 0.1, "norm")
        else:
            nn.utils.clip_grad_norm_(self.parameters(), 0.1)
        optimizer.step()


def assert_clipped(model: WithOptimizer) -> None:
    """Assert that what is not pruned has the whole norm that clipping leaves."""
    assert len(model.norms) == EPOCHS * 4
    for norm in model.norms:
        assert norm.item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("way", ["plain", "raw", "lightning", "sam", "raw-sam", "raw-scaler"])
def test_manual_optimization_clips_the_gradients_of_what_is_not_pruned(way: str) -> None:
    model = Manual(way)
    fit(model)
    assert_clipped(model)


@pytest.mark.parametrize("way", ["closure", "raw-closure"])
@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, 0.01),
        lambda parameters: torch.optim.LBFGS(parameters, 0.1, max_iter=3),
    ],
    ids=["sgd", "adam", "lbfgs"],
)
def test_closures_of_manual_optimization(way: str, make: Any) -> None:
    model = Manual(way, make)
    before = snapshot(model)
    fit(model)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Centralizes(WithOptimizer):
    """Subtracts the mean of the gradient from it, so that no entry is zero (Yong et al., 2020)."""

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        for value in self.parameters():
            value.grad -= value.grad.mean()  # type: ignore[operator,union-attr]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.loss(batch)  # a forward pass right after the step


def test_gradients_that_are_mixed_after_clipping() -> None:
    fit(Centralizes(lambda parameters: torch.optim.Adam(parameters, 0.01)))


class ClipsItself(WithOptimizer):
    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class ClipsBeforeStep(WithOptimizer):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (WithOptimizer, {"gradient_clip_val": 0.1}),
        (ClipsItself, {}),
        (ClipsBeforeStep, {}),
        (WithOptimizer, {"gradient_clip_val": 0.1, "precision": "bf16-mixed"}),
    ],
)
def test_clipping_by_norm_leaves_out_pruned_weights(kind: Any, kwargs: dict[str, Any]) -> None:
    model = kind(lambda parameters: torch.optim.SGD(parameters, 0.001))
    fit(model, **kwargs)
    assert_clipped(model)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 3},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"val_check_interval": 1},
        {"precision": "64-true"},
        {"precision": "bf16-true"},
    ],
)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_ways_to_train(optimizer: Any, kwargs: dict[str, Any]) -> None:
    fit(WithOptimizer(lambda parameters: optimizer(parameters, 0.001)), **kwargs)
