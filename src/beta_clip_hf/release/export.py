"""A model as a plain `CLIPModel` for programs that do not know this package: 248 positions, one text path."""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedModel

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..model.checkpoints_beta_clip import LONG_TABLE
from ..model.configuration_beta_clip import LONG_TEXT_POSITIONS, TEXT_PATHS, BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.processing_beta_clip import BetaCLIPProcessor


logger = logging.getLogger(__name__)

TABLE = "text_model.embeddings.position_embedding.weight"
PROJECTION = "text_projection.weight"
LONG_PROJECTION = "long_text_projection.weight"


def export_clip(source: str | Path, output_dir: str | Path, *, path: str | None = None) -> CLIPModel:
    r"""
    Writes a model as a plain `CLIPModel` with its tokenizer and image processor.

    The table of positions has at least 248 rows. Where the model has fewer (the short path of two, a model of 77
    positions), the last one is repeated, and the tokenizer's `model_max_length` is where the trained ones end.

    Args:
        source: directory or Hub id of a model that `BetaCLIPModel.from_pretrained` loads.
        output_dir: where to save.
        path: the text path of a model with two: `"long"` (the default) or `"short"`. Other models take `None` only.

    Returns:
        The exported model in the dtype of `source`, in evaluation mode. What it lacks is logged.

    Raises:
        ValueError: if the model has no such path, or the output is the source itself.
    """
    check_output(output_dir, source)
    model = load_model(source)
    is_two_path = model.config.use_long_text_path
    if path not in ((*TEXT_PATHS, None) if is_two_path else (None,)):
        allowed = f"be one of {TEXT_PATHS}" if is_two_path else "be left out for a model with one text path"
        raise ValueError(f"path must {allowed}, but is {path!r}")
    if is_two_path and path is None:
        path = "long"
        logger.info("Exporting the long text path, which the positions beyond 77 belong to; the other: --path short")

    state_dict, lost = _tensors_of_clip(model.state_dict(), path)
    trained_rows = len(state_dict[TABLE])
    state_dict[TABLE] = _fill_up(state_dict[TABLE])
    clip = CLIPModel(clip_config(model.config, len(state_dict[TABLE])))
    clip.load_state_dict(state_dict, assign=True)
    clip.save_pretrained(output_dir)
    logger.info("Not in the export: %s", "; ".join(lost) if lost else "nothing, all weights are")
    processor = load_processor(source)
    if processor is not None:
        length = processor.short_max_length if path == "short" else processor.max_length
        save_clip_processor(processor, output_dir, min(length or trained_rows, trained_rows))
    return clip.eval()


def check_output(output_dir: str | Path, *sources: str | Path) -> None:
    """Raises `ValueError` where the output is a directory that is read from."""
    for source in sources:
        if Path(source).is_dir() and Path(source).resolve() == Path(output_dir).resolve():
            raise ValueError(f"output must be another directory than what is read, but both are {source}")


def describe_output(output_dir: str | Path, model: PreTrainedModel) -> dict[str, Any]:
    """What a command reports of the model that it has written."""
    return {
        "output": str(output_dir),
        "files": sorted(path.name for path in Path(output_dir).iterdir()),
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def load_model(source: str | Path, **changes: Any) -> BetaCLIPModel:
    """A model in its own dtype. Of a checkpoint in another layout, which has no pooler, none is made."""
    is_ours = BetaCLIPConfig.get_config_dict(source)[0].get("model_type") == BetaCLIPConfig.model_type
    return BetaCLIPModel.from_pretrained(source, **({} if is_ours else {"use_pooler": False}), **changes)


def load_processor(source: str | Path) -> BetaCLIPProcessor | None:
    """The processor beside a model; where there is none, a warning says that none will be saved."""
    try:
        return BetaCLIPProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        logger.warning("No processor is saved, as that of %s cannot be read: %s", source, reason)
        return None


def save_clip_processor(processor: BetaCLIPProcessor, output_dir: str | Path, model_max_length: int) -> None:
    """Saves tokenizer and image processor as those of a plain CLIP, the latter in the file of older versions too."""
    tokenizer, image_processor = processor.tokenizer, processor.image_processor
    tokenizer.model_max_length = model_max_length
    # A tokenizer that was used before it was saved remembers where it cut; a processor takes that for its own limit.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.init_kwargs.pop("max_length", None)
    for values in (vars(image_processor), tokenizer.init_kwargs):
        values.pop("auto_map", None)  # names of code that was saved beside the source
    CLIPProcessor(image_processor, tokenizer).save_pretrained(output_dir)
    image_processor.save_pretrained(output_dir)


def clip_config(config: Any, text_positions: int) -> CLIPConfig:
    """The configuration of the plain CLIP inside a model, without any field of ours."""
    sizes = {name: getattr(config, name) for name in ("projection_dim", "logit_scale_init_value", "initializer_factor")}
    text = config.text_config.to_dict() | {"max_position_embeddings": text_positions}
    return CLIPConfig(text_config=text, vision_config=config.vision_config.to_dict(), **sizes)


def _tensors_of_clip(state_dict: dict[str, Tensor], path: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Those of our tensors that `CLIPModel` has, with the ones of the path in their place, and what is left out."""
    tensors, lost = dict(state_dict), []
    if path is not None:
        table, projection = tensors.pop(LONG_TABLE), tensors.pop(LONG_PROJECTION)
        if path == "long":
            tensors |= {TABLE: table, PROJECTION: projection}
        other = TEXT_PATHS[path == "short"]
        lost.append(f"the {other} text path (its positions and its projection)")
    for name in ("region_logit_scale", "hard_negative_logit_scale"):
        if tensors.pop(name, None) is not None:
            lost.append(f"{name} (of training)")
    pooler = [name for name in tensors if name.startswith("pooler.")]
    if pooler:
        lost.insert(0, "the pooler (text-conditioned image features, attention maps and scores)")
    return {name: tensor for name, tensor in tensors.items() if name not in pooler}, lost


def _fill_up(table: Tensor) -> Tensor:
    missing = LONG_TEXT_POSITIONS - len(table)
    return torch.cat([table, table[-1:].expand(missing, -1)]) if missing > 0 else table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip export clip`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a β-CLIP or FG-CLIP model")
    parser.add_argument("output", metavar="DIR", help="directory to write")
    parser.add_argument(
        "--path", choices=TEXT_PATHS, help="text path of a model with two (default: long, which has 248 positions)"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports; the report says what was written."""
    model = export_clip(args.model, args.output, path=args.path)
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
