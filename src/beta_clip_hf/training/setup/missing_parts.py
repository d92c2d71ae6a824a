"""Settings of a run that a model has no part for: they would change nothing, without a word."""

from collections.abc import Iterable, Mapping
from typing import Any

from ...model.objective_beta_clip import LOSS_PARTS


# Training arguments that move the pooler alone.
_POOLER_RATES = ("pooler_learning_rate", "pooler_learning_rate_end")
# What the loss of a pooler reads beside its weights.
_POOLER_SETTINGS = ("alignment_loss", "beta")
_NEGATIVE_COUNTS = ("num_caption_negatives", "num_phrase_negatives")


def check_parts(config: Mapping[str, Any], model_config: Any) -> None:
    """
    Checks that the model has what the settings of a run need, and that the rows do.

    Only settings that are given count. The defaults of the model do not: a part that it lacks is left out of them.

    Args:
        config: The sections `model`, `data` and `training`.
        model_config: The configuration of the model that was built.

    Raises:
        ValueError: if a part of the loss has a weight, but the model cannot compute it, or the rows have nothing for
            it; if settings of the pooler are given, but there is none, and nobody said so.
    """
    settings = config["model"].get("config") or {}
    weights = [name for name in settings if name.endswith("_loss_weight") and settings[name]]
    weight_of_rows: dict[str, list[str]] = {}
    weight_of_switch: dict[str, list[str]] = {}
    for part in LOSS_PARTS.values():
        if part.weight in weights:
            weight_of_rows.setdefault(part.rows, []).append(part.weight)
            if part.requires is not None:
                weight_of_switch.setdefault(part.requires, []).append(part.weight)
    for name in weights:
        if not hasattr(type(model_config), name):
            kind = model_config.model_type
            raise ValueError(f"model.config.{name} must be left out for a model of type {kind}, which has no such part")
    for switch, names in weight_of_switch.items():
        _check_switch(model_config, switch, _in_config(names))
    if "use_pooler" not in settings:
        pooler_settings = [name for name in settings if name in _POOLER_SETTINGS or name.startswith("pooler_")]
        rates = [f"training.{name}" for name in _POOLER_RATES if name in config["training"]]
        _check_switch(model_config, "use_pooler", [*_in_config(pooler_settings), *rates])
    if settings.get("long_text_max_position_embeddings"):
        _check_switch(model_config, "use_long_text_path", ["model.config.long_text_max_position_embeddings"])
    _check_rows(config["data"], weight_of_rows, model_config)


def _check_switch(model_config: Any, switch: str, asking: list[str]) -> None:
    """Raises `ValueError` if there are settings that ask for a part whose switch is off."""
    # On SigLIP 2 towers every model has a long path, and no switch for it.
    if asking and not getattr(model_config, switch, True):
        raise ValueError(
            f"model.config.{switch} must be true for {_joined(asking)}, but the model has no such part: add "
            f"--set model.config.{switch}=true, or leave them out"
        )


def _check_rows(data: Mapping[str, Any], weight_of_rows: Mapping[str, list[str]], model_config: Any) -> None:
    """Raises `ValueError` if a part of the loss has a weight, but no rows are asked for, or the other way round."""
    region_weights = [*weight_of_rows.get("regions", []), *weight_of_rows.get("hard_texts", [])]
    if region_weights and not data.get("num_regions"):
        raise ValueError(f"data.num_regions must be at least 1 for {_joined(_in_config(region_weights))}")
    if data.get("num_regions"):
        _check_switch(model_config, "use_regions", ["data.num_regions"])
    counts = [f"data.{name}" for name in _NEGATIVE_COUNTS if data.get(name)]
    negative_weights = weight_of_rows.get("negatives", [])
    if negative_weights and not counts:
        raise ValueError(
            f"data.num_caption_negatives or data.num_phrase_negatives must be at least 1 for "
            f"{_joined(_in_config(negative_weights))}"
        )
    learns_negatives = any(part.rows == "negatives" and part.weight_in(model_config) for part in LOSS_PARTS.values())
    if counts and not learns_negatives:
        raise ValueError(
            f"model.config.text_negative_loss_weight or model.config.conditioned_negative_loss_weight must be above 0 "
            f"for {_joined(counts)}"
        )


def _in_config(names: Iterable[str]) -> list[str]:
    return [f"model.config.{name}" for name in names]


def _joined(names: Iterable[str]) -> str:
    return " and ".join(names)


__all__ = ["check_parts"]
