"""A callback that saves the options of a run as `config.yaml`, with which the run can be repeated."""

from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lit_prune.callbacks._base import Callback
from lit_prune.files.atomic import write_text


class SaveRunConfig(SaveConfigCallback, Callback):
    """Saves `config.yaml` in the run folder, if there is one.

    When a run resumes in its folder, the existing file is kept.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, overwrite: bool = True, folder: Path | None = None
    ) -> None:
        if "resume" in config:  # the saved configuration must start a new run, not resume this one
            config = config.clone()
            config.resume = None
        self._folder = folder
        super().__init__(parser, config, overwrite=overwrite, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`."""
        if self._folder is None:
            return
        path = self._folder / self.config_filename
        if self.overwrite or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, self.parser.dump(self.config, skip_none=False))
