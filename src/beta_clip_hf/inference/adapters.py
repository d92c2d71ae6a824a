"""Loads LoRA adapters with PEFT, and merges them into their base model."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from safetensors import safe_open
from transformers.utils import cached_file, logging

from ..model.adapters_beta_clip import ADAPTER_FILE
from ..model.configuration_beta_clip import HUB_ARGUMENTS
from ..model.loading_checks_beta_clip import check_finite


_WEIGHTS = "adapter_model.safetensors"
# What PEFT writes before the name of a weight.
_PREFIX = "base_model.model."


def require_peft() -> Any:
    """
    Returns the module `peft`.

    Raises:
        ImportError: if it is not installed.
    """
    if find_spec("peft") is None:
        raise ImportError("LoRA adapters need peft: pip install peft")
    import peft

    return peft


def read_adapter(source: Any, model_class: Any, *, config: Any = None, **kwargs: Any) -> Any:
    """
    Loads the base model of an adapter and merges the adapter into it.

    Args:
        source: Directory or Hub id of the adapter, as the Trainer saves it with `lora`.
        model_class: The class of the model.
        config: The configuration; by default the one that was saved with the adapter.
        kwargs: Arguments of `from_pretrained`, and fields of the configuration. Those that say where a file of the Hub
            is (`revision`, …) are for the adapter.

    Returns:
        The model, a plain one without any part of PEFT.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the base model is not named, the model is to be quantised, the pooler is in neither the base nor
            the adapter, or the adapter has NaN or infinity.
    """
    peft = require_peft()
    if kwargs.get("quantization_config") is not None:
        raise ValueError(
            f"quantization_config must be left out for an adapter, but is given for {source}: an adapter cannot be "
            "merged into quantised weights; write the merged model with `beta-clip export merged` and load that"
        )
    wants_info = kwargs.pop("output_loading_info", False)
    hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    if config is None:
        config, kwargs = model_class.config_class.from_pretrained(source, return_unused_kwargs=True, **hub, **kwargs)
    # An adapter of a quantised base brings its settings along, but nothing can be merged into quantised weights.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    base_name = base_of_adapter(source, **hub)
    # The base model lies in a repository of its own, which has neither the revision nor the folders of the adapter.
    base_hub = {name: hub[name] for name in ("token", "cache_dir", "local_files_only") if name in hub}
    with _quiet_loading():
        base, info = model_class.from_pretrained(
            base_name, config=config, output_loading_info=True, **base_hub, **kwargs
        )
    _check_pooler(info["missing_keys"], source, hub)
    # Not one for all: logit scales of SigLIP 2 are float32 in every model.
    dtypes = {name: tensor.dtype for name, tensor in base.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(base, source, **hub).merge_and_unload()
    # PEFT freezes what it adapts, and computes adapters in float32.
    merged.requires_grad_(True).eval()
    for name, tensor in (*merged.named_parameters(), *merged.named_buffers()):
        tensor.data = tensor.data.to(dtypes.get(name, tensor.dtype))
    check_finite(merged, source)
    merged.config.name_or_path = str(source)
    if wants_info:
        return merged, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    return merged


def _check_pooler(missing: Collection[str], source: Any, hub: Mapping[str, Any]) -> None:
    """
    Checks that an adapter brings the pooler that its base model lacks: its weights would be random otherwise.

    Args:
        missing: The names of the tensors that the checkpoint of the base model lacks.
        source, hub: The adapter, as for [`read_adapter`].

    Raises:
        ValueError: if it does not.
    """
    names = [name for name in missing if name.startswith("pooler.")]
    if not names:
        return
    with safe_open(cached_file(source, _WEIGHTS, **hub), framework="pt") as file:
        stored = set(file.keys())
    # An adapter of one of its layers is not its weight.
    if not all(_PREFIX + name in stored for name in names):
        raise ValueError(
            f"an adapter must hold the pooler that its base model lacks, but {source} does not: load it with "
            "use_pooler=False, or name `pooler` in `modules_to_save` when it is trained"
        )


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Silences the report on new modules of the base model: their weights are in the adapter."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def base_of_adapter(source: Any, **hub: Any) -> str:
    """
    Returns the directory or Hub id of the base model of an adapter.

    Raises:
        ValueError: if the adapter names none.
    """
    path = cached_file(source, ADAPTER_FILE, **hub)
    with open(path, encoding="utf-8") as file:
        base_name = json.load(file).get("base_model_name_or_path")
    if not base_name:
        raise ValueError(f"{source} must name its base model in {ADAPTER_FILE}, but does not")
    return base_name


__all__ = ["base_of_adapter", "read_adapter", "require_peft"]
