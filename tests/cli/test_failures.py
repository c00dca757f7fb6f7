"""Which errors are described to the user, with which exit status."""

import errno
import os

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.tuner.lr_finder import _determine_lr_attr_name

from lit_prune.cli.failures import describe_failure, print_error
from lit_prune.errors import InputError, UnfinishedError, expected


def of_system(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number)) if path is None else OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "status", "phrases"),
    [
        (expected("`a` above 0", -1, "b"), 2, ["Expected `a` above 0, but got -1. HINT: b."]),
        (InputError("no\n such  package"), 2, ["no such package"]),
        (UnfinishedError("stopped"), 1, ["stopped"]),
        (UnfinishedError("stopped", 143), 143, ["stopped"]),
        (of_system(errno.ENOSPC, "a.ckpt"), 1, ["No space left on device: `a.ckpt`. Free some space"]),
        (of_system(errno.EDQUOT), 1, ["Free some space", "run the same command again."]),
        (of_system(errno.EACCES, "a"), 1, ["Permission denied: `a`. Check the permissions"]),
        (of_system(errno.EROFS, "a"), 1, ["Read-only file system: `a`"]),
        (of_system(errno.ENOENT, "a"), 1, ["No such file or directory: `a`. Restore the file"]),
        (of_system(errno.EIO, "a"), 1, ["Input/output error: `a`. Check the path and the disk"]),
        (OSError("odd"), 1, ["odd. Check the path"]),
        (of_system(errno.ENAMETOOLONG, "x" * 300), 2, ["xxx", "shorter name"]),
        (MemoryError(), 1, ["Out of memory. Use a smaller `--data.batch_size`"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, ["Out of memory (DefaultCPUAlloc"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 1, ["Out of memory (CUDA out of memory). Use"]),
        (RuntimeError("Connection closed by peer [127.0.0.1]"), 1, ["Another process of this run stopped"]),
        (
            RuntimeError(
                "Early stopping conditioned on metric `val/ac` which is not available. Pass in or modify your "
                "`EarlyStopping` callback to use any of the following: `val/acc`, `val/loss`"
            ),
            2,
            ["`monitor` to be a logged metric, but got `val/ac`", "did you mean `val/acc`"],
        ),
    ],
)
def test_an_error_that_a_user_can_act_on_is_one_sentence(capsys, error, status, phrases):
    assert print_error(error) == status
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("lit-prune: " if status > 128 else "lit-prune: error: ")
    assert ("error" in printed.lower().split(":")[1]) == (status <= 128)
    for phrase in phrases:
        assert phrase in printed


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "a and b\nexclude each other.",
            "Lightning refuses these options: a and b exclude each other. `--help=all` lists all options.",
        ),
        ("Install it with `pip install x`.", "Lightning refuses these options: Install it with `pip install x`."),
    ],
)
def test_a_misconfiguration_of_lightning_is_an_input_error(message, sentence):
    exceptions = pytest.importorskip("lightning.fabric.utilities.exceptions")
    assert describe_failure(exceptions.MisconfigurationException(message)) == (sentence, 2)


@pytest.mark.parametrize(
    "message",
    [
        "No supported gpu backend found!",
        "`CUDAAccelerator` can not run on your system since the accelerator is not available. The following",
    ],
)
def test_a_device_that_does_not_exist_is_explained(message):
    exceptions = pytest.importorskip("lightning.fabric.utilities.exceptions")
    failure = describe_failure(exceptions.MisconfigurationException(message))
    assert failure is not None
    assert failure.status == 2
    assert "`--trainer.accelerator auto`" in failure.sentence


def test_a_missing_package_is_named_with_one_command():
    failure = describe_failure(
        ModuleNotFoundError(
            "Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install -U 'mlflow>=1.0.0'`",
        )
    )
    assert failure == (
        "The package `mlflow` is not installed, or too old. Install it with `pip install -U 'mlflow>=1.0.0'`.",
        2,
    )
    asked = describe_failure(ModuleNotFoundError("`X` requires `rich`. Install it by running `pip install -U rich`."))
    assert asked == ("`X` requires `rich`. Install it by running `pip install -U rich`.", 2)
    unknown = describe_failure(ModuleNotFoundError("No module named 'a.b'", name="a.b"))
    assert unknown is not None
    assert unknown.sentence.startswith("The module `a` is not installed.")


def test_ctrl_c_is_no_error(capsys):
    assert print_error(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "lit-prune: Interrupted. Run the same command again.\n"


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("shape mismatch"), ValueError("x"), ImportError("cannot import name")]
)
def test_a_bug_is_raised_again(error):
    assert describe_failure(error) is None
    with pytest.raises(type(error)):
        print_error(error)


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("LIT_PRUNE_TRACEBACK", "1")
    with pytest.raises(InputError, match="x"):
        print_error(InputError("x"))


def test_a_model_without_a_learning_rate_is_refused_by_the_finder():
    with pytest.raises(AttributeError) as error:
        _determine_lr_attr_name(BoringModel(), "")
    failure = describe_failure(error.value)
    assert failure is not None
    assert failure.status == 2
    assert failure.sentence.startswith("Expected a model with an attribute `lr`, for LearningRateFinder")
