"""Half of the weights means half of all matrices called weight, in layers of any kind, and they stay zero."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning, PruningRemoval, SparsityMonitor
from lit_prune.errors import InputError
from lit_prune.functional import masking, selection
from lit_prune.functional.packing import unpack_masks
from tests.callbacks.models import CLASSES, OPTIMIZERS, Batches, Classifier, quiet_trainer, snapshot

# typed as Any, because mypy does not know which modules and tensors a model contains
current_mask: Any = masking.current_mask
weight_layers: Any = selection.weight_layers


class Transposed(nn.Module):
    """A linear layer whose weight is stored as inputs x outputs, as the Conv1D of transformers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, values: Tensor) -> Tensor:
        return values @ self.weight + self.bias


class RelationWeights(nn.Module):
    """A matrix for each kind of edge, and a table of relative positions that is no weight, as in graph layers."""

    def __init__(self) -> None:
        super().__init__()
        self.relation_weight = nn.Parameter(torch.randn(3, 16, 16) / 4)
        self.relative_position_table = nn.Parameter(torch.randn(12, 16))

    def forward(self, values: Tensor) -> Tensor:
        return sum(values @ weight for weight in self.relation_weight) + self.relative_position_table  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.rnn: Any = kind(16, 8, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.rnn(values)[0]
        return out


class Cell(nn.Module):
    """A cell that is called in a loop."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell: Any = kind(16, 16)

    def forward(self, values: Tensor) -> Tensor:
        state, outputs = None, []
        for value in values.unbind(1):
            state = self.cell(value, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1)


class Attention(nn.Module):
    """Attention to values of another width, whose three projections are three parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, kdim=4, vdim=4, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.attention(values, values[..., :4], values[..., 4:8])[0]
        return out


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(16, 16, 16)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.pair(values, values)
        return out


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(16, 8, 2, stride=2), nn.ConvTranspose1d(8, 16, 2, stride=2)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.up(self.down(values.transpose(1, 2))).transpose(1, 2)
        return out


# each with the number of entries in its matrices
LAYERS: dict[str, tuple[Any, int]] = {
    "transposed": (lambda: Transposed(16, 16), 256),
    "relations": (lambda: RelationWeights(), 768),
    "lstm": (lambda: Recurrent(nn.LSTM), 2 * 4 * 8 * (16 + 8) + 2 * 4 * 8 * (16 + 8)),
    "gru": (lambda: Recurrent(nn.GRU), 2 * 3 * 8 * (16 + 8) + 2 * 3 * 8 * (16 + 8)),
    "cell": (lambda: Cell(nn.LSTMCell), 4 * 16 * 32),
    "rnn-cell": (lambda: Cell(nn.RNNCell), 16 * 32),
    "attention": (lambda: Attention(), 16 * 16 + 2 * 16 * 4 + 16 * 16),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 8, batch_first=True, dropout=0.0), 4 * 256 + 2 * 128),
    "decoder": (lambda: Decoder(), 8 * 256 + 2 * 128),
    "bilinear": (lambda: Paired(), 16**3),
    "convolutions": (lambda: Convolved(), 2 * 16 * 8 * 2),
}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(16, 2, 8, batch_first=True, dropout=0.0)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.layer(values, values.flip(1))
        return out


