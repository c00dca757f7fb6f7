"""A folder in which the commands of a document run for real, on drawn images, in seconds.

What a command reads and no command before it has written is put there first: a checkpoint of a small training, the
weights of a torchvision ResNet-18, pictures, a study's folder, or a file that another block shows. What would make a
command long is turned down by options that are added at its end.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
import yaml
from PIL import Image
from torchvision.models import resnet18

from lit_prune.main import COMMANDS, main
from tests.docs.blocks import Command, Outcome
from tests.docs.places import BLOCKS, ROOT
from tests.study.folders import make_study
from tests.training.conftest import NARROW

__all__ = ["TINY", "Session", "SmallRuns", "has_options", "help_of", "options_of"]

TINY = (
    "--data.source=synthetic",
    "--data.limit_train=32",
    "--data.val_size=20",
    "--data.batch_size=16",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
_QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
# what keeps a command short, if its help names the option
_FEW = {"--limit": "20", "--rounds": "1"}
_FEW_OF = {"sensitivity": ("--amounts=0.5", "--layers=head*"), "cost": ("--batches=[1,2]", "--onnx=false")}
# what a command writes; every other path is one that it reads
_OUTPUTS = ("--output", "--out", "--plot", "--save")
_MODELS = (".ckpt", ".pt", ".pth")


@cache
def help_of(command: str) -> str:
    """What `lit-prune COMMAND --help` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return out.getvalue()


@cache
def options_of(command: str) -> frozenset[str]:
    """The long options in the help of a command, without those that the help of its groups lists."""
    return frozenset(re.findall(r"(?<![\w`-])--[A-Za-z][\w.]*", help_of(command)))


@dataclass(frozen=True)
class SmallRuns:
    """Runs of a small training, made when they are first asked for.

    Args:
        folder: Where they are.
    """

    folder: Path

    def run(self, wide: bool) -> Path:
        """The folder of a run, of a network with the usual channels or with few."""
        run = self.folder / ("wide" if wide else "narrow") / "lightning_logs" / "original" / "version_0"
        if not run.exists():
            argv = [*TINY, "--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.3"]
            argv += ["--trainer.callbacks+=SparsityMonitor", *([] if wide else [NARROW])]
            run.parents[2].mkdir()
            with contextlib.chdir(run.parents[2]):
                assert main(["fit", "--config=original", "--model.weights=null", *argv]) == 0
        return run


