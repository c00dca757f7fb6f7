"""Our own code never runs text and never unpickles without restrictions; planted violations are caught."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_prune

PACKAGE = Path(lit_prune.__file__).parent
FOLDERS = [PACKAGE, PACKAGE.parent / "scripts", PACKAGE.parent / "examples"]

# names that must not appear at all
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "importlib.import_module",
    "os.system", "os.popen", "os.execv", "os.execvp", "subprocess.getoutput", "subprocess.getstatusoutput",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader", "yaml.CFullLoader", "yaml.CUnsafeLoader",
    "numpy.lib.format.read_array", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter",
    "shutil.unpack_archive", "tarfile.TarFile.extractall", "tempfile.mktemp", "runpy.run_path",
    "torch.serialization.add_safe_globals", "torch.serialization.safe_globals",
}  # fmt: skip
# functions that must be called with this argument
ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "torch.serialization.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
}
# methods of any object
METHODS = {"extractall", "read_pickle", "set_loader"}
# exceptions that are safe, with their reason
ALLOWED = {
    # the names of our own commands, from a table in the same file
    ("main.py", "importlib.import_module"),
    # the base classes of options, from a table in the same file
    ("cli/parse_errors.py", "importlib.import_module"),
    # the modules of our public names, likewise
    ("__init__.py", "importlib.import_module"),
    # optional packages, by names in our code
    ("functional/extras.py", "importlib.import_module"),
    # the class that the user names with `--model`, as SECURITY.md says
    ("trained/network.py", "importlib.import_module"),
    # likewise, and names of the two packages of Lightning in our code
    ("training/packages.py", "importlib.import_module"),
    # our own program, in place of a process that cannot use the GPU
    ("study/run/fork_server.py", "os.execv"),
    # the functions that the user names in arguments of a callback; settings in checkpoints have no callbacks
    ("callbacks/_checks.py", "importlib.import_module"),
    # a module of pytorch_lightning, by its name in the same file
    ("callbacks/_base.py", "importlib.import_module"),
    # the functions in which a process is killed, likewise
    ("scripts/crash_test.py", "__import__"),
}


def dangers(text: str, where: str = "") -> list[str]:
    """List the dangerous names and calls in a module, each with its line."""
    tree = ast.parse(text)
    names = dict(_imported(tree))
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            shell = [keyword for keyword in node.keywords if keyword.arg == "shell"]
            if any(not (isinstance(k.value, ast.Constant) and k.value.value is False) for k in shell):
                found.append((node.lineno, "shell"))
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            found.append((node.lineno, node.attr))
        name = _dotted(node, names)
        if name in FORBIDDEN and (where, name) not in ALLOWED:
            found.append((node.lineno, name))  # type: ignore[attr-defined]  # every node with a name has a line
        if name in ONLY_WITH:
            argument, value = ONLY_WITH[name]
            call = called.get(id(node))
            given = [] if call is None else [keyword.value for keyword in call.keywords if keyword.arg == argument]
            if not any(isinstance(one, ast.Constant) and one.value is value for one in given):
                found.append((node.lineno, name))  # type: ignore[attr-defined]
    return [f"{where}:{line} {name}" for line, name in sorted(found)]


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Return what the imported names of a file stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, names)
        return None if base is None else f"{base}.{node.attr}"
    return None


def test_our_code_runs_no_text_and_unpickles_nothing():
    files = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))]
    assert len(files) > 80
    found = [
        danger
        for path in files
        for danger in dangers(
            path.read_text(encoding="utf-8"),
            path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else PACKAGE.parent).as_posix(),
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text, {})",
        "code = compile(text, 'x', 'exec')",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module\nimport_module(name)",
        "list(map(eval, texts))",
        "run = exec",
        "import os\nos.system('ls')",
        "from os import popen\npopen('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=flag)",
        "Popen(words, shell=1)",
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import loads as read\nread(data)",
        "import pickle\nread = pickle.Unpickler",
        "def late():\n    import marshal\n    return marshal.loads(data)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import yaml\nloader = yaml.FullLoader",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "from numpy import load\nload(path)",
        "import numpy as np\nread = np.load",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=None)",
        "import torch\ntorch.load(path, **options)",
        "import torch as t\nt.jit.load(path)",
        "import torch\ntorch.hub.load(repo, name)",
        "from torch.serialization import load\nload(path)",
        "import torch\ntorch.serialization.add_safe_globals([X])",
        "import tarfile\ntarfile.open(path).extractall(folder)",
        "import shutil\nshutil.unpack_archive(path)",
    ],
)
def test_a_planted_danger_is_caught(line):
    assert len(dangers(line, "cli/planted.py")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "module.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(module)",
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import pickle\nraise pickle.UnpicklingError",
        "import json\njson.loads(text)",
    ],
)
def test_harmless_code_is_accepted(line):
    assert dangers(line) == []
