"""The commands on models and data of users: several inputs, batches of any kind, any layers."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_prune.callbacks import GlobalL1Pruning, LayerFreezing, SparsityMonitor
from lit_prune.functional import first_layers, weight_layers
from lit_prune.functional.selection import group_weights_by_layer
from lit_prune.trained.network import load_network
from tests.trained import own
from tests.trained.own import LENGTH, WEIGHTS, SentenceData, Sentences
from tests.trained.test_prune import state

OWN = "--model=tests.trained.own.Sentences"
DATA = "--data=tests.trained.own.SentenceData"
COUNT = 3 * 12 * 12 + 12 * 12 + 2 * 4 * 12 * 12 + 12 * 12 + 3 * 12  # weights, at a width of 12


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The Trainer of a script that has trained a `Sentences` of width 12 and saved it as `best_model_path`."""
    torch.manual_seed(0)
    saving = ModelCheckpoint(tmp_path_factory.mktemp("own"))
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[GlobalL1Pruning(0.25), SparsityMonitor(), LayerFreezing(layers="encoder.norm"), saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Sentences(width=12), datamodule=SentenceData(size=64))
    return trainer


@pytest.fixture(scope="session")
def checkpoint(trained: Any) -> str:
    return str(trained.checkpoint_callback.best_model_path)


def accuracy(path: str, **changes: Any) -> float:
    """The accuracy that Lightning itself finds for a checkpoint."""
    model = load_network(path, "tests.trained.own.Sentences").require_model()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.validate(model, datamodule=SentenceData(**({"size": 64} | changes)), verbose=False)
    return found["val/acc"]


def rows(text: str) -> list[str]:
    """The first words of the rows of a table, without its total."""
    lines = text.splitlines()
    first, last = (number for number, line in enumerate(lines) if line.startswith("---"))
    return [line.split()[0] for line in lines[first + 1 : last]]


def test_all_parts_choose_the_same_weights(run, trained, checkpoint):
    model: Any = trained.lightning_module
    assert [ref.name for ref in weight_layers(model)] == WEIGHTS
    assert [ref.name for ref in GlobalL1Pruning(0.5).choose(model)] == WEIGHTS
    assert [ref.name for refs in group_weights_by_layer(model) for ref in refs] == WEIGHTS
    assert [ref.name for ref in first_layers(model, 1.0)] == WEIGHTS
    prefix = "sparsity/layer/"
    logged = [name.removeprefix(prefix) for name in trained.callback_metrics if name.startswith(prefix)]
    assert logged == WEIGHTS
    assert rows(run("inspect", checkpoint, OWN).out) == WEIGHTS
    assert rows(run("prune", checkpoint, OWN, "--amount=0.5", "--output=out.ckpt").out) == WEIGHTS
    csv = run("sensitivity", checkpoint, OWN, DATA, "--amounts=0.5", "--limit=8", "--format=csv").out
    assert [line.split(",")[0] for line in csv.splitlines()[1:]] == WEIGHTS


def test_what_is_left_out_is_said_once_with_its_share(run, checkpoint):
    total = sum(tensor.numel() for tensor in state(checkpoint).values())
    share = (own.WORDS + LENGTH) * 12 / total
    said = (
        f"lit-prune: leaving out {share:.1%} of the parameters, since they are in norms or embeddings or not called "
        "weight: encoder.position, encoder.embedding.weight. Choose parameters by name with `--parameters`.\n"
    )
    prune = ["prune", checkpoint, OWN, "--amount=0.5", "--output=out.ckpt"]
    assert run(*prune).err == said
    sensitivity = ["sensitivity", checkpoint, OWN, DATA, "--amounts=0.5", "--limit=8"]
    assert run(*sensitivity).err == said
    # users who choose weights know what is left out
    for choice in (["--layers=*.mix"], ["--parameters=*.position"]):
        assert run(*prune, *choice).err == ""
        assert run(*sensitivity, *choice, f"--output={choice[0][2:5]}.png").err == ""


