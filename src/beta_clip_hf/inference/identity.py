"""What tells models, configurations, images and machines apart: hashes, versions and hardware."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from ..version import __version__


def model_hash(model: nn.Module) -> str:
    """
    SHA-256 over names, types, shapes and bytes of the weights: the same weights have the same hash, whatever the files
    they were read from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def config_hash(model: Any, processor: Any) -> str:
    """
    SHA-256 over the configuration of a model, its image processor and its tokenizer: with the weights and the protocol
    all that its features depend on. Where they were read from, and which version wrote them, does not count.
    """
    parts: list[Any] = [_without(model.config.to_dict()), _without(processor.to_dict())]
    tokenizer = processor.tokenizer
    if hasattr(tokenizer, "backend_tokenizer"):
        parts.append(_without(json.loads(tokenizer.backend_tokenizer.to_str())))
    parts += [sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


# Names of configurations that change no feature; padding and truncation are those of a tokenizer's last call.
_OF_NO_EFFECT = ("_name_or_path", "transformers_version", "architectures", "dtype", "auto_map", "padding", "truncation")


def _without(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without(one) for name, one in value.items() if name not in _OF_NO_EFFECT}


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware that the figures came from."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "beta_clip_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "hardware": hardware,
    }


def _processor() -> str:
    """The name of the processor; Linux tells it in a file, Python does not."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def image_digest(image: Any) -> bytes:
    """SHA-256 of an image that could be read: of its file, or of its pixels where there is none."""
    if isinstance(image, dict):
        image = image.get("bytes") or image["path"]
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    if not isinstance(image, bytes):
        image = f"{image.mode} {image.size} ".encode() + image.tobytes()
    return hashlib.sha256(image).digest()
