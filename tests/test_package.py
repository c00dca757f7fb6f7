"""The public names of the package, imported on first use."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lit_prune


@pytest.mark.parametrize("name", [name for name in lit_prune.__all__ if name != "__version__"])
def test_every_public_name_can_be_imported(name):
    assert getattr(lit_prune, name).__name__ == name
    assert name in dir(lit_prune)


def test_type_checkers_see_the_names_that_are_imported_on_first_use():
    tree = ast.parse(Path(lit_prune.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.names[0].asname: node.module for node in block.body if isinstance(node, ast.ImportFrom)}
    assert seen == lit_prune._MODULES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lit_prune' has no attribute 'Xyzzy'"):
        _ = lit_prune.Xyzzy


def test_the_version_is_that_of_the_installed_package():
    assert version("lit-prune") == lit_prune.__version__


@pytest.mark.gate
def test_callbacks_import_only_lower_floors_and_only_lightning():
    code = (
        "import sys; from lit_prune import GlobalL1Pruning, LayerFreezing; "
        "print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('lit_prune.')}), "
        "'lightning.pytorch' in sys.modules, 'pytorch_lightning' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['callbacks', 'errors', 'functional', 'version'] True False"
