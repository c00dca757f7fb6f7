"""The settings and states in a checkpoint are values: they name nothing that is imported, called, read or deleted."""

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim.lr_scheduler import LambdaLR

from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.files.trust import check_checkpoint, check_stored_settings
from tests.training.conftest import TINY, Run

UNSAFE = (
    "Expected settings in `x.ckpt` that name nothing but classes of torch.optim, but got `{where}` {found}, which is "
    "unsafe. HINT: going on with it could run code; if it is yours, give the run's own `--config` too."
)
# each names something that jsonargparse would import, call or read
SETTINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "function": (
        {"optimizer": {"class_path": "os.system", "init_args": {"command": "touch canary"}}},
        "model.optimizer.class_path",
        "'os.system'",
    ),
    "import": ({"optimizer": {"class_path": "evil.X"}}, "model.optimizer.class_path", "'evil.X'"),
    "text": ({"optimizer": "evil.X"}, "model.optimizer", "'evil.X'"),
    "text in YAML": ({"optimizer": "{class_path: evil.X}"}, "model.optimizer.class_path", "'evil.X'"),
    "hidden in YAML": ({"optimizer": '{"class\\x5fpath": evil.X}'}, "model.optimizer.class_path", "'evil.X'"),
    "a file": ({"optimizer": "evil.yaml"}, "model.optimizer", "'evil.yaml'"),
    "scheduler": ({"lr_scheduler": {"class_path": "evil.X"}}, "model.lr_scheduler.class_path", "'evil.X'"),
    "argument": (
        {
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.LambdaLR",
                "init_args": {"lr_lambda": "evil.X"},
            }
        },
        "model.lr_scheduler.init_args.lr_lambda",
        "'evil.X'",
    ),
    "deep": (
        {"optimizer": {"class_path": "torch.optim.SGD", "dict_kwargs": {"x": [{"class_path": "evil.X"}]}}},
        "model.optimizer.dict_kwargs.x.0.class_path",
        "'evil.X'",
    ),
    "no class": (
        {"optimizer": {"class_path": "torch.optim.lr_scheduler.warnings"}},
        "model.optimizer.class_path",
        "'torch.optim.lr_scheduler.warnings'",
    ),
    "torch": ({"optimizer": {"class_path": "torch.hub.load"}}, "model.optimizer.class_path", "'torch.hub.load'"),
    "elsewhere": ({"output": {"class_path": "evil.X"}}, "model.output.class_path", "'evil.X'"),
    "no text": ({"optimizer": {"class_path": 3}}, "model.optimizer.class_path", "'3'"),
}  # fmt: skip


def refusal(function: Callable[..., None], *arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


@pytest.fixture(autouse=True)
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose import leaves a canary, and a configuration that names it, both within reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass X: pass\n")
    Path("evil.yaml").write_text("class_path: evil.X\n")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_name_classes_of_torch_alone(name):
    settings, where, found = SETTINGS[name]
    said = refusal(check_stored_settings, {"model": settings}, {}, "x.ckpt")
    assert said == UNSAFE.replace("{where}", where).replace("{found}", found)
    assert not Path("canary").exists()


def test_what_the_user_names_himself_is_fine():
    own = {"optimizer": {"class_path": "evil.X"}}
    check_stored_settings({"model": own}, {"model": own}, "x.ckpt")
    refusal(check_stored_settings, {"model": own}, {"model": {"optimizer": {"class_path": "evil.Y"}}}, "x.ckpt")


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": None, "lr_scheduler": None},
        {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001, "betas": (0.9, 0.999)}}},
        {"optimizer": {"class_path": "torch.optim.sgd.SGD", "init_args": {"lr": 0.001}}},
        {
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.OneCycleLR",
                "init_args": {"max_lr": 1, "anneal_strategy": "cos"},
            }
        },
        {"lr_scheduler": {"class_path": f"{ReduceLROnPlateau.__module__}.ReduceLROnPlateau"}},
        # arguments from which no class is made may be any text
        {"weights": "evil.yaml", "init_from": "../x/last.ckpt", "output": "logits"},
    ],
)  # fmt: skip
def test_settings_of_our_runs_are_fine(settings):
    check_stored_settings({"model": settings, "data": {"data_dir": "evil.yaml"}, "run": {"name": None}}, {}, "x.ckpt")


