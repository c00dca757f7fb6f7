"""Score the weights of a trained network by criteria that need training data."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from lit_prune.callbacks import Pruning
from lit_prune.callbacks._calibration import make_loss_function, seed_all
from lit_prune.errors import expected
from lit_prune.functional.calibration import Calibration
from lit_prune.functional.criteria import Score
from lit_prune.functional.selection import WeightRef, find_weight
from lit_prune.trained.choice import needs_data
from lit_prune.trained.network import Network
from lit_prune.trained.own_data import make_trainer, one_sentence
from lit_prune.trained.scoring import load_training_batches


def make_scorer(network: Network, pruner: Pruning, options: Namespace) -> Callable[[Sequence[WeightRef]], Score]:
    """Return a function that takes weights of the network, and returns a criterion that scores them without more data.

    The loss is what the `training_step` of the network returns in training mode; what it logs is dropped. Training
    batches are loaded once, so that all calls use the same ones. The network does not change.

    Raises:
        InputError: If the criterion needs data that cannot be loaded; in the returned function, if the network uses
            manual optimization, or its `training_step` fails or returns no loss.
    """
    criterion: Any = pruner.criterion
    if not needs_data(pruner):
        return lambda weights: criterion
    seed = options.seed or 0
    seed_all(seed)
    batches = load_training_batches(network, options, criterion.batches, seed)
    model = network.require_model()

    def measure(weights: Sequence[WeightRef]) -> Score:
        copied: Any = deepcopy(model).train().requires_grad_()
        if not copied.automatic_optimization:
            what = f"automatic optimization with the criterion `{options.criterion}`"
            raise expected(what, "manual optimization", "prune by another criterion")
        copied.trainer = make_trainer(copied)
        compute = make_loss_function(copied)
        chosen = [ref.tensor for weight in weights if (ref := find_weight(copied, weight.name)) is not None]

        def loss(batch: Any, index: int) -> Tensor | None:
            with one_sentence(f"The `training_step` of {type(model).__name__}"):
                return compute(batch, index)

        measured = deepcopy(criterion)
        measured.measure(chosen, Calibration(copied, _Seeded(batches, seed), loss))
        return measured.__call__  # type: ignore[no-any-return]

    return measure


class _Seeded:
    """Batches that seed all random states whenever an iteration starts, so that each iteration has the same dropout."""

    def __init__(self, batches: Sequence[Any], seed: int) -> None:
        self.batches, self.seed = batches, seed

    def __iter__(self) -> Iterator[Any]:
        seed_all(self.seed)
        return iter(self.batches)
