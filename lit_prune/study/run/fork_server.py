"""Execute the runs of a study as forks of a server, a process in which everything has been imported already.

Importing Lightning takes several seconds of CPU time, and a fork of the server has nothing left to import.

    study                                       server                                   run
      |  number, arguments; log.txt               |                                        |
      |------------------------------------------>|  fork                                  |
      |                                           |--------------------------------------->|
      |                                           |                    exit status         |
      |  number, exit status                      |<---------------------------------------|
      |<------------------------------------------|

The server imports modules and prepares what all runs need, such as synthetic images, but runs no torch operation. So it
has no threads or CUDA contexts, which a fork would lack; a run computes the same bits as in a process of its own, and
no run sees what another one has changed.
If the study dies, the server kills its runs; if the server dies, its runs exit.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

from lit_prune.study.run.pool import Job, Pool, launch, open_log
from lit_prune.training.run_folder import LOG

CAN_FORK = sys.platform == "linux"  # libraries of macOS do not work in forks, and Windows has none

_POLL = 0.1  # seconds
_LONGEST = 1 << 16  # bytes of a message; the path of a folder has at most 4096


class Forks(Pool):
    """Executes each job in a fork of a server."""

    def __init__(self, jobs: int | None) -> None:
        super().__init__(jobs)
        self._numbers: Iterator[int]
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket
        self._output: BinaryIO

    def prepare(self, threads: int) -> None:
        """Start a server, which then begins to import."""
        self._numbers = itertools.count()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = launch([], threads, theirs, self._output)

    def start(self, job: Job) -> None:
        """Ask the server for a fork that executes a job."""
        if self._server is None:
            self.prepare(job.threads)
        number = next(self._numbers)
        self._running[number] = job
        with open_log(job) as log, suppress(ConnectionError):  # the server has died; `collect` will find out
            socket.send_fds(self._socket, [json.dumps([number, job.argv]).encode()], [log.fileno()])

    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs that exited since the last call, with exit statuses; all running jobs if the server died."""
        exited: list[tuple[Job, int]] = []
        while self._running:
            try:
                message = self._socket.recv(_LONGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionError:
                message = b""
            if not message:
                return exited + self._bury()
            number, status = json.loads(message)
            exited.append((self._running.pop(number), status))
        return exited

    def close(self) -> None:
        """Kill all runs; a later `lit-prune study` resumes them from their last checkpoints."""
        self._running = {}
        if self._server is not None:
            self._socket.close()  # the server then kills its runs, and exits
            self._server.terminate()  # if it is still importing; later, it ignores this signal
            self._server.wait()
            self._server = None
            self._output.close()

    def _bury(self) -> list[tuple[Job, int]]:
        """Return all running jobs with the exit status of the server, which died, and add its output to their logs."""
        assert self._server is not None  # noqa: S101 - for mypy
        lost, status = list(self._running.values()), self._server.wait()
        self._output.seek(0)
        output = self._output.read()
        for job in lost:
            with suppress(FileNotFoundError), (job.folder / LOG).open("ab") as log:  # the folder may be gone
                log.write(output)
        self.close()
        return [(job, status) for job in lost]


def fork_runs(prepare: Callable[[list[str]], None]) -> list[str]:
    """Be the server: fork a process for each run that the study asks for on standard input.

    Args:
        prepare: Called before the first fork, with the arguments of its run, to do what all runs would repeat.

    Returns:
        In each fork, the arguments of its run. The server itself does not return: it exits when the study closes the
        connection.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    alive, held = os.pipe()  # only the server holds the write end: reading ends when it dies
    running: dict[int, int] = {}  # process -> number of its job
    with suppress(ConnectionError), socket.socket(fileno=os.dup(0)) as study:
        study.settimeout(_POLL)
        while True:
            with suppress(TimeoutError):
                message, files, *_ = socket.recv_fds(study, _LONGEST, 1)
                if not message:
                    break
                number, argv = json.loads(message)
                if not number:
                    prepare(argv)
                if (process := os.fork()) == 0:
                    os.close(held)
                    _become_run(argv, alive, *files)
                    return argv  # type: ignore[no-any-return]
                os.close(*files)
                running[process] = number
            for process in list(running):
                exited, status = os.waitpid(process, os.WNOHANG)
                if exited:
                    study.send(json.dumps([running.pop(process), os.waitstatus_to_exitcode(status)]).encode())
    for process in running:
        os.kill(process, signal.SIGKILL)
    for process in running:
        os.waitpid(process, 0)
    os._exit(0)


def _become_run(argv: list[str], alive: int, log: int) -> None:
    """Make a fork look like a process that `launch` has started with `argv`."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(alive, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(alive)
    os.close(log)
    import torch

    if torch.cuda._is_in_bad_fork():  # an import has used a GPU, which forks cannot use then
        os.execv(sys.executable, [sys.executable, "-m", "lit_prune.study.run", *argv])  # noqa: S606 - our own program
