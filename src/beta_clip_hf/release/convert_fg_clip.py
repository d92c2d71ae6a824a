"""FG-CLIP's own layout to a directory of ours, and a model of ours back to their layout."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..files import write_json
from ..model.checkpoints_beta_clip import FG_CLIP_SWITCHES, from_fg_clip, is_fg_clip, read_weights, to_fg_clip
from ..model.configuration_beta_clip import CLIP_TEXT_POSITIONS, LONG_TEXT_POSITIONS, BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.processing_beta_clip import BetaCLIPProcessor
from .export import check_output, clip_config, describe_output, load_model, load_processor, save_clip_processor


logger = logging.getLogger(__name__)

THEIR_CLASS = "FGCLIPModel"
THEIR_EOS = 49407  # their code writes it over the configuration's


def convert_fg_clip(
    source: str | Path, output_dir: str | Path, *, tokenizer: str | Path | None = None
) -> BetaCLIPModel:
    r"""
    Converts a checkpoint of FG-CLIP (v1) and saves it with its configuration and processor.

    Args:
        source: directory or Hub id with FG-CLIP's `config.json` and weights; in a directory these may also be its only
            safetensors file, whatever its name.
        output_dir: where to save.
        tokenizer: directory or Hub id of a tokenizer. Default: the one of `source`; where there is none, no processor
            is saved, and a warning says so.

    Returns:
        The converted model in the dtype of the checkpoint, in evaluation mode.

    Raises:
        ValueError: if the source is no FG-CLIP checkpoint, a tensor is missing, left over or of another shape than the
            configuration says (named), the tokenizer has another vocabulary, or the output is the source itself.

    Source: the release of FG-CLIP, branch v1.0, `FGCLIPModel`.
    """
    check_output(output_dir, source)
    stored = BetaCLIPConfig.get_config_dict(source)[0]
    tensors = read_weights(source)
    if not is_fg_clip(tensors):
        raise ValueError(f"source must be an FG-CLIP checkpoint, but {source} has no text_filip_projection")
    stored.pop("auto_map", None)  # where their own code is
    model = BetaCLIPModel(BetaCLIPConfig(**stored | FG_CLIP_SWITCHES))
    state_dict = from_fg_clip(tensors)
    _check_tensors(state_dict, model.state_dict())
    model.load_state_dict(state_dict, assign=True)
    processor = _processor(source, model.config, tokenizer)

    model.save_pretrained(output_dir)
    if processor is not None:
        processor.save_pretrained(output_dir)
    return model.eval()


def convert_back(source: str | Path, output_dir: str | Path, *, tokenizer: str | Path | None = None) -> BetaCLIPModel:
    r"""
    Writes a model as FG-CLIP has it: their names, their configuration, and both of their long tables, of which they
    read 20 rows of one and 228 of the other, filled from the one that we have.

    Args:
        source: directory or Hub id of a model with two text paths and regions, without a pooler.
        output_dir, tokenizer: as in [`convert_fg_clip`].

    Returns:
        The model of ours.

    Raises:
        ValueError: if the model has something that FG-CLIP has no place for, or lacks something (named), or the output
            is the source itself.
    """
    check_output(output_dir, source)
    model = load_model(source)
    state_dict = to_fg_clip(model.state_dict())
    config = model.config
    positions = {"short": config.text_config.max_position_embeddings, "long": config.long_text_max_position_embeddings}
    expected = {"short": CLIP_TEXT_POSITIONS, "long": LONG_TEXT_POSITIONS}
    if positions != expected:
        raise ValueError(f"positions must be {expected} to be written as FG-CLIP, but are {positions}")
    if config.text_config.eos_token_id != THEIR_EOS:
        logger.warning(
            "FG-CLIP's code ends texts with id %s whatever the configuration says, but this model with %s",
            THEIR_EOS,
            config.text_config.eos_token_id,
        )
    processor = _processor(source, config, tokenizer)

    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state_dict.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    their_config = clip_config(config, CLIP_TEXT_POSITIONS).to_diff_dict()
    for tower in ("text_config", "vision_config"):
        their_config[tower].pop("dtype", None)  # told once, below
    their_config |= {"architectures": [THEIR_CLASS], "torch_dtype": str(model.dtype).removeprefix("torch.")}
    write_json(their_config, folder / "config.json", sort_keys=True)
    if processor is not None:
        save_clip_processor(processor, folder, processor.tokenizer.model_max_length)
    return model


def _check_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing:
        raise ValueError(f"the checkpoint must hold all tensors of its configuration, but lacks {missing}")
    if unknown:
        raise ValueError(f"every tensor of the checkpoint must be known, but these are not: {unknown}")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise ValueError(f"{name} must be {tuple(tensor.shape)}, but is {tuple(given[name].shape)}")


def _processor(source: str | Path, config: Any, tokenizer: str | Path | None) -> BetaCLIPProcessor | None:
    """The processor of the source, or one with the given tokenizer; in either layout it does what FG-CLIP does."""
    if tokenizer is None:
        processor = load_processor(source)
    else:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(tokenizer)
        processor = BetaCLIPProcessor.from_image_size(loaded, config.vision_config.image_size)
    vocab_size = config.text_config.vocab_size
    if processor is None:
        logger.warning("Give the tokenizer of its %d ids with --tokenizer", vocab_size)
        return None
    if len(processor.tokenizer) != vocab_size:
        raise ValueError(
            f"tokenizer must have {vocab_size} ids as the checkpoint, but that of {tokenizer or source} has "
            f"{len(processor.tokenizer)}"
        )
    processor.squash_images().short_max_length = CLIP_TEXT_POSITIONS
    return processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip convert fg-clip`."""
    parser.add_argument("checkpoint", metavar="MODEL", help="directory or Hub id of an FG-CLIP checkpoint")
    parser.add_argument("output", metavar="DIR", help="directory to write")
    parser.add_argument("--back", action="store_true", help="MODEL is one of ours, DIR gets FG-CLIP's own layout")
    parser.add_argument("--tokenizer", metavar="MODEL", help="directory or Hub id of a tokenizer (default: its own)")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Converts; the report says what was written."""
    convert = convert_back if args.back else convert_fg_clip
    model = convert(args.checkpoint, args.output, tokenizer=args.tokenizer)
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
