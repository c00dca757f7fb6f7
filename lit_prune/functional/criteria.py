"""Criteria: scores of weights by which the least important ones are pruned."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from lit_prune.errors import InputError, check_choice, check_integer, expected
from lit_prune.functional.calibration import Calibration
from lit_prune.functional.sharding import Split, like, local, part_like, whole
from lit_prune.functional.threshold import mark_lowest

_LEAST_DENSITY = 0.001  # down to which SynFlow prunes iteratively

Score = Callable[[Sequence[Tensor]], Iterable[Tensor]]
"""Function that returns scores for a list of weights, in tensors of the same shapes; the lowest are pruned first.

It receives the parameters themselves, so that it can read `weight.grad`, and is called under `torch.no_grad`. Scores of
weights that are masked already are ignored. To save memory it may `yield` the scores one by one. For weights that are
split between processes (DTensor), scores may be split likewise, or whole and the same in every process.

An object may have more attributes and methods, which the pruning callbacks use:

- A criterion that needs data has `batches`, the number of training batches that it takes, and a method
  `measure(weights, calibration)`, which is called right before it scores. The weights that `measure` receives are
  parameters of `calibration.model`, a copy of the model that it may change.
- A criterion that follows the training has `observe(names, weights)`, which is called before each optimizer step, when
  `weight.grad` is not masked yet, and `state_dict()` and `load_state_dict(state)`, since it is saved in checkpoints;
  `load_state_dict({})` must reset it for a new training run.
"""


def magnitude(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their absolute value (L1, "magnitude pruning")."""
    return (weight.abs() for weight in weights)


def l2(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their square, so that the mean score of a group orders groups by their L2 norm."""
    return (_wide(weight).square() for weight in weights)


def lamp(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their square, divided by the sum of the squares of the layer that are at least as large.

    Of equal weights, a later one counts as larger. This is layer-adaptive magnitude pruning (Lee et al.,
    "Layer-adaptive sparsity for the magnitude-based pruning", 2021); the largest weight of each layer scores 1.
    """
    for weight in weights:
        squares, order = _wide(whole(weight)).square().flatten().sort(stable=True)
        # on a CPU, since sums on GPUs may differ in the last bit, and then processes would prune different weights
        left = squares.cpu().flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(squares.dtype).tiny).to(squares.device)
        yield torch.empty_like(squares).scatter_(0, order, squares / left).view(weight.shape)


