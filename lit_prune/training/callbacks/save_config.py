"""The `config.yaml` that repeats a run."""

from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lit_prune.files.atomic import write_text


class SaveRunConfig(SaveConfigCallback):
    """Saves `config.yaml` in the run folder; without a logger there is none, and nothing is saved.

    A run that is resumed in its own folder keeps the configuration that is there.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, overwrite: bool = True) -> None:
        if "resume" in config:  # the configuration repeats a run, and does not resume it
            config = config.clone()
            config.resume = None
        super().__init__(parser, config, overwrite=overwrite, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file."""
        folder = getattr(trainer.logger, "log_dir", None)  # `trainer.log_dir` would wait for the other processes
        if folder is None:
            return
        path = Path(folder) / self.config_filename
        if self.overwrite or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, self.parser.dump(self.config, skip_none=False))
