"""Builds a model on SigLIP 2 towers, and its processor, from the section `model` of a configuration."""

from collections.abc import Mapping
from typing import Any

from ...files import naming_errors
from ...inference.stored_sizes import stored_config
from ...model.checkpoints_beta_siglip2 import is_on_siglip2
from ...model.configuration_beta_siglip2 import BetaSiglip2Config
from ...model.image_views_beta_clip import has_any_grid
from ...model.modeling_beta_siglip2 import BetaSiglip2Model
from ...model.processing_beta_siglip2 import BetaSiglip2Processor
from .from_scratch import check_vocabulary, values_from_scratch
from .loading import loading_arguments


def is_siglip2(settings: Mapping[str, Any]) -> bool:
    """Tells whether the section names a model on SigLIP 2 towers: FG-CLIP 2, SigLIP 2, SigLIP, or ours."""
    source = settings.get("from_pretrained")
    stored = settings.get("from_scratch") or {}
    if source:
        with naming_errors(source, "the directory of a model, or its Hub id"):
            stored = stored_config(source)
    return is_on_siglip2(stored)


def build_siglip2(settings: Mapping[str, Any], tokenizer: Any) -> tuple[BetaSiglip2Model, BetaSiglip2Processor]:
    """
    Builds the model and its processor.

    Args:
        settings: The section `model`.
        tokenizer: A tokenizer, or `None` for that of the checkpoint.

    Raises:
        ValueError: if a model from scratch has no tokenizer, the tokenizer has more ids than the model, or images are
            to be squashed.
    """
    if settings.get("squash_images"):
        raise ValueError("model.squash_images must be false for SigLIP 2, which takes images of any shape, but is true")
    changes = dict(settings.get("config") or {})
    source = settings.get("from_pretrained")
    if source:
        model = BetaSiglip2Model.from_pretrained(source, **changes, **loading_arguments(settings))
    else:
        model = BetaSiglip2Model(BetaSiglip2Config(**values_from_scratch(settings["from_scratch"], tokenizer, changes)))
    patch_size = model.config.vision_config.patch_size
    if tokenizer is None:
        processor = BetaSiglip2Processor.from_pretrained(source)
    else:
        # As many patches as the tower was made for.
        num_patches = model.config.vision_config.num_patches
        processor = BetaSiglip2Processor.from_patch_size(tokenizer, patch_size, max_num_patches=num_patches)
    if settings.get("dynamic_max_patches") is not None:
        processor.dynamic_max_patches = _dynamic_max_patches(settings, processor)
    _fit_to_model(processor, model.config)
    return model, processor


def _dynamic_max_patches(settings: Mapping[str, Any], processor: BetaSiglip2Processor) -> bool:
    """Returns whether a batch chooses its budget of patches."""
    is_dynamic = bool(settings["dynamic_max_patches"])
    if is_dynamic and not has_any_grid(processor.image_processor):
        raise ValueError(
            "model.dynamic_max_patches must be false for a SigLIP whose images have one size, but is true: "
            "--set model.dynamic_max_patches=false"
        )
    return is_dynamic


def _fit_to_model(processor: BetaSiglip2Processor, config: Any) -> None:
    """Gives a processor the text paths of the model, and checks its vocabulary."""
    check_vocabulary(processor.tokenizer, config)
    processor.max_length = config.text_positions("short")
    processor.long_max_length = config.text_positions("long")
    processor.text_path_of_kind = list(config.text_path_of_kind)


__all__ = ["build_siglip2", "is_siglip2"]
