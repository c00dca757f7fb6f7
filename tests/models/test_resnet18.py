"""`LitResNet18`: parts, losses, weights, and training."""

import copy
import functools
import math
from typing import Any
from unittest.mock import Mock

import lightning.pytorch.cli as lightning_cli
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import ResNet18_Weights, resnet18

from lit_prune.errors import InputError
from lit_prune.functional import apply_masks, compute_masks, mask_gradients, remove_masks, weight_layers
from lit_prune.functional.plain import plain_copy
from lit_prune.models.cropped_conv import CroppedConv2d
from lit_prune.models.resnet18 import LitResNet18

# advice about loaders does not matter for batches of four
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


class Data(LightningDataModule):
    """A few random images; class 9 never occurs."""

    class_names = tuple("abcdefghij")

    def __init__(self, batches=2, size=4):
        super().__init__()
        self.size = size
        self.set = TensorDataset(torch.randn(batches * size, 3, 32, 32), torch.arange(batches * size) % 9)

    def loader(self):
        return DataLoader(self.set, batch_size=self.size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def trainer(tmp_path, **settings):
    return Trainer(
        **{
            "default_root_dir": tmp_path,
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            **settings,
        }
    )


def refusal(**arguments):
    with pytest.raises(InputError) as error:
        LitResNet18(**arguments)
    return str(error.value)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(model, weights):
    own = model.state_dict()
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_the_network_of_the_original_study():
    model = LitResNet18()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 22
    assert sum(layer.weight.numel() for layer in layers) == 11_219_112
    ours = {name.removeprefix("backbone.") for name in model.state_dict() if name.startswith("backbone.")}
    assert ours == {name for name in resnet18().state_dict() if not name.startswith("fc.")}
    assert [(layer.in_features, layer.out_features) for layer in layers[-2:]] == [(512, 100), (100, 10)]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(layer) for layer in convolutions} == {CroppedConv2d}
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in convolutions)


# the number of the 20 convolutions that matrix products do not compute
@pytest.mark.parametrize(("images", "convolutions"), [(1, 10), (2, 1), (16, 10), (128, 9)])
def test_evaluation_agrees_with_torchs_own_layers(images, convolutions, monkeypatch):
    model = LitResNet18().eval()
    plain = plain_copy(model).to(memory_format=torch.contiguous_format)
    batch = torch.randn(images, 3, 32, 32)
    spy = Mock(wraps=F.conv2d)
    with torch.no_grad():
        wanted = plain(batch)
        monkeypatch.setattr(F, "conv2d", spy)
        found = model(batch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert spy.call_count == convolutions


@pytest.mark.parametrize("size", [32, 50])
def test_features_are_those_of_torchvisions_network(size):
    model, reference = LitResNet18().double().eval(), resnet18().double().eval()
    reference.fc = nn.Identity()
    reference.load_state_dict(model.backbone.state_dict())
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(model(images), model.head(reference(images)), rtol=1e-12, atol=1e-12)


def test_stems():
    imagenet, cifar = LitResNet18(), LitResNet18(stem="cifar")
    images = torch.randn(2, 3, 32, 32)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, model in (("imagenet", imagenet), ("cifar", cifar)):
        model.backbone.layer1.register_forward_hook(
            lambda _, args, out, name=name: shapes.__setitem__(name, out.shape[-2:])
        )
        assert model(images).shape == (2, 10)
    assert shapes == {"imagenet": (8, 8), "cifar": (32, 32)}
    assert cifar.backbone.conv1.weight.shape == (64, 3, 3, 3)
    # initialised as in torchvision: He et al. 2015, by outputs
    assert cifar.backbone.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)


def test_output_changes_only_the_loss():
    batch = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    first = LitResNet18().eval()
    logits = first(batch[0])
    losses = {}
    for output in ("logits", "softmax", "scaled_softmax"):
        model = LitResNet18(output=output, softmax_scale=7.0).eval()
        model.load_state_dict(first.state_dict())
        assert torch.equal(model(batch[0]), logits)
        assert torch.equal(model.predict_step(batch, 0), first.predict_step(batch[0], 0))
        losses[output] = model._loss(logits, batch[1]).item()
    torch.testing.assert_close(first.predict_step(batch, 0).sum(1), torch.ones(4))

    def by_hand(scores):
        rows = zip(scores, [3, 1, 4, 1], strict=True)
        return sum(math.log(sum(map(math.exp, row))) - row[label] for row, label in rows) / 4

    rows = logits.double()
    probabilities = rows.exp() / rows.exp().sum(1, keepdim=True)
    assert losses["logits"] == pytest.approx(by_hand(rows.tolist()), rel=1e-5)
    assert losses["softmax"] == pytest.approx(by_hand(probabilities.tolist()), rel=1e-5)
    assert losses["scaled_softmax"] == pytest.approx(by_hand((7 * probabilities).tolist()), rel=1e-5)


