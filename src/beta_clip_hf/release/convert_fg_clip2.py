"""Converts FG-CLIP 2's own layout to a directory of this package, and a model of this package back to that layout."""

from pathlib import Path
from typing import Any

from ..files import naming_errors
from ..inference.stored_sizes import stored_config
from ..model.checkpoints_beta_clip import read_weights
from ..model.checkpoints_beta_siglip2 import FG_CLIP2, from_fg_clip2, to_fg_clip2
from ..model.configuration_beta_siglip2 import LONG_SIGLIP_TEXT_POSITIONS, SIGLIP_TEXT_POSITIONS
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.positions_beta_clip import KEPT_TEXT_POSITIONS
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from .directories import check_output, check_positions, read_processor, write_weights


# The class of a released checkpoint, and that of training, which adds two scales.
THEIR_CLASS = "Fgclip2Model"
THEIR_TRAINING_CLASS = "FG_CLIP2_Model"
# Fields of their configuration that ours has under the same name.
SHARED_FIELDS = (
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
)
TEXT_FIELDS = (
    *SHARED_FIELDS,
    "bos_token_id",
    "eos_token_id",
    "max_position_embeddings",
    "pad_token_id",
    "projection_size",
    "vocab_size",
)
VISION_FIELDS = (*SHARED_FIELDS, "num_channels", "num_patches", "patch_size")


def convert_fg_clip2(source: str | Path, output_dir: str | Path) -> BetaSiglip2Model:
    r"""
    Converts a checkpoint of FG-CLIP 2 and saves it with its configuration and processor.

    If the source has no tokenizer that can be read, no processor is saved, and a warning says so.

    Args:
        source: Directory or Hub id with FG-CLIP 2's `config.json` and weights. In a directory the only safetensors file
            may have any name.
        output_dir: Directory to write.

    Returns:
        The converted model in the dtype of the checkpoint (scales in float32), in evaluation mode.

    Raises:
        ValueError: if the source is no FG-CLIP 2 checkpoint; if a tensor is missing, unknown or has another shape than
            the configuration says (it is named); or if the output is the source itself.

    Source: the release of FG-CLIP 2, `FG_CLIP2_Model` and `Fgclip2Model`.
    """
    check_output(output_dir, source)
    with naming_errors(source, "the directory of a model, or its Hub id"):
        model_type = stored_config(source).get("model_type")
    if model_type != FG_CLIP2:
        raise ValueError(f"source must be an FG-CLIP 2 checkpoint ({FG_CLIP2!r}), but {source} is {model_type!r}")
    # Reading also refuses a tensor that is missing or has another shape.
    model = BetaSiglip2Model.from_pretrained(source)
    unknown = sorted(from_fg_clip2(read_weights(source)).keys() - model.state_dict().keys())
    if unknown:
        raise ValueError(f"every tensor of the checkpoint must be known, but these are not: {unknown}")
    processor = read_processor(source, BetaSiglip2Processor)
    model.save_pretrained(output_dir)
    if processor is not None:
        processor.save_pretrained(output_dir)
    return model.eval()


def convert_fg_clip2_back(source: str | Path, output_dir: str | Path) -> BetaSiglip2Model:
    r"""
    Writes a model in FG-CLIP 2's layout: with their names of tensors and their configuration.

    FG-CLIP 2 stores two long position tables and reads 20 rows of one and the others of the other. Both are filled from
    the one table of the model. The threshold of the rank loss is left out: their training starts it at 0.

    Args:
        source: Directory or Hub id of a [`BetaSiglip2Model`], or of a checkpoint that one can be made of.
        output_dir: Directory to write.

    Returns:
        The model that was read.

    Raises:
        ValueError: if the model has other numbers of text positions than FG-CLIP 2, or the output is the source itself.
    """
    check_output(output_dir, source)
    model = BetaSiglip2Model.from_pretrained(source)
    check_positions(model.config, {"short": SIGLIP_TEXT_POSITIONS, "long": LONG_SIGLIP_TEXT_POSITIONS}, "FG-CLIP 2")
    processor = read_processor(source, BetaSiglip2Processor)
    folder = Path(output_dir)
    write_weights(to_fg_clip2(model.state_dict()), _their_config(model), folder)
    if processor is not None:
        # Their directories hold both as parts of a stock SigLIP 2.
        processor.tokenizer.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)
    return model


def _their_config(model: BetaSiglip2Model) -> dict[str, Any]:
    config = model.config
    text = {name: getattr(config.text_config, name) for name in TEXT_FIELDS}
    text.update(
        keep_len=KEPT_TEXT_POSITIONS,
        longtext_len=config.long_text_max_position_embeddings,
        model_type=f"{FG_CLIP2}_text_model",
    )
    vision = {name: getattr(config.vision_config, name) for name in VISION_FIELDS}
    vision["model_type"] = f"{FG_CLIP2}_vision_model"
    return {
        "architectures": [THEIR_TRAINING_CLASS if config.use_regions else THEIR_CLASS],
        "initializer_factor": config.initializer_factor,
        "model_type": FG_CLIP2,
        "text_config": text,
        "torch_dtype": str(model.dtype).removeprefix("torch."),
        "vision_config": vision,
    }


__all__ = ["convert_fg_clip2", "convert_fg_clip2_back"]
