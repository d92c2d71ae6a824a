"""What the models of both families share when they are built from a configuration."""

from collections.abc import Mapping
from typing import Any


def values_from_scratch(sizes: Mapping[str, Any], tokenizer: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns the values of the configuration of a model from scratch.

    Args:
        sizes: The section `model.from_scratch`.
        tokenizer: The tokenizer. The vocabulary and the special ids are its own, whatever the section says.
        changes: The section `model.config`, which goes before `sizes`.

    Raises:
        ValueError: if there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("model.tokenizer must be given for a model from scratch, but is not")
    values = {**sizes, **changes}
    values["text_config"] = {
        **(values.get("text_config") or {}),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": len(tokenizer),
    }
    return values


def check_vocabulary(tokenizer: Any, config: Any) -> None:
    """Raises `ValueError` if a tokenizer has ids that the model of a configuration does not know."""
    ids = config.text_config.vocab_size
    if len(tokenizer) > ids:
        raise ValueError(f"the tokenizer must have at most the model's {ids} ids, but has {len(tokenizer)}")


__all__ = ["check_vocabulary", "values_from_scratch"]
