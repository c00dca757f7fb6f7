"""The front door in Python: public names, found lazily."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import lit_prune


@pytest.mark.parametrize("name", [name for name in lit_prune.__all__ if name != "__version__"])
def test_every_public_name_is_there(name):
    assert getattr(lit_prune, name).__name__ == name
    assert name in dir(lit_prune)


def test_the_public_list_is_what_can_be_imported_lazily():
    assert {*lit_prune._HOMES, "__version__"} == set(lit_prune.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lit_prune' has no attribute 'Xyzzy'"):
        _ = lit_prune.Xyzzy


def test_the_version_is_that_of_the_installed_package():
    assert version("lit-prune") == lit_prune.__version__


def test_callbacks_bring_nothing_else_of_ours_with_them():
    code = (
        "import sys; from lit_prune import GlobalL1Pruning, LayerFreezing; "
        "print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('lit_prune.')}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['callbacks', 'errors', 'functional']"
