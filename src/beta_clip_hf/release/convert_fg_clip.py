"""Converts FG-CLIP's own layout to a directory of this package, and a model of this package back to that layout."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import naming_errors
from ..inference.stored_sizes import stored_config
from ..model.checkpoints_beta_clip import FG_CLIP_SWITCHES, from_fg_clip, is_fg_clip, read_weights, to_fg_clip
from ..model.configuration_beta_clip import CLIP_TEXT_POSITIONS, LONG_TEXT_POSITIONS, BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.processing_beta_clip import BetaCLIPProcessor
from .directories import (
    check_output,
    check_positions,
    clip_config,
    read_model,
    read_processor,
    save_clip_processor,
    write_weights,
)


logger = logging.getLogger(__name__)

THEIR_CLASS = "FGCLIPModel"
# FG-CLIP's code overwrites the id of its configuration with this one.
THEIR_EOS = 49407


def convert_fg_clip(
    source: str | Path, output_dir: str | Path, *, tokenizer: str | Path | None = None
) -> BetaCLIPModel:
    r"""
    Converts a checkpoint of FG-CLIP (v1) and saves it with its configuration and processor.

    Args:
        source: Directory or Hub id with FG-CLIP's `config.json` and weights. In a directory the only safetensors file
            may have any name.
        output_dir: Directory to write.
        tokenizer: Directory or Hub id of a tokenizer. `None` takes the one of `source`; if there is none, no processor
            is saved, and a warning says so.

    Returns:
        The converted model in the dtype of the checkpoint, in evaluation mode.

    Raises:
        ValueError: if the source is no FG-CLIP checkpoint; if a tensor is missing, unknown or has another shape than
            the configuration says (it is named); if the tokenizer has another vocabulary; or if the output is the
            source itself.

    Source: the release of FG-CLIP, branch v1.0, `FGCLIPModel`.
    """
    check_output(output_dir, source)
    with naming_errors(source, "the directory of a model, or its Hub id"):
        stored = stored_config(source)
        tensors = read_weights(source)
    if not is_fg_clip(tensors):
        raise ValueError(f"source must be an FG-CLIP checkpoint, but {source} has no text_filip_projection")
    # It names the authors' own code.
    stored.pop("auto_map", None)
    model = BetaCLIPModel(BetaCLIPConfig(**stored | FG_CLIP_SWITCHES))
    state_dict = from_fg_clip(tensors)
    _check_tensors(state_dict, model.state_dict())
    model.load_state_dict(state_dict, assign=True)
    processor = _choose_processor(source, model.config, tokenizer)

    model.save_pretrained(output_dir)
    if processor is not None:
        processor.save_pretrained(output_dir)
    return model.eval()


def convert_back(source: str | Path, output_dir: str | Path, *, tokenizer: str | Path | None = None) -> BetaCLIPModel:
    r"""
    Writes a model in FG-CLIP's layout: with their names of tensors and their configuration.

    FG-CLIP stores two long position tables and reads 20 rows of one and 228 of the other. Both are filled from the one
    table of the model.

    Args:
        source: Directory or Hub id of a model with two text paths and regions, without a pooler.
        output_dir: Directory to write.
        tokenizer: Directory or Hub id of a tokenizer. `None` takes the one of `source`.

    Returns:
        The model that was read.

    Raises:
        ValueError: if the model has something that FG-CLIP has no place for, or lacks something (it is named), or if
            the output is the source itself.
    """
    check_output(output_dir, source)
    model = read_model(source)
    state_dict = to_fg_clip(model.state_dict())
    check_positions(model.config, {"short": CLIP_TEXT_POSITIONS, "long": LONG_TEXT_POSITIONS}, "FG-CLIP")
    _warn_of_other_end(model.config)
    processor = _choose_processor(source, model.config, tokenizer)

    folder = Path(output_dir)
    write_weights(state_dict, _their_config(model), folder)
    if processor is not None:
        save_clip_processor(processor, folder, processor.tokenizer.model_max_length)
    return model


def _warn_of_other_end(config: Any) -> None:
    end = config.text_config.eos_token_id
    if end != THEIR_EOS:
        logger.warning(
            "FG-CLIP's code ends texts with id %s whatever the configuration says, but this model ends them with %s",
            THEIR_EOS,
            end,
        )


def _their_config(model: BetaCLIPModel) -> dict[str, Any]:
    config = clip_config(model.config, CLIP_TEXT_POSITIONS).to_diff_dict()
    for tower in ("text_config", "vision_config"):
        # The dtype is that of the whole model.
        config[tower].pop("dtype", None)
    config["architectures"] = [THEIR_CLASS]
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    return config


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Checks that a checkpoint has exactly the tensors of a model, in their shapes."""
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise ValueError(f"the checkpoint must hold all tensors of its configuration, but lacks {missing}")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise ValueError(f"every tensor of the checkpoint must be known, but these are not: {unknown}")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"{name} must be {tuple(tensor.shape)}, but is {tuple(tensors[name].shape)}")


def _choose_processor(source: str | Path, config: Any, tokenizer: str | Path | None) -> BetaCLIPProcessor | None:
    """
    Loads the processor of a source, or makes one with another tokenizer, and sets it to what FG-CLIP does.

    Returns:
        The processor, or `None` if the source has none.
    """
    processor = _read_or_make_processor(source, config, tokenizer)
    vocab_size = config.text_config.vocab_size
    if processor is None:
        logger.warning("Give the tokenizer of its %d ids with --tokenizer", vocab_size)
        return None
    if len(processor.tokenizer) != vocab_size:
        raise ValueError(
            f"tokenizer must have {vocab_size} ids like the checkpoint, but that of {tokenizer or source} has "
            f"{len(processor.tokenizer)}"
        )
    # FG-CLIP resizes images to a square without a crop.
    processor.squash_images()
    processor.short_max_length = CLIP_TEXT_POSITIONS
    return processor


def _read_or_make_processor(source: str | Path, config: Any, tokenizer: str | Path | None) -> BetaCLIPProcessor | None:
    if tokenizer is None:
        return read_processor(source)
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    return BetaCLIPProcessor.from_image_size(loaded, config.vision_config.image_size)


__all__ = ["convert_back", "convert_fg_clip"]
