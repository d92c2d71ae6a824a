"""What is exported of a model: its graphs, how their inputs are made, and a tokenizer. Either family of towers."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..files import naming_errors
from ..inference.models import load_model
from ..inference.stored_sizes import stored_config
from ..model.checkpoints_beta_siglip2 import is_on_siglip2
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from .directories import read_any_model
from .graphs import Graph, graphs_of
from .graphs_siglip2 import checked_grid, checked_path, graphs_of_siglip2, standalone_tokenizer


logger = logging.getLogger(__name__)


class ExportParts(NamedTuple):
    """What is exported of a model."""

    description: dict[str, Any]
    """How its inputs are made, see [`describe_inputs`]."""
    graphs: dict[str, Graph]
    tokenizer: Any
    """Of the library `tokenizers`."""


def parts_of(source: str | Path, path: str | None, grid: tuple[int, int] | None) -> ExportParts:
    """Loads a model and takes it apart, see [`export_graphs`] for arguments and errors."""
    with naming_errors(source, "the directory of a model, or its Hub id"):
        stored = stored_config(source)
    if is_on_siglip2(stored):
        return _parts_of_siglip2(source, path, grid)
    if grid is not None:
        raise ValueError(f"grid must be left out for a CLIP, whose images have one size, but is {tuple(grid)}")
    model, processor, _ = load_model(str(source), torch.device("cpu"))
    if not isinstance(model, BetaCLIPModel):
        raise ValueError(
            f"model must be a β-CLIP, an FG-CLIP, a CLIP, a SigLIP or a SigLIP 2, but is a {type(model).__name__}"
        )
    if path is None and model.config.use_long_text_path:
        path = "long"
        logger.info("Exporting the long text path; the other: --path short")
    description = describe_inputs(model, processor, path)
    tokenizer = cutting_tokenizer(processor.tokenizer, description["text"]["max_length"])
    return ExportParts(description, graphs_of(model, processor, path), tokenizer)


def _parts_of_siglip2(source: str | Path, path: str | None, grid: tuple[int, int] | None) -> ExportParts:
    """Loads a model on SigLIP 2 towers and takes it apart."""
    if path is None:
        logger.info("Exporting the short text path; the others: --path long, --path box")
    path = checked_path(path)
    model = read_any_model(source).float().eval()
    assert isinstance(model, BetaSiglip2Model)
    processor = BetaSiglip2Processor.from_pretrained(source)
    processor.max_length = model.config.text_positions("short")
    processor.long_max_length = model.config.text_positions("long")
    grid = checked_grid(model, grid)
    patch_size = model.config.vision_config.patch_size
    height, width = grid[0] * patch_size, grid[1] * patch_size
    positions = model.config.text_positions(path)
    image_settings = {
        # The whole image fills the grid, whatever its shape.
        "resize": {"height": height, "width": width},
        "center_crop": None,
        **_describe_values(processor.image_processor),
        "size": [height, width],
        "grid": list(grid),
        "patch_size": patch_size,
    }
    description = {
        "image": image_settings,
        "text": {"path": path, "positions": positions, "max_length": positions},
        "projection_dim": model.config.projection_dim,
        "logit_scales": _logit_scales(model),
        "logit_bias": model.logit_bias.item(),
    }
    graphs = graphs_of_siglip2(model, processor, path, grid, image_settings)
    return ExportParts(description, graphs, standalone_tokenizer(processor, path))


def describe_inputs(model: BetaCLIPModel, processor: Any, path: str | None) -> dict[str, Any]:
    """
    Describes how an image becomes pixel values and a text becomes tokens, and the scales of the embeddings' cosines.

    Args:
        model: The model that is exported.
        processor: The processor of the model.
        path: The text path of a model with two.

    Returns:
        The parts `image`, `text`, `projection_dim` and `logit_scales` of `export.json`.
    """
    config = model.config
    positions = model.text_model.embeddings.position_embedding.num_embeddings
    if path == "long":
        positions = config.long_text_max_position_embeddings
    max_length = processor.short_max_length if path == "short" else processor.max_length
    return {
        "image": _describe_images(processor.image_processor, config.vision_config),
        "text": {"path": path, "positions": positions, "max_length": min(max_length or positions, positions)},
        "projection_dim": config.projection_dim,
        "logit_scales": _logit_scales(model),
    }


def _logit_scales(model: BetaCLIPModel | BetaSiglip2Model) -> dict[str, float]:
    """Returns the scales of the cosines of embeddings, by the names of the embeddings."""
    scales = {"embeds": model.logit_scale.exp().item()}
    if model.pooler is not None:
        scales["contextualized_embeds"] = model.pooler.logit_scale.exp().item()
    return scales


def _describe_images(image_processor: Any, vision_config: Any) -> dict[str, Any]:
    """Describes how an image becomes pixel values. Steps that are switched off become steps that change nothing."""
    return {
        "resize": dict(image_processor.size) if image_processor.do_resize else None,
        "center_crop": dict(image_processor.crop_size) if image_processor.do_center_crop else None,
        **_describe_values(image_processor),
        "size": vision_config.image_size,
        "patch_size": vision_config.patch_size,
    }


def _describe_values(image_processor: Any) -> dict[str, Any]:
    """Describes how the values of a pixel are resampled, rescaled and normalised."""
    mean, std = [0.0] * 3, [1.0] * 3
    if image_processor.do_normalize:
        mean, std = list(image_processor.image_mean), list(image_processor.image_std)
    return {
        # PIL's numbers: 2 is bilinear, 3 bicubic.
        "resample": int(image_processor.resample),
        "rescale_factor": image_processor.rescale_factor if image_processor.do_rescale else 1.0,
        "mean": mean,
        "std": std,
    }


def cutting_tokenizer(tokenizer: Any, max_length: int) -> Any:
    """Makes a tokenizer of the library `tokenizers`, which cuts, ends and pads texts without transformers."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.enable_truncation(max_length)
    plain.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return plain


__all__ = ["ExportParts", "describe_inputs", "parts_of"]
