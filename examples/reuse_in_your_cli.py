"""Your own LightningCLI, whose configuration adds callbacks of lit-prune by their class path.

    cd examples && python reuse_in_your_cli.py fit --config reuse_in_your_cli.yaml

Nothing here imports lit-prune. Callbacks can also be added on the command line, for example
`--trainer.callbacks+=lit_prune.GlobalL1Pruning --trainer.callbacks.amount=0.5`.
"""

from lightning.pytorch.cli import LightningCLI
from reuse_in_your_project import BarNet, Bars

if __name__ == "__main__":
    LightningCLI(BarNet, Bars, seed_everything_default=0)
