"""The callbacks are callbacks of `lightning` and of `pytorch_lightning`, whichever is imported first."""

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning

import lit_prune.training.callbacks
from lit_prune import GlobalL1Pruning, LayerFreezing
from lit_prune.callbacks._base import _OtherImported

# both command lines train the demo module, with callbacks from class paths and from YAML
TRAIN = """
    def train(package, folder):
        cli = import_module(f"{package}.cli")
        config = Path(folder, f"{package}.yaml")
        config.write_text(
            "trainer: {callbacks: [{class_path: lit_prune.GlobalL1Pruning, init_args: {amount: 0.5}},"
            " {class_path: lit_prune.PruningRemoval, init_args: {epoch: 1}}]}"
        )
        quick = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu",
                 "enable_model_summary": False, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
        argv = ["fit", f"--config={config}", *(f"--trainer.{name}={value}" for name, value in quick.items())]
        argv += ["--trainer.callbacks+=lit_prune.LayerFreezing", "--trainer.callbacks.layers=layer",
                 "--trainer.callbacks.unfreeze_epoch=1", "--trainer.callbacks+=SparsityMonitor"]
        sys.argv = ["x"]
        run = cli.LightningCLI(
            import_module(f"{package}.demos.boring_classes").BoringModel, args=argv, save_config_callback=None
        )
        names = [type(callback).__name__ for callback in run.trainer.callbacks]
        assert [name for name in names if hasattr(lit_prune, name)] == [
            "GlobalL1Pruning", "PruningRemoval", "LayerFreezing", "SparsityMonitor"
        ]
        assert all(isinstance(callback, import_module(package).Callback) for callback in run.trainer.callbacks)
        assert run.trainer.callback_metrics["sparsity/global"] == 0.5
        assert int((run.model.layer.weight == 0).sum()) == 32
"""
START = "import pickle, sys, warnings\nfrom importlib import import_module\nfrom pathlib import Path\n"
OURS_FIRST = """
    import lit_prune.training.callbacks
    from lit_prune import GlobalL1Pruning
    assert "pytorch_lightning" not in sys.modules

    class Own(GlobalL1Pruning):
        def score(self, weights):
            return (weight.square() for weight in weights)

    before = Own(0.5)
    own = pickle.dumps(GlobalL1Pruning(0.25))
    try:  # an import that fails half-way, and is repeated with other classes
        sys.modules["pytorch_lightning.trainer"] = None
        import pytorch_lightning
    except ImportError:
        first = sys.modules["pytorch_lightning.callbacks.callback"].Callback
        assert isinstance(before, first)
        for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
            del sys.modules[name]
    import pytorch_lightning
    assert first is not pytorch_lightning.Callback
    assert isinstance(before, pytorch_lightning.Callback)
    assert isinstance(before, Own) and before.state_key.startswith("Own")
    assert pickle.loads(own).amount == 0.25
    Path(sys.argv[1], "own.pkl").write_bytes(own)
"""
THEIRS_FIRST = """
    import pytorch_lightning
    assert "lit_prune" not in sys.modules
    loaded = pickle.loads(Path(sys.argv[1], "own.pkl").read_bytes())
    assert loaded.amount == 0.25 and isinstance(loaded, pytorch_lightning.Callback)
    import lit_prune
"""
END = """
    folder = sys.argv[1]
    warnings.simplefilter("ignore")
    for package in ("pytorch_lightning", "lightning.pytorch"):
        train(package, folder)
    print("done")
"""


@pytest.mark.gate
def test_both_command_lines_take_the_callbacks_in_each_order_of_imports(tmp_path: Path) -> None:
    for order in (OURS_FIRST, THEIRS_FIRST):
        code = START + "".join(map(textwrap.dedent, (TRAIN, order, END)))
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.stdout.endswith("done\n"), done.stderr


BASES: tuple[type, type] = (lightning.pytorch.Callback, pytorch_lightning.Callback)


def all_callbacks() -> list[type]:
    folders: list[ModuleType] = [lit_prune.callbacks, lit_prune.training.callbacks]
    derived = ("LayerSummary", "Progress")  # `derive` gives these the base class of the Trainer's package
    return [getattr(folder, name) for folder in folders for name in folder.__all__ if name not in derived]


@pytest.mark.parametrize("kind", all_callbacks())
def test_every_callback_is_one_of_both_packages(kind: type) -> None:
    assert all(issubclass(kind, base) for base in BASES)


def test_a_callback_of_both_packages_can_have_further_bases() -> None:
    for bases in (
        (GlobalL1Pruning, pytorch_lightning.callbacks.EarlyStopping),
        (LayerFreezing, pytorch_lightning.Callback),  # the only way before
        (LayerFreezing, lightning.pytorch.callbacks.EarlyStopping),
    ):
        callback: Any = type("Own", bases, {})(0.5)
        assert all(isinstance(callback, base) for base in BASES)
    copy: Any = pickle.loads(pickle.dumps(LayerFreezing(layers="x")))  # noqa: S301 - its own
    assert isinstance(copy, pytorch_lightning.Callback)


def test_the_import_of_every_other_module_is_left_alone() -> None:
    finder = next(finder for finder in sys.meta_path if isinstance(finder, _OtherImported))
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", "callback", "json"):
        assert finder.find_spec(name, None) is None
