"""A folder in which the blocks of a document run, on synthetic images, in seconds.

If a command reads a file that no earlier block has written, the file is created first: a checkpoint of a small
training, pictures, or the folder of a study. Options are added to long-running commands to make them short.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

from lit_prune.main import COMMANDS, main
from tests.docs import ROOT
from tests.study.folders import make_study
from tests.training.conftest import NARROW, TINY

__all__ = ["Session", "check_script", "options_of", "run_python"]

_QUIET = ["--data.source=synthetic", "--data.val_size=20", *TINY[-3:-1]]
# options that make a command short
_FEW = {
    "fit": [*TINY, "--trainer.max_epochs=1"],
    "validate": [*_QUIET, "--trainer.limit_val_batches=1"],
    "test": [*_QUIET, "--trainer.limit_test_batches=1"],
    "predict": [*_QUIET, "--trainer.limit_predict_batches=1"],
    "sensitivity": ["--amounts=0.5", "--layers=head*"],
    "cost": ["--batches=[1,2]", "--onnx=false", "--rounds=1"],
    # the estimate of the time trains for some steps
    "study": ["--weights=random", "--dry_run", "--data.batch_size=16", NARROW],
}


@contextlib.contextmanager
def inside(folder: Path, variables: Mapping[str, str] = {}) -> Iterator[pytest.MonkeyPatch]:
    """Work in a folder with environment variables set, and restore the state of this process afterwards."""
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ, variables), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield patch
    torch.set_num_threads(threads)


def run_python(source: str, place: str, folder: Path, *argv: str) -> str:
    """Run Python code as a script, and return its output.

    If the code does not mention lit_prune, it runs as if lit_prune were not installed.
    """
    with inside(folder) as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("ignore")  # a script does not turn warnings into errors
        patch.setattr(sys, "argv", [place, *argv])
        if not argv and not re.search(r"\blit_prune\b", source):
            for name in [name for name in sys.modules if name.split(".")[0] == "lit_prune"]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, "lit_prune", None)  # an import now fails
        exec(compile(source, place, "exec"), {"__name__": "__main__"})  # noqa: S102 - code of our own documents
    return printed.getvalue()


def run_ours(argv: list[str], folder: Path, variables: Mapping[str, str] = {}) -> tuple[int, str]:
    """Run `lit-prune` in a folder; return its exit status and its output."""
    printed = io.StringIO()
    with inside(folder, variables), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(argv)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, printed.getvalue()


@cache
def options_of(command: str) -> frozenset[str]:
    """Return all options of a command."""
    return frozenset(re.findall(r"(?<![\w`-])--[A-Za-z][\w-]*(?:\.\w+)*", run_ours([command, "--help=all"], ROOT)[1]))


@cache
def small_run(folder: Path, channels: str) -> Path:
    """Train a small network; return its last checkpoint."""
    folder.mkdir(parents=True)
    pruning = ["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.3"]
    argv = ["fit", "--config=original", "--model.weights=null", *_FEW["fit"], *pruning, channels]
    assert run_ours(argv, folder)[0] == 0
    return folder / "lightning_logs" / "original" / "version_0" / "checkpoints" / "last.ckpt"


def check_script(argv: list[str]) -> str:
    """Describe what is wrong with the arguments of `python SCRIPT`, or return an empty string."""
    script = ROOT / argv[0]
    text = script.read_text(encoding="utf-8") if script.is_file() else ""
    missing = [word for word in argv if word.startswith("--") and f'"{word.split("=")[0]}"' not in text]
    return f"{argv[0]} has no {missing}" if text and missing else "" if text else f"there is no {argv[0]}"


class Session:
    """The folder of one document.

    Args:
        text: Text of the document. Checkpoints that its Python code loads have the default numbers of channels.
        folder: Folder to create.
        runs: Folder for the small trainings that write checkpoints.
    """

    def __init__(self, text: str, folder: Path, runs: Path) -> None:
        self.folder = folder
        self._text = text
        self._runs = runs
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a command as a shell would; return its exit status and its output.

        Raises:
            ValueError: If the command is not one of those that tests can run.
        """
        variables = dict(word.split("=", 1) for word in takewhile(re.compile("[A-Z_]+=").match, argv))
        program, *rest = argv[len(variables) :]
        if program in ("pip", "pytest") or (program == "python" and rest[0].startswith("scripts/")):
            wrong = check_script(rest) if program == "python" else _look_at(rest)  # scripts take minutes
            return int(bool(wrong)), wrong
        if program == "python" and rest[:2] == ["-m", "lit_prune"]:
            program, rest = "lit-prune", rest[2:]
        if program != "lit-prune":
            raise ValueError(f"no test knows how to run `{program}`")
        output = rest.pop() if ">" in rest[-2:-1] else None
        rest = rest[:-1] if output else rest
        self.prepare(rest)
        status, printed = run_ours([*rest, *_shorten(rest)], self.folder, variables)
        if output:
            (self.folder / output).write_text(printed, encoding="utf-8")
        return status, printed

    def prepare(self, argv: list[str]) -> None:
        """Create the files that a command reads and that do not exist yet."""
        for before, word in pairwise(argv):
            path = self.folder / word
            if before == "report" and not (path / "plan.yaml").exists():
                shutil.rmtree(path, ignore_errors=True)  # written by an earlier `fit` of the same name
                make_study(path)
            elif before == "--data.predict_path" and not path.exists():
                path.mkdir(parents=True)
                Image.new("RGB", (48, 32), "teal").save(path / "a.png")
            elif path.suffix == ".ckpt" and before != "--output" and not path.exists():
                wide = f'"{word}"' in self._text
                channels = "--model.channels=null" if wide else NARROW
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(small_run(self._runs / ("wide" if wide else "narrow"), channels), path)


def _look_at(argv: list[str]) -> str:
    """Describe which extras or files in the arguments of pip or pytest do not exist, or return an empty string."""
    known = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"\w+", " ".join(re.findall(r"\[(.*?)\]", " ".join(argv))))
    unknown = [extra for extra in extras if not re.search(rf"(?m)^{extra} = \[", known)]
    unknown += [word for word in argv if "/" in word and not (ROOT / word.split("::")[0]).exists()]
    return f"there is no {unknown}" if unknown else ""


def _shorten(argv: list[str]) -> list[str]:
    """Return options that make a command take seconds."""
    if not argv or argv[0] not in COMMANDS or {"--help", "--help=all", "--print_config"} & set(argv):
        return []
    few = [*_FEW.get(argv[0], []), *(["--limit=20"] if "--limit" in options_of(argv[0]) else [])]
    if "--preset" in argv and "--only" not in argv:
        few.append("--only=task1/logits")  # other tests run all experiments of the presets
    if argv[0] == "fit" and not {"--resume", "--ckpt_path", "--model"} & set(argv):
        few += ["--model.weights=null", *([] if "--model.init_from" in argv else [NARROW])]
    return few