def test_softmax_losses_have_the_documented_bounds():
    certain, right = torch.eye(10)[:1] * 1000, torch.tensor([0])
    assert LitResNet18(output="softmax")._loss(certain, right).item() == pytest.approx(math.log(1 + 9 / math.e))
    assert LitResNet18(output="scaled_softmax")._loss(certain, right).item() == pytest.approx(0.0004, abs=1e-5)
    gradients: dict[str, Any] = {}
    for output in ("logits", "softmax", "scaled_softmax"):
        undecided = torch.zeros(1, 10, requires_grad=True)
        LitResNet18(output=output)._loss(undecided, right).backward()
        gradients[output] = undecided.grad
    torch.testing.assert_close(gradients["scaled_softmax"], gradients["logits"])
    torch.testing.assert_close(10 * gradients["softmax"], gradients["logits"])


def test_frozen_batch_norm_keeps_its_statistics_and_trains_the_rest(tmp_path):
    def trained(batch_norm):
        model = LitResNet18(batch_norm=batch_norm)
        before = snapshot(model)
        trainer(tmp_path, max_epochs=2).fit(model, Data())
        return {name: not torch.equal(before[name], value) for name, value in model.state_dict().items()}

    statistics = ("running_mean", "running_var", "num_batches_tracked")
    frozen, usual = trained("frozen"), trained("train")
    assert {name for name, moved in frozen.items() if not moved} == {n for n in frozen if n.endswith(statistics)}
    assert all(usual.values())


def test_settings_that_an_optimizer_rejects_are_reported(tmp_path):
    model = LitResNet18(optimizer=functools.partial(SGD, lr=-1.0))
    with pytest.raises(InputError, match="optimizer and scheduler accept, but got Invalid learning rate"):
        trainer(tmp_path).fit(model, Data())


def test_an_epoch_logs_the_documented_metrics(tmp_path):
    model, data = LitResNet18(optimizer=functools.partial(SGD, lr=0.5e-3)), Data()
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    runner = trainer(tmp_path, logger=logger, max_epochs=3, num_sanity_val_steps=1)
    runner.fit(model, data)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0})
    events.Reload()
    names = {"train/loss", "train/acc", "val/loss", "val/acc", "lr"}
    assert set(events.Tags()["scalars"]) == names | {"epoch"}
    assert all(len(events.Scalars(name)) == 3 for name in names)
    assert [event.value for event in events.Scalars("lr")] == pytest.approx([0.5e-3] * 3)

    (tested,) = runner.test(model, data, verbose=False)
    logits = torch.cat([model.eval()(images) for images, _ in data.loader()])
    labels = data.set.tensors[1]
    hits = (logits.argmax(1) == labels).float()
    assert tested["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert tested["test/acc"] == pytest.approx(hits.mean().item())
    classes = {name: hits[labels == i].mean().item() for i, name in enumerate("abcdefgh")}
    assert {n: v for n, v in tested.items() if n.startswith("test/acc/")} == pytest.approx(
        {f"test/acc/{name}": accuracy for name, accuracy in classes.items()}
    )


def test_training_accuracy_and_loss_are_means_over_images(tmp_path):
    data = Data()
    data.set = TensorDataset(*(tensor[:6] for tensor in data.set.tensors))  # batches of four and of two
    model = LitResNet18(optimizer=functools.partial(SGD, lr=0.0), batch_norm="frozen")
    runner = trainer(tmp_path)
    runner.fit(model, data)
    images, labels = data.set.tensors
    assert runner.callback_metrics["train/loss"].item() == pytest.approx(
        F.cross_entropy(model(images), labels).item(), rel=1e-4
    )
    assert runner.callback_metrics["train/acc"] == runner.callback_metrics["val/acc"]


def test_predictions_are_probabilities(tmp_path):
    data = Data()
    probabilities = torch.cat(trainer(tmp_path).predict(LitResNet18(), data))
    assert probabilities.shape == (8, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(8))


# -- optimizer and scheduler


def rates(tmp_path, scheduler):
    """Return the learning rate of each of six steps, two per epoch."""
    model = LitResNet18(optimizer=functools.partial(SGD, lr=0.1), lr_scheduler=scheduler)
    seen: list[float] = []
    watch = LambdaCallback(on_train_batch_start=lambda *_: seen.append(runner.optimizers[0].param_groups[0]["lr"]))
    runner = trainer(tmp_path, max_epochs=3, callbacks=[watch])
    runner.fit(model, Data())
    return seen


@pytest.mark.gate
def test_schedulers_step_at_the_right_times(tmp_path):
    halving = rates(tmp_path, lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5**epoch))
    assert halving == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    cosine = rates(tmp_path, lambda optimizer: CosineAnnealingLR(optimizer, T_max=2))
    assert cosine == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.0, 0.0], abs=1e-9)
    for plateau in (ReduceLROnPlateau, functools.partial(lightning_cli.ReduceLROnPlateau, monitor="val/acc")):
        stuck = rates(tmp_path, lambda o, p=plateau: p(o, patience=0, threshold=1e9, threshold_mode="abs", factor=0.1))
        assert stuck == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    cycle = rates(tmp_path, lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=6))
    assert len(set(cycle)) == 6
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert max(cycle) > 0.09


