"""SIGTERM and SIGINT: the end of a command, and of a training not before a checkpoint is written."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from lit_prune.errors import UnfinishedError, expected

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Ends what happens inside it when SIGTERM or SIGINT comes, by an `UnfinishedError` of status 128 + signal.

    Attributes:
        received: The signal that has come, if any.
        patient: Whether to wait for whoever looks at `received`; a second signal never waits.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        # only the main thread of a process can be told
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
            self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals (back) from whoever else handles them."""
        if self._before:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = signal.Signals(number)
        if self.patient and not again:
            print(f"\n{self.received.name}: stopping after this batch. A second one stops at once.", file=sys.stderr)
            return
        raise self.error("this command to come to its end", "the same command does it again")

    def error(self, what: str, hint: str, where: str = "") -> UnfinishedError:
        """Make the error that ends the command."""
        received = self.received or signal.SIGINT
        return UnfinishedError(str(expected(what, f"{received.name}{where}", hint)), 128 + received)
