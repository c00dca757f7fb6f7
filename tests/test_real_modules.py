"""The callbacks on networks of other libraries, with random weights.

The libraries are large, so the gate does not install them: tests of a missing library are skipped. To run all of them:

    pip install transformers accelerate peft timm torch_geometric
    pytest tests/test_real_modules.py
"""

import copy
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lit_prune.callbacks import GlobalL1Pruning, LayerFreezing, SparsityMonitor
from lit_prune.functional import (
    apply_masks,
    compute_masks,
    first_layers,
    hold_masks,
    mask_weights,
    sparsity_report,
    weight_layers,
)
from tests.docs import ROOT
from tests.training.conftest import run as run  # the fixture

# the libraries give warnings of their own
pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = 3
BATCHES = 4


def library(name: str) -> Any:
    """Import a library of a network, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"needs `pip install {name.partition('.')[0]}`")


@dataclass(frozen=True)
class Network:
    """A network of another library.

    Attributes:
        build: Makes the network.
        draw: Makes a batch: the keyword arguments of the network, with class labels under "labels".
        weights: Globs of the names of the parameters to prune, written by hand.
        trains: Name of the first parameter that trains if half of the layers are frozen.
    """

    build: Callable[[], nn.Module]
    draw: Callable[[], dict[str, Any]]
    weights: tuple[str, ...]
    trains: str


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER = {"vocab_size": 50, "max_position_embeddings": 8, "num_labels": CLASSES} | SMALL


def gpt2(kind: str = "GPT2ForSequenceClassification") -> nn.Module:
    t = library("transformers")
    config = t.GPT2Config(
        vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2, num_labels=CLASSES, pad_token_id=0
    )
    built: nn.Module = getattr(t, kind)(config)
    return built


def bert() -> nn.Module:
    t = library("transformers")
    built: nn.Module = t.BertForSequenceClassification(t.BertConfig(**ENCODER))
    return built


def t5() -> nn.Module:
    t = library("transformers")
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    sizes |= {"decoder_start_token_id": 0}
    built: nn.Module = t.T5ForConditionalGeneration(t.T5Config(**sizes))
    return built


def vit() -> nn.Module:
    t = library("transformers")
    built: nn.Module = t.ViTForImageClassification(
        t.ViTConfig(image_size=8, patch_size=4, num_labels=CLASSES, hidden_dropout_prob=0.1, **SMALL)
    )
    return built


def timm_model(name: str, **settings: Any) -> nn.Module:
    built: nn.Module = library("timm").create_model(name, pretrained=False, num_classes=CLASSES, **settings)
    return built


def graph_network(kind: str) -> nn.Module:
    layers = library("torch_geometric.nn")

    class Graphs(nn.Module):
        """Two layers of messages, and a linear layer of torch_geometric for each node."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = layers.GraphNorm(6)
            self.first = getattr(layers, kind)(6, 16)
            self.second = getattr(layers, kind)(16, 16)
            self.drop = nn.Dropout(0.2)
            self.head = layers.Linear(16, CLASSES)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            hidden = self.first(self.norm(x), edge_index).relu()
            logits: Tensor = self.head(self.drop(self.second(hidden, edge_index)).relu())
            return logits

    return Graphs()


def tokens() -> dict[str, Any]:
    ids = torch.randint(1, 50, (4, 8))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.randint(CLASSES, (4,))}


def sentences() -> dict[str, Any]:
    return {"input_ids": torch.randint(1, 50, (4, 8)), "labels": torch.randint(1, 50, (4, 8))}


def images(name: str, size: int) -> dict[str, Any]:
    return {name: torch.randn(4, 3, size, size), "labels": torch.randint(CLASSES, (4,))}


def graph() -> dict[str, Any]:
    edges = torch.randint(12, (2, 40))
    return {"x": torch.randn(12, 6), "edge_index": edges, "labels": torch.randint(CLASSES, (12,))}


