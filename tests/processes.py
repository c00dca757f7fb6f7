"""Several processes at once, without each of them waiting for the imports."""

import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

# one server imports, and every process is a fork of it
get_context("forkserver").set_forkserver_preload(["lit_prune.callbacks", "lit_prune.data"])


def run_two(work: Callable[..., None], *args: Any) -> None:
    """Call `work(rank, *args)` in two processes; what one of them raises is raised here."""
    start_processes(work, args, nprocs=2, start_method="forkserver")


def run_group(work: Callable[..., None], size: int, folder: Path, *args: Any) -> None:
    """Call `work(rank, *args)` in processes that can communicate; `folder` is where they meet, once."""
    start_processes(_in_group, (work, size, folder / f"group-{size}", args), nprocs=size, start_method="forkserver")


def _in_group(rank: int, work: Callable[..., None], size: int, file: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    try:
        work(rank, *args)
    except BaseException as error:
        error.add_note(f"in process {rank} of {size}, with {args}")
        raise
    distributed.destroy_process_group()


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
