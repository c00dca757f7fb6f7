"""Use callbacks of lit-prune in your own LightningCLI: list the callbacks in its configuration file.

    cd examples && python reuse_in_your_cli.py fit --config reuse_in_your_cli.yaml

The program needs no import of lit-prune. Callbacks that the file does not list can be added on the command line,
for example with `--trainer.callbacks+=lit_prune.LayerFreezing --trainer.callbacks.fraction=0.3`.
"""

from lightning.pytorch.cli import LightningCLI
from reuse_in_your_project import BarNet, Bars

if __name__ == "__main__":
    scores = LightningCLI(BarNet, Bars, seed_everything_default=0).trainer.callback_metrics
    print(", ".join(f"{name} {float(scores[name]):.3f}" for name in ("accuracy", "sparsity/global") if name in scores))
