"""Nothing that the settings and states in a checkpoint name is imported, called, read or deleted."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim.lr_scheduler import LambdaLR

from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_checkpoint, read_weights
from lit_prune.files.trust import check_callback_states, check_stored_settings
from lit_prune.trained.network import load_network
from tests.training.conftest import TINY, Run

# each names something that jsonargparse would import, call or read: the settings, and the place and text in the refusal
SETTINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "function": (
        {"optimizer": {"class_path": "os.system", "init_args": {"command": "touch canary"}}},
        "model.optimizer.class_path",
        "'os.system'",
    ),
    "import": ({"optimizer": {"class_path": "evil.X"}}, "model.optimizer.class_path", "'evil.X'"),
    "text": ({"optimizer": "evil.X"}, "model.optimizer", "'evil.X'"),
    "text in YAML": ({"optimizer": "{class_path: evil.X}"}, "model.optimizer", "'{class_path: evil.X}'"),
    "hidden in YAML": (
        {"optimizer": '{"class\\x5fpath": evil.X}'},
        "model.optimizer",
        r"""'{"class\\x5fpath": evil.X}'""",
    ),
    "a file": ({"optimizer": "evil.yaml"}, "model.optimizer", "'evil.yaml'"),
    "a file that looks like a word": ({"optimizer": "evil"}, "model.optimizer", "'evil'"),
    "standard input": ({"optimizer": "-"}, "model.optimizer", "'-'"),
    "in a name": (
        {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr.class_path": "evil.X"}}},
        "model.optimizer.init_args.lr.class_path",
        "'evil.X'",
    ),
    "in a name of ours": ({"channels": {"a.class_path": "evil.X"}}, "model.channels.a.class_path", "'evil.X'"),
    "a set": (
        {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"x": {"evil.X"}}}},
        "model.optimizer.init_args.x.0",
        "'evil.X'",
    ),
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


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


@pytest.fixture(autouse=True)
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module whose import leaves a canary, and configurations that name it, within reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass X: pass\n")
    for name in ("evil.yaml", "evil"):
        Path(name).write_text("class_path: evil.X\n")


def assert_unsafe(said: str, where: str, found: str) -> None:
    assert "settings in `x.ckpt` that name no files, and no classes except those of torch.optim" in said
    assert f"but got `{where}` {found}, which is unsafe. HINT: this setting could run code" in said


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_name_nothing_but_classes_of_torch(name):
    settings, where, found = SETTINGS[name]
    assert_unsafe(refusal(check_stored_settings, {"model": settings}, {}, "x.ckpt"), where, found)
    assert not Path("canary").exists()


def test_settings_may_name_what_the_user_names():
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
        # arguments that take no class may be any text
        {"weights": "evil.yaml", "init_from": "../x/last.ckpt", "output": "logits"},
    ],
)  # fmt: skip
def test_settings_of_our_runs_are_fine(settings):
    check_stored_settings({"model": settings, "data": {"data_dir": "evil.yaml"}, "run": {"name": None}}, {}, "x.ckpt")


class Net:
    """Stands for a class of the user."""

    def __init__(self, text: str, maybe: str | None = None, activation: Any = None, class_path: str = "") -> None: ...


UNSAFE_TEXTS = ("evil.X", "os.system", "__main__.x", "[evil.X]", "evil.yaml", "evil", "./evil", "-", "a b", "x" * 101)


@pytest.mark.parametrize(
    "value",
    [*UNSAFE_TEXTS, {"class_path": "evil.X"}, {"class_path": "X"}, ["evil.X"], {"a": {"evil.X"}}, {"evil.X": 1}],
)
def test_an_argument_of_another_class_may_be_a_word_but_no_class(value):
    given = {"model": {"class_path": f"{__name__}.Net"}}
    fine = {"width": 8, "activation": "relu", "names": ["conv1", "gelu_tanh", ""], "more": {"a": None, 3: 0.5}}
    check_stored_settings({"model": {"class_path": f"{__name__}.Net", "init_args": fine}}, given, "x.ckpt")
    # an argument without a class next to it is one of the class that the user names
    for stored in ({"class_path": f"{__name__}.Net", "init_args": {"activation": value}}, {"activation": value}):
        assert "which is unsafe" in refusal(check_stored_settings, {"model": stored}, given, "x.ckpt")
        again = {"model": {**given["model"], "init_args": {"activation": value}}}
        check_stored_settings({"model": stored}, again, "x.ckpt")


def test_an_argument_that_is_declared_as_text_may_be_any_text():
    given = {"model": {"class_path": f"{__name__}.Net"}}
    for text in UNSAFE_TEXTS:
        for name in ("text", "maybe"):
            check_stored_settings({"model": {"init_args": {name: text}}}, given, "x.ckpt")
            stored = {"model": {"init_args": {name: {"class_path": text}}}}
            refusal(check_stored_settings, stored, given, "x.ckpt")
        # of our own model, it is another argument
        refusal(check_stored_settings, {"model": {"optimizer": {"init_args": {"text": text}}}}, {}, "x.ckpt")


def test_the_parser_passes_on_such_a_text_as_it_is():
    """Nothing of it is imported or read, though it names a class, or a file that names one."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Net, "model", required=True)
    for text in UNSAFE_TEXTS:
        arguments = {"text": text, "maybe": text}
        config = parser.parse_object({"model": {"class_path": f"{__name__}.Net", "init_args": arguments}})
        assert (config.model.init_args.text, config.model.init_args.maybe) == (text, text)
        parser.instantiate(config)
    assert not Path("canary").exists()


