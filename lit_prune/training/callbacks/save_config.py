"""The `config.yaml` that repeats a run."""

from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lit_prune.files.atomic import write_text

__all__ = ["SaveRunConfig"]


class SaveRunConfig(SaveConfigCallback):
    """Saves `config.yaml` in the run folder, and nowhere else: without a logger there is no such folder.

    A run that goes on in its own folder has its configuration there, without the checkpoint that it goes on from.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, overwrite: bool = True) -> None:
        if "resume" in config:  # who repeats a run from its configuration does not go on with it
            config = config.clone()
            config.resume = None
        super().__init__(parser, config, overwrite=overwrite, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, whole or not at all."""
        folder = getattr(trainer.logger, "log_dir", None)  # the trainer's own asks all processes, and one is here
        if folder is None:
            return
        path = Path(folder) / self.config_filename
        if self.overwrite or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, self.parser.dump(self.config, skip_none=False))
