# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of FG-CLIP: recognised by their tensors, and their names and tables turned into ours and back.

Their long text path reads rows 0..19 of one 248-row table and rows 20..247 of another; ours has the merged table.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import load_state_dict
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from .positions_beta_clip import KEPT_TEXT_POSITIONS


LONG_TABLE = "text_model.embeddings.long_position_embedding.weight"
FG_CLIP_FIRST_ROWS = "text_model.embeddings.position_embedding_ori.weight"
FG_CLIP_OTHER_ROWS = "text_model.embeddings.position_embedding_res.weight"
FG_CLIP_TABLES = (FG_CLIP_FIRST_ROWS, FG_CLIP_OTHER_ROWS)
FG_CLIP_PROJECTION = "text_filip_projection.weight"
# transformers' own way to rename tensors (`register_checkpoint_conversion_mapping`, `WeightRenaming`) does not serve
# here. `save_pretrained` turns it around, so that a model of ours would be saved under FG-CLIP's names, beside a config
# of ours. It begins when the model is there, and these names decide which parts the model has. It leaves out code that
# a checkpoint brings along, unless a mapping is registered for the whole process. And the two tables need an operation
# of its private module `core_model_loading` as well.
# Their name on the left, ours on the right; every other name is CLIP's in both.
FG_CLIP_NAMES = {
    FG_CLIP_PROJECTION: "long_text_projection.weight",
    # They spell it so.
    "logit_scale_finegraind": "region_logit_scale",
    "logit_scale_hardneg": "hard_negative_logit_scale",
}
# The switches of our configuration that these tensors imply; the config.json of FG-CLIP does not mention them.
FG_CLIP_SWITCHES = {"use_pooler": False, "use_long_text_path": True, "use_regions": True}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "checkpoint.safetensors")
# Old versions of transformers stored these tensors, which today's models make themselves.
_BUFFERS = ("position_ids",)


def is_fg_clip(names: Iterable[str]) -> bool:
    """Tells whether a checkpoint with tensors of these names is one of FG-CLIP (v1)."""
    # Any of them tells, so that a checkpoint that lacks another one is not taken for a plain CLIP.
    return not FG_CLIP_NAMES.keys().isdisjoint(names)


def from_fg_clip(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""
    Returns FG-CLIP's tensors under our names, with the two long tables merged into the one that their model reads.

    Args:
        state_dict: all tensors of an FG-CLIP checkpoint.

    Raises:
        ValueError: if one of the five tensors that FG-CLIP adds to CLIP is missing.

    Source: the release of FG-CLIP (v1.0), `FGCLIPModel`.
    """
    missing = {*FG_CLIP_TABLES, *FG_CLIP_NAMES} - state_dict.keys()
    if missing:
        raise ValueError(f"an FG-CLIP checkpoint must hold {sorted(missing)}, but does not")
    ours = {}
    for name, tensor in state_dict.items():
        is_buffer = name.split(".")[-1] in _BUFFERS
        if name not in FG_CLIP_TABLES and not is_buffer:
            ours[FG_CLIP_NAMES.get(name, name)] = tensor
    first_rows = state_dict[FG_CLIP_FIRST_ROWS][:KEPT_TEXT_POSITIONS]
    other_rows = state_dict[FG_CLIP_OTHER_ROWS][KEPT_TEXT_POSITIONS:]
    ours[LONG_TABLE] = torch.cat([first_rows, other_rows])
    return ours


def to_fg_clip(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""
    Returns our tensors under FG-CLIP's names: the inverse of [`from_fg_clip`].

    Both of their long tables become the merged one.

    Raises:
        ValueError: if the model is not one of FG-CLIP's architecture: a tensor of it is missing, or there is a pooler.
    """
    missing = {LONG_TABLE, *FG_CLIP_NAMES.values()} - state_dict.keys()
    if missing:
        raise ValueError(f"a model must have {sorted(missing)} to be written as FG-CLIP, but does not")
    if any(name.startswith("pooler.") for name in state_dict):
        raise ValueError("a model must have no pooler to be written as FG-CLIP, which has no place for it, but has one")
    their_names = {ours: theirs for theirs, ours in FG_CLIP_NAMES.items()}
    theirs = {their_names.get(name, name): tensor for name, tensor in state_dict.items() if name != LONG_TABLE}
    for table in FG_CLIP_TABLES:
        # Copies: safetensors refuses tensors that share their memory.
        theirs[table] = state_dict[LONG_TABLE].clone()
    return theirs


def read_weights(source: str | Path, **hub: Any) -> dict[str, Tensor]:
    """
    Reads all tensors of a checkpoint onto the CPU. Pickles are read with `weights_only=True`.

    Args:
        source: a directory or Hub id that holds one of `WEIGHT_FILES`, whole or in shards with an index; in a directory
            also its only safetensors file, whatever its name.
        hub: `revision`, `token`, … as for `from_pretrained`.

    Raises:
        ValueError: if there are no weights.
    """
    files = _weight_files(source, **hub)
    if not files:
        raise ValueError(f"a checkpoint must hold one of {WEIGHT_FILES}, but {source} does not")
    return _read(files, "cpu")


def weight_names(source: str | Path, **hub: Any) -> set[str]:
    """
    Returns the names of a checkpoint's tensors; none if there are no weights.

    Of safetensors only the header is read. The arguments are those of [`read_weights`].
    """
    return set(_read(_weight_files(source, **hub), "meta"))


def _read(files: list[str], device: str) -> dict[str, Tensor]:
    """Reads all tensors of several files. On the device "meta" safetensors give names and shapes only."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(load_state_dict(file, device))
    return tensors


def _weight_files(source: str | Path, **hub: Any) -> list[str]:
    """Finds the files of a checkpoint's weights on this disk, and downloads them from the Hub where needed."""
    # Without these two, `cached_file` raises an error for a file that is not there.
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    for name in WEIGHT_FILES:
        whole = cached_file(source, name, **hub, **quiet)
        if whole is not None:
            return [whole]
        index = cached_file(source, f"{name}.index.json", **hub, **quiet)
        if index is not None:
            shards, _ = get_checkpoint_shard_files(source, index, **hub)
            return shards
    # A converted checkpoint may have any name, if it is the only one.
    files = list(Path(source).glob("*.safetensors"))
    return [str(files[0])] if len(files) == 1 else []


__all__ = ["FG_CLIP_SWITCHES", "from_fg_clip", "is_fg_clip", "read_weights", "to_fg_clip", "weight_names"]
