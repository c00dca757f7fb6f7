"""Measure on a GPU, in one command of under nine minutes, everything that only a GPU can answer.

    python scripts/gpu.py --data_dir data --out gpu --write docs/benchmarks.md

Each part runs in a process of its own, with a time limit, and writes OUT/PART.json; the same command continues with the
parts that are missing or failed. Without CIFAR-10 in the folder of `--data_dir`, synthetic images are used.
`--rehearse` runs all parts on the CPU, with tiny sizes and without a compiler.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurements import gpu
from measurements.document import split_document
from measurements.gpu_table import describe
from measurements.parts import Part, run_parts

from lit_prune.cli.quiet import quiet
from lit_prune.errors import InputError
from lit_prune.files.atomic import write_text

START = "<!-- gpu table: written by scripts/gpu.py -->"
END = "<!-- end of the gpu table -->"
SECONDS = 520
# part: the seconds that it may take, and the function that measures it; what matters most comes first
PARTS = {
    "machine": (30, gpu.describe_setup),
    "step": (100, gpu.measure_steps),
    "epoch": (110, gpu.measure_epochs),
    "accuracy": (200, gpu.measure_accuracy),
    "masks": (80, gpu.measure_masks),
    "threshold": (20, gpu.measure_thresholds),
    "monitor": (30, gpu.measure_monitors),
    "semi_structured": (30, gpu.measure_semi_structured),
    "tests": (120, gpu.run_tests),
    "jobs": (80, gpu.measure_jobs),
}


def main(argv: list[str] | None = None) -> int:
    """Measure the parts, print the tables, and with `--write` insert them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder with the CIFAR-10 data")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for the results")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="run only this part; may be repeated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all parts")
    parser.add_argument("--write", type=Path, help="Markdown file whose tables are replaced")
    parser.add_argument("--rehearse", action="store_true", help="run everything on the CPU with tiny sizes")
    options = parser.parse_args(argv)
    if not options.rehearse and torch.version.cuda is None:
        parser.error("this torch is built without CUDA; install one with CUDA, or rehearse with --rehearse")
    try:
        document = None if options.write is None else split_document(options.write, START, END)
    except InputError as error:
        parser.error(str(error))
    # a synthetic rehearsal needs no files; CUDA is not started in this process
    source = "synthetic" if options.rehearse else gpu.find_source(options.data_dir)
    if source == "synthetic" and not options.rehearse:
        print(f"CIFAR-10 is not in {options.data_dir}: all parts use synthetic images.", flush=True)
    device = "cpu" if options.rehearse else "cuda"
    setup = partial(gpu.Setup, device, source, options.data_dir, options.rehearse)
    parts: dict[str, tuple[float, Part]] = {
        name: (seconds, partial(_measure, measure, setup))
        for name, (seconds, measure) in PARTS.items()
        if options.only is None or name in ("machine", *options.only)
    }
    results = run_parts(parts, options.out, options.seconds)
    text = describe(results)
    print(f"\n{text}")
    if document is not None:
        write_text(options.write, f"{document[0]}\n\n{text}\n\n{document[1]}")
    return int(any("error" in result for result in results.values()) or len(results) < len(parts))


def _measure(measure: Callable[[gpu.Setup], gpu.Result], setup: Callable[[float], gpu.Setup], left: float) -> Any:
    if (sizes := setup(left)).rehearses:
        torch.set_num_threads(1)  # tiny sizes gain nothing from threads, which wait for each other on a busy machine
    return measure(sizes)


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
