"""Checkpoints of FG-CLIP: recognised by their tensors, and their names and tables turned into ours and back.

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
FG_CLIP_PROJECTION = "text_filip_projection.weight"
# Their name on the left, ours on the right; every other name is CLIP's in both.
FG_CLIP_NAMES = {
    FG_CLIP_PROJECTION: "long_text_projection.weight",
    "logit_scale_finegraind": "region_logit_scale",
    "logit_scale_hardneg": "hard_negative_logit_scale",
}
# What a file of theirs says of the architecture by holding these tensors.
FG_CLIP_SWITCHES = {"use_pooler": False, "use_long_text_path": True, "use_regions": True}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "checkpoint.safetensors")
_BUFFERS = ("position_ids",)  # older versions of transformers stored them


def is_fg_clip(names: Iterable[str]) -> bool:
    """Whether a checkpoint with tensors of these names is one of FG-CLIP (v1)."""
    return FG_CLIP_PROJECTION in names


def from_fg_clip(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""
    FG-CLIP's tensors under our names, the two long tables merged into the one that their model reads.

    Args:
        state_dict: all tensors of an FG-CLIP checkpoint.

    Raises:
        ValueError: if one of the five tensors that FG-CLIP adds to CLIP is missing.

    Source: the release of FG-CLIP (v1.0), `FGCLIPModel`.
    """
    missing = {FG_CLIP_FIRST_ROWS, FG_CLIP_OTHER_ROWS, *FG_CLIP_NAMES} - state_dict.keys()
    if missing:
        raise ValueError(f"an FG-CLIP checkpoint must hold {sorted(missing)}, but does not")
    first, other = state_dict[FG_CLIP_FIRST_ROWS], state_dict[FG_CLIP_OTHER_ROWS]
    ours = {
        FG_CLIP_NAMES.get(name, name): tensor
        for name, tensor in state_dict.items()
        if name not in (FG_CLIP_FIRST_ROWS, FG_CLIP_OTHER_ROWS) and name.split(".")[-1] not in _BUFFERS
    }
    return ours | {LONG_TABLE: torch.cat([first[:KEPT_TEXT_POSITIONS], other[KEPT_TEXT_POSITIONS:]])}


def to_fg_clip(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""
    The inverse of [`from_fg_clip`]: our tensors under FG-CLIP's names. Both of their long tables are the merged one.

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
    return theirs | {name: state_dict[LONG_TABLE].clone() for name in (FG_CLIP_FIRST_ROWS, FG_CLIP_OTHER_ROWS)}


def read_weights(source: str | Path, **hub: Any) -> dict[str, Tensor]:
    """
    All tensors of a checkpoint, on the CPU; pickles are read with `weights_only=True`.

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
    """The names of a checkpoint's tensors, see [`read_weights`], none without weights; safetensors are not read."""
    return set(_read(_weight_files(source, **hub), "meta"))


def _read(files: list[str], device: str) -> dict[str, Tensor]:
    return {name: tensor for file in files for name, tensor in load_state_dict(file, device).items()}


def _weight_files(source: str | Path, **hub: Any) -> list[str]:
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    for name in WEIGHT_FILES:
        for file in (name, f"{name}.index.json"):
            found = cached_file(source, file, **hub, **quiet)
            if found is not None:
                return [found] if file == name else get_checkpoint_shard_files(source, found, **hub)[0]
    files = list(Path(source).glob("*.safetensors"))
    return [str(files[0])] if len(files) == 1 else []


__all__ = ["FG_CLIP_SWITCHES", "from_fg_clip", "is_fg_clip", "read_weights", "to_fg_clip", "weight_names"]