NETWORKS: dict[str, Network] = {
    "gpt2": Network(
        gpt2,
        tokens,
        ("transformer.h.*.attn.c_*.weight", "transformer.h.*.mlp.c_*.weight", "score.weight"),
        "transformer.h.1.attn.c_proj.weight",
    ),
    # the output layer is tied to the embedding
    "gpt2 with a language model's head": Network(
        lambda: gpt2("GPT2LMHeadModel"),
        sentences,
        ("transformer.h.*.attn.c_*.weight", "transformer.h.*.mlp.c_*.weight"),
        "transformer.h.1.attn.c_attn.weight",
    ),
    "bert": Network(
        bert,
        tokens,
        ("bert.encoder.*.query.weight", "*.key.weight", "*.value.weight", "*.dense.weight", "classifier.weight"),
        "bert.encoder.layer.1.attention.self.key.weight",
    ),
    "t5": Network(
        t5,
        sentences,
        ("*Attention.[qkvo].weight", "*.wi.weight", "*.wo.weight"),
        "decoder.block.0.layer.0.SelfAttention.v.weight",
    ),
    "vit": Network(
        vit,
        lambda: images("pixel_values", 8),
        ("*.projection.weight", "*.[qkvo]_proj.weight", "*.fc[12].weight", "classifier.weight"),
        "vit.layers.1.attention.q_proj.weight",
    ),
    "timm vit": Network(
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, drop_path_rate=0.2),
        lambda: images("x", 32),
        ("patch_embed.proj.weight", "blocks.*.attn.*.weight", "blocks.*.fc[12].weight", "head.weight"),
        "blocks.1.attn.qkv.weight",
    ),
    "convnext": Network(
        lambda: timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
        lambda: images("x", 32),
        ("stem.0.weight", "*.conv_dw.weight", "*.fc[12].weight", "*.downsample.1.weight", "head.fc.weight"),
        "stages.2.blocks.0.conv_dw.weight",
    ),
    # batch norms and drop paths of timm
    "efficientnet": Network(
        lambda: timm_model("test_efficientnet", drop_path_rate=0.2),
        lambda: images("x", 32),
        ("*.conv.weight", "*conv_*.weight", "classifier.weight"),
        "blocks.3.0.se.conv_expand.weight",
    ),
    "gcn": Network(lambda: graph_network("GCNConv"), graph, ("*lin.weight", "head.weight"), "head.weight"),
    "gat": Network(lambda: graph_network("GATConv"), graph, ("*lin.weight", "head.weight"), "head.weight"),
}


class Classifier(LightningModule):
    """Any of these networks as users wrap it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = network.build()
        self.batches = [network.draw() for _ in range(BATCHES)]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        torch.manual_seed(self.global_step)  # the same dropout in a resumed run
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def loss_of(net: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    if type(net).__module__.startswith(("transformers.", "peft.")):
        loss: Tensor = net(**batch).loss
        return loss
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return cross_entropy(net(**inputs), batch["labels"])


def fit(model: LightningModule, folder: Path, *callbacks: Callback, epochs: int = 3, ckpt: Any = None) -> Path:
    """Train a model; return the checkpoint of its last epoch. There is one for each epoch."""
    saving = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks, saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, ckpt_path=ckpt, weights_only=True)
    return folder / f"epoch={epochs - 1}.ckpt"


def matrices(model: nn.Module, network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters to prune, and the others, by name."""
    named = {name.removeprefix("net."): value.detach() for name, value in model.named_parameters()}
    chosen = {name for name in named if any(fnmatchcase(name, glob) for glob in network.weights)}
    for glob in network.weights:
        assert any(fnmatchcase(name, glob) for name in named), glob
    return {n: v for n, v in named.items() if n in chosen}, {n: v for n, v in named.items() if n not in chosen}