def test_a_checkpoint_cannot_choose_the_class():
    for given in ({}, {"model": {"class_path": f"{__name__}.Net"}}):
        for stored in ({"class_path": "evil.Net"}, {"class_path": "evil.Net", "init_args": {"text": "a"}}):
            assert "`model.class_path` 'evil.Net'" in refusal(check_stored_settings, {"model": stored}, given, "x.ckpt")


class Custom(LightningModule):
    """Stands for a custom class that takes a function."""

    def __init__(self, activation: Callable[..., Any] = torch.relu, anything: Any = None, text: str = "") -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.arguments = activation, anything, text


@pytest.mark.parametrize("name", ["activation", "anything"])
@pytest.mark.parametrize("value", ["evil.X", {"class_path": "evil.X"}, "{class_path: evil.X}", "evil.yaml", "evil"])
def test_hyper_parameters_of_a_custom_class_import_nothing(name, value):
    """A Trainer in a script stores them, and `inspect CKPT --model module.Class` builds the class from them."""
    content = {"state_dict": Custom().state_dict(), "pytorch-lightning_version": "2.6.0"}
    torch.save(content | {"hyper_parameters": {name: value}}, "x.ckpt")
    assert f"`model.init_args.{name}" in refusal(load_network, "x.ckpt", f"{__name__}.Custom")
    assert not Path("canary").exists()
    torch.save(content | {"hyper_parameters": {"anything": "gelu", "text": "evil.X"}}, "x.ckpt")
    built = load_network("x.ckpt", f"{__name__}.Custom").require_model()
    assert built.arguments == (torch.relu, "gelu", "evil.X")
    assert not Path("canary").exists()


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
    ({"model": {"optimizer.class_path": "evil.X"}}, "model.optimizer.class_path"),
    ({"model": {"optimizer+": {"class_path": "evil.X"}}}, "model.optimizer+"),
    ({3: {}}, "int"),
    ({"trainer": {"callbacks": [{"class_path": "evil.X"}]}}, "trainer"),
    ({"run": {"trainer": {"callbacks": [{"class_path": "evil.X"}]}}}, "run.trainer"),
    ({"run": {"config": "evil.yaml"}}, "run.config"),
    ({"run": {"name": ["x"]}}, "run.name"),
    ({"run": {"seed_everything": "1"}}, "run.seed_everything"),
    ({"model": {"channels": {(1, 2): 4}}}, "model"),
    ({"model": {"channels": {None: 4}}}, "model"),
    ({"model": _cycle()}, "model"),
    ({"data": _bomb()}, "data"),
    ({"data": {"x": list(range(20_000))}}, "data"),
    ({"\x1b[31m" + "x" * 1000: {}}, r"\x1b[31m" + "x" * 42),
]


@pytest.mark.parametrize(("settings", "where"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_settings_are_one_sentence(settings, where):
    said = refusal(check_stored_settings, settings, {}, "x.ckpt")
    assert said.startswith(f"Expected valid entries in the checkpoint `x.ckpt`, but got the invalid `{where}")
    assert len(said) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"lit_prune": "x"},
        {"lit_prune": {}},
        {"lit_prune": {"settings": "x"}},
        {"hyper_parameters": "x"},
        {"datamodule_hyper_parameters": [1]},
        {"callbacks": None},
    ],
)
def test_malformed_checkpoints_are_one_sentence(genuine, change):
    torch.save(read_checkpoint(genuine) | change, "x.ckpt")
    for read in (read_checkpoint, read_weights):
        assert refusal(read, "x.ckpt").startswith("Expected valid entries in the checkpoint `x.ckpt`")


