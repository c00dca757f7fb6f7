"""One way through the house: a room imports from lower floors, never from above or from a room beside it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lit_prune

PACKAGE = Path(lit_prune.__file__).parent

# from the ground up
FLOORS = [
    {"errors", "version"},
    {"functional", "data", "files"},
    {"accelerated", "callbacks", "models", "cli"},
    {"training"},
    {"study", "trained"},
    {"main", "__init__", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# rooms on one floor, of which the first may import the second
BESIDE = {("data", "files"), ("__main__", "main")}
# what a reusable callback may import
CALLBACK_LIBRARIES = {"torch", "numpy", "lightning"}
STANDARD = {"__future__", *__import__("sys").stdlib_module_names}


def _room(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def _imports(path: Path, package: Path, *, whole_file: bool = True) -> Iterator[str]:
    """Absolute names of what a file imports, also inside functions unless `whole_file` is false."""
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
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _at_import_time(node)


def _modules(package: Path) -> dict[str, Path]:
    """Every module of the package, by its name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def _module_of(name: str, modules: dict[str, Path]) -> str:
    """The module that holds a name: `a.b` for `a.b.Class`, unless `a.b.Class` is a module itself."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def upward_imports(package: Path) -> list[str]:
    """List each import of a room that is not on a lower floor."""
    found = []
    for path in _modules(package).values():
        room = _room(path, package)
        for name in sorted(set(_imports(path, package))):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top != "lit_prune" or target not in LEVEL or target == room or (room, target) in BESIDE:
                continue
            if LEVEL[target] >= LEVEL[room]:
                found.append(f"{path.relative_to(package)} imports {name}")
    return found


def circle(package: Path) -> list[str]:
    """Find modules that import each other in a circle; none is an empty list."""
    modules = _modules(package)
    graph = {name: {_module_of(found, modules) for found in _imports(path, package)} for name, path in modules.items()}
    graph.pop("lit_prune", None)  # its public names are imported when they are asked for
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _plant(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        planted = tmp_path / "lit_prune" / name
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text(text, encoding="utf-8")
    return tmp_path / "lit_prune"


def test_no_room_imports_from_above_or_beside_it():
    assert upward_imports(PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(PACKAGE) == []


def test_every_module_has_a_floor():
    assert {_room(path, PACKAGE) for path in PACKAGE.rglob("*.py")} == set(LEVEL)


def test_every_file_says_what_it_is_for():
    first = {path: path.read_text(encoding="utf-8").splitlines()[:1] for path in PACKAGE.rglob("*.py")}
    assert [path for path, lines in first.items() if not lines or not lines[0].startswith('"""')] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("study/run/planted.py", "from lit_prune.training.cli import TrainingCLI"),
        ("study/planted.py", "def late():\n    from lit_prune.study.plan.plan import load_plan"),
        ("main.py", 'COMMANDS = {"study": ("study.run.command", "run")}'),
        ("cli/planted.py", "from lit_prune.files.atomic import replacing"),
        ("data/planted.py", "from lit_prune.files.atomic import replacing"),
    ],
)
def test_a_planted_downward_import_is_fine(tmp_path, file, line):
    assert upward_imports(_plant(tmp_path, {file: line})) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("functional/planted.py", "from lit_prune.callbacks import GlobalL1Pruning"),
        ("functional/planted.py", "from ..callbacks import pruning"),
        ("functional/planted.py", "import lit_prune.main"),
        ("files/planted.py", "from lit_prune.data import CIFAR10DataModule"),
        ("data/planted.py", "def late():\n    from lit_prune import models"),
        ("models/planted.py", "from lit_prune.callbacks import Pruning"),
        ("callbacks/deep/planted.py", "from ...training import cli"),
        ("cli/planted.py", "def main():\n    import lit_prune.study.report.command"),
        ("callbacks/planted.py", "if TYPE_CHECKING:\n    from lit_prune.study.plan.plan import Plan"),
        ("training/planted.py", "from lit_prune.trained.network import load_network"),
        ("trained/planted.py", "from lit_prune.study.plan.plan import load_plan"),
        ("errors.py", "from lit_prune.files.atomic import replacing"),
    ],
)
def test_a_planted_upward_import_is_caught(tmp_path, file, line):
    assert upward_imports(_plant(tmp_path, {file: line}))


@pytest.mark.parametrize(
    "files",
    [
        {"cli/a.py": "from lit_prune.cli.b import x", "cli/b.py": "from lit_prune.cli.a import y"},
        {"cli/a.py": "from lit_prune.cli import b", "cli/b.py": "def late():\n    from .a import y"},
        {"data/__init__.py": "from lit_prune.data.a import x", "data/a.py": "from lit_prune.data import y"},
    ],
)
def test_a_planted_circle_is_caught(tmp_path, files):
    assert circle(_plant(tmp_path, files))


def test_callbacks_can_be_taken_elsewhere():
    """At import time the callbacks need torch, numpy and lightning alone."""
    outside = set()
    for folder in ("callbacks", "functional"):
        for path in (PACKAGE / folder).rglob("*.py"):
            outside |= {name.split(".")[0] for name in _imports(path, PACKAGE, whole_file=False)}
    assert outside - STANDARD - {"lit_prune"} <= CALLBACK_LIBRARIES