def test_every_argument_of_somebody_elses_class_may_be_a_class():
    typed = {"model": {"class_path": "moons.Net"}}
    own = {"class_path": "moons.Net", "init_args": {"width": 8, "activation": "relu", "names": ["a.b.c", "x y"]}}
    check_stored_settings({"model": own}, typed, "x.ckpt")
    for value in ("evil.X", "os.system", "__main__.x", {"class_path": "evil.X"}, ["evil.X"], "[evil.X]", "evil.yaml"):
        stored = {"model": {"class_path": "moons.Net", "init_args": {"activation": value}}}
        assert "which is unsafe" in refusal(check_stored_settings, stored, typed, "x.ckpt")
        # an argument that comes without the class is one of the class that was typed
        stored = {"model": {"activation": value}}
        assert "which is unsafe" in refusal(check_stored_settings, stored, typed, "x.ckpt")
        check_stored_settings(
            stored, {"model": {**typed["model"], "init_args": {"activation": value, "x": "evil.X"}}}, "x.ckpt"
        )
    assert "model.class_path" in refusal(check_stored_settings, {"model": {"class_path": "evil.Net"}}, typed, "x.ckpt")
    assert "model.class_path" in refusal(check_stored_settings, {"model": {"class_path": "evil.Net"}}, {}, "x.ckpt")


def _cycle() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["a"] = cycle
    return cycle


def _bomb() -> dict[str, Any]:
    bomb: dict[str, Any] = {}
    for _ in range(60):
        bomb = {"a": bomb, "b": bomb}
    return bomb


MALFORMED: list[tuple[Any, str]] = [
    ("x", "settings"),
    (None, "settings"),
    ([1], "settings"),
    ({"model": 3}, "model"),
    ({"model": None}, "model"),
    ({"model": {3: 4}}, "model"),
    ({3: {}}, "int"),
    ({"trainer": {"callbacks": [{"class_path": "evil.X"}]}}, "trainer"),
    ({"run": {"trainer": {"callbacks": [{"class_path": "evil.X"}]}}}, "run.trainer"),
    ({"run": {"config": "evil.yaml"}}, "run.config"),
    ({"run": {"name": ["x"]}}, "run.name"),
    ({"run": {"seed_everything": "1"}}, "run.seed_everything"),
    ({"model": _cycle()}, "model"),
    ({"data": _bomb()}, "data"),
    ({"data": {"x": list(range(20_000))}}, "data"),
    ({"\x1b[31m" + "x" * 1000: {}}, r"\x1b[31m" + "x" * 72),
]


@pytest.mark.parametrize(("settings", "where"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_settings_are_one_sentence(settings, where):
    assert refusal(check_stored_settings, settings, {}, "x.ckpt") == (
        f"Expected the settings in `x.ckpt` to be values by name, but got something else for `{where}`. "
        "HINT: the file was changed; take another checkpoint of this run."
    )


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"lit_prune": "x"},
        {"lit_prune": {}},
        {"lit_prune": {"settings": "x"}},
        {"hyper_parameters": "x"},
        {"datamodule_hyper_parameters": [1]},
        {"callbacks": None},
    ],
)
def test_malformed_checkpoints_are_one_sentence(checkpoint):
    assert refusal(check_checkpoint, checkpoint, "x.ckpt").startswith(
        "Expected the settings in `x.ckpt` to be values by"
    )


PATHS = [
    "runs/checkpoints/../../victim",
    "/runs/checkpoints/../../victim",
    "./../victim",
    "../runs/../victim",
    "runs\\checkpoints\\..\\..\\victim",
    "s3://bucket/victim",
    "file:///victim",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "state",
    [
        lambda path: {"best_model_path": path},
        lambda path: {"best_k_models": {path: 1.0}},
        lambda path: {"a": [({"b": path},)]},
    ],
)
def test_states_of_callbacks_name_files_of_their_folder(path, state):
    assert refusal(check_checkpoint, {"callbacks": {"ModelCheckpoint": state(path)}}, "x.ckpt") == (
        f"Expected states of callbacks in `x.ckpt` to name files of their own folder, but got {path!r}, which is "
        "unsafe. HINT: going on with it could delete files elsewhere; to start anew from its weights, give "
        "`--model.init_from`."
    )


