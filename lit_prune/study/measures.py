"""The numbers that a report knows of each run, and how they are written for a reader."""

from dataclasses import dataclass

from lit_prune.study.statistics import Estimate

__all__ = ["MEASURES", "QUANTITIES", "Quantity", "estimate_text"]

# name in results.csv, figures and claims -> what it is
MEASURES = {
    "best_train_acc": "highest training accuracy of an epoch",
    "best_val_acc": "highest validation accuracy of an epoch",
    "test_acc_at_best": "test accuracy of the epoch with the highest validation accuracy",
    "first_val_acc": "validation accuracy of the first epoch",
    "final_train_acc": "training accuracy of the last epoch",
    "final_val_acc": "validation accuracy of the last epoch",
    "final_test_acc": "test accuracy of the last epoch",
    "lowest_val_loss": "lowest validation loss of an epoch, in nats per image",
    "final_train_loss": "training loss of the last epoch, in nats per image",
    "final_val_loss": "validation loss of the last epoch, in nats per image",
    "final_test_loss": "test loss of the last epoch, in nats per image",
    "sparsity_start": "fraction of weights that were zero after pruning, before the first step",
    "sparsity_end": "fraction of weights that were zero after the last epoch",
    "sparsity_range": "largest less smallest sparsity at the ends of epochs",
    "sparsity_late_fall": "sparsity after two thirds of the epochs, less that after the last",
    "untouched": "fraction of weights that never received a gradient in this run",
    "untouched_pruned": "fraction of weights that were pruned and never received a gradient in this run",
    "epochs_to_99": "epochs until validation accuracy first reached 99% of its highest",
    "epochs": "epochs that were trained",
    "seconds_per_epoch": "median wall-clock seconds of an epoch, validation included",
}


@dataclass(frozen=True)
class Quantity:
    """A measure as a reader sees it.

    Attributes:
        label: What it is called in a sentence.
        column: What it is called at the head of a column.
        unit: "%" (a fraction in files), "nats", "epochs" or "s".
        digits: After the point.
    """

    label: str
    column: str
    unit: str
    digits: int

    @property
    def scale(self) -> float:
        """What a value in a file is multiplied by."""
        return 100.0 if self.unit == "%" else 1.0

    def text(self, value: float, digits: int | None = None) -> str:
        """Write a value, without its unit."""
        text = f"{value * self.scale:.{self.digits if digits is None else digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text  # no -0.00


# measure -> how it is written, in the order of the columns of a table
QUANTITIES = {
    "best_train_acc": Quantity("best training accuracy", "best train", "%", 2),
    "best_val_acc": Quantity("best validation accuracy", "best val", "%", 2),
    "test_acc_at_best": Quantity("test accuracy at the best validation accuracy", "test at best val", "%", 2),
    "first_val_acc": Quantity("validation accuracy of the first epoch", "first val", "%", 2),
    "final_train_acc": Quantity("final training accuracy", "final train", "%", 2),
    "final_val_acc": Quantity("final validation accuracy", "final val", "%", 2),
    "final_test_acc": Quantity("final test accuracy", "final test", "%", 2),
    "lowest_val_loss": Quantity("lowest validation loss", "lowest val loss", "nats", 3),
    "final_train_loss": Quantity("final training loss", "final train loss", "nats", 3),
    "final_val_loss": Quantity("final validation loss", "final val loss", "nats", 3),
    "final_test_loss": Quantity("final test loss", "final test loss", "nats", 3),
    "sparsity_start": Quantity("sparsity at the start", "sparsity at start, %", "%", 2),
    "sparsity_end": Quantity("sparsity at the end", "sparsity at end, %", "%", 2),
    "sparsity_range": Quantity("range of the sparsity over epochs", "sparsity range, %", "%", 2),
    "sparsity_late_fall": Quantity("fall of the sparsity in the last third", "late fall, %", "%", 3),
    "untouched": Quantity("weights that never received a gradient", "untouched, %", "%", 2),
    "untouched_pruned": Quantity("weights pruned and never touched by a gradient", "pruned and untouched, %", "%", 3),
    "epochs_to_99": Quantity("epochs to 99% of the best validation accuracy", "epochs to 99% of best", "epochs", 1),
    "epochs": Quantity("epochs", "epochs", "epochs", 0),
    "seconds_per_epoch": Quantity("seconds per epoch", "s per epoch", "s", 2),
}


def estimate_text(quantity: Quantity, estimate: Estimate, digits: int | None = None) -> str:
    """Write a mean and half of its interval: "81.20 ± 0.34"; the mean alone where there is no interval."""
    mean = quantity.text(estimate.mean, digits)
    half = estimate.half_width
    return mean if half is None else f"{mean} ± {quantity.text(half, digits)}"
