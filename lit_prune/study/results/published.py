"""Published accuracies of other pruned networks, for comparison in the figure of accuracy against sparsity."""

from dataclasses import dataclass

from lit_prune.study.plan.plan import Plan

SOURCE = (
    "Renda, Frankle and Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning, ICLR 2020 (unstructured "
    "magnitude pruning on CIFAR-10; means over 3 runs, from the plot data in the paper's repository)"
)


@dataclass(frozen=True)
class PublishedCurve:
    """Test accuracy of a network against its sparsity, both in per cent.

    Attributes:
        network: Name of the network.
        method: Pruning schedule, and how the network was trained after pruning.
        sparsity: Sparsities, starting with 0 for the dense network.
        accuracy: Test accuracy at each sparsity, a mean over 3 runs.
    """

    network: str
    method: str
    sparsity: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """Accuracy at each sparsity minus the accuracy of the dense network, in percentage points."""
        return tuple(value - self.accuracy[0] for value in self.accuracy)


_SPARSITY = (0.0, 48.8, 79.0, 89.3)
_REWOUND = "learning rate rewound"
PUBLISHED = tuple(
    PublishedCurve(network, method, _SPARSITY, accuracy)
    for network, method, accuracy in (
        ("ResNet-20", "one-shot, fine-tuned", (91.71, 91.45, 90.22, 86.97)),
        ("ResNet-20", f"iterative, {_REWOUND}", (91.71, 92.30, 91.90, 91.04)),
        ("ResNet-56", "one-shot, fine-tuned", (93.46, 93.35, 92.62, 91.35)),
        ("ResNet-56", f"one-shot, {_REWOUND}", (93.46, 93.71, 93.12, 92.34)),
    )
)


def published_for(plan: Plan) -> tuple[PublishedCurve, ...]:
    """Return the published curves if the study uses CIFAR-10; otherwise, no curves."""
    return PUBLISHED if uses_cifar10(plan) else ()


def uses_cifar10(plan: Plan) -> bool:
    """Return whether a study uses CIFAR-10 from this project's data module."""
    data = plan.settings.get("data") or {}
    return isinstance(data, dict) and "class_path" not in data and data.get("source", "cifar10") == "cifar10"
