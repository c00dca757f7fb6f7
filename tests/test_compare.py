"""The comparison with other libraries: each of our cells names a test, and each of theirs is what the script prints."""

import re
import subprocess
import sys
from importlib.metadata import version

import compare
import pytest
from compare import measure
from comparisons.libraries import LIBRARIES

from tests.docs import ROOT

PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
COLUMNS = {"Pruning": ("ModelPruning", "Torch-Pruning"), "Freezing": ("BackboneFinetuning", "finetuning-scheduler")}
TWO_PROCESSES = ("fsdp2", "ddp")
# name of the promise -> cell of lit-prune
OURS: dict[str, str] = {}
# (library, name of the promise) -> cell
THEIRS: dict[tuple[str, str], str] = {}
for heading, libraries in COLUMNS.items():
    table = PAGE.split(f"## {heading}")[1].split("##")[0]
    for _, ours, *cells, name in re.findall(r"(?m)^\| ([A-Z].*) \| (.*) \| (.*) \| (.*) \| `(\w+)` \|$", table):
        OURS[name] = ours
        THEIRS |= {(library, name): cell for library, cell in zip(libraries, cells, strict=True)}


def test_the_tables_have_every_promise():
    assert set(OURS) == {promise for library in LIBRARIES.values() for promise in library.promises()}


def _rows(text):
    """Cells by promise, whether a row also has the name for the script, and wherever its links start."""
    found = re.findall(r"(?m)^\| ([A-Z].*?) \| (.*?) \| (.*?) \| (.*?) \|", text.replace("](../", "]("))
    return {promise: cells for promise, *cells in found if promise != "Promise"}


def test_rows_in_the_readme_are_those_of_the_page():
    """The README may leave rows out."""
    page, readme = _rows(PAGE), _rows((ROOT / "README.md").read_text(encoding="utf-8"))
    shared = readme.keys() & page.keys()
    assert {promise: readme[promise] for promise in shared} == {promise: page[promise] for promise in shared}
    assert bool(shared) == ("scripts/compare.py" in (ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("promise", OURS)
def test_each_of_our_cells_names_a_test(promise):
    if promise == "generated":
        assert OURS[promise] == "no"
        return
    ((said, path, name),) = re.findall(r'^\[(.*)\]\(\.\./(tests/.*\.py) "(test_\w+)"\)$', OURS[promise])
    assert re.search(rf"(?m)^def {name}\(", (ROOT / path).read_text(encoding="utf-8"))
    assert said == ("yes, through Torch-Pruning: layers that it can follow" if promise == "channels" else "yes")


def versions_are_those_of_the_page(package: str) -> bool:
    return all(f"{name} {version(name).partition('+')[0]}" in PAGE for name in (package, "torch"))


def check_cell(library: str, promise: str, printed: str) -> None:
    """Compare a cell with what the script prints: the whole text, or with other versions only its first word."""
    wanted = THEIRS[library, promise]
    if versions_are_those_of_the_page(LIBRARIES[library].package):
        assert printed == wanted
    else:
        assert printed.split(":")[0] == wanted.split(":")[0]


@pytest.mark.parametrize(
    ("library", "promise"),
    [
        pytest.param(library, promise, marks=[pytest.mark.slow] if promise in TWO_PROCESSES else [])
        for library, promise in THEIRS
        if promise in LIBRARIES[library].promises()
    ],
)
def test_cells_of_other_libraries_are_what_the_script_prints(library, promise):
    package = LIBRARIES[library].package
    pytest.importorskip(package.replace("-", "_"), reason=f"the package {package} is not installed")
    if promise not in TWO_PROCESSES:
        check_cell(library, promise, str(measure(library, promise)))
        return
    argv = [sys.executable, str(ROOT / "scripts" / "compare.py"), library, promise]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()[-1]
    check_cell(library, promise, printed.removeprefix(f"{library} ({package} {version(package)}), {promise}: "))


def test_a_library_without_a_promise_does_not_keep_it():
    missing = [cell for (library, name), cell in THEIRS.items() if name not in LIBRARIES[library].promises()]
    assert missing == ["no"]


@pytest.mark.parametrize("promise", sorted(OURS.keys() - {"generated", "channels", *TWO_PROCESSES}))
def test_the_same_measurement_finds_that_lit_prune_keeps_the_promise(promise):
    assert measure("lit-prune", promise).kept


def test_a_missing_library_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr(sys, "argv", ["compare.py", "Torch-Pruning", "zero"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "torch_pruning is not installed. Install it with `pip install torch-pruning`." in capsys.readouterr().err
