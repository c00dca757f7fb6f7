"""What was measured while a network was accelerated, and which layers were converted."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_prune.accelerated.timing import speedup

# a layer is converted only if that makes it at least 1.1 times as fast: smaller differences may be noise
MARGIN = 1.1


@dataclass(frozen=True)
class LayerTimes:
    """Measured times of a layer inside its network.

    Attributes:
        name: Qualified name of the layer.
        sparsity: Fraction of its weights that are zero.
        seconds: Seconds that the layer takes in a forward pass of the network, by kind ("dense", "cropped", "sparse",
            "2:4"), one value for each round. Empty if the layer has to stay dense.
        runs_as: Kind that the accelerated network uses.
        reason: Why the layer stays dense; "" if it was converted.
    """

    name: str
    sparsity: float
    seconds: Mapping[str, Sequence[float]]
    runs_as: str = "dense"
    reason: str = ""

    def speed(self, kind: str) -> float:
        """Return how many times as fast as the dense layer a kind is: median of the ratios of all rounds."""
        return speedup(self.seconds["dense"], self.seconds[kind])

    def fastest(self, margin: float = MARGIN) -> str:
        """Return the fastest kind if it is at least `margin` times as fast as the dense layer, else "dense"."""
        speeds = {kind: self.speed(kind) for kind in self.seconds if kind != "dense"}
        best = max(speeds, key=lambda kind: speeds[kind], default="dense")
        return best if speeds and speeds[best] >= margin else "dense"


@dataclass(frozen=True)
class Acceleration:
    """Report of `lit_prune.accelerate`; `str` formats it as a table.

    Attributes:
        layers: Linear layers and convolutions, in the order of the network.
        before: Seconds of a forward pass of the original network, one for each round.
        after: Seconds of a forward pass of the accelerated network, one for each round.
        difference: Largest absolute difference between the outputs of both.
        allowed: Largest allowed difference.
        inputs: Shapes of the inputs.
        threads: Number of CPU threads.
    """

    layers: tuple[LayerTimes, ...]
    before: Sequence[float]
    after: Sequence[float]
    difference: float
    allowed: float
    inputs: str
    threads: int

    @property
    def speed(self) -> float:
        """How many times as fast the accelerated network is: median of the ratios of all rounds."""
        return speedup(self.before, self.after)

    @property
    def converted(self) -> tuple[str, ...]:
        """Names of the layers that were converted."""
        return tuple(layer.name for layer in self.layers if layer.runs_as != "dense")

    def __str__(self) -> str:
        kinds = [k for k in ("dense", "cropped", "sparse", "2:4") if any(k in layer.seconds for layer in self.layers)]
        rows = [("layer", "zeros", *(f"{kind}, ms" for kind in kinds), "runs as", "")]
        for layer in self.layers:
            times = (_milliseconds(layer.seconds[kind]) if kind in layer.seconds else "" for kind in kinds)
            gain = layer.reason if layer.runs_as == "dense" else f"{layer.speed(layer.runs_as):.2f} times as fast"
            rows.append((layer.name or "(the network)", f"{layer.sparsity:.1%}", *times, layer.runs_as, gain))
        columns = list(zip(*rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                cell.rjust(width) if 0 < number <= len(kinds) + 1 else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", self.summary])

    @property
    def summary(self) -> str:
        """One or two sentences about the whole network."""
        threads = f"{self.threads} CPU thread{'' if self.threads == 1 else 's'}"
        if not self.converted:
            return (
                f"No layer was converted: no conversion makes the network faster for inputs of {self.inputs} with "
                f"{threads}."
            )
        spread = sorted(one / other for one, other in zip(self.before, self.after, strict=True))
        return (
            f"{len(self.converted)} of {len(self.layers)} layers were converted. For inputs of {self.inputs} with "
            f"{threads}, a forward pass takes {_milliseconds(self.after)} ms instead of {_milliseconds(self.before)}: "
            f"{self.speed:.2f} times as fast ({spread[0]:.2f} to {spread[-1]:.2f} in {len(spread)} rounds). The "
            f"outputs differ by at most {self.difference:.1g} (allowed: {self.allowed:.1g})."
        )


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.3g}"