@dataclass(frozen=True)
class RandomScore:
    """Score weights at random, with the same result on every device, in every process and at every call.

    The global random state is neither used nor changed.
    """

    seed: int = 0

    def __call__(self, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        """Draw a score in [0, 1) for each weight."""
        generator = torch.Generator().manual_seed(self.seed)
        for weight in weights:
            scores = torch.rand(weight.shape, generator=generator, dtype=torch.float32, device="cpu")
            yield scores.to(weight.device)


class _Measured:
    """A criterion that computes scores from the losses of some batches."""

    def __init__(self, batches: int = 10) -> None:
        check_integer("batches", batches, 1, hint="give the number of training batches to take")
        self.batches = batches
        self._scores: list[Tensor] = []

    def __call__(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores that were measured."""
        if not self._scores:
            raise InputError(f"{type(self).__name__} has no scores yet: call its `measure` first.")
        return self._scores


class Taylor(_Measured):
    """Score weights by |weight x gradient|, averaged over batches.

    This estimates to first order how much the loss changes when a weight becomes zero (Molchanov et al., "Importance
    estimation for neural network pruning", 2019).

    Args:
        batches: Number of training batches to take.
    """

    def measure(self, weights: Sequence[Tensor], calibration: Calibration) -> None:
        """Compute the scores."""
        self._scores = _average(weights, _gradients(weights, calibration), lambda w, g: (w * g).abs())


class Fisher(_Measured):
    """Score weights by their square times the square of their gradient, averaged over batches.

    The averaged squares approximate the diagonal of the empirical Fisher information, with one gradient per batch
    instead of one per example. The score estimates to second order how much the loss rises when a weight becomes zero
    (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018).

    Args:
        batches: Number of training batches to take.
    """

    def measure(self, weights: Sequence[Tensor], calibration: Calibration) -> None:
        """Compute the scores."""
        squares = _average(weights, _gradients(weights, calibration), lambda _, g: g.square())
        self._scores = [_wide(weight).square() * square for weight, square in zip(weights, squares, strict=True)]


class SNIP(_Measured):
    """Score weights by |weight x gradient of the mean loss|, for pruning at initialisation.

    Unlike in `Taylor`, gradients of different batches may cancel (Lee et al., "SNIP: Single-shot network pruning based
    on connection sensitivity", 2019).

    Args:
        batches: Number of training batches to take.
    """

    def measure(self, weights: Sequence[Tensor], calibration: Calibration) -> None:
        """Compute the scores."""
        means = _average(weights, _gradients(weights, calibration))
        self._scores = [(_wide(weight) * mean).abs() for weight, mean in zip(weights, means, strict=True)]


class GraSP(_Measured):
    """Score weights by weight x (Hessian x gradient), for pruning at initialisation.

    The lowest scores belong to the weights whose removal increases the norm of the gradient most, or reduces it least
    (Wang et al., "Picking winning tickets before training by preserving gradient flow", 2020). Gradient and Hessian are
    those of the mean loss with respect to the chosen weights. The loss is the training loss; the paper first
    divides the logits by 200.

    Args:
        batches: Number of training batches to take; each is used twice.
    """

    def measure(self, weights: Sequence[Tensor], calibration: Calibration) -> None:
        """Compute the scores, by differentiating twice."""
        # fused attention and cuDNN's recurrent layers have no second derivative
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            means = _average(weights, _gradients(weights, calibration))
            products = _average(weights, _hessian_products(weights, calibration, means))
        self._scores = [_wide(weight) * product for weight, product in zip(weights, products, strict=True)]


class SynFlow(_Measured):
    """Score weights by the round in which iterative pruning by synaptic flow removes them, at initialisation.

    In each round, the remaining weights score |weight x gradient of the summed outputs|, where the inputs are ones, all
    parameters are replaced by their absolute values, and the model is in evaluation mode; the lowest are removed
    (Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020). Every
    round removes the same fraction of the remaining weights, down to a density of 0.1%. One measurement serves every
    amount; with the default, pruning 99% uses the first 100 rounds, as many as in the paper. No label is used; one
    batch gives the shape of the inputs.

    Args:
        rounds: Number of rounds.

    Raises:
        InputError: In `measure`, if the model takes a tensor that is not floating-point, if the synaptic flow is not
            finite, or if no single module contains all weights to prune.
    """

    def __init__(self, rounds: int = 150) -> None:
        super().__init__(batches=1)
        check_integer("rounds", rounds, 1, hint="the default of 150 prunes 99% in the 100 rounds of the paper")
        self.rounds = rounds

    def measure(self, weights: Sequence[Tensor], calibration: Calibration) -> None:
        """Compute the scores: positions in the order of removal."""
        calibration.model.eval()  # so that the first batch does not change the statistics of norms
        module, *inputs = calibration.first_inputs(weights)
        # products over many layers overflow in float32, but MPS has no other type
        dtype = torch.float32 if weights[0].device.type == "mps" else torch.float64
        args, kwargs = tree_map(partial(_ones, dtype=dtype), inputs)
        module.to(dtype)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.abs_()
        values = torch.cat([weight.detach().flatten() for weight in weights])
        for weight, part in zip(weights, _split_like(values, weights), strict=True):
            weight.requires_grad_().data = part
        slopes, positions = torch.empty_like(values), torch.zeros_like(values, dtype=torch.float32)
        left = values.nonzero().flatten()
        total, removed = len(left), 0
        for number in range(1, self.rounds + 2):
            # the last round orders the weights that are left
            keep = round(total * _LEAST_DENSITY ** (number / self.rounds)) if number <= self.rounds else 0
            if (count := total - removed - keep) == 0:
                continue
            with torch.enable_grad():
                outputs = [out for out in tree_leaves(module(*args, **kwargs)) if isinstance(out, Tensor)]
                flow = torch.stack([out.sum() for out in outputs if out.requires_grad]).sum()
            if not flow.isfinite():
                raise expected("finite synaptic flow", float(flow), "prune by another criterion")
            gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
            torch.cat([gradient.flatten() for gradient in gradients], out=slopes)
            scores = slopes[left] * values[left]
            (lowest,) = mark_lowest([scores], [None], count, Split([scores]))
            order = left[lowest][scores[lowest].argsort(stable=True)]
            positions[order] = torch.arange(removed, removed + count, dtype=torch.float32, device=order.device)
            values[order] = 0
            left, removed = left[~lowest], removed + count
        self._scores = _split_like(positions, weights)


class Movement:
    """Score weights by how far the training moves them away from zero: minus the sum of weight x gradient over steps.

    Weights that gradients push towards zero score lowest (Sanh et al., "Movement pruning: Adaptive sparsity by
    fine-tuning", 2020). Before the first optimizer step, weights are scored by magnitude.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def observe(self, names: Sequence[str], weights: Sequence[Tensor]) -> None:
        """Add up weight x gradient before an optimizer step."""
        for name, weight in zip(names, weights, strict=True):
            past = self._sums.get(name, torch.zeros_like(_wide(weight)))
            past = like(part_like(past.to(weight.device), weight), weight)  # sums from a checkpoint are whole
            # infinite if half precision overflowed; the gradient scaler then skips the step
            grad = torch.zeros_like(past) if weight.grad is None else _wide(weight.grad).nan_to_num(0.0, 0.0, 0.0)
            self._sums[name] = torch.addcmul(past, _wide(weight), grad, value=-1)

    def __call__(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Return the sums so far."""
        if not self._sums:
            return magnitude(weights)
        return (total.to(weight.device) for total, weight in zip(self._sums.values(), weights, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums, by name of the weight."""
        return {name: whole(total) for name, total in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the sums."""
        self._sums = dict(state)


class _Control:
    """A criterion that is changed in one respect, to find out whether that matters."""

    def __init__(self, criterion: str | Score = "magnitude", seed: int = 0) -> None:
        check_integer("seed", seed, 0, 2**32 - 1, hint="the same seed gives the same result")
        self.criterion = make_criterion(criterion, seed)
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        if name in {"batches", "measure", "observe", "state_dict", "load_state_dict"}:
            return getattr(self.criterion, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Return the scores of the criterion."""
        return self.criterion(weights)

    def _orders(self, counts: Iterable[int]) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return (torch.randperm(count, generator=generator, device="cpu") for count in counts)


class Shuffled(_Control):
    """Shuffle the scores of a criterion within each layer: it then decides only how many weights each layer keeps.

    If accuracy does not drop, the criterion's choice matters between layers, but not within them (Frankle et al.,
    "Pruning neural networks at initialization: Why are we missing the mark?", 2021). Weights that are zero keep their
    scores.

    Args:
        criterion: Criterion whose scores are shuffled: a name or an object, as in `make_criterion`.
        seed: Random seed of the order.
    """

    def __call__(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Return the scores of the criterion, shuffled within each layer."""
        kept = [whole(weight).flatten().nonzero().flatten() for weight in weights]
        orders = self._orders(map(len, kept))
        for scores, places, order in zip(self.criterion(weights), kept, orders, strict=True):
            values = whole(scores).flatten().clone()
            values[places] = values[places[order.to(places.device)]]
            yield values.view(scores.shape)


class Reinitialised(_Control):
    """Prune by a criterion at initialisation, and draw the weights again afterwards; the masks are kept.

    If accuracy does not drop, the masks fit the structure of the network, not the initial values of its weights
    (Frankle et al., 2021, as in `Shuffled`). The new values are those of the same layer in a random order, which follow
    the distribution of the initial values, whatever it is.

    Args:
        criterion: Criterion to prune by: a name or an object, as in `make_criterion`.
        seed: Random seed of the order.
    """

    @torch.no_grad()
    def redraw(self, weights: Sequence[Tensor]) -> None:
        """Shuffle the values of each weight in place; call this before its mask is applied, or zeros move too."""
        for weight, order in zip(weights, self._orders(weight.numel() for weight in weights), strict=True):
            values = whole(weight).detach()
            values = values.flatten()[order.to(values.device)].view(weight.shape)
            local(weight).copy_(part_like(values, weight))


CRITERIA: dict[str, Callable[[], Score]] = {
    "magnitude": lambda: magnitude,
    "l2": lambda: l2,
    "random": RandomScore,
    "lamp": lambda: lamp,
    "taylor": Taylor,
    "fisher": Fisher,
    "movement": Movement,
    "snip": SNIP,
    "grasp": GraSP,
    "synflow": SynFlow,
}
"""Functions that create a criterion, by the name of the criterion."""


def make_criterion(criterion: str | Score, seed: int = 0) -> Score:
    """Return a criterion by its name, or an object as it is.

    Args:
        criterion: Name in `CRITERIA`, or a function or object that scores weights.
        seed: Random seed of "random".

    Raises:
        InputError: If there is no criterion of this name, or the object cannot score weights.
    """
    if isinstance(criterion, str):
        check_choice("criterion", criterion, CRITERIA)
        return RandomScore(seed) if criterion == "random" else CRITERIA[criterion]()
    if isinstance(criterion, type) or not callable(criterion):
        hint = f"give one of {', '.join(CRITERIA)}, or an object such as `Taylor(batches=20)`"
        raise expected("`criterion` to be a name or a function that scores weights", criterion, hint)
    return criterion


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor without history as float64 or float32, in which squares of half precision do not underflow."""
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


def _split_like(values: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Split a flat tensor into tensors of the shapes of the weights."""
    parts = torch.split(values, [weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def _ones(value: Any, dtype: torch.dtype) -> Any:
    """Return ones instead of an input, for a batch of one example."""
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        what = "inputs of floating-point numbers for SynFlow, which replaces them by ones"
        raise expected(what, str(value.dtype).removeprefix("torch."), "prune by another criterion")
    return torch.ones_like(value[:1], dtype=dtype)


def _gradients(weights: Sequence[Tensor], calibration: Calibration) -> Iterator[Sequence[Tensor]]:
    """Yield the gradients of each loss."""
    for weight in weights:
        weight.requires_grad_()
    for loss in calibration.losses():
        yield torch.autograd.grad(loss, weights, materialize_grads=True)


def _hessian_products(
    weights: Sequence[Tensor], calibration: Calibration, vectors: Sequence[Tensor]
) -> Iterator[Sequence[Tensor]]:
    """Yield the product of the Hessian of each loss with the vectors."""
    for loss in calibration.losses():
        gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        slope = sum((gradient * vector).sum() for gradient, vector in zip(gradients, vectors, strict=True))
        if isinstance(slope, Tensor) and slope.requires_grad:
            yield torch.autograd.grad(slope, weights, materialize_grads=True)
        else:  # the loss is linear in the weights
            yield [torch.zeros_like(weight) for weight in weights]


def _average(
    weights: Sequence[Tensor],
    gradients: Iterator[Sequence[Tensor]],
    term: Callable[[Tensor, Tensor], Tensor] = lambda _, gradient: gradient,
) -> list[Tensor]:
    """Average a function of weight and gradient over batches."""
    sums, count = [torch.zeros_like(_wide(weight)) for weight in weights], 0
    for count, found in enumerate(gradients, 1):  # noqa: B007 - the last count is used
        for total, weight, gradient in zip(sums, weights, found, strict=True):
            total += term(_wide(weight), _wide(gradient))
    if not count:
        raise InputError("No batch has a loss, so weights cannot be scored: check `training_step` and its data.")
    return [total / count for total in sums]
