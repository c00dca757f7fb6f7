"""What a person sees after a mistake: one sentence, an exit status, no traceback, and nothing left on disk."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from tests.cli.conftest import TINY, Run

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
OFFLINE = "http://127.0.0.1:9/nothing"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what they seem to be."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.ckpt").write_text("hello")
    (folder / "empty.ckpt").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                          enable_model_summary=False, accelerator="cpu")  # fmt: skip
        trainer.strategy.connect(BoringModel())
        trainer.save_checkpoint("foreign.ckpt")
    whole = (folder / "foreign.ckpt").read_bytes()
    (folder / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"layer.weight": torch.zeros(2)}, folder / "weights.pt")
    (folder / "noimage.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "broken.yaml").write_text("data: {source: a\n")
    (folder / "key.yaml").write_text("data: {sorce: synthetic}\n")
    (folder / "bytes.yaml").write_bytes(bytes(range(128, 256)))
    return folder


def tree() -> set[Path]:
    return set(Path().rglob("*"))


def refused(run: Run, files: Path, *words: str) -> str:
    """Run a command that must fail; return its sentence."""
    before = tree()
    answer = run(*(word.replace("{files}", str(files)) for word in words))
    assert answer.status == 2
    assert tree() == before
    return answer.complaint.replace(str(files), "{files}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.outptu=logits"], "Expected a known option, but got `--model.outptu`. HINT: did you mean `--model.output`."),
        (["--lr=1"], "Expected a known option, but got `--lr`. HINT: did you mean `--model.optimizer.lr`."),
        (["--optimizer=Adam"], "Expected a known option, but got `--optimizer`. HINT: did you mean `--model.optimizer`."),
        (["--trainer.max_epoch=3"], "Expected a known option, but got `--trainer.max_epoch`. HINT: did you mean `--trainer.max_epochs`."),
        (["stray"], "Expected an option, which starts with `--`, but got `stray`. HINT: `--help` lists the options."),
        (["--data.val_size"], "Expected a value after `--data.val_size`, but got none. HINT: give it as the next word."),
        (["--model.output=logts"], "Expected `--model.output` to be one of logits, softmax, scaled_softmax, but got `logts`. HINT: did you mean `logits`."),
        (["--data.val_size=abc"], "Expected `--data.val_size` to be a whole number, but got `abc`. HINT: check the value."),
        (["--data.limit_train=1.5"], "Expected `--data.limit_train` to be a whole number or null, but got `1.5`. HINT: check the value."),
        (["--trainer.callbacks+=GlobalL1Prunin"], "Expected `--trainer.callbacks` to name a callback, but got `GlobalL1Prunin`. HINT: did you mean `GlobalL1Pruning`."),
        (["--trainer.callbacks+=Xyzzy"], "Expected `--trainer.callbacks` to name a callback, but got `Xyzzy`. HINT: give a class name, or module.Class for your own."),
        (["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.montor=x"], "Expected an argument of ModelCheckpoint, but got `--trainer.callbacks.montor`. HINT: did you mean `--trainer.callbacks.monitor`."),
        (["--trainer.callbacks+=EarlyStopping"], "Expected `monitor` for EarlyStopping, but got no value for it. HINT: add `--trainer.callbacks.monitor VALUE`."),
        (["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=a"], "Expected `--trainer.callbacks.amount` to be a number, but got `a`. HINT: check the value."),
        (["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=1.5"], "Expected `amount` in [0, 1), but got 1.5. HINT: give the fraction of the chosen weights that is to be zero."),
        (["--model.optimizer=Adm"], "Expected `--model.optimizer` to name an optimizer, but got `Adm`. HINT: did you mean `Adam`."),
        (["--model.optimizer=SGD", "--model.optimizer.momntum=1"], "Expected an argument of SGD, but got `--model.optimizer.momntum`. HINT: did you mean `--model.optimizer.momentum`."),
        (["--model.lr_scheduler=StepLR"], "Expected `step_size` for StepLR, but got no value for it. HINT: add `--model.lr_scheduler.step_size VALUE`."),
        (["--model=nowhere.Net"], "Expected `--model` to name a class of LightningModule, but got `nowhere.Net` (No module named 'nowhere'). HINT: give module.Class, of an installed package or of this folder."),
        (["--config=sed"], "Expected `--config` to name a YAML file or a shipped configuration, but got `sed`. HINT: did you mean `--config seed`."),
        (["--config=nowhere.yaml"], "Expected `--config` to name a YAML file or a shipped configuration, but got `nowhere.yaml`. HINT: those that ship are quick, seed."),
        (["--config={files}/list.yaml"], "Expected `--config` to hold options by name (`data: {...}`), but got 1. HINT: check the file."),
        (["--config={files}/key.yaml"], "Expected a known option, but got `--data.sorce`. HINT: did you mean `--data.source`."),
        (["--config={files}/bytes.yaml"], "Expected `--config` to hold YAML that can be read, but got 'utf-8' codec can't decode byte 0x80 in position 0: invalid start byte. HINT: check `{files}/bytes.yaml`."),
        (["--seed_everything=-1"], "Expected `--seed_everything` in [0, 4294967295], but got -1. HINT: give a number in this range."),
        (["--name=../up"], "Expected `--name` to be a folder below lightning_logs, but got `../up`. HINT: give a plain name."),
        (["--data.val_size=0"], "Expected `val_size` to be a whole number in [1, 9998], but got 0. HINT: leave some of the 10000 training images to train on."),
        (["--data.val_size=-5"], "Expected `val_size` to be a whole number in [1, 9998], but got -5. HINT: leave some of the 10000 training images to train on."),
        (["--data.val_size=10000"], "Expected `val_size` to be a whole number in [1, 9998], but got 10000. HINT: leave some of the 10000 training images to train on."),
        (["--data.batch_size=0"], "Expected `batch_size` to be a whole number of at least 2, but got 0. HINT: batch norm cannot average over fewer than two images."),
        (["--model.weights={files}/nowhere.pt"], "Expected the path of a file with weights, but got `{files}/nowhere.pt`, where there is no file. HINT: check the path."),
        (["--model.weights={files}/weights.pt"], "Expected the weights of a ResNet in `{files}/weights.pt`, but got weights without `conv1.weight`, `bn1.weight`, `bn1.bias` and 97 more and with `layer.weight` as well. HINT: these are weights of another architecture; `stem` changes the shape of the first convolution."),
        (["--ckpt_path=missing.ckpt"], "Expected the path of a file with weights, but got `missing.ckpt`, where there is no file. HINT: check the path."),
        (["--ckpt_path=last"], "Expected the path of a file with weights, but got `last`, where there is no file. HINT: check the path."),
        (["--ckpt_path={files}/text.ckpt"], "Expected a checkpoint or a state dict, but got `{files}/text.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
        (["--ckpt_path={files}/empty.ckpt"], "Expected a checkpoint or a state dict, but got `{files}/empty.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
        (["--ckpt_path={files}/truncated.ckpt"], "Expected a whole checkpoint, but got `{files}/truncated.ckpt`, which is truncated or damaged. HINT: copy or write it again."),
        (["--ckpt_path={files}/foreign.ckpt"], "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got weights without `backbone.conv1.weight`, `backbone.bn1.weight`, `backbone.bn1.bias` and 101 more and with `layer.weight`, `layer.bias` as well. HINT: these are weights of another architecture; `stem` changes the shape of the first convolution."),
        (["--ckpt_path={files}/weights.pt"], "Expected a checkpoint that a Trainer wrote, but got `{files}/weights.pt`, which holds something else. HINT: bare weights go into `--model.weights`."),
    ],
)  # fmt: skip
def test_a_mistake_in_fit_is_one_sentence(run, files, words, sentence):
    assert refused(run, files, "fit", *TINY, *words) == sentence


def test_a_broken_configuration_is_one_sentence(run, files):
    sentence = refused(run, files, "fit", "--config={files}/broken.yaml")
    assert sentence.startswith("Expected `--config` to hold YAML that can be read, but got while parsing")
    assert sentence.endswith("HINT: check its syntax.")


def test_a_log_folder_that_cannot_be_written_is_one_sentence(run, files):
    assert refused(run, files, "fit", *TINY, "--trainer.default_root_dir={files}/text.ckpt") == (
        "Expected a log folder that can be written, but got `{files}/text.ckpt/lightning_logs/resnet18` "
        "(Not a directory). HINT: give another with `--trainer.default_root_dir`, or free this one."
    )


def test_missing_data_without_network_is_one_sentence(run, files, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", OFFLINE)
    before = tree()
    answer = run("fit", *QUIET, "--data.data_dir=nowhere")
    assert answer.status == 2
    assert not any(path.is_file() for path in tree() - before)
    for part in (
        "nowhere/cifar10-arrays/train_images.npy",
        "SHA-256 47af8b02",
        "--data.data_dir",
        "--data.source synthetic",
    ):
        assert part in answer.complaint


def test_a_corrupted_array_cache_is_never_used(run, files, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", OFFLINE)
    cache = Path("data/cifar10-arrays")
    cache.mkdir(parents=True)
    for name in ("train_images", "train_labels"):
        (cache / f"{name}.npy").write_bytes(b"damaged")
    sentence = refused(run, files, "fit", *QUIET)
    assert sentence.startswith("Expected 'data/cifar10-arrays/train_images.npy' with the SHA-256 47af8b02")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("noimage.png", "Expected a PNG or JPEG image in '{files}/noimage.png', but got something else. HINT: convert it or take it away."),
        ("empty", "Expected PNG or JPEG images in the folder '{files}/empty', but got none. HINT: put some there, not in subfolders."),
        ("nowhere", "Expected an image or a folder of images at '{files}/nowhere', but got nothing. HINT: check `--data.predict_path`."),
    ],
)  # fmt: skip
def test_nothing_to_predict_is_one_sentence(run, files, path, sentence):
    assert refused(run, files, "predict", *QUIET, f"--data.predict_path={{files}}/{path}") == sentence


@pytest.mark.parametrize(
    ("words", "option", "stored", "typed"),
    [
        (["--model.optimizer.lr=0.9"], "--model.optimizer.lr", "0.001", "0.9"),
        (["--model.optimizer=SGD", "--model.optimizer.lr=0.9"], "--model.optimizer", "'torch.optim.Adam'", "torch.optim.SGD"),
        (["--model.stem=cifar"], "--model.stem", "'imagenet'", "cifar"),
        (["--data.val_size=30"], "--data.val_size", "20", "30"),
        (["--seed_everything=3"], "--seed_everything", "0", "3"),
    ],
)  # fmt: skip
def test_what_contradicts_a_resumed_checkpoint_is_refused(run, files, checkpoint, words, option, stored, typed):
    assert refused(run, files, "fit", *QUIET, f"--ckpt_path={checkpoint}", *words) == (
        f"Expected `{option}` to be {stored} as in `{checkpoint}`, but got {typed}. HINT: `--ckpt_path` goes on with a "
        "run as it was; to start anew from its weights, give `--model.init_from`."
    )


def test_a_pruned_run_does_not_go_on_without_its_pruning(run, files, checkpoint):
    assert refused(run, files, "fit", *QUIET, f"--ckpt_path={checkpoint}") == (
        f"Expected the callbacks of the run that wrote `{checkpoint}`, but got none called GlobalL1Pruning. HINT: add "
        "`--trainer.callbacks+=GlobalL1Pruning` with its arguments, or resume with the run's `config.yaml`."
    )


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_what_contradicts_a_scored_checkpoint_is_refused(run, files, checkpoint, command):
    assert refused(run, files, command, *QUIET, f"--ckpt_path={checkpoint}", "--model.output=softmax") == (
        f"Expected `--model.output` to be 'logits' as in `{checkpoint}`, but got softmax. HINT: leave the option out: "
        "the checkpoint knows how its model was built."
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lit_prune.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        pruning = ["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.2"]
        assert main(["fit", *TINY, "--trainer.max_epochs=1", "--name=base", *pruning]) == 0
        return Path("lightning_logs/base/version_0/checkpoints/last.ckpt").absolute()