class Session:
    """The folder of one document.

    Args:
        folder: It is made.
        runs: Where to take checkpoints from.
        wide: Names of checkpoints whose networks have the usual channels.
    """

    def __init__(self, folder: Path, runs: SmallRuns, wide: Collection[str] = ()) -> None:
        self.folder = folder
        self._runs = runs
        self._wide = wide
        folder.mkdir()
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        for block in BLOCKS:
            if block.file_name is not None:
                (folder / block.file_name).write_text(block.body, encoding="utf-8")

    def do(self, command: Command) -> Outcome:
        """Run one command of ours in the folder.

        Raises:
            ValueError: If it is a command that no test can run.
        """
        program, *argv = command.argv
        if program == "cd":
            self.folder = self.folder / argv[0]
            return Outcome(0 if self.folder.is_dir() else 1, "", f"{self.folder} is no folder")
        if program == "lit-prune" or argv[:2] == ["-m", "lit_prune"]:
            outcome = self._do_ours(argv if program == "lit-prune" else argv[2:], command)
        elif program == "python":
            outcome = self._do_python(argv)
        elif program in ("pip", "pytest", "tensorboard", "jupyter"):
            return self._look_at(program, argv)
        else:
            raise ValueError(f"`{command}`: the tests of the documents know no way to run `{program}`")
        if command.output is not None:
            (self.folder / command.output).write_text(outcome.out, encoding="utf-8")
        return outcome

    def prepare(self, argv: Sequence[str]) -> None:
        """Put there what a command reads."""
        named: str | None = None
        for word in argv:
            if word.startswith("-") and "=" not in word:
                named = word  # what follows is its value
                continue
            option, value = word.split("=", 1) if word.startswith("-") else (named, word)
            if option in _OUTPUTS:
                (self.folder / value).parent.mkdir(parents=True, exist_ok=True)
            else:
                self._make(option, value)
            named = None

    def _make(self, option: str | None, name: str) -> None:
        path = self.folder / name
        if path.exists() or Path(name).is_absolute():
            return
        if re.search(r"version_\d+/?$", name):
            shutil.copytree(self._runs.run(wide=False), path)
        elif path.suffix in _MODELS:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint = self._runs.run(name in self._wide) / "checkpoints" / "last.ckpt"
            if option in ("--weights", "--model.weights"):
                torch.save(resnet18().state_dict(), path)
            elif path.suffix == ".ckpt":
                shutil.copy(checkpoint, path)
            else:
                torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], path)
        elif option == "--data.predict_path":
            path.mkdir(parents=True)
            Image.new("RGB", (48, 32), "teal").save(path / "a.png")

    def _do_ours(self, argv: list[str], command: Command) -> Outcome:
        if not argv or argv[0] not in COMMANDS:
            return self._call(argv, command)
        if argv[0] == "report":
            for word in argv[1:]:
                if not word.startswith("-") and not (self.folder / word / "plan.yaml").exists():
                    shutil.rmtree(self.folder / word, ignore_errors=True)  # of a fit with the same name
                    (self.folder / word).parent.mkdir(parents=True, exist_ok=True)
                    make_study(self.folder / word)
        else:
            self.prepare(argv[1:])
        return self._call([*argv, *self._shortened(argv)], command)

    def _shortened(self, argv: list[str]) -> list[str]:
        name = argv[0]
        if {"-h", "--help", "--print_config"} & set(argv):
            return []
        if name == "study":
            # an experiment is enough of the plans that ship, each of which has tests of its own
            some = [] if "--preset" not in argv or "--only" in argv else ["--only=task1/logits"]
            # the estimate of the time trains for some steps
            ours = "--preset" in argv or self._plans_ours(argv[1])
            return ["--weights=random", "--dry_run", *some, *(["--data.batch_size=16", NARROW] if ours else [])]
        if name == "report":
            return []
        if name == "fit":
            return [*TINY, *_of_model(argv)]
        if name in ("validate", "test", "predict"):
            part = {"validate": "val"}.get(name, name)
            return ["--data.source=synthetic", "--data.val_size=20", *_QUIET, f"--trainer.limit_{part}_batches=1"]
        known = options_of(name)
        few = [f"{option}={value}" for option, value in _FEW.items() if option in known]
        few += _FEW_OF.get(name, ())
        return [*few, *(["--data.source=synthetic"] if any(word.startswith("--data.") for word in argv) else [])]

    def _plans_ours(self, name: str) -> bool:
        """Whether a plan's experiments train our network."""
        path = self.folder / name
        plan = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return "class_path" not in plan.get("settings", {}).get("model", {})

    def _call(self, argv: list[str], command: Command) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        threads = torch.get_num_threads()
        inside = self._inside(dict(command.variables), module=command.argv[0] == "python")
        with inside, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(argv)
            except SystemExit as end:
                status = int(end.code or 0)
        torch.set_num_threads(threads)
        return Outcome(status, out.getvalue(), err.getvalue())

    @contextlib.contextmanager
    def _inside(self, variables: dict[str, str], module: bool) -> Iterator[None]:
        """Be in the folder, with variables set; nothing of that is left afterwards."""
        before, path, modules = dict(os.environ), list(sys.path), set(sys.modules)
        try:
            os.environ.update(variables)
            if module:  # `python -m` looks for modules in the current folder
                sys.path.insert(0, str(self.folder))
            with contextlib.chdir(self.folder), warnings.catch_warnings():
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                    del sys.modules[name]

    def _do_python(self, argv: list[str]) -> Outcome:
        if argv and argv[0].startswith("scripts/"):  # they take minutes, and have tests of their own
            return has_options(argv)
        done = subprocess.run([sys.executable, *argv], cwd=self.folder, capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def _look_at(self, program: str, argv: list[str]) -> Outcome:
        """Check of a command that is no program of ours what can be checked without running it."""
        if program == "pip":
            extras = {extra for word in argv for extra in re.findall(r"\[(.*?)\]", word)}
            known = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            unknown = [one for extra in extras for one in extra.split(",") if not re.search(rf"(?m)^{one} = \[", known)]
            return Outcome(1 if unknown else 0, "", f"there is no extra {unknown}")
        paths = [word for word in argv if word.startswith("tests/") or word.startswith("examples/")]
        missing = [path for path in paths if not (ROOT / path.split("::")[0]).exists()]
        return Outcome(1 if missing else 0, "", f"there is no {missing}")


def _of_model(argv: Sequence[str]) -> list[str]:
    """Options that keep a training from downloading weights, and its network small where nothing else decides that."""
    typed = {word.split("=")[0] for word in argv}
    configs = {value for word, value in pairwise(argv) if word in ("-c", "--config")}
    if typed & {"--resume", "--ckpt_path", "--model"} or not configs <= {"quick", "original"}:
        return []
    given = dict(pairwise(argv)).get("--model.weights")
    if given not in (None, "null"):
        return [] if "." in given else ["--model.weights=null"]
    return ["--model.weights=null", *([] if "--model.init_from" in typed else [NARROW])]


def has_options(argv: Sequence[str]) -> Outcome:
    """Check that a script of ours is there and takes the options that are typed."""
    script = ROOT / argv[0]
    text = script.read_text(encoding="utf-8") if script.is_file() else ""
    missing = [word for word in argv if word.startswith("--") and f'"{word.split("=")[0]}"' not in text]
    return Outcome(1 if missing or not text else 0, "", f"{argv[0]} has no {missing}" if text else f"no {argv[0]}")