class Watch(Callback):
    """Keeps the sparse positions of the first pruned batch, and checks at each batch that they are exactly zero."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.zeros: dict[str, Tensor] = {}
        self.seen = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        chosen, _ = matrices(pl_module, self.network)
        self.zeros = self.zeros or {name: value == 0 for name, value in chosen.items()}
        assert all(torch.equal(value == 0, self.zeros[name]) for name, value in chosen.items())
        self.seen += 1


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


def test_half_of_the_weights_are_zero_and_stay_zero(network, tmp_path):
    model, watch = Classifier(network), Watch(network)
    before = copy.deepcopy(model.net)
    chosen, others = matrices(model, network)
    assert [ref.parameter_name.removeprefix("net.") for ref in weight_layers(model)] == list(chosen)
    last = fit(model, tmp_path, GlobalL1Pruning(0.5), watch)
    assert watch.seen == 3 * BATCHES
    assert sum(int((value == 0).sum()) for value in chosen.values()) == round(
        0.5 * sum(map(torch.numel, chosen.values()))
    )
    assert sum(int((value == 0).sum()) for value in chosen.values()) > 0.3 * sum(p.numel() for p in model.parameters())
    for name, value in others.items():
        # nothing else was pruned; biases start at zero, and so does the row of a padding token
        assert not ((value == 0) & (before.get_parameter(name) != 0)).any(), name
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"net.{name}"] == 0, value == 0) for name, value in chosen.items())
    assert saved.keys() == Classifier(network).state_dict().keys()


def test_everything_before_the_first_layer_that_trains_keeps_its_bits(network, tmp_path):
    model = Classifier(network)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    names = list(before)
    frozen = names[: names.index(network.trains)]
    assert len(first_layers(model, 0.5)) < len(weight_layers(model))
    fit(model, tmp_path, LayerFreezing(fraction=0.5))
    after = model.net.state_dict()
    trainable = {name for name, p in model.net.named_parameters() if name not in frozen}
    assert [name for name in frozen if not torch.equal(after[name], before[name])] == []
    assert [name for name in trainable if torch.equal(after[name], before[name])] == []
    assert network.trains in trainable


def test_a_resumed_run_has_the_same_bits(network, tmp_path):
    def callbacks() -> list[Callback]:
        return [
            GlobalL1Pruning(0.6, end_epoch=2),
            LayerFreezing(fraction=0.3, unfreeze_epoch=2),
            SparsityMonitor(),
        ]

    whole, resumed = Classifier(network), Classifier(network)
    fit(whole, tmp_path / "whole", *callbacks(), epochs=4)
    for value in resumed.state_dict().values():
        if value.is_floating_point():
            value.zero_()  # every value has to come from the checkpoint
    fit(resumed, tmp_path / "resumed", *callbacks(), epochs=4, ckpt=tmp_path / "whole" / "epoch=1.ckpt")
    found = resumed.state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())
    assert sparsity_report(weight_layers(whole)).zeros == round(
        0.6 * sum(r.tensor.numel() for r in weight_layers(whole))
    )


def block_of(document: str, opening: str) -> dict[str, Any]:
    """Run the code block of a document that contains a line, and return the names that it defines."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if opening in block]
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - code of our own documents
    return names


def train_with_transformers(model: nn.Module, folder: Path, callback: Any, resume: bool = False) -> dict[str, Tensor]:
    """Train for ten steps; return the weights that are saved after the last one."""
    t = library("transformers")
    library("accelerate")
    torch.manual_seed(2)
    sentences = [{name: value[0] for name, value in tokens().items()} for _ in range(24)]
    arguments = t.TrainingArguments(
        str(folder),
        max_steps=10,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        weight_decay=0.1,
        save_steps=5,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = t.Trainer(model=model, args=arguments, train_dataset=sentences, callbacks=[callback])
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-5") if resume else None)
    stored: dict[str, Tensor] = load_file(folder / "checkpoint-10" / "model.safetensors")
    return stored


def test_the_documented_callback_holds_masks_in_the_trainer_of_transformers(tmp_path):
    library("transformers")
    prune_at_step = block_of("how-to/own-loop.md", "class PruneAtStep(TrainerCallback):")["PruneAtStep"]
    torch.manual_seed(0)
    model = bert()
    start = copy.deepcopy(model)
    chosen, _ = matrices(model, NETWORKS["bert"])
    saved = train_with_transformers(model, tmp_path, prune_at_step(0.5, step=3))
    assert sum(int((saved[name] == 0).sum()) for name in chosen) == round(0.5 * sum(map(torch.numel, chosen.values())))
    assert all(torch.equal(saved[name], value) for name, value in chosen.items())
    # without masks that are held, the zeros of the checkpoint would move in the next steps
    again = train_with_transformers(start, tmp_path, prune_at_step(0.5, step=3), resume=True)
    assert all(torch.equal(again[name], value) for name, value in saved.items())


def test_adapters_train_on_pruned_weights(tmp_path):
    """LoRA: pruned weights stay zero, adapters stay dense; after merging, `mask_weights` makes them zero again."""
    peft = library("peft")
    settings = peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    model: Any = Classifier(Network(lambda: peft.get_peft_model(bert(), settings), tokens, (), ""))
    start = copy.deepcopy(model.state_dict())
    base = weight_layers(model, exclude=["*lora_*", "*original_module"])
    fit(model, tmp_path, GlobalL1Pruning(0.5, exclude=["*lora_*", "*original_module"]))
    zeros = [ref.tensor == 0 for ref in base]
    assert sum(int(zero.sum()) for zero in zeros) == round(0.5 * sum(map(torch.numel, zeros)))
    for name, value in model.state_dict().items():
        assert "lora_" not in name or (value != 0).all(), name
        trains = "lora_" in name or "modules_to_save" in name
        assert trains or torch.equal(value[value != 0], start[name][value != 0]), name
    merged = model.net.merge_and_unload()
    weights = [ref.tensor for ref in weight_layers(merged)]
    assert len(weights) == len(base)
    assert not all(torch.equal(weight == 0, zero) for weight, zero in zip(weights, zeros, strict=True))
    mask_weights(merged)
    assert all(torch.equal(weight == 0, zero) for weight, zero in zip(weights, zeros, strict=True))


@pytest.mark.parametrize("name", ["gpt2", "gat", "efficientnet"])
def test_fabric_holds_masks(name):
    network = NETWORKS[name]
    fabric = Fabric(accelerator="cpu", devices=1)
    net = network.build()
    model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1))
    held = hold_masks(model, optimizer)
    apply_masks(model, compute_masks(weight_layers(model), 0.5))
    chosen, _ = matrices(net, network)
    zeros = {name: value == 0 for name, value in chosen.items()}

    def step() -> None:
        optimizer.zero_grad()
        fabric.backward(loss_of(net, network.draw()))
        optimizer.step()

    for _ in range(3):
        step()
        assert all(torch.equal(value == 0, zeros[name]) for name, value in chosen.items())
    held.remove()
    step()
    assert any((value != 0)[zeros[name]].any() for name, value in chosen.items())