class Tokens(nn.Module):
    """One layer over 12 tokens of an image, with embeddings and a norm that are not to be pruned."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.position = nn.Embedding(12, 16)
        self.layer = layer
        self.norm = nn.LayerNorm([12, 16])
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.reshape(len(images), 12, 16) + self.position.weight
        logits: Tensor = self.head(self.norm(self.layer(tokens)).mean(dim=1))
        return logits


def matrices(model: Any) -> dict[str, Tensor]:
    """Return all matrices called weight, without those of the embedding and the norm."""
    return {
        name: value
        for name, value in model.named_parameters()
        if value.dim() > 1 and "weight" in name and not name.startswith(("net.position", "net.norm"))
    }


@pytest.mark.parametrize(
    ("pruning", "optimizer"),
    [
        (lambda: GlobalL1Pruning(0.5, start_epoch=1), "adam"),
        (lambda: GlobalRandomPruning(0.7, end_epoch=2), "sgd"),
        (lambda: LocalL1Pruning(0.25), "adamw"),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_the_share_of_all_matrices_is_zero(name: str, pruning: Any, optimizer: str) -> None:
    layer, size = LAYERS[name]
    model = Classifier(Tokens(layer()), optimizer)
    assert optimizer in OPTIMIZERS
    before = snapshot(model)
    callback = pruning()
    quiet_trainer(callback, max_epochs=3).fit(model, Batches(), Batches(2, seed=1))
    found = matrices(model)
    total = size + 16 * CLASSES
    assert sum(value.numel() for value in found.values()) == total
    zeros = sum(int((value == 0).sum()) for value in found.values())
    assert zeros == pytest.approx(callback.amount * total, abs=0.5 * len(found) if callback.allocation else 0.5)
    for ref in weight_layers(model):
        assert torch.equal(ref.tensor != 0, current_mask(ref))
    for other, value in model.named_parameters():
        assert not torch.equal(value, before[other]), other
        if other not in found and "bias" not in other:
            assert value.all(), other


@pytest.mark.parametrize("name", ["lstm", "attention", "relations"])
def test_removed_masks_of_any_layer_leave_weights_that_train(name: str) -> None:
    model = Classifier(Tokens(LAYERS[name][0]()), "adam")
    quiet_trainer([GlobalL1Pruning(0.5), PruningRemoval(1)], max_epochs=2).fit(model, Batches(), Batches(2, seed=1))
    assert not prune.is_pruned(model)
    assert all((value == 0).float().mean() < 0.2 for value in matrices(model).values())


@pytest.mark.parametrize("name", ["gru", "encoder", "transposed"])
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_other_precisions(name: str, precision: Any) -> None:
    model = Classifier(Tokens(LAYERS[name][0]()), "sgd")
    quiet_trainer(GlobalL1Pruning(0.5), max_epochs=1, precision=precision).fit(model, Batches(), Batches(2, seed=1))
    total = LAYERS[name][1] + 16 * CLASSES
    assert sum(int((~current_mask(ref)).sum()) for ref in weight_layers(model)) == round(0.5 * total)
    for ref in weight_layers(model):
        assert ref.tensor.dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
        assert not ref.tensor[~current_mask(ref)].any()


def test_parameters_are_pruned_by_name() -> None:
    model: Any = Classifier(Tokens(RelationWeights()))
    pruning = GlobalL1Pruning(0.5, parameters=["*.relative_position_table", "net.position.weight"])
    quiet_trainer(pruning, max_epochs=2).fit(model, Batches(), Batches(2, seed=1))
    table, position = model.net.layer.relative_position_table, model.net.position.weight
    assert int((table == 0).sum() + (position == 0).sum()) == (12 * 16 + 12 * 16) // 2
    assert model.net.layer.relation_weight.all()
    assert model.net.head.weight.all()


class Scripted(Classifier):
    """Contains a module of TorchScript, such as a scripted loss, that has no dictionaries of parameters."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
        self.scale: Any = torch.jit.script(nn.Linear(CLASSES, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = self.scale(super().forward(images))
        return scaled


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("chosen", [{"layers": "net"}, {"exclude": "scale"}], ids=str)
def test_scripted_modules_that_are_not_chosen_do_not_disturb(chosen: dict[str, Any], removed: bool) -> None:
    model: Any = Scripted()
    pruning = GlobalL1Pruning(0.5, rewind_to=0, start_epoch=1, **chosen)
    callbacks = [pruning, SparsityMonitor(), *([PruningRemoval("end")] if removed else [])]
    trainer = quiet_trainer(callbacks, max_epochs=3)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert float(trainer.callback_metrics["sparsity/global"]) == 0.5
    assert any(map(prune.is_pruned, model.net)) == (not removed)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
def test_the_monitor_names_what_it_cannot_read_and_what_to_do() -> None:
    with pytest.raises(InputError, match=r"layer `scale` to be an ordinary module.* `GlobalL1Pruning\(0, exclude="):
        quiet_trainer([SparsityMonitor()]).fit(Scripted(), Batches(), Batches())
    quiet_trainer([SparsityMonitor(), GlobalL1Pruning(0, exclude="scale")]).fit(Scripted(), Batches(), Batches())


class Swap(Callback):
    """Replaces layers when `fit` starts, as quantization-aware training does."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for index, layer in enumerate(pl_module.net):
            if isinstance(layer, nn.Linear):
                other = Transposed(layer.in_features, layer.out_features)
                other.weight, other.bias = nn.Parameter(layer.weight.detach().t().clone()), layer.bias
                trainer.optimizers[0].param_groups[0]["params"].append(other.weight)
                pl_module.net[index] = other


@pytest.mark.parametrize("order", [1, -1])
def test_layers_that_another_callback_replaces_when_fit_starts_are_pruned(order: int) -> None:
    model: Any = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
    pruning = GlobalL1Pruning(0.5, start_epoch=1)
    trainer = quiet_trainer([pruning, SparsityMonitor(), Swap()][::order], max_epochs=3)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    layers = [layer for layer in model.net if isinstance(layer, Transposed)]
    assert sum(int((layer.weight == 0).sum()) for layer in layers) == (192 * 8 + 8 * CLASSES) // 2
    assert float(trainer.callback_metrics["sparsity/masked"]) == 0.5
    assert set(unpack_masks(pruning.state_dict()["masks"])) == {"net.1", "net.3"}
