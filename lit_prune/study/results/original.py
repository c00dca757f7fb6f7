"""What the original study reported, read off its figures and its console output."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reported:
    """Values that the original study reported for one experiment; None for a value that it did not report.

    Attributes:
        best_train_acc: Highest training accuracy.
        best_test_acc: Highest accuracy on the test images, which the original study also used for validation.
        first_val_acc: Accuracy on the test images after the first epoch.
        lowest_val_loss: Lowest loss on the test images, in nats per image.
    """

    best_train_acc: float | None = None
    best_test_acc: float | None = None
    first_val_acc: float | None = None
    lowest_val_loss: float | None = None


_PRUNED, _FROM_IMAGENET = Reported(0.975, 0.81, first_val_acc=0.81), Reported(0.98, 0.81)
_UNFROZEN = Reported(0.99, 0.81)
# In the original study, Task 5 with 10% started from ImageNet weights, and with 20 and 30% from a network that was
# trained on CIFAR-10.
REPORTED = {
    "task1/logits": Reported(0.97, 0.81, lowest_val_loss=0.65),
    "task1/softmax": Reported(0.22, 0.10),
    "task2/freeze-10": Reported(0.98, 0.83),
    "task2/freeze-20": Reported(0.99, 0.83, first_val_acc=0.81),
    "task2/freeze-30": Reported(0.99, 0.83),
    **{f"task4/finetuned-{amount}": _PRUNED for amount in (10, 20, 30)},
    **{f"task4/initial-{amount}": _FROM_IMAGENET for amount in (10, 20, 30)},
    "task5/initial-10": Reported(0.98, 0.81),
    "task5/finetuned-20": _UNFROZEN,
    "task5/finetuned-30": _UNFROZEN,
}
# sparsity in per cent at the end of an epoch, by experiment and epoch, counted from 0
REPORTED_SPARSITY = {
    "task4/finetuned-20": dict.fromkeys((9, 19, 29, 39), 19.999998),
    "task5/initial-10": {9: 6.8669, 19: 6.8655, 29: 6.8647, 39: 6.8642, 49: 6.8637},
}
