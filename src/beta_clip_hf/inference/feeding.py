"""Settings that suit a device where a command is given none: dtype, batch size and workers."""

import os
from typing import NamedTuple

import torch


_GIB = 2**30
# Workers of one process beyond these hardly help: each decodes about a hundred photos per second.
_MOST_WORKERS = 16
# Images of a batch for each GiB of a GPU, at most _LARGEST_BATCH: ViT-L/14 at 336 pixels takes about 100 MiB an image
# without gradients, in float32.
_IMAGES_PER_GIB = 8
_LARGEST_BATCH = 256


class Feeding(NamedTuple):
    """How images are encoded on a device."""

    dtype: str
    """Precision of the model, the name of a dtype of torch."""
    batch_size: int
    """Number of images in a batch."""
    num_workers: int
    """Number of processes that read images; 0 for none."""


def suited_feeding(device: torch.device) -> Feeding:
    """
    Returns what suits a device. A CPU computes with all its cores, so that it reads images in the same process.

    A GPU computes in bfloat16 if it has it, in batches by its memory, and is fed by workers on all cores but one, which
    it shares with the other GPUs of the machine.
    """
    if device.type != "cuda":
        return Feeding("float32", 32, 0)
    memory = torch.cuda.get_device_properties(device).total_memory
    batch_size = min(_LARGEST_BATCH, max(32, _IMAGES_PER_GIB * (memory // _GIB)))
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_workers = max(1, (usable_cores() - 1) // local_processes)
    dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return Feeding(dtype, batch_size, min(_MOST_WORKERS, num_workers))


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    # Only Linux knows; a container or a scheduler may leave a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
