"""Run parts of a measurement, each in a process of its own and with a time limit, and keep what is finished."""

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lit_prune.errors import InputError, one_line
from lit_prune.files.atomic import write_text

Part = Callable[[float], Mapping[str, Any]]


def run_parts(parts: Mapping[str, tuple[float, Part]], folder: Path, seconds: float) -> dict[str, Any]:
    """Run the parts that are not finished, in order, and return the results of all of them.

    Args:
        parts: By name, the most seconds that a part may take, and the function that measures it; its argument is the
            number of seconds that are left for it.
        folder: Folder of the results, one JSON file for each part. A part whose file has no error is finished.
        seconds: Time for all parts together.
    """
    ends = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    for name, (limit, part) in parts.items():
        path = folder / f"{name}.json"
        if "error" not in (read_result(path) or {"error": "none yet"}):
            print(f"{name}: finished before", flush=True)
            continue
        left = min(limit, ends - time.monotonic())
        if left < min(limit, 5):
            print(f"{name}: no time left; run the same command again", flush=True)
            continue
        began = time.monotonic()
        _run_part(part, path, left)
        error = (read_result(path) or {}).get("error")
        print(f"{name}: {error or 'finished'} ({time.monotonic() - began:.0f} s)", flush=True)
    return {name: result for name in parts if (result := read_result(folder / f"{name}.json")) is not None}


def read_result(path: Path) -> dict[str, Any] | None:
    """Read the result of a part; None if there is no readable one."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result


def _run_part(part: Part, path: Path, seconds: float) -> None:
    # forked, because the imports are done; CUDA, which does not survive a fork, is started by each part itself
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(part, path, seconds))
    path.unlink(missing_ok=True)
    process.start()
    process.join(seconds)
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # with the processes that it started
        process.join()
        _write(path, {"error": f"stopped after {seconds:.0f} s"})
    elif not path.is_file():
        _write(path, {"error": f"its process ended with status {process.exitcode}"})


def _measure(part: Part, path: Path, seconds: float) -> None:
    os.setsid()
    try:
        _write(path, part(seconds))
    except InputError as error:
        _write(path, {"error": one_line(error)})
    except Exception as error:  # the other parts can still be measured
        _write(path, {"error": f"{type(error).__name__}: {one_line(error)}"})


def _write(path: Path, result: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(result, indent=2) + "\n")