def test_the_default_optimizer_is_fused_adam():
    model = LitResNet18()
    trainer_free = model._make_optimizer(model.parameters())
    assert isinstance(trainer_free, Adam)
    assert trainer_free.defaults["lr"] == 1e-3
    assert trainer_free.defaults["fused"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_with_the_default_optimizer(tmp_path, precision):
    norms = []

    def note(trainer, model, *_):
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())

    watch = LambdaCallback(on_train_batch_end=note)
    trainer(tmp_path, precision=precision, gradient_clip_val=1e-3, callbacks=[watch]).fit(LitResNet18(), Data())
    assert norms == pytest.approx([1e-3, 1e-3], rel=0.01)


def command_line(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["lit-prune"])
    return lightning_cli.LightningCLI(
        LitResNet18,
        Data,
        run=False,
        args=list(argv),
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=False,
    )


def test_the_command_line_shows_and_changes_the_optimizer(monkeypatch):
    def optimizer(*argv):
        made = command_line(monkeypatch, *argv).model._make_optimizer([nn.Parameter(torch.ones(1))])
        return type(made), made.defaults["lr"], made.defaults["fused"]

    assert optimizer() == (Adam, 1e-3, True)
    assert optimizer("--model.optimizer.lr=0.01") == (Adam, 0.01, True)
    assert optimizer("--model.optimizer=SGD", "--model.optimizer.lr=0.1") == (
        SGD,
        0.1,
        True,
    )  # SGD can be fused as well
    cli = command_line(monkeypatch)
    assert "class_path: torch.optim.Adam\n    init_args:\n      lr: 0.001\n      " in cli.parser.dump(cli.config)


# -- weights from outside


def test_checkpoints_load_without_other_files(tmp_path):
    origin = tmp_path / "origin.pt"
    torch.save(resnet18().state_dict(), origin)
    model = LitResNet18(weights=str(origin), output="scaled_softmax", softmax_scale=3.0, stem="imagenet")
    runner = trainer(tmp_path)
    runner.fit(model, Data())
    for name, bare in (("whole.ckpt", False), ("bare.ckpt", True)):
        runner.save_checkpoint(tmp_path / name, weights_only=bare)
    origin.unlink()
    for name in ("whole.ckpt", "bare.ckpt"):
        again = LitResNet18.load_from_checkpoint(tmp_path / name, weights_only=True)
        assert_same_weights(again, model.state_dict())
        assert (again.output, again.softmax_scale) == ("scaled_softmax", 3.0)
        assert again.hparams["initial_weights"] == str(origin)
        assert again.hparams["weights"] is None
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in again.parameters() if p.dim() == 4)


def test_a_checkpoint_of_the_command_line_loads_without_other_files(tmp_path, monkeypatch):
    cli = command_line(monkeypatch, "--model.stem=cifar", "--model.optimizer=SGD", "--model.optimizer.lr=0.25")
    runner = trainer(tmp_path)
    runner.fit(cli.model, Data(batches=1, size=2))
    path = tmp_path / "some.ckpt"
    runner.save_checkpoint(path)
    again = LitResNet18.load_from_checkpoint(path, weights_only=True)
    assert_same_weights(again, cli.model.state_dict())
    assert again._make_optimizer(again.parameters()).defaults["lr"] == 0.25