class Named(Classifier):
    """A network of the table above, as the command line builds it."""

    def __init__(self, name: str) -> None:
        super().__init__(NETWORKS[name])
        self.save_hyperparameters()
        self.example_input_array = {key: value for key, value in self.batches[0].items() if key != "labels"}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.net(*args, **kwargs)
        return getattr(found, "logits", found)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        logits = self(**{key: value for key, value in batch.items() if key != "labels"})
        self.log("val/loss", cross_entropy(logits, batch["labels"]), batch_size=1)
        self.log("val/acc", (logits.argmax(-1) == batch["labels"]).float().mean(), batch_size=1)


class Drawn(LightningDataModule):
    """Batches of such a network."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.save_hyperparameters()

    def val_dataloader(self) -> Any:
        torch.manual_seed(5)
        batches: Any = [NETWORKS[self.hparams["name"]].draw() for _ in range(3)]
        return DataLoader(batches, batch_size=None)


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit", "timm vit", "convnext", "efficientnet", "gcn", "gat"])
def test_commands_on_a_trained_network(name, run, tmp_path):
    network = NETWORKS[name]
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[GlobalL1Pruning(0.3), SparsityMonitor()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    model = Named(name)
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    named = ["net.ckpt", f"--model={__name__}.Named"]
    data = [f"--data={__name__}.Drawn", f"--data.name={name}"]
    chosen, _ = matrices(model, network)
    weights = sum(map(torch.numel, chosen.values()))

    inspected = run("inspect", *named, "--format=json")
    assert inspected.status == 0, inspected.err
    found = json.loads(inspected.out)
    assert [f"{layer['layer']}.weight" for layer in found["layers"]] == [f"net.{parameter}" for parameter in chosen]
    assert found["total"]["zeros"] == found["total"]["masked"] == round(0.3 * weights)
    assert found["total"]["flops"] > found["total"]["flops_nonzero"] > 0

    pruned = run("prune", *named, *data, "--split=val", "--amount=0.6", "--output=pruned.ckpt")
    assert pruned.status == 0, pruned.err
    assert re.search(r"^val/acc on \d+ val samples: [\d.]+% before, [\d.]+% after", pruned.out, re.MULTILINE)
    state = torch.load("pruned.ckpt", weights_only=True)["state_dict"]
    assert sum(int((state[f"net.{parameter}"] == 0).sum()) for parameter in chosen) == round(0.6 * weights)

    last = found["layers"][-1]["layer"]
    measured = run("sensitivity", *named, *data, f"--layers={last}", "--amounts=0.9", "--format=json")
    assert measured.status == 0, measured.err
    content = json.loads(measured.out)
    scoring = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (base,) = scoring.validate(model, datamodule=Drawn(name), verbose=False)
    assert content["accuracy"] == pytest.approx(base["val/acc"])
    assert [layer["layer"] for layer in content["layers"]] == [last]

    for kind in ("onnx", "safetensors"):
        exported = run("export", *named, f"--format={kind}", f"--output=net.{kind}")
        assert exported.status == 0, exported.err
        assert re.search(r"differ from the checkpoint's by at most \S+ on \d+ random", exported.out)
        assert f"{weights:,}, {round(0.3 * weights):,} of them zero" in exported.out
