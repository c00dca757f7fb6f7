"""Turn SIGTERM and SIGINT into exceptions, which training can delay until it has written a checkpoint."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from lit_prune.errors import UnfinishedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Context manager that raises an `UnfinishedError` (exit status 128 + signal) when SIGTERM or SIGINT arrives.

    Attributes:
        received: The last signal that arrived; None before the first one.
        patient: Whether the first signal only sets `received` instead of raising. A second signal always raises.
        raised: The error that was raised; None before. A library may catch it, and raise an error of its own instead.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False
        self.raised: UnfinishedError | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python allows signal handlers only in the main thread
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
        """Install the signal handlers; to be called again after other code has replaced them."""
        if self._before:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = signal.Signals(number)
        if self.patient and first:
            text = "stopping after the current batch or validation. Repeat the signal to stop now."
            print(f"\n{self.received.name}: {text}", file=sys.stderr)
            return
        self.raised = UnfinishedError(f"Interrupted by {self.received.name}. Run the same command again.", 128 + number)
        raise self.raised

    def blame(self, error: Exception) -> Exception:
        """Return the error that a signal raised, if a library replaced it by `error`; otherwise `error`."""
        return error if self.raised is None or isinstance(error, UnfinishedError) else self.raised
