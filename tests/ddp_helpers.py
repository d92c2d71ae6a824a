"""Runs a function of a test in several gloo processes on the CPU, as a launcher would start them."""

import importlib.util
import inspect
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


# A server imports these once. Each process is a fork of it, and is there in milliseconds instead of seconds.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["beta_clip_hf.training.trainer", "beta_clip_hf.cli", "model.siglip2_batches", "pytest"]
)


def run_processes(function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """What `function(rank, *args)`, at the top level of a test file, returned in each process, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        source = (inspect.getsourcefile(function), function.__name__)
        torch.multiprocessing.start_processes(
            _process, (world_size, folder, source, args, dict(os.environ)), nprocs=world_size, start_method="forkserver"
        )
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]


def _process(
    rank: int,
    world_size: int,
    folder: str,
    source: tuple[str, str],
    args: tuple[Any, ...],
    environment: dict[str, str],
) -> None:
    # The server has the environment of its start, not that of the test.
    os.environ.clear()
    os.environ |= environment
    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0, "ACCELERATE_USE_CPU": 1}
    os.environ |= {name: str(value) for name, value in variables.items()}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world_size, timeout=timedelta(minutes=5)
    )
    path, name = source
    spec = importlib.util.spec_from_file_location(f"_process_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.save(getattr(module, name)(rank, *args), Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()
    # At the end of Python, a thread of torch.distributed sometimes aborts a process that has done its work.
    os._exit(0)
