"""Two processes at once, without each of them waiting for the imports."""

import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

# one server imports, and every process is a fork of it
get_context("forkserver").set_forkserver_preload(["lit_prune.callbacks", "lit_prune.data"])


def run_two(work: Callable[..., None], *args: Any) -> None:
    """Call `work(rank, *args)` in two processes; what one of them raises is raised here."""
    start_processes(work, args, nprocs=2, start_method="forkserver")


def run_ddp(work: Callable[..., None], *args: Any) -> None:
    """Call `work(rank, *args)` in two processes, where a Trainer of two devices under "ddp" finds the other one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_two(_ranked, port, work, args)


def _ranked(rank: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",
    }
    work(rank, *args)