def test_states_of_our_runs_are_fine(genuine):
    check_checkpoint(read_checkpoint(genuine), "x.ckpt")
    for path in ("", "runs/checkpoints/last.ckpt", "/runs/last.ckpt", "../runs/last.ckpt", "../..", "a..b/c", "..."):
        check_checkpoint({"callbacks": {"a": {"best_model_path": path, "itself": _cycle()}}}, "x.ckpt")
    check_checkpoint({}, "x.ckpt")


# from here on as a user would

ONE_MORE = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1",
            "--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.3"]  # fmt: skip


def tampered(genuine: Path, change: Callable[[dict[str, Any]], None]) -> None:
    checkpoint = read_checkpoint(genuine)
    change(checkpoint)
    torch.save(checkpoint, "x.ckpt")


def refused(run: Run, *argv: str) -> str:
    before = set(Path().rglob("*"))
    answer = run(*argv, "--ckpt_path=x.ckpt")
    assert answer.status == 2
    assert set(Path().rglob("*")) == before
    return answer.complaint


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_cannot_choose_what_is_imported(run, genuine, name):
    settings, where, found = SETTINGS[name]
    tampered(genuine, lambda checkpoint: checkpoint["lit_prune"]["settings"]["model"].update(copy.deepcopy(settings)))
    for argv in (["fit", *TINY, *ONE_MORE], ["test", *TINY]):
        assert refused(run, *argv) == UNSAFE.replace("{where}", where).replace("{found}", found)


@pytest.mark.parametrize(("settings", "where"), MALFORMED[:-1], ids=range(len(MALFORMED) - 1))
def test_a_checkpoint_with_malformed_settings_is_one_sentence(run, genuine, settings, where):
    tampered(genuine, lambda checkpoint: checkpoint["lit_prune"].update(settings=settings))
    assert re.match(r"Expected the settings in `x.ckpt` to be values by name", refused(run, "fit", *TINY, *ONE_MORE))


def test_a_checkpoint_of_a_script_cannot_choose_what_is_imported_either(run, genuine):
    def change(checkpoint: dict[str, Any]) -> None:
        del checkpoint["lit_prune"]
        checkpoint["hyper_parameters"] = SETTINGS["function"][0]

    tampered(genuine, change)
    assert "which is unsafe" in refused(run, "fit", *TINY, *ONE_MORE)


def test_a_checkpoint_cannot_choose_what_is_deleted(run, genuine):
    """A callback deletes the file before when it has written the next; the state says which was before."""
    Path("victim").mkdir()
    Path("victim", "thesis.txt").write_text("years of work")

    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["lit_prune"]["settings"]["run"]["name"] = "chosen"
        states = [state for state in checkpoint["callbacks"].values() if "best_model_path" in state]
        assert states
        for state in states:
            state["best_model_path"] = "lightning_logs/chosen/version_0/checkpoints/../../../../victim"

    tampered(genuine, change)
    assert "could delete files elsewhere" in refused(run, "fit", *TINY, *ONE_MORE)
    assert Path("victim", "thesis.txt").read_text() == "years of work"


def test_the_dangers_are_real(tmp_path):
    """What is refused above would happen otherwise: a function is called, and Lightning takes this path for its own."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--scheduler", type=LambdaLR | None)
    with pytest.raises(Exception):  # noqa: B017, PT011 - what matters is what happened until then
        parser.parse_object({"scheduler": SETTINGS["argument"][0]["lr_scheduler"]})
    assert Path("canary").exists()
    callback = ModelCheckpoint(dirpath=tmp_path / "checkpoints")
    trainer = type("Trainer", (), {"ckpt_path": None})()
    assert callback._should_remove_checkpoint(trainer, f"{callback.dirpath}/../victim", f"{callback.dirpath}/new.ckpt")
