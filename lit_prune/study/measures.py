"""The measures of a run that a report shows, such as its final test accuracy, and how they are formatted."""

from dataclasses import dataclass

from lit_prune.study.statistics import Estimate


@dataclass(frozen=True)
class Measure:
    """Names, unit and format of a measure.

    Attributes:
        label: Name used in sentences.
        column: Title of the column of the measure in tables.
        unit: "%" (the stored value is a fraction), "nats" (per image), "epochs" or "s".
        digits: Number of digits after the decimal point.
    """

    label: str
    column: str
    unit: str
    digits: int

    @property
    def scale(self) -> float:
        """Factor that converts a stored value to `unit`."""
        return 100.0 if self.unit == "%" else 1.0

    def format(self, value: float, digits: int | None = None) -> str:
        """Format a stored value without its unit; `digits` replaces the number of digits of the measure."""
        text = f"{value * self.scale:.{self.digits if digits is None else digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text  # never -0.00


# name of a measure in claims and results.csv -> measure; the columns of results.csv have this order
MEASURES = {
    "best_train_acc": Measure("best training accuracy", "best train", "%", 2),
    "best_val_acc": Measure("best validation accuracy", "best val", "%", 2),
    "test_acc_at_best": Measure("test accuracy at the epoch of best validation accuracy", "test at best val", "%", 2),
    "first_val_acc": Measure("validation accuracy of the first epoch", "first val", "%", 2),
    "final_train_acc": Measure("final training accuracy", "final train", "%", 2),
    "final_val_acc": Measure("final validation accuracy", "final val", "%", 2),
    "final_test_acc": Measure("final test accuracy", "final test", "%", 2),
    "lowest_val_loss": Measure("lowest validation loss", "lowest val loss", "nats", 3),
    "final_train_loss": Measure("final training loss", "final train loss", "nats", 3),
    "final_val_loss": Measure("final validation loss", "final val loss", "nats", 3),
    "final_test_loss": Measure("final test loss", "final test loss", "nats", 3),
    # fraction of weights that are zero after pruning and before the first training step
    "sparsity_start": Measure("sparsity at the start", "sparsity at start, %", "%", 2),
    # fraction of weights that are zero after the epoch of the best validation accuracy
    "sparsity_at_best": Measure("sparsity at the best validation accuracy", "sparsity at best val, %", "%", 2),
    # fraction of weights that are zero after the last epoch
    "sparsity_end": Measure("sparsity at the end", "sparsity at end, %", "%", 2),
    # highest sparsity at the end of any epoch, minus the lowest
    "sparsity_range": Measure("range of the sparsity over epochs", "sparsity range, %", "%", 2),
    # sparsity after two thirds of the epochs minus sparsity after the last epoch
    "sparsity_late_fall": Measure("fall of the sparsity in the last third of epochs", "late fall, %", "%", 3),
    "untouched": Measure("weights that never received a gradient", "untouched, %", "%", 2),
    "untouched_pruned": Measure("pruned weights that never received a gradient", "pruned and untouched, %", "%", 3),
    "epochs_to_99": Measure("epochs to 99% of the best validation accuracy", "epochs to 99% of best", "epochs", 1),
    "epochs": Measure("epochs", "epochs", "epochs", 0),
    # median wall-clock time of an epoch, including its validation
    "seconds_per_epoch": Measure("seconds per epoch", "s per epoch", "s", 2),
}


def format_estimate(measure: Measure, estimate: Estimate, digits: int | None = None) -> str:
    """Format a mean and half the width of its interval as "81.20 ± 0.34"; without an interval, only the mean."""
    mean = measure.format(estimate.mean, digits)
    half = estimate.half_width
    return mean if half is None else f"{mean} ± {measure.format(half, digits)}"


def format_duration(seconds: float) -> str:
    """Format a duration in words: "less than a minute", "about 12 min" or "about 3 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {minutes} min"
