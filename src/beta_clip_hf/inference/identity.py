"""Hashes that identify weights, configurations and images; versions and hardware that results came from."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HOME
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from ..data.fields import bytes_or_path
from ..files import write_text
from ..model.adapters_beta_clip import ADAPTER_FILE
from ..version import __version__


# A file that is younger may still be written to within a tick of its clock.
_SETTLED_SECONDS = 2.0
# Settings that change no feature. Padding and truncation are left over from the tokenizer's last call.
_WITHOUT_EFFECT = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "padding",
    "transformers_version",
    "truncation",
}


def model_hash(model: nn.Module) -> str:
    """
    Hashes the weights of a model: SHA-256 over their names, types, shapes and bytes, as hex.

    Equal weights have equal hashes, whatever files they were read from.
    """
    return tensors_hash(sorted(model.state_dict().items()))


def weights_hash(folder: str | os.PathLike[str]) -> str | None:
    """
    Hashes the safetensors of a model directory as [`model_hash`] hashes a model. No model is made.

    Returns:
        The hash, which does not depend on the number of files; `None` without such files.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    return tensors_hash(_stored_tensors(files)) if files else None


def _stored_tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors by the order of their names. One at a time is in memory."""
    with ExitStack() as stack:
        places = {}
        for path in files:
            file = stack.enter_context(safe_open(path, framework="pt"))
            places.update(dict.fromkeys(file.keys(), file))
        for name in sorted(places):
            yield name, places[name].get_tensor(name)


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hashes tensors in the order that they come in: SHA-256 over their names, types, shapes and bytes, as hex."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # numpy has no bfloat16, so the bytes are taken before.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def loaded_model_hash(name_or_path: str, model: Any) -> str:
    """
    Returns the [`model_hash`] of a model that is as it was loaded, without reading all weights again.

    The hash is kept beside transformers' own cache, under the names, sizes and times of the files in the model's
    directory, its dtype, and the versions that load it. Directories that change, or that name a base model elsewhere,
    are hashed each time.

    Args:
        name_or_path: Directory or Hub id.
        model: What [`load_model`](beta_clip_hf.inference.models.load_model) has returned for it, unchanged.
    """
    key = _key_of_files(name_or_path, model)
    if key is None:
        return model_hash(model)
    kept = Path(HF_HOME) / "beta_clip_hf" / "weights" / key
    try:
        return kept.read_text(encoding="ascii")
    except OSError:
        # Not yet there, or not to be read.
        found = model_hash(model)
    with suppress(OSError):
        # A home that cannot be written to costs the time of a hash, and nothing else.
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, found)
    return found


def _key_of_files(name_or_path: str, model: Any) -> str | None:
    """Returns what identifies the files of a model, or `None` where it is not sure."""
    # In a directory, or in the cache of the Hub, which names a folder by its commit.
    config_file = cached_file(
        name_or_path,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if config_file is None or (Path(config_file).parent / ADAPTER_FILE).exists():
        return None
    files = []
    for path in sorted(Path(config_file).parent.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin"):
            stat = path.stat()
            if time.time() - stat.st_mtime < _SETTLED_SECONDS:
                return None
            files.append((str(path.absolute()), stat.st_size, stat.st_mtime_ns))
    versions = (__version__, torch.__version__, transformers.__version__)
    identity = [type(model).__name__, str(model.dtype), versions, files]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def config_hash(model: Any, processor: Any) -> str:
    """
    Hashes the configuration of a model, of its image processor and of its tokenizer: SHA-256 as hex.

    Features depend on these and on the weights. The folder that they were read from, and the version that wrote them,
    do not count.
    """
    parts: list[Any] = [_with_effect(model.config.to_dict()), _with_effect(processor.to_dict())]
    tokenizer = processor.tokenizer
    if hasattr(tokenizer, "backend_tokenizer"):
        parts.append(_with_effect(json.loads(tokenizer.backend_tokenizer.to_str())))
    parts += [sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _with_effect(value: Any) -> Any:
    """Returns a configuration without the settings that change no feature, at any depth."""
    if not isinstance(value, dict):
        return value
    return {name: _with_effect(setting) for name, setting in value.items() if name not in _WITHOUT_EFFECT}


def image_digest(image: Any) -> bytes:
    """
    Hashes an image that has been read: SHA-256 of its file, or of its pixels if it comes from no file.

    Args:
        image: A PIL image, a path, the bytes of an image file, or the dict `{"bytes": …, "path": …}` of `datasets`.

    Raises:
        OSError: if the file cannot be read.
    """
    image = bytes_or_path(image)
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    # Images of other modes or sizes can have the same bytes.
    pixels = f"{image.mode} {image.size} ".encode() + image.tobytes()
    return hashlib.sha256(pixels).digest()


def environment(device: torch.device) -> dict[str, str]:
    """Returns the versions and the hardware that results come from, ready for JSON."""
    hardware = _processor_name()
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    return {
        "beta_clip_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "hardware": hardware,
    }


def _processor_name() -> str:
    """Returns the name of the processor. Linux has it in a file; Python knows the kind at most."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
