"""Measure the speed of lit-prune in comparison to plain PyTorch and Lightning.

    python scripts/benchmark.py --source synthetic --json benchmark.json

In each round, lit-prune and its alternatives (the contenders) run one after the other in one process, so that other
load on the machine affects them alike. Prints each time and ratio: the median, lowest and highest value of all rounds.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from measurements.callbacks import measure_freezing, measure_masks, measure_monitor, measure_rigl, measure_threshold
from measurements.common import Measurement, Settings
from measurements.training import measure_inference, measure_overhead, measure_training

from lit_prune.cli.quiet import quiet
from lit_prune.errors import InputError
from lit_prune.trained.cost.measure import describe_machine

MEASUREMENTS: dict[str, Callable[[Settings], Measurement]] = {
    "training": measure_training,
    "inference": measure_inference,
    "overhead": measure_overhead,
    "masks": measure_masks,
    "threshold": measure_threshold,
    "freezing": measure_freezing,
    "monitor": measure_monitor,
    "rigl": measure_rigl,
}


def show(name: str, measurement: Measurement) -> None:
    """Print one measurement as a table."""
    print(f"\n{name}")
    for contender, seconds in measurement.seconds.items():
        ms = [1000 * value for value in seconds]
        print(f"  {contender:<28} {statistics.median(ms):8.1f} ms per step   ({min(ms):.1f} to {max(ms):.1f})")
    for ratio, values in measurement.ratios.items():
        print(f"  {ratio:<28} {statistics.median(values):8.3f}             ({min(values):.3f} to {max(values):.3f})")


def main(argv: list[str] | None = None) -> int:
    """Run the measurements, print the results, and with `--json` also write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["synthetic", "cifar10"], default="synthetic", help="images to train on")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder with the CIFAR-10 data")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds; each contender runs once per round")
    parser.add_argument("--steps", type=int, default=20, help="steps (or forward passes) of each contender per round")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument(
        "--only", choices=list(MEASUREMENTS), action="append", help="run only this measurement; may be repeated"
    )
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    settings = Settings(options.source, options.data_dir, options.rounds, options.steps)
    seed_everything(0, verbose=False)
    results = {}
    for name in options.only or MEASUREMENTS:
        try:
            measurement = MEASUREMENTS[name](settings)
        except InputError as error:
            parser.error(str(error))
        show(name, measurement)
        results[name] = measurement.content()
    if options.json:
        machine = describe_machine() | {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
        content = {"machine": machine, "settings": asdict(settings) | {"data_dir": str(settings.data_dir)}}
        options.json.write_text(json.dumps(content | {"measurements": results}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
