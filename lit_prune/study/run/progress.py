"""The progress of a study: a bar on a terminal; elsewhere, a line for each finished run, and one every few minutes."""

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from lit_prune.study.measures import format_duration
from lit_prune.study.run.pool import Job

_PAUSE = 120.0  # without a terminal, progress is printed if nothing was printed for this many seconds


class Progress:
    """Shows finished runs, work and the remaining time. Use it as a context manager.

    A unit of work is an epoch; the start and the tests of a run together are one more unit. So 100% is reached only
    when all runs are tested.

    Args:
        name: Name of the study.
        total: Work of all runs.
        done: Work of the runs that earlier commands finished.
        runs: Number of runs.
        unit: Wall-clock seconds per unit of work, as estimated before the first run; None if unknown.
        parallel: Number of parallel runs.
    """

    def __init__(self, name: str, total: int, done: int, runs: int, unit: float | None, parallel: int) -> None:
        self._name, self._runs, self._unit, self._parallel = name, runs, unit, parallel
        self._start = time.monotonic()
        self._printed = -math.inf
        self._before = done
        # `disable=None`: no bar if stderr is not a terminal
        form = "{desc} |{bar}|{postfix}"
        self._bar = tqdm(total=total, initial=done, bar_format=form, dynamic_ncols=True, disable=None)
        self._total, self._done = total, done

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, done: int, finished: int, running: Sequence[Job], sentence: str = "") -> None:
        """Show progress.

        Args:
            done: Work done so far.
            finished: Number of finished runs.
            running: Runs in progress.
            sentence: Sentence about a run that exited; "" if none did.
        """
        self._done = max(self._done, min(done, self._total))
        where = f"{finished} of {self._runs} runs, {100 * self._done // max(self._total, 1)}%, {self._left()}"
        if not self._bar.disable:
            if sentence:
                tqdm.write(sentence)
            names = [f"{job.experiment}, seed {job.seed}" for job in running]
            self._bar.n = self._done
            self._bar.set_description_str(f"{self._name}: {where}", refresh=False)
            self._bar.set_postfix_str("; ".join(names[:2]) + (f"; {len(names) - 2} more" if len(names) > 2 else ""))
        elif sentence or time.monotonic() - self._printed > _PAUSE:
            self._printed = time.monotonic()
            sys.stdout.write(f"{sentence} {self._name}: {where}.\n".lstrip())
            sys.stdout.flush()

    def _left(self) -> str:
        left, elapsed = self._total - self._done, time.monotonic() - self._start
        here = self._done - self._before
        if not left:
            return "finished"
        if self._unit is None:
            return f"{format_duration(left * elapsed / here)} left" if here else "time left not known yet"
        # average the estimate and the measured times: the estimate weighs as much as one unit of each parallel run
        weight = self._parallel
        return f"{format_duration(left * (self._unit * weight + elapsed) / (weight + here))} left"
