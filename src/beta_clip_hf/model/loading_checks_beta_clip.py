# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Checks of what `from_pretrained` is given and has loaded.

No weight starts at random unless its part is new, and none is NaN or infinite.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from .configuration_beta_clip import BetaCLIPConfig
from .objective_beta_clip import added_logit_scales


# The parts of a model that a checkpoint may lack as a whole, with the switch that gives a model the part. The names of
# a part's tensors begin with its words.
SWITCHES_OF_PARTS = {
    "pooler.": "use_pooler",
    "text_model.embeddings.long_position_embedding.": "use_long_text_path",
    "long_text_projection.": "use_long_text_path",
    "region_logit_scale": "use_regions",
    "hard_negative_logit_scale": "use_regions",
}
# What a BetaCLIPModel is loaded from, as the message on a checkpoint of another kind says it.
ACCEPTED_BY_BETA_CLIP = "β-CLIP ('beta_clip'), or of CLIP, Long-CLIP or FG-CLIP 1 with both towers ('clip')"
# Error messages name this many tensors.
_NAMED = 3


def check_model_type(
    stored: Mapping[str, Any],
    source: Any,
    known_types: Collection[str],
    model_name: str = "BetaCLIPModel",
    accepted: str = ACCEPTED_BY_BETA_CLIP,
) -> None:
    """
    Checks that a checkpoint is of a kind that a model can be made of.

    Args:
        stored: The content of its config.json.
        source: The name of its directory or repository.
        known_types: The values of `model_type` that are known.
        model_name, accepted: The class of the model and the kinds of checkpoints it takes, for the message.

    Raises:
        ValueError: if it is of another kind; the message names it, and what is accepted.
    """
    model_type = stored.get("model_type")
    if model_type in known_types:
        return
    if not model_type:
        # A directory without the file reads as an empty one.
        raise ValueError(
            f"a {model_name} must be loaded from a checkpoint of {accepted}, but {source} has no config.json with a "
            "model_type: check the path, and the subfolder if any"
        )
    kind = f"model_type {model_type!r}"
    architectures = stored.get("architectures")
    if architectures:
        kind = f"{architectures[0]} ({kind})"
    raise ValueError(
        f"a {model_name} must be loaded from a checkpoint of {accepted}, but {source} is {kind}: name another base"
    )


def check_quantization(arguments: Mapping[str, Any]) -> None:
    """Raises `ValueError` for the flags by which releases of transformers before 5 quantised a model."""
    for flag in ("load_in_8bit", "load_in_4bit"):
        if flag in arguments:
            raise ValueError(f"{flag} must be given as quantization_config=BitsAndBytesConfig({flag}=True)")


def new_parts(stored: Mapping[str, Any]) -> list[str]:
    """
    Returns the parts that a checkpoint may lack, by the beginnings of the names of their tensors.

    Args:
        stored: The content of its config.json. What it says a model of ours has must be there. All parts are new to
            other models.
    """
    # A row that is added to the table of losses may bring a scale, which older checkpoints do not have.
    later_scales = [name for name in added_logit_scales() if name not in SWITCHES_OF_PARTS]
    if stored.get("model_type") == "clip" or not stored:
        return [*SWITCHES_OF_PARTS, *later_scales]
    # A setting that the file does not have keeps its default.
    off = [
        part for part, switch in SWITCHES_OF_PARTS.items() if not stored.get(switch, getattr(BetaCLIPConfig, switch))
    ]
    return [*off, *later_scales]


def check_loaded(
    model: nn.Module,
    info: Mapping[str, Any],
    source: Any,
    parts: Collection[str] = (),
    *,
    may_differ_in_shape: bool = False,
) -> None:
    """
    Checks that a checkpoint has filled all weights of a model, but for those of new parts.

    Args:
        model: The model that was loaded.
        info: What `from_pretrained` tells with `output_loading_info`.
        source: The name of the checkpoint.
        parts: The parts that it may lack, see [`new_parts`]; each as a whole.
        may_differ_in_shape: Whether tensors of other shapes were to be ignored.

    Raises:
        ValueError: if a tensor is missing, has another shape, or holds NaN or infinity; the message names it.
    """
    missing = set(info["missing_keys"])
    for part in parts:
        names = {name for name in model.state_dict() if name.startswith(part)}
        if names <= missing:
            missing -= names
    if missing:
        raise ValueError(
            f"a checkpoint must have all tensors of {type(model).__name__}, but {source} lacks {_some(missing)}: copy "
            "or download it again, or name another one"
        )
    mismatched = {}
    for name, stored_shape, shape in info["mismatched_keys"]:
        mismatched[f"{name} of {tuple(stored_shape)} instead of {tuple(shape)}"] = name
    if mismatched and not may_differ_in_shape:
        raise ValueError(
            f"the tensors of a checkpoint must have the shapes of its config.json, but {source} has "
            f"{_some(mismatched)}: mend its config.json, or name another checkpoint"
        )
    check_finite(model, source)


@torch.no_grad()
def check_finite(model: nn.Module, source: Any) -> None:
    """
    Checks that no weight is NaN or infinite, as after a training that has diverged: all outputs would be NaN.

    Weights that are on no device (offloaded to disk), or are quantised, are not read.

    Raises:
        ValueError: if one is; the message names the tensors.
    """
    broken = []
    for name, parameter in model.named_parameters():
        # Those of torchao say that they are floats, but have no sum.
        is_plain = type(parameter.data) is torch.Tensor and parameter.is_floating_point()
        if parameter.is_meta or not is_plain:
            continue
        # The sum is quick and shows all of them. It may overflow by itself, so that only the second look decides.
        if not parameter.sum(dtype=torch.float32).isfinite() and not parameter.isfinite().all():
            broken.append(name)
    if broken:
        raise ValueError(
            f"the tensors of a checkpoint must be finite, but {source} has NaN or infinity in {_some(broken)}: load an "
            "earlier checkpoint of the run"
        )


def load_checked(
    from_pretrained: Callable[..., Any],
    source: Any,
    *model_args: Any,
    checkpoint: Any = None,
    parts: Collection[str] = (),
    ignore_mismatched_sizes: bool = False,
    **kwargs: Any,
) -> tuple[Any, Mapping[str, Any]]:
    """
    Loads a model of any class of transformers, all of whose weights must be in the checkpoint.

    Args:
        from_pretrained: The method of a class, Auto classes included.
        source: A directory or a Hub id. `None` with the weights as `state_dict`.
        model_args, kwargs: What else `from_pretrained` takes.
        checkpoint: The name of the checkpoint for messages, where it is not the source.
        parts: The parts that it may lack, see [`new_parts`]; each as a whole.
        ignore_mismatched_sizes: Whether tensors may have other shapes than in the checkpoint, and are new then.

    Returns:
        The model, and what `output_loading_info` tells.

    Raises:
        ValueError: if a tensor is missing, has another shape, or holds NaN or infinity; the message names it.
    """
    # Tensors of other shapes are looked for here: the error of transformers does not name them.
    model, info = from_pretrained(source, *model_args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    name = checkpoint or source or "the state_dict"
    check_loaded(model, info, name, parts, may_differ_in_shape=ignore_mismatched_sizes)
    return model, info


def _some(names: Collection[str]) -> str:
    """Names the first few, and says how many there are beside them."""
    shown = ", ".join(sorted(names)[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


__all__ = [
    "SWITCHES_OF_PARTS",
    "check_finite",
    "check_loaded",
    "check_model_type",
    "check_quantization",
    "load_checked",
    "new_parts",
]