def test_hyperparameters_are_plain_values():
    assert dict(LitResNet18(optimizer=functools.partial(SGD, lr=1.0)).hparams) == {
        "weights": None,
        "init_from": None,
        "output": "logits",
        "softmax_scale": 10.0,
        "batch_norm": "train",
        "stem": "imagenet",
        "channels": None,
        "initial_weights": None,
    }


def test_weights_from_files(tmp_path):
    model, other = LitResNet18(), resnet18(num_classes=7)
    path = tmp_path / "weights.pt"

    torch.save(other.state_dict(), path)
    loaded = LitResNet18(weights=str(path))
    backbone = {name: weight for name, weight in other.state_dict().items() if not name.startswith("fc.")}
    assert_same_weights(loaded.backbone, backbone)

    torch.save(model.backbone.state_dict(), path)
    assert_same_weights(LitResNet18(weights=str(path)).backbone, model.backbone.state_dict())

    torch.save(model.state_dict(), path)
    assert_same_weights(LitResNet18(weights=str(path)), model.state_dict())
    assert_same_weights(LitResNet18(init_from=str(path)), model.state_dict())


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(resnet18().state_dict(), path)
    assert f"a LitResNet18 in `{path}`, but got weights without `backbone.conv1.weight`" in refusal(init_from=str(path))
    torch.save(nn.Linear(2, 2).state_dict(), path)
    found = refusal(weights=str(path))
    assert (
        f"a ResNet in `{path}`, but got weights without `conv1.weight`, `bn1.weight`, `bn1.bias` and 97 more" in found
    )
    torch.save(LitResNet18(stem="cifar").state_dict(), path)
    wanted = "with `backbone.conv1.weight` of shape (64, 3, 3, 3) instead of (64, 3, 7, 7)"
    assert wanted in refusal(weights=str(path))


def test_imagenet_weights_are_read_from_the_cache_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    weights = resnet18().state_dict()
    torch.save(weights, cache / "resnet18-f37072fd.pth")
    model = LitResNet18(weights="IMAGENET1K_V1")
    assert_same_weights(model.backbone, {n: w for n, w in weights.items() if not n.startswith("fc.")})
    assert model.hparams["initial_weights"] == "IMAGENET1K_V1"


def test_imagenet_weights_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    url = "http://127.0.0.1:9/resnet18-f37072fd.pth"  # no server
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
    assert refusal(weights="IMAGENET1K_V1").startswith(f"Cannot download {url} (<urlopen error [Errno 111] Connection")


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        ({"output": "sigmoid"}, "`output` to be one of 'logits', 'softmax', 'scaled_softmax', but got 'sigmoid'"),
        ({"batch_norm": None}, "`batch_norm` to be one of 'train', 'frozen', but got None"),
        ({"stem": "vit"}, "`stem` to be one of 'imagenet', 'cifar', but got 'vit'"),
        *(
            ({"softmax_scale": scale}, f"a finite `softmax_scale` above 0, but got {scale!r}")
            for scale in (0.0, -1.0, math.inf, math.nan)
        ),
        ({"weights": "a.pt", "init_from": "b.pt"}, "one of `weights` and `init_from`, but got both"),
        (
            {"weights": "IMAGENET1K_V1", "stem": "cifar"},
            "`stem` 'imagenet' with IMAGENET1K_V1 weights, but got",
        ),
        ({"weights": "none.pt"}, "`none.pt`"),
    ],
)
def test_bad_arguments_are_refused(arguments, phrase):
    assert phrase in refusal(**arguments)


def test_masks_zero_weights_and_their_gradients_and_change_no_other_output():
    model = LitResNet18().eval()
    masks = compute_masks(weight_layers(model), 0.3)
    apply_masks(model, masks)
    plain = copy.deepcopy(model)
    remove_masks(plain)
    images = torch.randn(3, 3, 32, 32)
    for network in (model, plain):
        network(images).square().sum().backward()
    mask_gradients(model)
    torch.testing.assert_close(model(images), plain(images))
    for masked, ref in zip(weight_layers(model), weight_layers(plain), strict=True):
        kept = masks[ref.name]
        assert ref.tensor.grad is not None
        torch.testing.assert_close(masked.tensor.grad, torch.where(kept, ref.tensor.grad, 0.0))
