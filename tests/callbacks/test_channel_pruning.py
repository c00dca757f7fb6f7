"""Channels pruned in training: zero in all layers that compute them, at every step, and the same after a resume."""

from typing import Any

import torch

from lit_prune.callbacks import Pruning
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, quiet_trainer
from tests.functional.test_channels import Residual


class Images(Batches):
    """Images of 32x32 pixels would be slow; the network takes any size."""


class Zeros(Pruning):
    """Checks before and after every step that all rows of a channel are zero or none."""

    steps = 0

    def check(self) -> None:
        if self._coupled is None or not self._ever_pruned:
            return
        dead = torch.zeros(len(self._coupled.groups), dtype=torch.bool)
        for ref in self.weights:
            dead[self._coupled.rows[ref.name][(ref.tensor == 0).flatten(1).all(1)]] = True
        assert dead.any()
        for ref in [*self.weights, *self._dependents]:
            assert not ref.tensor[dead[self._coupled.rows[ref.name]]].any(), ref.name
        self.steps += 1

    def on_train_batch_end(self, *args: Any) -> None:
        self.check()

    def on_before_zero_grad(self, *args: Any) -> None:
        self.check()


def fit(callbacks, folder, example=True, epochs=3, optimizer="adam", **options):
    torch.manual_seed(1)
    model: Any = Classifier(Residual(), optimizer=OPTIMIZERS[optimizer])
    if example:
        model.example_input_array = torch.zeros(2, 3, 8, 8)
    trainer = quiet_trainer(folder, callbacks, max_epochs=epochs)
    trainer.fit(model, Batches(4), **options)
    return model, trainer
