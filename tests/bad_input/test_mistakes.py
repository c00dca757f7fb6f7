"""Mistakes that need more than words: a network, a cache, a run that went before. The others are in the table."""

from pathlib import Path

import pytest

from tests.training.conftest import TINY, Run

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
OFFLINE = "http://127.0.0.1:9/nothing"


def tree() -> set[Path]:
    return set(Path().rglob("*"))


def refused(run: Run, files: Path, *argv: str) -> str:
    """Run a command that must fail; return its sentence."""
    before = tree()
    answer = run(*(word.replace("{files}", str(files)) for word in argv))
    assert answer.status == 2
    assert tree() == before
    return answer.complaint.replace(str(files), "{files}")


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
def test_what_contradicts_a_resumed_checkpoint_is_refused(run, files, checkpoint, argv, option, stored, typed):
    assert refused(run, files, "fit", *QUIET, f"--ckpt_path={checkpoint}", *argv) == (
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
