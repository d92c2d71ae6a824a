# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of FG-CLIP 2, SigLIP 2 and SigLIP: their tensors and configurations turned into ours, and FG-CLIP 2's back.

The names of SigLIP 2 are ours. A SigLIP or SigLIP 2 of a fixed resolution has a convolution over patches, which is a
linear layer on the pixels of a patch. FG-CLIP 2 has names of its own, and two tables of long positions, of which it
reads rows 0..19 and the rest.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import cached_file

from .configuration_beta_siglip2 import LONG_SIGLIP_TEXT_POSITIONS, BetaSiglip2Config
from .positions_beta_clip import KEPT_TEXT_POSITIONS


FG_CLIP2 = "fgclip2"
# "siglip" is also the type of SigLIP 2 of a fixed resolution.
FIXED_SIGLIP = "siglip"
SIGLIP2 = "siglip2"
STOCK_TYPES = (FIXED_SIGLIP, SIGLIP2)
FOREIGN_TYPES = (FG_CLIP2, *STOCK_TYPES)

LONG_TABLE = "text_model.embeddings.long_position_embedding.weight"
FIRST_ROWS = "text_model.embeddings.position_embedding_ori.weight"
OTHER_ROWS = "text_model.embeddings.position_embedding_res.weight"
PATCH_EMBEDDING = "vision_model.embeddings.patch_embedding.weight"
# The beginning of their names on the left, of ours on the right; all others are SigLIP 2's in both.
FG_CLIP2_NAMES = {
    "longtext_head.": "long_text_head.",
    "boxtext_head.": "box_text_head.",
    "dense_feature_head.": "patch_head.",
    # They spell it so.
    "logit_scale_finegraind": "region_logit_scale",
    "logit_scale_hardneg": "hard_negative_logit_scale",
}
# What training adds to a released checkpoint.
REGION_SCALES = ("logit_scale_finegraind", "logit_scale_hardneg")
# State of a training run, for which FG-CLIP 2 has no place.
TRAINING_STATE = ("rank_loss.threshold",)
# Its image processor's own options, which are those of SigLIP 2 but for the name of the class.
_IMAGE_OPTIONS = (
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "max_num_patches",
    "patch_size",
    "resample",
    "rescale_factor",
)
# Old versions of transformers stored these tensors, which today's models make themselves.
_BUFFERS = ("position_ids",)


def is_on_siglip2(stored: Mapping[str, Any]) -> bool:
    """Tells whether the content of a config.json is that of a model on SigLIP 2 towers: ours, or a foreign one."""
    return stored.get("model_type") in (BetaSiglip2Config.model_type, *FOREIGN_TYPES)


