"""How the weights of a base model are loaded for a training: their type, and their quantisation."""

from collections.abc import Mapping
from typing import Any

import torch

from ..parameters.lora import WHOLE_MODULES


LOADING_KEYS = ("dtype", "torch_dtype", "quantization_config")
"""Keys of the section `model` that are arguments of `from_pretrained`."""
_DTYPES = ("float32", "bfloat16", "float16", "float64")
# The settings of bitsandbytes that a mapping without `quant_method` may have.
_BITSANDBYTES_SWITCHES = ("load_in_8bit", "load_in_4bit")


def loading_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns the arguments of `from_pretrained` that the section `model` of a configuration has.

    Weights are float32 unless it says otherwise, whatever the checkpoint holds: autocast computes in half precision.
    With bitsandbytes, the modules that LoRA trains whole are not quantised, unless it names others.

    Raises:
        ValueError: if the type is unknown or named twice, or the quantisation is no mapping.
    """
    if model.get("dtype") is not None and model.get("torch_dtype") is not None:
        raise ValueError(
            "one of model.dtype and model.torch_dtype (its older name) must be given, but both are: "
            f"{model['dtype']!r} and {model['torch_dtype']!r}"
        )
    dtype = model.get("dtype") or model.get("torch_dtype") or "float32"
    if dtype not in (*_DTYPES, "auto"):
        raise ValueError(f"model.dtype must be 'auto' or one of {_DTYPES}, but is {dtype!r}")
    arguments: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    quantization = model.get("quantization_config")
    if quantization is None:
        return arguments
    if not isinstance(quantization, Mapping):
        raise ValueError(
            "model.quantization_config must be a mapping such as {load_in_8bit: true}, but is " + repr(quantization)
        )
    settings = dict(quantization)
    if any(settings.get(switch) for switch in _BITSANDBYTES_SWITCHES):
        settings.setdefault("llm_int8_skip_modules", list(WHOLE_MODULES))
    arguments["quantization_config"] = settings
    return arguments


__all__ = ["LOADING_KEYS", "loading_arguments"]