@pytest.mark.parametrize(
    "entry",
    [
        {"format": torch.zeros(2)},
        {"format": "1"},
        {"logs": 5},
        {"logs": {"rows": "2"}},
        {"logs": {"events": {"a": torch.zeros(2)}}},
        {"best": {"epoch": 1}},
        {"best": 0.5},
        {"final": {"val/acc": torch.zeros(2)}},
        {"pending": {"val/acc": 0.5}},
        {"callbacks": "LayerFreezing"},
        {"callbacks": [["LayerFreezing"]]},
        {"max_epochs": torch.zeros(2)},
    ],
    ids=str,
)
def test_malformed_results_are_one_sentence(genuine, entry):
    content = read_checkpoint(genuine)
    torch.save(content | {"lit_prune": content["lit_prune"] | entry}, "x.ckpt")
    for read in (read_checkpoint, read_weights):
        said = refusal(read, "x.ckpt")
        assert "`x.ckpt`" in said
        assert f"lit_prune.{next(iter(entry))}" in said or "in format" in said


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
    said = refusal(check_callback_states, {"ModelCheckpoint": state(path)}, "x.ckpt")
    assert f"but got {path!r}, which is unsafe" in said
    assert "use `--model.init_from` to load only the weights" in said


def test_states_of_our_runs_are_fine(genuine):
    check_callback_states(read_checkpoint(genuine)["callbacks"], "x.ckpt")
    for path in ("", "runs/checkpoints/last.ckpt", "/runs/last.ckpt", "../runs/last.ckpt", "../..", "a..b/c", "..."):
        check_callback_states({"a": {"best_model_path": path, "itself": _cycle()}}, "x.ckpt")
    check_callback_states({}, "x.ckpt")


# the tests below call the command line, as a user would

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
@pytest.mark.gate
def test_a_checkpoint_cannot_choose_what_is_imported(run, genuine, name):
    settings, where, found = SETTINGS[name]
    tampered(genuine, lambda checkpoint: checkpoint["lit_prune"]["settings"]["model"].update(copy.deepcopy(settings)))
    for argv in (["fit", *TINY, *ONE_MORE], ["test", *TINY]):
        assert_unsafe(refused(run, *argv), where, found)
    assert not Path("canary").exists()


@pytest.mark.parametrize(("settings", "where"), MALFORMED[:-1], ids=range(len(MALFORMED) - 1))
def test_a_checkpoint_with_malformed_settings_is_one_sentence(run, genuine, settings, where):
    tampered(genuine, lambda checkpoint: checkpoint["lit_prune"].update(settings=settings))
    assert "valid entries in the checkpoint `x.ckpt`" in refused(run, "fit", *TINY, *ONE_MORE)


@pytest.mark.parametrize("name", ["channels", "optimizer"])
def test_a_number_for_a_name_is_refused_in_one_sentence(run, genuine, name):
    tampered(genuine, lambda checkpoint: checkpoint["lit_prune"]["settings"]["model"].update({name: {3: 4}}))
    assert "3" in refused(run, "fit", *TINY, *ONE_MORE)


def test_a_checkpoint_of_a_script_cannot_choose_what_is_imported(run, genuine):
    def change(checkpoint: dict[str, Any]) -> None:
        del checkpoint["lit_prune"]
        checkpoint["hyper_parameters"] = SETTINGS["function"][0]

    tampered(genuine, change)
    assert "which is unsafe" in refused(run, "fit", *TINY, *ONE_MORE)


def test_a_checkpoint_cannot_choose_what_is_deleted(run, genuine):
    """A callback that writes a new file deletes the one before, which its state names."""
    Path("victim").mkdir()
    Path("victim", "thesis.txt").write_text("years of work")

    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["lit_prune"]["settings"]["run"]["name"] = "chosen"
        states = [state for state in checkpoint["callbacks"].values() if "best_model_path" in state]
        assert states
        for state in states:
            state["best_model_path"] = "lightning_logs/chosen/version_0/checkpoints/../../../../victim"

    tampered(genuine, change)
    assert "could delete other files" in refused(run, "fit", *TINY, *ONE_MORE)
    assert Path("victim", "thesis.txt").read_text() == "years of work"


def test_the_dangers_are_real(tmp_path):
    """Without the checks, a function would be called, and Lightning would take this path for one of its own."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--scheduler", type=LambdaLR | None)
    with pytest.raises(Exception):  # noqa: B017, PT011 - the canary is what matters
        parser.parse_object({"scheduler": SETTINGS["argument"][0]["lr_scheduler"]})
    assert Path("canary").exists()
    callback = ModelCheckpoint(dirpath=tmp_path / "checkpoints")
    trainer = type("Trainer", (), {"ckpt_path": None})()
    assert callback._should_remove_checkpoint(trainer, f"{callback.dirpath}/../victim", f"{callback.dirpath}/new.ckpt")