def fg_clip2_image_options(stored_options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns the options of SigLIP 2's image processor that make the pixels of FG-CLIP 2.

    Args:
        stored_options: The content of its preprocessor_config.json.
        config: The content of its config.json, which has the size of a patch where the options lack it.
    """
    options = {name: stored_options[name] for name in _IMAGE_OPTIONS if name in stored_options}
    options.setdefault("patch_size", (config.get("vision_config") or {}).get("patch_size", 16))
    return options


def fg_clip2_text_lengths(config: Mapping[str, Any]) -> dict[str, int]:
    """Returns the lengths of texts of a processor, as far as the config.json of FG-CLIP 2 has them."""
    text_config = config.get("text_config") or {}
    fields = {"max_length": "max_position_embeddings", "long_max_length": "longtext_len"}
    return {name: text_config[field] for name, field in fields.items() if field in text_config}


def from_fg_clip2(state_dict: Mapping[str, Tensor], kept_positions: int = KEPT_TEXT_POSITIONS) -> dict[str, Tensor]:
    r"""
    Returns FG-CLIP 2's tensors under our names, with the two long tables merged into the one that their model reads.

    Args:
        state_dict: all tensors of an FG-CLIP 2 checkpoint.
        kept_positions: The rows that are read from the first table, `keep_len` of their configuration.

    Raises:
        ValueError: if a table is missing.

    Source: the release of FG-CLIP 2, `FG_CLIP2_Model`.
    """
    missing = {FIRST_ROWS, OTHER_ROWS} - state_dict.keys()
    if missing:
        raise ValueError(f"an FG-CLIP 2 checkpoint must hold {sorted(missing)}, but does not")
    ours = {}
    for name, tensor in state_dict.items():
        if name not in (FIRST_ROWS, OTHER_ROWS) and not _is_buffer(name):
            ours[_renamed(name, FG_CLIP2_NAMES)] = tensor
    ours[LONG_TABLE] = torch.cat([state_dict[FIRST_ROWS][:kept_positions], state_dict[OTHER_ROWS][kept_positions:]])
    return ours


def to_fg_clip2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""
    Returns our tensors under FG-CLIP 2's names: the inverse of [`from_fg_clip2`].

    Both of their long tables become the merged one.
    """
    their_names = {ours: theirs for theirs, ours in FG_CLIP2_NAMES.items()}
    theirs = {}
    for name, tensor in state_dict.items():
        if name != LONG_TABLE and name not in TRAINING_STATE:
            theirs[_renamed(name, their_names)] = tensor
    for table in (FIRST_ROWS, OTHER_ROWS):
        # Copies: safetensors refuses tensors that share their memory.
        theirs[table] = state_dict[LONG_TABLE].clone()
    return theirs


def from_siglip(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""
    Returns the tensors of a SigLIP of a fixed resolution as those of SigLIP 2, whose names are the same.

    The convolution over patches, `(D, 3, rows, columns)`, becomes the linear layer on the pixels of a patch,
    `(D, rows · columns · 3)`: the same numbers in the order row, column, channel.
    """
    ours = {name: tensor for name, tensor in state_dict.items() if not _is_buffer(name)}
    if PATCH_EMBEDDING in ours:
        ours[PATCH_EMBEDDING] = ours[PATCH_EMBEDDING].permute(0, 2, 3, 1).flatten(1).contiguous()
    return ours


def config_of(stored: Mapping[str, Any], names: set[str], changes: dict[str, Any]) -> BetaSiglip2Config:
    """
    Makes our configuration from that of FG-CLIP 2, SigLIP 2 or SigLIP.

    Args:
        stored: The content of its config.json.
        names: The names of its tensors: a checkpoint of FG-CLIP 2 has the scales of regions, or lacks them.
        changes: The arguments of `from_pretrained`. Those that are fields of the configuration are taken out.
    """
    values = dict(stored)
    # It may name code that the checkpoint brings along, and a class that is not ours.
    for name in ("auto_map", "architectures", "model_type"):
        values.pop(name, None)
    text = _tower(stored, "text_config")
    vision = _tower(stored, "vision_config")
    if stored["model_type"] == FG_CLIP2:
        text.pop("keep_len", None)
        values["long_text_max_position_embeddings"] = text.pop("longtext_len", LONG_SIGLIP_TEXT_POSITIONS)
        values["use_regions"] = names.issuperset(REGION_SCALES)
    elif stored["model_type"] == FIXED_SIGLIP:
        # The defaults of SigLIP: 224 pixels in patches of 16.
        side = vision.pop("image_size", 224) // vision.get("patch_size", 16)
        vision["num_patches"] = side**2
    values.update(text_config=text, vision_config=vision)
    # A long path is never shorter than the short one.
    positions = text.get("max_position_embeddings", 0)
    values.setdefault("long_text_max_position_embeddings", max(LONG_SIGLIP_TEXT_POSITIONS, positions))
    # "dtype" is an argument of `from_pretrained` as well, and is left for it.
    for name in (BetaSiglip2Config.__dataclass_fields__.keys() - {"dtype"}) & changes.keys():
        values[name] = changes.pop(name)
    return BetaSiglip2Config(**values)


def _tower(stored: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the configuration of a tower without the name of its class."""
    tower = dict(stored.get(name) or {})
    tower.pop("model_type", None)
    return tower


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """Replaces the beginning of a name by its counterpart, if it has one."""
    for before, after in prefixes.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _is_buffer(name: str) -> bool:
    return name.split(".")[-1] in _BUFFERS


def read_json(source: Any, name: str, hub_arguments: dict[str, Any]) -> dict[str, Any]:
    """Reads a JSON file of a directory or repository; one that is not there is empty."""
    # Without these two, `cached_file` raises an error for a file that is not there.
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    found = cached_file(source, name, **hub_arguments, **quiet)
    if found is None:
        return {}
    with open(found, encoding="utf-8") as file:
        return dict(json.load(file))


__all__ = [
    "FG_CLIP2",
    "FIXED_SIGLIP",
    "FOREIGN_TYPES",
    "config_of",
    "fg_clip2_image_options",
    "fg_clip2_text_lengths",
    "from_fg_clip2",
    "from_siglip",
    "is_on_siglip2",
    "read_json",
    "to_fg_clip2",
]
