"""What the commands show while they run, with and without a terminal."""

import logging
import re
import shlex
import sys

import pytest

from lit_prune.main import main
from tests.training.conftest import NARROW, TINY, Run
from tests.training.small import OtherNames, Scored, SmallNet

# an epoch has four batches
SHOWN = [*(word for word in TINY if not word.startswith("--trainer.enable")), NARROW, "--name=x"]
PRUNE = [
    "--trainer.callbacks+=GlobalL1Pruning",
    "--trainer.callbacks.amount=0.5",
    "--trainer.callbacks+=SparsityMonitor",
]
METRICS = r"train/acc 0\.\d{4}, train/loss \d\.\d{4}, val/acc 0\.\d{4}, val/loss \d\.\d{4}"


@pytest.mark.gate
def test_without_a_terminal_there_is_a_line_for_each_epoch(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the logger prints on its own if nothing was set up when it was imported; an example in another test silences it
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level("INFO", logger="lightning.pytorch")
    answer = run("fit", *SHOWN, *PRUNE, "--trainer.max_epochs=3")
    assert answer.status == 0, answer.err
    assert "\r" not in answer.out + answer.err
    first, *lines = answer.out.split("\n\n")[0].splitlines()
    assert first == "Training epochs 0 to 2, 4 batches each, in lightning_logs/x/version_0"
    for epoch, line in enumerate(lines):
        left = r", \d\d:\d\d left" if epoch < 2 else ""
        assert re.fullmatch(rf"epoch {epoch}: {METRICS}, sparsity/global 0\.5000{left}", line), line
    assert len(lines) == 3
    assert "| backbone " in caplog.text
    assert "MulticlassAccuracy" not in caplog.text


def test_a_line_has_no_metrics_of_an_earlier_validation(run: Run) -> None:
    network = f"--model={SmallNet.__module__}.SmallNet"
    options = [network if option == NARROW else option for option in SHOWN]
    answer = run("fit", *options, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2")
    assert answer.status == 0, answer.err
    lines = [line for line in answer.out.splitlines() if line.startswith("epoch ")]
    assert ["val/acc" in line for line in lines] == [False, True, False]


@pytest.mark.parametrize(
    ("names", "line"),
    [(["f1", "loss", "lr", "f1/dog"], "epoch 0: f1 0.2500, loss 0.2500"), ([], "epoch 0")],
)
def test_a_line_shows_metrics_of_other_names_without_their_details(run: Run, names: list[str], line: str) -> None:
    network = [f"--model={OtherNames.__module__}.OtherNames", f"--model.names={names}"]
    options = [word for option in SHOWN for word in (network if option == NARROW else [option])]
    answer = run("fit", *options, "--trainer.max_epochs=1")
    assert answer.status == 0, answer.err
    assert line in answer.out.splitlines()


def test_on_a_terminal_one_bar_covers_all_epochs(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *SHOWN, "--trainer.max_epochs=1", "--resume").status == 0
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["fit", *SHOWN, "--trainer.max_epochs=3", "--resume"]) == 0
    shown = capfd.readouterr().out
    assert "Training epochs 1 to 2, 4 batches each, in lightning_logs/x/version_0" in shown
    bars = [part for part in re.split("[\r\n]", shown) if part.startswith("Epoch ")]
    assert [name for name in ("Epoch 0", "Epoch 1", "Epoch 2") if any(name in bar for bar in bars)] == [
        "Epoch 1",
        "Epoch 2",
    ]
    assert "| 4/12 " in bars[0]
    assert "| 12/12 " in bars[-1]
    assert "loss=" in bars[-1]
    assert "v_num" not in shown
    assert re.search(rf"\repoch 1: {METRICS}, \d\d:\d\d left\n", shown.replace(" " * 20, "").replace("\r ", "\r"))


def test_no_progress_is_shown_if_that_is_turned_off(run: Run) -> None:
    answer = run("fit", *TINY, NARROW, "--trainer.max_epochs=1")
    assert "Training epochs" not in answer.out
    assert "epoch 0:" not in answer.out


def test_fit_says_how_to_test_and_test_prints_few_digits(run: Run) -> None:
    answer = run("fit", *SHOWN, "--trainer.max_epochs=1")
    (line,) = [line for line in answer.out.splitlines() if line.startswith("  test  ")]
    assert line.split()[1:3] == ["lit-prune", "test"]
    tested = run(*shlex.split(line)[2:], "--trainer.accelerator=cpu")
    assert tested.status == 0, tested.err
    *scores, last = tested.out.splitlines()
    assert last == "written to lightning_logs/test/version_0/metrics.csv"
    assert {score.split("  ")[0] for score in scores} >= {"test/acc", "test/loss", "test/acc/ring"}
    for score in scores:
        assert re.fullmatch(r"\d+(\.\d{1,4})?", score.split("  ")[-1].strip()), score


def test_fit_says_how_to_test_a_class_of_the_user_that_has_a_test(run: Run) -> None:
    def lines(network: type) -> list[str]:
        options = [f"--model={network.__module__}.{network.__name__}", "--model.lr=0.5", "--trainer.max_epochs=1"]
        return [line for line in run("fit", *TINY, *options).out.splitlines() if line.startswith("  test  ")]

    assert lines(SmallNet) == []  # has no `test_step`
    (line,) = lines(Scored)
    assert run(*shlex.split(line)[2:], "--trainer.accelerator=cpu").out.startswith("test/loss  2.")
