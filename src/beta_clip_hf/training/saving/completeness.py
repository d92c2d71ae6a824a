"""
Checks whether a checkpoint without a manifest holds what a run needs to continue.

Such a checkpoint was saved by plain transformers or by an earlier version of this package. There are no hashes, so a
changed byte in the weights or in a JSON file cannot be seen. Missing, cut and unreadable files can, and so can changed
bytes in files of torch, which carry checksums.
"""

import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


STATE_FILE = "trainer_state.json"
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin", *_INDICES)
"""Files that hold the weights of a model or an adapter, or name the files that hold them."""
# Beginnings of the names of sharded weights and optimisers: directories of FSDP and DeepSpeed.
_SHARDED_WEIGHTS = ("pytorch_model_fsdp", "global_step")
_OPTIMIZERS = ("optimizer", "rank")
# A header of safetensors is a few kilobytes long, and never longer than this.
_LONGEST_HEADER = 100 * 2**20


def missing_state(names: Sequence[str]) -> str | None:
    """
    Says what a checkpoint with these files lacks for a run to continue; `None` if it lacks nothing.

    Args:
        names: The files, relative to the checkpoint.
    """
    top = {name.split("/")[0] for name in names}
    if STATE_FILE not in top:
        return f"has no {STATE_FILE}, which says at which step it was saved"
    has_sharded_weights = any(name.startswith(_SHARDED_WEIGHTS) for name in top)
    if not has_sharded_weights and top.isdisjoint(WEIGHTS):
        return "has no weights (model.safetensors)"
    if any(name.startswith("global_step") for name in top):
        # DeepSpeed keeps optimiser and schedule in the directory of its weights.
        return None
    if not any(name.startswith(_OPTIMIZERS) and "optim" in name for name in top):
        return "has no state of the optimiser (optimizer.pt); with save_only_model a run cannot continue"
    if "scheduler.pt" not in top:
        return "has no state of the schedule (scheduler.pt)"
    return None


def problem_without_manifest(checkpoint: Path, step: int | None) -> str | None:
    """
    Says why a run cannot continue from a checkpoint without a manifest.

    Args:
        checkpoint: The directory.
        step: The step in its name, if it has one.

    Returns:
        A sentence that names the file, or `None` if nothing is missing.

    Raises:
        OSError: if a file cannot be read.
    """
    paths = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    if not paths:
        return f"{checkpoint} is empty"
    missing = missing_state([path.relative_to(checkpoint).as_posix() for path in paths])
    if missing is not None:
        return f"{checkpoint} {missing}"
    problem = _state_problem(checkpoint / STATE_FILE, step) or _shards_problem(checkpoint) or _rng_problem(checkpoint)
    if problem is not None:
        return problem
    for path in paths:
        problem = _file_problem(path)
        if problem is not None:
            return f"{path} is damaged: {problem}"
    return None


def _state_problem(path: Path, step: int | None) -> str | None:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"{path} is damaged: {error}"
    stored = state.get("global_step") if isinstance(state, dict) else None
    if type(stored) is not int or stored < 1:
        return f"{path} must have a global_step of at least 1, but has {stored!r}"
    if step is not None and stored != step:
        return f"{path} must have the global_step of its directory, {step}, but has {stored}"
    return None


def _shards_problem(checkpoint: Path) -> str | None:
    """Says which of the files is missing that an index of weights names."""
    for name in _INDICES:
        path = checkpoint / name
        if not path.exists():
            continue
        try:
            shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"{path} is damaged: {error}"
        for shard in sorted(shards):
            if not (checkpoint / shard).is_file():
                return f"{checkpoint / shard} is missing"
    return None


def _rng_problem(checkpoint: Path) -> str | None:
    # One process writes `rng_state.pth`, several write `rng_state_0.pth`, `rng_state_1.pth`, …
    if (checkpoint / "rng_state.pth").exists() or (checkpoint / "rng_state_0.pth").exists():
        return None
    return f"{checkpoint} has no random state (rng_state.pth)"


def _file_problem(path: Path) -> str | None:
    """Says what is wrong with a file of a kind that can be checked."""
    if path.suffix == ".safetensors":
        return _safetensors_problem(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return _torch_problem(path)
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            return str(error)
    return None


def _safetensors_problem(path: Path) -> str | None:
    """Compares the size of a file with what its header announces."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return "its header is cut"
        (length,) = struct.unpack("<Q", start)
        if length > min(_LONGEST_HEADER, size - 8):
            return "its header is cut"
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            return f"its header cannot be read ({error})"
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return f"it has {size} bytes, but {expected} were saved"
    return None


def _torch_problem(path: Path) -> str | None:
    """Compares the checksums that a zip file, as `torch.save` writes, has of its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError) as error:
        return str(error)
    return None if bad is None else f"its part {bad} has other content than was saved"


__all__ = ["STATE_FILE", "WEIGHTS", "missing_state", "problem_without_manifest"]
