"""Exports a model as a plain `CLIPModel`, with 248 positions and one text path, for programs without this package."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPModel

from ..model.checkpoints_beta_clip import LONG_TABLE
from ..model.configuration_beta_clip import LONG_TEXT_POSITIONS, TEXT_PATHS
from ..model.objective_beta_clip import added_logit_scales
from .directories import check_output, clip_config, read_model, read_processor, save_clip_processor


logger = logging.getLogger(__name__)

TABLE = "text_model.embeddings.position_embedding.weight"
PROJECTION = "text_projection.weight"
LONG_PROJECTION = "long_text_projection.weight"


def export_clip(source: str | Path, output_dir: str | Path, *, path: str | None = None) -> CLIPModel:
    r"""
    Writes a model as a plain `CLIPModel` with its tokenizer and image processor.

    The exported table of positions has at least 248 rows. If the model has fewer (the short path of two, a model of 77
    positions), its last row is repeated, and the tokenizer's `model_max_length` is the number of trained rows.

    Args:
        source: Directory or Hub id of a model that `BetaCLIPModel.from_pretrained` loads.
        output_dir: Directory to write.
        path: Text path of a model with two: `"long"` (the default) or `"short"`. Other models take `None` only.

    Returns:
        The exported model in the dtype of `source`, in evaluation mode. What it lacks is logged.

    Raises:
        ValueError: if the model has no such path, or the output is the source itself.
    """
    check_output(output_dir, source)
    model = read_model(source)
    path = _choose_path(path, model.config)
    exported = _clip_tensors(model.state_dict(), path)
    trained_rows = len(exported.state_dict[TABLE])
    exported.state_dict[TABLE] = _repeat_last_row(exported.state_dict[TABLE])
    clip = CLIPModel(clip_config(model.config, len(exported.state_dict[TABLE])))
    clip.load_state_dict(exported.state_dict, assign=True)
    clip.save_pretrained(output_dir)
    logger.info("Not in the export: %s", "; ".join(exported.lost) or "nothing, all weights are")
    processor = read_processor(source)
    if processor is not None:
        length = processor.short_max_length if path == "short" else processor.max_length
        # Texts are cut before the repeated rows: nothing was learnt about these positions.
        save_clip_processor(processor, output_dir, min(length or trained_rows, trained_rows))
    return clip.eval()


def _choose_path(path: str | None, config: Any) -> str | None:
    """Returns the text path to export, or `None` for a model with one path."""
    if not config.use_long_text_path:
        if path is not None:
            raise ValueError(f"path must be left out for a model with one text path, but is {path!r}")
        return None
    if path is None:
        logger.info("Exporting the long text path, which has the positions beyond 77; --path short exports the other")
        return "long"
    if path not in TEXT_PATHS:
        raise ValueError(f"path must be one of {TEXT_PATHS}, but is {path!r}")
    return path


class _ClipTensors(NamedTuple):
    """The tensors of a model that `CLIPModel` has, and descriptions of those that are left out."""

    state_dict: dict[str, Tensor]
    lost: list[str]


def _clip_tensors(state_dict: dict[str, Tensor], path: str | None) -> _ClipTensors:
    """Selects the tensors of a plain CLIP. Those of the chosen text path take the places that it has for texts."""
    tensors = dict(state_dict)
    lost = []
    pooler = [name for name in tensors if name.startswith("pooler.")]
    for name in pooler:
        del tensors[name]
    if pooler:
        lost.append("the pooler (text-conditioned image features, attention maps and scores)")
    if path is not None:
        table = tensors.pop(LONG_TABLE)
        projection = tensors.pop(LONG_PROJECTION)
        if path == "long":
            tensors[TABLE] = table
            tensors[PROJECTION] = projection
        other_path = "short" if path == "long" else "long"
        lost.append(f"the {other_path} text path (its positions and its projection)")
    # Only training uses these scales, and a plain CLIP has no place for them.
    for name in added_logit_scales():
        if tensors.pop(name, None) is not None:
            lost.append(f"{name} (of training)")
    return _ClipTensors(tensors, lost)


def _repeat_last_row(table_LW: Tensor) -> Tensor:
    """Extends a table of positions to 248 rows. A longer table stays as it is."""
    missing = LONG_TEXT_POSITIONS - len(table_LW)
    if missing <= 0:
        return table_LW
    return torch.cat([table_LW, table_LW[-1:].expand(missing, -1)])


__all__ = ["export_clip"]
