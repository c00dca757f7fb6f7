"""Each criterion equals a reference that is written differently, and controls change one thing."""

import copy
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call, grad

from lit_prune.errors import InputError
from lit_prune.functional import weight_layers
from lit_prune.functional.calibration import Calibration
from lit_prune.functional.criteria import (
    CRITERIA,
    SNIP,
    Fisher,
    GraSP,
    Movement,
    RandomScore,
    Reinitialised,
    Shuffled,
    SynFlow,
    Taylor,
    l2,
    lamp,
    magnitude,
    make_criterion,
)
from lit_prune.functional.masking import apply_masks
from lit_prune.functional.pruning import compute_masks

MEASURED = [name for name in CRITERIA if hasattr(make_criterion(name), "measure")]


class Net(nn.Module):
    """A convolution, a batch norm, and two linear layers, one of them used twice; images (N, 2, 5, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.mid = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images))).mean(dim=(2, 3))
        logits: Tensor = self.head(F.softplus(self.mid(F.softplus(self.mid(features)))))
        return logits


@pytest.fixture
def net() -> Net:
    net = Net().double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(6, 2, 5, 5, dtype=torch.float64), torch.randint(3, (6,))) for _ in range(3)]


def calibration(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Calibration:
    net = copy.deepcopy(net)
    return Calibration(net, batches, lambda batch, _: F.cross_entropy(net(batch[0]), batch[1]))


def measured(criterion: Any, net: nn.Module, batches: Any) -> dict[str, Tensor]:
    """Return the scores of a criterion by the name of the weight."""
    data = calibration(net, batches)
    weights = {ref.name: ref.tensor for ref in weight_layers(data.model)}
    criterion.measure(list(weights.values()), data)
    return dict(zip(weights, criterion([ref.tensor for ref in weight_layers(net)]), strict=True))


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    return {ref.name: ref.tensor.detach() for ref in weight_layers(net)}


def loss_of(net: nn.Module) -> Callable[[dict[str, Tensor], tuple[Tensor, Tensor]], Tensor]:
    """Return the loss as a function of the weights, which leaves the norm's statistics alone."""
    rest = {name: value.detach() for name, value in [*net.named_parameters(), *net.named_buffers()]}

    def loss(weights: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        state = {name: value.clone() for name, value in rest.items()}
        state |= {f"{name}.weight": value for name, value in weights.items()}
        logits = functional_call(net, state, (batch[0],))
        return F.cross_entropy(logits, batch[1])

    return loss


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, scores in found.items():
        assert wanted[name].abs().max() > 0
        torch.testing.assert_close(scores, wanted[name], rtol=1e-10, atol=1e-14)


def test_magnitude_and_l2() -> None:
    weights = [torch.randn(3, 4), torch.randn(5)]
    for weight, one, two in zip(weights, magnitude(weights), l2(weights), strict=True):
        assert one.tolist() == [[abs(x) for x in row] for row in weight.tolist()] if weight.dim() > 1 else True
        assert torch.equal(two, weight * weight)


def test_l2_of_half_precision_does_not_underflow() -> None:
    weight = torch.tensor([1e-4, 2e-4], dtype=torch.float16)
    (scores,) = l2([weight])
    assert 0 < scores[0] < scores[1]


def test_lamp() -> None:
    weights = [torch.randn(4, 3, 2).to(memory_format=torch.contiguous_format), torch.randn(7, 5) * 10]
    for weight, scores in zip(weights, lamp(weights), strict=True):
        squares = weight.double() ** 2
        for value, score in zip(squares.flatten(), scores.flatten(), strict=True):
            torch.testing.assert_close(score.double(), value / squares[squares >= value].sum(), rtol=1e-5, atol=0)
        assert scores.max() == 1


def test_lamp_of_zeros_is_finite() -> None:
    (scores,) = lamp([torch.zeros(3, 2)])
    assert torch.equal(scores, torch.zeros(3, 2))


def test_taylor(net: Net, batches: Any) -> None:
    weights, slope = weights_of(net), grad(loss_of(net))
    terms = [
        {name: (value * weights[name]).abs() for name, value in slope(weights, batch).items()} for batch in batches
    ]
    wanted = {name: sum(term[name] for term in terms) / 3 for name in weights}
    assert_close(measured(Taylor(3), net, batches), wanted)


def test_fisher(net: Net, batches: Any) -> None:
    weights, slope = weights_of(net), grad(loss_of(net))
    terms = [slope(weights, batch) for batch in batches]
    wanted = {name: (torch.stack([term[name] for term in terms]) * weights[name]).square().mean(0) for name in weights}
    assert_close(measured(Fisher(3), net, batches), wanted)


def test_snip_is_the_sensitivity_to_the_mask(net: Net, batches: Any) -> None:
    weights, loss = weights_of(net), loss_of(net)

    def masked(masks: dict[str, Tensor]) -> Tensor:
        return torch.stack([loss({k: v * masks[k] for k, v in weights.items()}, batch) for batch in batches]).mean()

    slope = grad(masked)({name: torch.ones_like(value) for name, value in weights.items()})
    assert_close(measured(SNIP(3), net, batches), {name: value.abs() for name, value in slope.items()})


def test_grasp_multiplies_the_whole_hessian(net: Net, batches: Any) -> None:
    weights, loss = weights_of(net), loss_of(net)
    flat = torch.cat([value.flatten() for value in weights.values()])

    def mean_loss(values: Tensor) -> Tensor:
        parts = values.split([value.numel() for value in weights.values()])
        state = {name: part.view_as(value) for (name, value), part in zip(weights.items(), parts, strict=True)}
        return torch.stack([loss(state, batch) for batch in batches]).mean()

    scores = flat * (hessian(mean_loss, flat) @ grad(mean_loss)(flat))
    parts = scores.split([value.numel() for value in weights.values()])
    wanted = {name: part.view_as(value) for (name, value), part in zip(weights.items(), parts, strict=True)}
    assert_close(measured(GraSP(3), net, batches), wanted)


def test_grasp_prunes_what_lowers_the_gradient_norm_least(net: Net, batches: Any) -> None:
    """The gradient's norm after an infinitesimal step along -w changes by -2 times the score."""
    weights, loss = weights_of(net), loss_of(net)

    def norm(state: dict[str, Tensor]) -> Tensor:
        slopes = [grad(loss)(state, batch) for batch in batches]
        return sum((torch.stack([s[name] for s in slopes]).mean(0).square().sum() for name in state), torch.zeros(()))

    scores, step = measured(GraSP(3), net, batches), 1e-6
    name, index = "mid", (1, 2)
    nudged = {key: value.clone() for key, value in weights.items()}
    nudged[name][index] *= 1 - step
    change = (norm(nudged) - norm(weights)) / step
    torch.testing.assert_close(change, -2 * scores[name][index], rtol=1e-3, atol=1e-8)


def test_grasp_differentiates_attention_twice() -> None:
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8, dropout=0.0, batch_first=True)
    lstm = nn.LSTM(8, 4, batch_first=True)
    data = [torch.randn(2, 5, 8) for _ in range(2)]
    model = nn.ModuleList([layer, lstm])
    weights = [ref.tensor for ref in weight_layers(model)]
    criterion = GraSP(2)
    criterion.measure(weights, Calibration(model, data, lambda batch, _: lstm(layer(batch))[0].square().mean()))
    assert all(scores.abs().max() > 0 for scores in criterion(weights))