def test_parameters_are_pruned_by_their_names(run, checkpoint):
    before = state(checkpoint)
    answer = run(
        "prune",
        checkpoint,
        OWN,
        "--amount=0.5",
        "--output=out.ckpt",
        "--parameters",
        "*.position",
        "*.embedding.weight",
    )
    assert answer.status == 0, answer.err
    after = state("out.ckpt")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"encoder.position", "encoder.embedding.weight"}
    assert sum(int((after[name] == 0).sum()) for name in changed) == (own.WORDS + LENGTH) * 12 // 2
    assert '--trainer.callbacks.parameters=\'["*.position", "*.embedding.weight"]\'' in answer.out


def test_each_score_is_that_of_lightning_on_the_users_data(run, checkpoint):
    base = accuracy(checkpoint)
    assert base > 0.5
    answer = run("sensitivity", checkpoint, OWN, DATA, "--amounts", "0.5", "0.95", "--format=json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert (found["metric"], found["images"]) == ("val/acc", 64)
    assert found["accuracy"] == pytest.approx(base)
    scores = [score for layer in found["layers"] for score in layer["accuracy"]]
    assert len(set(scores)) > 3
    for layer in ("encoder.mix", "encoder.recurrent.weight_hh_l0"):
        name = layer if layer in state(checkpoint) else f"{layer}.weight"
        pruned = run(
            "prune", checkpoint, OWN, DATA, "--amount=0.95", "--output=one.ckpt", "--parameters", name, "--split=val"
        )
        after = accuracy("one.ckpt")
        change = f"{100 * (after - base):+.2f} points"
        assert f"val/acc on 64 val samples: {base:.2%} before, {after:.2%} after ({change})" in pruned.out
        (one,) = [part["accuracy"][1] for part in found["layers"] if part["layer"] == layer]
        assert one == pytest.approx(after)


def test_measurements_continue_only_on_the_same_data_and_metric(run, checkpoint):
    argv = ["sensitivity", checkpoint, OWN, DATA, "--layers=*.mix", "--amounts=0.5"]
    whole = run(*argv, "--format=json")
    assert whole.status == 0
    again = run(*argv, "--format=json")
    assert again.out == whole.out
    assert again.err == "2 of 2 measurements are already in sensitivity.jsonl.\n"
    for other in ("--data.size=32", "--metric=val/sure"):
        assert run(*argv, other).status == 2
    sure = run(*argv, "--metric=val/sure", "--output=sure.png")
    assert f"{sure.out.split()[1]} val/sure on 64 val samples." in sure.out
    assert sure.out.splitlines()[1].startswith("Change in val/sure, in percentage points")


def test_arguments_of_the_data_come_from_the_checkpoint_unless_they_are_given(run, checkpoint):
    argv = ["prune", checkpoint, OWN, DATA, "--amount=0.5", "--output=out.ckpt", "--split=val"]
    # whole batches of 8
    for more, count in (
        ([], 64),
        (["--data.size=24"], 24),
        (["--limit=17"], 24),
        (["--data.batch_size=5", "--limit=17"], 20),
    ):
        answer = run(*argv, *more)
        assert f"val/acc on {count} val samples" in answer.out, answer.err
    torch.save(state(checkpoint), "bare.pt")
    argv[1] = "bare.pt"
    assert run(*argv).complaint.startswith("Expected the weights of a Sentences in `bare.pt`")
    torch.save(Sentences().state_dict(), "bare.pt")
    assert run(*argv).complaint == (
        "Expected a value for the argument `size` of SentenceData, but got none. HINT: add `--data.size VALUE`."
    )
    assert (
        run("prune", "bare.pt", OWN, DATA, "--data.size=9", "--amount=0.5", "--output=out.ckpt", "--split=val").status
        == 0
    )


def test_stored_arguments_of_the_data_cannot_name_files_or_classes(run, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["datamodule_hyper_parameters"]["batch_size"] = {"class_path": "this_would_leave_a_mark.Net"}
    torch.save(content, "x.ckpt")
    answer = run("prune", "x.ckpt", OWN, DATA, "--amount=0.5", "--output=out.ckpt", "--split=val")
    assert "which is unsafe" in answer.complaint


class WithTest(Sentences):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error", torch.tensor(2.5))
        self.log("test/loss", torch.tensor(0.5))


class Silent(Sentences):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/sure", torch.tensor(0.5))


class Faulty(Sentences):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        batch["images"]


class Untested(Sentences):
    validation_step = LightningModule.validation_step  # type: ignore[assignment]


class NoBatches(SentenceData):
    def val_dataloader(self) -> Any:
        return []


class NoFile(SentenceData):
    def setup(self, stage: str) -> None:
        torch.load("nowhere.pt")


class NoLoader(LightningDataModule):
    pass


@pytest.mark.parametrize(
    ("model", "data", "argv", "said"),
    [
        (
            "Sentences",
            "SentenceData",
            [],
            "Expected a network with a `test_step`, but got Sentences, which defines none. HINT: define it, and log an "
            "accuracy in it with `self.log`, or give `--split val`.",
        ),
        (
            "Untested",
            "SentenceData",
            ["--split=val"],
            "Expected a network with a `validation_step`, but got Untested, which defines none. HINT: define it, and "
            "log an accuracy in it with `self.log`.",
        ),
        (
            "Silent",
            "SentenceData",
            ["--split=val"],
            "Expected `validation_step` to log an accuracy, but got `val/sure`. HINT: log a fraction that is higher "
            "for better networks, such as an accuracy, and name it with `--metric`.",
        ),
        (
            "Sentences",
            "SentenceData",
            ["--split=val", "--metric=val/ac"],
            "Expected `validation_step` to log the `--metric`, but got no `val/ac`. HINT: did you mean `val/acc`.",
        ),
        (
            "WithTest",
            "SentenceData",
            ["--split=test", "--metric=error"],
            "Expected `error` in [0, 1], but got 2.5. HINT: log a fraction that is higher for better networks, "
            "such as an accuracy, and name it with `--metric`.",
        ),
        (
            "WithTest",
            "SentenceData",
            ["--split=test", "--metric=test/loss"],
            "Expected a metric that is higher for better networks, but got `test/loss`. HINT: log a fraction that ",
        ),
        (
            "Faulty",
            "SentenceData",
            ["--split=val"],
            "The `validation_step` of Faulty failed: KeyError ('images'). Set LIT_PRUNE_TRACEBACK=1 to see where.",
        ),
        ("Sentences", "NoBatches", ["--split=val"], "Expected val batches of {}.NoBatches, but got none. HINT: check "),
        ("Sentences", "NoFile", ["--split=val"], "No such file or directory: `nowhere.pt`. "),
        ("Sentences", "NoLoader", ["--split=val"], "Loading the val data of {}.NoLoader failed: Misconfiguration"),
        (
            "Sentences",
            "Nothing",
            ["--split=val"],
            "Expected `--data` to name a subclass of LightningDataModule, but got ",
        ),
        (
            "Sentences",
            "Sentences",
            ["--split=val"],
            "Expected `--data` to name a subclass of LightningDataModule, but ",
        ),
        ("Sentences", "SentenceData", ["--data.size=x"], "Expected `--data.size` to be an integer, but got `x`. "),
        (
            "Sentences",
            "SentenceData",
            ["--data.sise=3"],
            "Expected an argument of SentenceData, but got `--data.sise`. ",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(run, checkpoint, model, data, argv, said):
    named = [f"--model={__name__}.{model}", f"--data={__name__}.{data}"]
    answer = run("prune", checkpoint, *named, "--amount=0.5", "--output=out.ckpt", *argv)
    assert answer.status == (1 if "No such file" in said else 2)
    assert answer.complaint.startswith(said.format(__name__))
    assert not Path("out.ckpt").exists()


def test_graphs_and_loaders_of_any_kind_are_scored(run, checkpoint):
    """Batches may be objects, and several loaders may be validated."""
    named = [f"--model={__name__}.Objects", f"--data={__name__}.Several", "--metric=val/acc/dataloader_idx_1"]
    answer = run("prune", checkpoint, *named, "--amount=0.5", "--output=out.ckpt", "--split=val")
    assert "val/acc/dataloader_idx_1 on 128 val samples" in answer.out, answer.err


class Bundle:
    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts


class Objects(Sentences):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self.encoder(batch.parts["words"], batch.parts["lengths"])
        self.log("val/acc", (logits.argmax(1) == batch.parts["labels"]).float().mean(), batch_size=1)


class Several(SentenceData):
    def val_dataloader(self) -> Any:
        bundles: Any = [Bundle(batch) for batch in super().val_dataloader()]
        return [DataLoader(bundles, batch_size=None, collate_fn=lambda bundle: bundle) for _ in range(2)]


def test_the_suggested_command_trains_the_same_model_on_the_same_data(run, checkpoint):
    answer = run("prune", checkpoint, OWN, DATA, "--amount=0.5", "--output=out.ckpt", "--split=val")
    command = shlex.split(answer.out[answer.out.index("lit-prune fit ") :].replace("\\\n", " "))
    quick = ["--data.size=16", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--name=tuned"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    fitted = run(*command[1:], *quick, *quiet)
    assert fitted.status == 0, fitted.err
    before, after = state("out.ckpt"), state("lightning_logs/tuned/version_0/checkpoints/last.ckpt")
    assert not torch.equal(before["encoder.mix.bias"], after["encoder.mix.bias"])
    for name in (WEIGHTS[0], f"{WEIGHTS[4]}.weight"):
        assert torch.equal(before[name] == 0, after[name] == 0)
    # the file that `fit` has written knows its data
    last = "lightning_logs/tuned/version_0/checkpoints/last.ckpt"
    again = run("prune", last, OWN, DATA, "--amount=0.6", "--output=more.ckpt", "--split=val")
    assert "val/acc on 16 val samples" in again.out
    assert f"--data {DATA[7:]}" in again.out


def test_what_is_inspected(run, checkpoint):
    found = json.loads(run("inspect", checkpoint, OWN, "--format=json").out)
    assert found["total"]["weights"] == COUNT
    assert found["total"]["zeros"] == found["total"]["masked"] == round(0.25 * COUNT)
    assert found["total"]["untouched"] is not None
    assert [layer["frozen"] for layer in found["layers"]] == [False] * 6
    assert found["total"]["flops"] is None
    named = {}
    for kind in ("Named", "Ordered", "Explicit"):
        content = json.loads(run("inspect", checkpoint, f"--model=tests.trained.own.{kind}", "--format=json").out)
        named[kind] = {layer["layer"]: layer["flops"] for layer in content["layers"]}
    assert named["Named"] == named["Ordered"] == named["Explicit"]
    assert named["Named"]["encoder.mix"] == 2 * LENGTH * 12 * 12
    assert named["Named"]["encoder.head"] == 2 * 12 * own.CLASSES
    said = run("inspect", checkpoint, "--model=tests.trained.own.Named").out
    assert "MFLOPs: for one input like the model's `example_input_array`; a multiply-add is 2 FLOPs." in said


class Picky(LightningModule):
    """Checks its input as timm's transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 4, stride=4)

    def forward(self, images: Tensor) -> Any:
        torch._assert(images.shape[-1] == 64, "images have 64 pixels a side")
        return self.layer(images).mean((2, 3))


def test_a_model_that_refuses_the_default_size_is_inspected_without_flops(run):
    torch.save(Picky().state_dict(), "picky.pt")
    answer = run("inspect", "picky.pt", f"--model={__name__}.Picky")
    assert answer.status == 0, answer.err
    assert "to count FLOPs, set `example_input_array` in the class." in answer.out
    wrong = run("inspect", "picky.pt", f"--model={__name__}.Picky", "--input_size=32")
    assert "but got AssertionError (images have 64 pixels a side)" in wrong.complaint
    assert "0.05" in run("inspect", "picky.pt", f"--model={__name__}.Picky", "--input_size=64").out


@pytest.mark.gate
@pytest.mark.parametrize("batch", ["dynamic", "3"])
@pytest.mark.parametrize("kind", ["Named", "Ordered", "Explicit"])
def test_onnx_takes_the_inputs_of_the_example(run, checkpoint, kind, batch):
    named = f"--model=tests.trained.own.{kind}"
    answer = run("export", checkpoint, named, "--format=onnx", "--output=net.onnx", f"--batch={batch}")
    assert answer.status == 0, answer.err
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    names = ["words", "lengths"] if kind != "Ordered" else ["input_0", "input_1"]
    assert [node.name for node in session.get_inputs()] == names
    shapes = {"words": [LENGTH], "lengths": []}
    about = json.loads(session.get_modelmeta().custom_metadata_map["inputs"])
    assert about == {
        name: {"shape": shape, "dtype": "int64"} for name, shape in zip(names, shapes.values(), strict=True)
    }
    words, lengths = torch.randint(own.WORDS, (3, LENGTH)), torch.randint(1, LENGTH + 1, (3,))
    (found,) = session.run(None, dict(zip(names, (words.numpy(), lengths.numpy()), strict=True)))
    model: Any = load_network(checkpoint, "tests.trained.own.Sentences").require_model()
    with torch.no_grad():
        np.testing.assert_allclose(found, model(words, lengths).numpy(), atol=1e-5)
    rows = "any number of rows" if batch == "dynamic" else "batches of 3 rows"
    assert f"for {rows} of `{names[0]}` [6] int64, `{names[1]}` [] int64" in answer.out
    assert f"{COUNT:,}, {round(0.25 * COUNT):,} of them zero (25.00%)" in answer.out


@pytest.mark.gate
def test_torchexport_takes_several_inputs(run, checkpoint):
    answer = run("export", checkpoint, "--model=tests.trained.own.Explicit", "--format=torchexport", "--output=net.pt2")
    assert answer.status == 0, answer.err
    words, lengths = torch.randint(own.WORDS, (5, LENGTH)), torch.randint(1, LENGTH + 1, (5,))
    model: Any = load_network(checkpoint, "tests.trained.own.Sentences").require_model()
    loaded = torch.export.load("net.pt2").module()
    with torch.no_grad():
        assert torch.allclose(loaded(words=words, lengths=lengths), model(words, lengths), atol=1e-5)


class Nodes(LightningModule):
    """Takes a graph, whose nodes and edges are not rows of one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.example_input_array = (torch.randn(7, 4), torch.randint(7, (2, 9)))

    def forward(self, x: Tensor, edges: Tensor) -> Any:
        return torch.zeros(len(x), 3).index_add(0, edges[1], self.layer(x)[edges[0]])


def test_inputs_without_rows_have_fixed_shapes(run):
    model = Nodes()
    torch.save(model.state_dict(), "nodes.pt")
    argv = ["export", "nodes.pt", f"--model={__name__}.Nodes", "--format=onnx", "--output=net.onnx"]
    answer = run(*argv)
    assert answer.status == 0, answer.err
    assert "for `x` [7, 4] float32, `edges` [2, 9] int64" in answer.out
    x, edges = torch.randn(7, 4), torch.randint(7, (2, 9))
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy(), "edges": edges.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x, edges).numpy(), atol=1e-5)
    assert run(*argv, "--batch=3").complaint.startswith("Expected inputs with the same number of rows for `--batch`, ")


class Flat(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, *args: Tensor) -> Any:
        return self.layers(*args)


def test_the_shape_of_one_input_can_be_given(run):
    model = Flat()
    torch.save(model.state_dict(), "flat.pt")
    argv = ["export", "flat.pt", f"--model={__name__}.Flat", "--format=onnx", "--output=net.onnx"]
    assert run(*argv).complaint.endswith(
        "HINT: set `example_input_array` in the class or, for images, pass their size in training as `--input_size`."
    )
    answer = run(*argv, "--input_size=[5]")
    assert answer.status == 0, answer.err
    x = torch.randn(4, 5)
    (found,) = onnxruntime.InferenceSession("net.onnx").run(None, {"inputs": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)
    assert "`--crop`" in run(*argv, "--input_size=[5]", "--crop").complaint
    assert "`--input_size` 32" in run(*argv, "--input_size=[5]", "--limit=2").complaint


class Squeezed(Flat):
    """Returns one number for each input."""

    def forward(self, *args: Tensor) -> Any:
        return super().forward(*args)[:, 0]


class Two(Flat):
    def forward(self, *args: Tensor) -> Any:
        return super().forward(*args), 1


@pytest.mark.parametrize("kind", ["onnx", "torchexport", "accelerated", "safetensors"])
@pytest.mark.gate
def test_a_network_of_one_number_for_each_input_is_exported(run, kind):
    torch.save(Squeezed().state_dict(), "one.pt")
    argv = [f"--model={__name__}.Squeezed", f"--format={kind}", "--output=net.out", "--input_size=[5]"]
    answer = run("export", "one.pt", *argv)
    assert answer.status == 0, answer.err
    assert run("cost", "one.pt", *argv[:1], "--input_size=[5]", "--batches=[2]", "--rounds=1").status == 0


def test_a_network_of_two_outputs_is_not_accelerated(run):
    torch.save(Two().state_dict(), "two.pt")
    argv = [f"--model={__name__}.Two", "--format=accelerated", "--output=net.out", "--input_size=[5]"]
    answer = run("export", "two.pt", *argv)
    assert answer.status == 2
    assert answer.complaint.startswith("Expected Two to return a tensor of logits for `inputs` [5] float32, but got")


class Bytes(LightningModule):
    """Takes images as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 4)
        self.example_input_array = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8)

    def forward(self, pixels: Tensor) -> Any:
        return self.layer(pixels.float() / 255).flatten(1)


def test_images_keep_the_type_of_the_example(run):
    model = Bytes()
    torch.save(model.state_dict(), "bytes.pt")
    answer = run("export", "bytes.pt", f"--model={__name__}.Bytes", "--format=onnx", "--output=net.onnx")
    assert answer.status == 0, answer.err
    pixels = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    (found,) = onnxruntime.InferenceSession("net.onnx").run(None, {"pixels": pixels.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(pixels).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torchexport"])
def test_weights_without_a_forward_have_no_graph(run, checkpoint, kind):
    answer = run("export", checkpoint, "--model=tests.trained.own.Steps", f"--format={kind}", "--output=net.out")
    assert answer.complaint == (
        f"Expected a network with a `forward` for `--format {kind}`, but got Steps, which defines none. HINT: define "
        "`forward` in the class, or write only the weights with `--format safetensors`."
    )
    assert not Path("net.out").exists()


@pytest.mark.parametrize("model", ["Steps", "Sentences"])
@pytest.mark.parametrize("kind", ["safetensors", "state_dict"])
def test_weights_are_written_if_the_inputs_are_not_known(run, checkpoint, kind, model):
    argv = ["export", checkpoint, f"--model=tests.trained.own.{model}", f"--format={kind}", "--output=net.out"]
    answer = run(*argv)
    assert answer.status == 0, answer.err
    assert "checked     the weights read back from the file equal those written, bit for bit" in answer.out
    assert re.search(r"^metadata .*\binputs?\b", answer.out, re.MULTILINE) is None
    assert f"{round(0.25 * COUNT):,} of them zero (25.00%)" in answer.out
    limited = run(*argv[:-1], "--output=other.out", "--limit=2")
    assert limited.complaint.startswith("Expected a network that computes logits for images of 3x32x32, but got ")


def test_weights_are_checked_with_the_inputs_of_the_example(run, checkpoint):
    answer = run("export", checkpoint, "--model=tests.trained.own.Named", "--format=safetensors", "--output=net.out")
    assert "differ from the checkpoint's by at most 0 on 10 random rows" in answer.out


def test_export_takes_no_data_module(run, checkpoint):
    answer = run("export", checkpoint, OWN, DATA, "--format=safetensors", "--output=net.out")
    assert answer.complaint.startswith("Expected no data module for `export`, but got `--data`. HINT: leave it out")


class Broken(Sentences):
    def __init__(self, width: int = 8) -> None:
        raise ModuleNotFoundError("No module named 'somewhere'")


def test_the_cause_is_said_if_a_class_cannot_be_built(run, checkpoint):
    answer = run("inspect", checkpoint, f"--model={__name__}.Broken")
    cause = "ModuleNotFoundError (No module named 'somewhere')"
    assert answer.complaint.endswith(f"cannot be built with the arguments in `{checkpoint}`: {cause}.")


def test_a_metric_needs_a_data_module(run, checkpoint):
    answer = run("prune", checkpoint, "--amount=0.5", "--output=out.ckpt", "--metric=val/acc", "--split=val")
    assert answer.status == 2
    assert answer.complaint.startswith("Expected a data module of your own with `--metric`, but got none.")


@pytest.mark.parametrize("argv", [["prune", "--limit=8"], ["prune", "--criterion=taylor"], ["sensitivity"]])
def test_data_that_are_not_named_are_not_those_of_cifar10(run, checkpoint, argv):
    """Also if the data module has an argument that the one of CIFAR-10 has, here `batch_size`."""
    command, *options = argv
    if command == "prune":
        options += ["--amount=0.5", "--output=out.ckpt"]
    answer = run(command, checkpoint, OWN, *options)
    assert answer.status == 2
    assert "one whose data is not known. HINT: name the data module with `--data module.Class`" in answer.complaint
    assert not Path("data").exists()
