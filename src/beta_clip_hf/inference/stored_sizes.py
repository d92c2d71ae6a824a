"""Checks the sizes that a stored configuration names, so that no model is built that no machine could hold."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.fields import shown
from ..model.configuration_beta_clip import BetaCLIPConfig


# No CLIP is larger. A configuration that says so is a mistake, or would fill the memory.
_LARGEST_SIZES = {
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "projection_dim": 2**16,
    "num_hidden_layers": 1000,
    "num_attention_heads": 2**12,
    "vocab_size": 2**22,
    "max_position_embeddings": 2**17,
    "long_text_max_position_embeddings": 2**17,
    "image_size": 2**14,
    "patch_size": 2**10,
    "num_channels": 2**8,
}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Quantised weights have half a byte each.
_LEAST_BYTES_OF_WEIGHT = 0.5
# Some parts of a small model may be new.
_ALWAYS_ALLOWED_WEIGHTS = 2**26


def stored_config(source: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Reads the config.json of a model, and checks its sizes.

    Args:
        source: Directory or Hub id.

    Raises:
        ValueError: if a size is no number above 0, is larger than any model's, or if the model of a directory would
            have far more weights than are there. They would be allocated before they are found missing.
    """
    config: dict[str, Any] = BetaCLIPConfig.get_config_dict(str(source))[0]
    check_sizes(config)
    folder = Path(source)
    if not folder.is_dir() or (folder / "adapter_config.json").exists():
        return config
    named = _least_weights(config)
    num_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    if num_bytes and named > _ALWAYS_ALLOWED_WEIGHTS + num_bytes / _LEAST_BYTES_OF_WEIGHT:
        raise ValueError(
            f"the weights in {source} must be those of its config.json, which names at least {named:,}, but have "
            f"{num_bytes:,} bytes: copy or download them again"
        )
    return config


def check_sizes(config: Mapping[str, Any], name: str = "config.json") -> None:
    """
    Checks the sizes of a stored configuration, one by one.

    Args:
        config: The content of a config.json.
        name: Its name in messages.

    Raises:
        ValueError: if a size is no number above 0, or larger than any model's.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value, f"{name}: {key}")
        most = _LARGEST_SIZES.get(key)
        if most is None or value is None:
            continue
        # Some vision towers have two sides.
        sizes = value if isinstance(value, (list, tuple)) else [value]
        if not all(type(size) is int and 0 < size <= most for size in sizes):
            raise ValueError(f"{key} of {name} must be a whole number from 1 to {most:,}, but is {shown(value)}")


def _least_weights(config: Mapping[str, Any]) -> int:
    """Returns a number of weights that the towers of a configuration have at least. Sizes that it lacks count as 0."""
    weights = 0
    for tower in config.values():
        if not isinstance(tower, Mapping):
            continue
        width, inner, layers, vocabulary = (
            _number(tower.get(key)) for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
        )
        weights += layers * width * (4 * width + 2 * inner) + vocabulary * width
    return weights


def _number(value: Any) -> int:
    return value if type(value) is int else 0


__all__ = ["check_sizes", "stored_config"]
