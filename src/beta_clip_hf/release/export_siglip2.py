"""Exports one text path of a model on SigLIP 2 towers as a plain `Siglip2Model`, for programs without this package."""

import logging
from pathlib import Path

from transformers import Siglip2Config, Siglip2Model, Siglip2Processor

from ..model.checkpoints_beta_siglip2 import LONG_TABLE
from ..model.configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from .directories import check_output, read_processor


logger = logging.getLogger(__name__)

TABLE = "text_model.embeddings.position_embedding.weight"
# The tensors of a path that take the places of those of the short one.
_HEADS = {"short": "text_model.head.", "long": "long_text_head.", "box": "box_text_head."}


def export_siglip2(source: str | Path, output_dir: str | Path, *, path: str = "short") -> Siglip2Model:
    r"""
    Writes a model as a plain `Siglip2Model` with its tokenizer and image processor.

    Texts of the export take one path, and are padded to all of its positions, as for any SigLIP 2.

    Args:
        source: Directory or Hub id of a model that `BetaSiglip2Model.from_pretrained` loads.
        output_dir: Directory to write.
        path (`"short" | "long" | "box"`): The text path.

    Returns:
        The exported model in the dtype of `source`, in evaluation mode. What it lacks is logged.

    Raises:
        ValueError: if there is no such path, or the output is the source itself.
    """
    check_output(output_dir, source)
    if path not in SIGLIP_TEXT_PATHS:
        raise ValueError(f"path must be one of {SIGLIP_TEXT_PATHS}, but is {path!r}")
    model = BetaSiglip2Model.from_pretrained(source)
    ours = model.state_dict()
    text_config = {**model.config.text_config.to_dict(), "max_position_embeddings": model.config.text_positions(path)}
    config = Siglip2Config(
        text_config=text_config, vision_config=model.config.vision_config.to_dict(), dtype=model.dtype
    )
    exported = Siglip2Model(config)
    tensors = {name: ours[name] for name in exported.state_dict()}
    if path == "long":
        tensors[TABLE] = ours[LONG_TABLE]
    for name in ("weight", "bias"):
        tensors[f"text_model.head.{name}"] = ours[f"{_HEADS[path]}{name}"]
    exported.load_state_dict(tensors, assign=True)
    exported.save_pretrained(output_dir)
    lost = sorted({name.split(".")[0] for name in ours.keys() - tensors.keys()})
    logger.info("Not in the export: the other text paths, and %s", ", ".join(lost))
    processor = read_processor(source, BetaSiglip2Processor)
    if processor is not None:
        tokenizer = processor.tokenizer
        tokenizer.model_max_length = model.config.text_positions(path)
        Siglip2Processor(processor.image_processor, tokenizer).save_pretrained(output_dir)
    return exported.eval()


__all__ = ["export_siglip2"]
