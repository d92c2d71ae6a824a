"""Hashes that identify weights, configurations and images; versions and hardware that results came from."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from ..version import __version__


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
    return _tensors_hash(sorted(model.state_dict().items()))


def weights_hash(folder: str | os.PathLike[str]) -> str | None:
    """
    Hashes the safetensors of a model directory as [`model_hash`] hashes a model. No model is made.

    Returns:
        The hash, which does not depend on the number of files; `None` without such files.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    return _tensors_hash(_stored_tensors(files)) if files else None


def _stored_tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors by the order of their names. One at a time is in memory."""
    with ExitStack() as stack:
        places = {}
        for path in files:
            file = stack.enter_context(safe_open(path, framework="pt"))
            places.update(dict.fromkeys(file.keys(), file))
        for name in sorted(places):
            yield name, places[name].get_tensor(name)


def _tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # numpy has no bfloat16, so the bytes are taken before.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    """A configuration without the settings that change no feature, at any depth."""
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
    if isinstance(image, Mapping):
        image = image.get("bytes") or image["path"]
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