def synflow_reference(net: nn.Module, ones: Tensor, density: float, rounds: int) -> dict[str, Tensor]:
    """Return the masks of the paper's algorithm, with an exponential schedule to a known density."""
    net = copy.deepcopy(net).eval()
    names = [f"{ref.name}.weight" for ref in weight_layers(net)]
    state = {name: value.detach().abs() for name, value in net.named_parameters()}
    masks = {name: torch.ones_like(state[name], dtype=torch.bool) for name in names}
    total = sum(mask.numel() for mask in masks.values())

    def flow(weights: dict[str, Tensor]) -> Tensor:
        total: Tensor = functional_call(net, state | weights, (ones,)).sum()
        return total

    for k in range(1, rounds + 1):
        weights = {name: (state[name] * masks[name]).detach() for name in names}
        slopes = grad(flow)(weights)
        scores = {name: weights[name] * slopes[name] for name in names}
        alive = sorted(float(s) for name in names for s in scores[name][masks[name]])
        drop = len(alive) - round(total * density ** (k / rounds))
        threshold = alive[drop - 1] if drop else -1.0
        masks = {name: masks[name] & (scores[name] > threshold) for name in names}
    return {name.removesuffix(".weight"): mask for name, mask in masks.items()}


class Wide(nn.Module):
    """Layers large enough for a density of 1%; images (N, 2, 5, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 12, 3)
        self.norm = nn.BatchNorm2d(12)
        self.skip = nn.Linear(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images))).mean(dim=(2, 3))
        logits: Tensor = self.head(features + torch.relu(self.skip(features)))
        return logits


@pytest.mark.filterwarnings("ignore:Layer `skip` is about to become entirely zero")  # 5 of 480 weights are left
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_one_measurement_of_synflow_gives_the_masks_of_the_paper(density: float) -> None:
    net, data = Wide().double(), [(torch.randn(4, 2, 5, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))]
    criterion = SynFlow(rounds=150)
    scores = measured(criterion, net, data)
    total = sum(value.numel() for value in scores.values())
    assert sorted(torch.cat([value.flatten() for value in scores.values()]).tolist()) == list(range(total))
    # of the 150 rounds down to 0.1%, those down to `density`; an amount in the middle of a round has no counterpart
    rounds = {0.01: 100, 0.1: 50, 0.5: 15}[density]
    density = 0.001 ** (rounds / 150)
    reference = synflow_reference(net, torch.ones(1, 2, 5, 5, dtype=torch.float64), density, rounds)
    amount = 1 - round(density * total) / total
    masks = compute_masks(weight_layers(net), amount, criterion)
    assert masks.keys() == reference.keys()
    for name, mask in masks.items():
        assert torch.equal(mask, reference[name])


def test_synflow_continues_from_masks_and_survives_large_values() -> None:
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(60)))
    net.append(nn.Linear(64, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20)
    masks = compute_masks(weight_layers(net), 0.3)
    apply_masks(net, masks)
    scores = measured(SynFlow(rounds=5), net, [(torch.randn(2, 64), torch.zeros(2, dtype=torch.int64))])
    left = torch.cat([scores[name][mask] for name, mask in masks.items()])
    assert sorted(left.tolist()) == list(range(len(left)))


def test_synflow_asks_for_numbers() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    data = [(torch.randint(5, (2,)), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(InputError, match=r"floating-point numbers for SynFlow.*int64"):
        measured(SynFlow(), net, data)


def test_synflow_asks_for_one_module(net: Net, batches: Any) -> None:
    copied = copy.deepcopy(net)
    data = Calibration(copied, batches, lambda batch, _: copied.conv(batch[0]).sum() + copied.head.weight.sum())
    with pytest.raises(InputError, match="one module that contains all weights"):
        SynFlow().measure([ref.tensor for ref in weight_layers(copied)], data)


@pytest.mark.parametrize("name", MEASURED)
def test_frozen_weights_and_missing_losses(name: str, net: Net, batches: Any) -> None:
    """A weight that is not trained has a score, too; batches without a loss do not count."""
    net.head.weight.requires_grad_(False)
    found = measured(make_criterion(name), net, batches)
    copied = copy.deepcopy(net)
    data = Calibration(
        copied,
        [batches[0], None, *batches[1:]],
        lambda batch, _: None if batch is None else F.cross_entropy(copied(batch[0]), batch[1]),
    )
    criterion: Any = make_criterion(name)
    weights = [ref.tensor for ref in weight_layers(copied)]
    criterion.measure(weights, data)
    for value, other in zip(found.values(), criterion(weights), strict=True):
        assert torch.equal(value, other)
    assert found["head"].abs().max() > 0
    assert not net.head.weight.requires_grad


@pytest.mark.parametrize("name", [name for name in MEASURED if name != "synflow"])
def test_no_loss_at_all(name: str, net: Net) -> None:
    with pytest.raises(InputError, match="No batch has a loss"):
        measured(make_criterion(name), net, [])


@pytest.mark.parametrize("name", MEASURED)
def test_scores_have_to_be_measured_first(name: str, net: Net) -> None:
    with pytest.raises(InputError, match="no scores yet"):
        compute_masks(weight_layers(net), 0.5, make_criterion(name))


def test_movement() -> None:
    criterion, weights = Movement(), {"a": nn.Parameter(torch.randn(3, 2)), "b": nn.Parameter(torch.randn(4))}
    values = list(weights.values())
    for one, two in zip(criterion(values), magnitude(values), strict=True):
        assert torch.equal(one, two)
    wanted = {name: [[0.0] * value.numel()] for name, value in weights.items()}
    for step in range(4):
        weights["a"].grad = torch.randn(3, 2)
        weights["b"].grad = None if step == 2 else torch.randn(4)
        criterion.observe(list(weights), values)
        for name, value in weights.items():
            if value.grad is not None:
                pairs = zip(value.flatten().tolist(), value.grad.flatten().tolist(), strict=True)
                wanted[name].append([-w * g for w, g in pairs])
            value.data += torch.randn_like(value)
        if step == 1:  # a resumed run
            state = copy.deepcopy(criterion.state_dict())
            criterion = Movement()
            criterion.load_state_dict(state)
    for name, scores in zip(weights, criterion(values), strict=True):
        sums = torch.tensor(wanted[name], dtype=torch.float64).sum(0).view(scores.shape)
        torch.testing.assert_close(scores.double(), sums, rtol=1e-5, atol=1e-6)


def test_movement_prunes_weights_that_shrink() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -1.0, 0.5, -0.5]]))
    criterion, optimizer = Movement(), torch.optim.SGD([weight], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (weight * torch.tensor([1.0, 1.0, -1.0, -1.0])).sum().backward()  # moves by -, -, +, +
        criterion.observe(["weight"], [weight])
        optimizer.step()
    (scores,) = criterion([weight])
    assert scores.sign().tolist() == [[-1, 1, 1, -1]]


def test_movement_ignores_gradients_that_overflow() -> None:
    criterion, weight = Movement(), nn.Parameter(torch.tensor([1.0, 2.0]))
    for gradient in ([1.0, 1.0], [float("inf"), float("nan")]):
        weight.grad = torch.tensor(gradient)
        criterion.observe(["w"], [weight])
    assert [scores.tolist() for scores in criterion([weight])] == [[-1, -2]]


def test_a_state_is_not_changed_by_later_steps() -> None:
    criterion, weight = Movement(), nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    criterion.observe(["w"], [weight])
    state = criterion.state_dict()
    criterion.observe(["w"], [weight])
    assert state["w"].tolist() == [-1, -1]


@pytest.mark.parametrize("name", CRITERIA)
def test_shuffled_keeps_the_scores_of_each_layer(name: str, net: Net, batches: Any) -> None:
    net.head.weight.data[0] = 0
    criterion, weights = make_criterion(name), [ref.tensor for ref in weight_layers(net)]
    control: Any = Shuffled(criterion, seed=3)
    assert hasattr(control, "measure") == (name in MEASURED)
    if name in MEASURED:
        measured(control, net, batches)
        assert control.batches == criterion.batches  # type: ignore[attr-defined]
    before = [scores.clone() for scores in criterion(weights)]
    state = torch.get_rng_state()
    after, again = list(control(weights)), list(Shuffled(criterion, seed=3)(weights))
    assert torch.equal(torch.get_rng_state(), state)
    for one, two, same, kept in zip(before, criterion(weights), again, before, strict=True):
        assert torch.equal(one, two)
        assert one.shape == same.shape == kept.shape
    for one, two, same in zip(before, after, again, strict=True):
        assert torch.equal(two, same)
        assert torch.equal(one.flatten().sort().values, two.flatten().sort().values)
        assert not torch.equal(one, two)
    assert torch.equal(before[-1][0], after[-1][0])  # zeros keep their scores
    assert not all(torch.equal(one, two) for one, two in zip(after, Shuffled(criterion, 4)(weights), strict=True))


@pytest.mark.parametrize("control", [Shuffled, Reinitialised])
def test_controls_can_be_copied_and_pickled(control: Any) -> None:
    made = control(Movement(), seed=5)
    weight = nn.Parameter(torch.randn(3))
    weight.grad = torch.randn(3)
    made.observe(["w"], [weight])
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301 - our own
        assert torch.equal(*other([weight]), *made([weight]))
        assert other.state_dict().keys() == {"w"}
    assert not hasattr(control("l2"), "state_dict")


def test_reinitialised_draws_the_values_of_the_layer() -> None:
    weights = [nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(3, 3))]
    before = [weight.detach().clone() for weight in weights]
    control = Reinitialised("magnitude", seed=1)
    for one, two in zip(control(weights), magnitude(weights), strict=True):
        assert torch.equal(one, two)
    control.redraw(weights)
    for weight, old in zip(weights, before, strict=True):
        assert not torch.equal(weight, old)
        assert torch.equal(weight.flatten().sort().values, old.flatten().sort().values)


def test_names() -> None:
    assert make_criterion("random", seed=7) == RandomScore(7)
    assert make_criterion(magnitude) is magnitude
    assert isinstance(make_criterion("taylor"), Taylor)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("tailor", "`criterion` to be one of .*'magnitude'.*'tailor'.*did you mean `taylor`"),
        ("xyz", "'xyz'.*choose one of these"),
        (Taylor, "a name or a function that scores weights"),
        (3, "a name or a function that scores weights"),
    ],
)
def test_wrong_criteria_are_refused(criterion: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_criterion(criterion)
    with pytest.raises(InputError, match=message):
        Shuffled(criterion)


@pytest.mark.parametrize("arguments", [{"batches": 0}, {"batches": True}, {"batches": 1.5}])
def test_wrong_numbers_of_batches_are_refused(arguments: Any) -> None:
    for cls in (Taylor, Fisher, SNIP, GraSP):
        with pytest.raises(InputError, match="`batches` to be a positive integer"):
            cls(**arguments)
    with pytest.raises(InputError, match="`rounds` to be a positive integer"):
        SynFlow(rounds=0)
    with pytest.raises(InputError, match="`seed` to be an integer in"):
        Shuffled(seed=-1)
