"""Published figures that results are shown beside. Other networks, trained in full: context, not a comparison."""

from dataclasses import dataclass

from lit_prune.study.plan.plan import Plan

__all__ = ["PUBLISHED", "SOURCE", "PublishedCurve", "published_for"]

SOURCE = (
    "Renda, Frankle and Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning, ICLR 2020: CIFAR-10, "
    "unstructured magnitude pruning, means over 3 runs, plot data of the paper's repository"
)


@dataclass(frozen=True)
class PublishedCurve:
    """Test accuracy against sparsity, both in per cent.

    Attributes:
        network: What was pruned.
        method: How.
        sparsity: Starts with 0, the dense network.
        accuracy: Mean over 3 runs, one for each sparsity.
        deviation: Standard deviation over these runs, in percentage points.
    """

    network: str
    method: str
    sparsity: tuple[float, ...]
    accuracy: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """Accuracy less that of the dense network, in percentage points."""
        return tuple(value - self.accuracy[0] for value in self.accuracy)


_SPARSITY = (0.0, 48.8, 79.0, 89.3)

PUBLISHED = (
    PublishedCurve(
        "ResNet-20", "one-shot, fine-tuned", _SPARSITY, (91.71, 91.45, 90.22, 86.97), (0.23, 0.21, 0.14, 0.23)
    ),
    PublishedCurve(
        "ResNet-20",
        "iterative, learning rate rewound",
        _SPARSITY,
        (91.71, 92.30, 91.90, 91.04),
        (0.23, 0.10, 0.18, 0.11),
    ),
    PublishedCurve(
        "ResNet-56", "one-shot, fine-tuned", _SPARSITY, (93.46, 93.35, 92.62, 91.35), (0.21, 0.17, 0.26, 0.38)
    ),
    PublishedCurve(
        "ResNet-56",
        "one-shot, learning rate rewound",
        _SPARSITY,
        (93.46, 93.71, 93.12, 92.34),
        (0.21, 0.16, 0.23, 0.15),
    ),
)


def published_for(plan: Plan) -> tuple[PublishedCurve, ...]:
    """The published curves of the data that a study is about: none unless that is CIFAR-10 as it is."""
    data = plan.settings.get("data") or {}
    ours = isinstance(data, dict) and "class_path" not in data and data.get("source", "cifar10") == "cifar10"
    return PUBLISHED if ours else ()
