"""The output of `predict`: the class and probability of each image, printed and written as CSV."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_prune.callbacks._base import Callback
from lit_prune.errors import expected
from lit_prune.files.atomic import replacing
from lit_prune.training.run_folder import PREDICTIONS

_PRINTED = 20  # images


class PredictionTable(Callback):
    """Writes the predicted class and its probability for each image to `predictions.csv`, and prints the first 20 rows.

    The file is in the run folder. The data module must have the attributes `class_names` and `predict_names` (names of
    the images, in order), and the model's `predict_step` must return class probabilities of shape (N, classes).

    Raises:
        InputError: In `setup`, if the Trainer uses more than one process.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, float]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that a single process predicts all images, since names are assigned to images by their order."""
        if stage == "predict" and trainer.world_size > 1:
            raise expected("one device for `predict`", trainer.world_size, "set `--trainer.devices 1`")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the rows of an earlier `predict`."""
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record the most probable class of each image in the batch."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        probabilities: Tensor = outputs
        best = probabilities.max(dim=1)
        names = data.predict_names[len(self._rows) :]
        for name, index, probability in zip(names, best.indices.tolist(), best.values.tolist(), strict=False):
            self._rows.append((name, data.class_names[index], probability))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and print the table."""
        path = Path(trainer.log_dir or trainer.default_root_dir) / PREDICTIONS
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "class", "probability"])
            writer.writerows((name, label, f"{probability:.6f}") for name, label, probability in self._rows)
        shown = self._rows[:_PRINTED]
        name_width = max((len(name) for name, _, _ in shown), default=0)
        label_width = max((len(label) for _, label, _ in shown), default=0)
        for name, label, probability in shown:
            print(f"{name:{name_width}s}  {label:{label_width}s}  {probability:.3f}")
        more = len(self._rows) - _PRINTED
        print(f"{f'and {more} more; ' if more > 0 else ''}all {len(self._rows)} in {path}")
