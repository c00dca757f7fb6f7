"""One way through the house: a floor imports what is below it, never what is above or beside it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_prune

PACKAGE = Path(lit_prune.__file__).parent

# floor -> the floors of ours it may import
ALLOWED = {
    "errors": set(),
    "files": set(),
    "checksums": set(),
    "unpickling": set(),
    "yaml_files": {"errors"},
    "convolution": {"errors"},
    "channels": {"errors"},
    "weights": {"errors", "checksums", "unpickling"},
    "functional": {"errors"},
    "data": {"errors"},
    "model": {"errors", "convolution", "channels", "weights"},
    "callbacks": {"errors", "functional"},
    # `cli.main` names the modules of every command as text, and imports the one that is called
    "cli": {
        "errors",
        "files",
        "yaml_files",
        "checksums",
        "convolution",
        "weights",
        "functional",
        "data",
        "model",
        "callbacks",
    },
    "study": {"errors", "files", "yaml_files", "cli", "data", "model", "weights", "callbacks", "functional"},
    "trained": {
        "errors",
        "files",
        "cli",
        "convolution",
        "channels",
        "data",
        "model",
        "weights",
        "callbacks",
        "functional",
    },
    "__main__": {"cli"},
    "__init__": {"data", "model", "callbacks", "trained"},
}
# what a reusable callback may pull in when it is imported
CALLBACK_LIBRARIES = {"torch", "numpy", "lightning"}
STANDARD = {"__future__", *__import__("sys").stdlib_module_names}


def _floor(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def _imports(path: Path, package: Path, *, whole_file: bool = True) -> Iterator[str]:
    """Absolute names of the modules that a file imports, also inside functions unless `whole_file` is false."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if whole_file else _at_import_time(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.relative_to(package.parent).parts[: -node.level]
                base = ".".join((*parents, base)).rstrip(".")
            yield base
            if base == "lit_prune":
                yield from (f"lit_prune.{alias.name}" for alias in node.names)


def _at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _at_import_time(node)


def upward_imports(package: Path) -> list[str]:
    """List each import that goes to a floor which its own may not know."""
    found = []
    for path in sorted(package.rglob("*.py")):
        floor = _floor(path, package)
        for name in _imports(path, package):
            parts = name.split(".")
            if parts[0] != "lit_prune" or len(parts) == 1:
                continue
            target = parts[1]
            if target in ALLOWED and target != floor and target not in ALLOWED.get(floor, set()):
                found.append(f"{path.relative_to(package)} imports {name}")
    return found


def test_no_floor_imports_one_above_or_beside_it():
    assert upward_imports(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("study/planted.py", "from lit_prune.cli.training import TrainingCLI\nfrom lit_prune.files import write_text"),
        ("cli/planted.py", 'COMMANDS = {"study": ("lit_prune.study.command", "run")}'),
        ("cli/planted.py", "from lit_prune.files import replacing"),
    ],
)
def test_a_planted_downward_import_is_fine(tmp_path, file, line):
    planted = tmp_path / "lit_prune" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(line, encoding="utf-8")
    assert upward_imports(tmp_path / "lit_prune") == []


def test_every_module_has_a_floor():
    assert {_floor(path, PACKAGE) for path in PACKAGE.rglob("*.py")} <= set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("functional/planted.py", "from lit_prune.callbacks import GlobalL1Pruning"),
        ("functional/planted.py", "from ..callbacks import GlobalL1Pruning"),
        ("functional/planted.py", "import lit_prune.cli.main"),
        ("data/planted.py", "def late():\n    from lit_prune import model"),
        ("model.py", "from lit_prune.data import CIFAR10DataModule"),
        ("callbacks/deep/planted.py", "from ...data import CIFAR10DataModule"),
        ("cli/planted.py", "from lit_prune.study.command import main"),
        ("cli/planted.py", "def main():\n    import lit_prune.study.report"),
        ("callbacks/planted.py", "from lit_prune.study.plan import load_plan"),
        ("files.py", "from lit_prune.errors import expected"),
    ],
)
def test_a_planted_upward_import_is_caught(tmp_path, file, line):
    planted = tmp_path / "lit_prune" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(line, encoding="utf-8")
    assert len(upward_imports(tmp_path / "lit_prune")) == 1


def test_callbacks_can_be_taken_elsewhere():
    """At import time the callbacks need torch, numpy and lightning alone."""
    outside = set()
    for folder in ("callbacks", "functional"):
        for path in (PACKAGE / folder).rglob("*.py"):
            outside |= {name.split(".")[0] for name in _imports(path, PACKAGE, whole_file=False)}
    assert outside - STANDARD - {"lit_prune"} <= CALLBACK_LIBRARIES
