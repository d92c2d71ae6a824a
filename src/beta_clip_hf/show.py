"""`beta-clip show`: where each phrase of a text looks in a picture, and what its regions are like."""

import argparse
import logging
import math
from pathlib import Path
from typing import Any

from .data.rows import load_image
from .inference.look import format_scores, look, records, split_texts
from .inference.models import load_model
from .inference.processes import default_device, own_device
from .model.modeling_beta_clip import BetaCLIPModel
from .reports import Report, add_json_argument, reporting
from .visualize.look import check_suffix, write_look


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip show`."""
    several = "may be given several times"
    parser.add_argument("--model", metavar="MODEL", required=True, help="directory or Hub id of a β-CLIP or FG-CLIP")
    parser.add_argument("--image", metavar="FILE", required=True, help="the picture")
    parser.add_argument(
        "--text", metavar="TEXT", action="append", required=True, help=f"caption of any length, or phrase; {several}"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="a .png or .html; the picture's name with -seen.png if left out"
    )
    parser.add_argument("--head", metavar="HEAD", default="mean", help="of the pooler: a number from 0, or mean")
    parser.add_argument(
        "--phrases", metavar="N", type=int, default=12, help="most phrases of each text; 0 does not split texts"
    )
    parser.add_argument(
        "--box", metavar="X,Y,W,H", action="append", default=[], help=f"region to score, in pixels; {several}"
    )
    parser.add_argument("--device", metavar="DEVICE", default=default_device(), help="cpu, cuda, cuda:1 or another")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Draws; the report are the scores."""
    output = Path(args.output or f"{Path(args.image).stem}-seen.png")
    check_suffix(output)  # before the model is loaded
    head, boxes = _parse_head(args.head), list(map(_parse_box, args.box))
    if args.phrases < 0:
        raise ValueError(f"phrases must be 0 or more, but is {args.phrases}")
    texts = split_texts(args.text, most_phrases=args.phrases)
    image = load_image(args.image)
    loaded = load_model(args.model, own_device(args.device))
    _check_model(loaded.model, args.model, has_boxes=bool(boxes))
    seen = look(loaded.model, loaded.processor, image, texts, boxes=boxes, box_format="xywh_pixels")
    paths = write_look(output, seen, texts, head=head, title=Path(args.image).name)
    for path in paths:
        logger.info("%s", path)
    about = {"model": args.model, "image": args.image, "head": args.head, "pictures": list(map(str, paths))}
    found = records(seen, texts)
    for region, box in zip(found["regions"], boxes, strict=True):
        region["box"] = box  # as it was given
    return Report(about | found, format_scores(seen, texts))


def _check_model(model: Any, name: str, has_boxes: bool) -> None:
    if not isinstance(model, BetaCLIPModel):
        raise ValueError(f"model must be a β-CLIP or FG-CLIP, but {name} is a {type(model).__name__}")
    if has_boxes and not model.config.use_regions:
        raise ValueError(
            f"model must have learnt regions for --box, but {name} has not: train it with "
            "examples/configs/beta_fg.yaml, or take an FG-CLIP"
        )
    if not has_boxes and model.pooler is None:
        remedy = "score regions with --box" if model.config.use_regions else "train it with beta-clip train"
        raise ValueError(f"model must have a trained pooler to show where texts look, but {name} has none: {remedy}")


def _parse_head(word: str) -> int | None:
    if word == "mean":
        return None
    if not word.isdecimal():
        raise ValueError(f"head must be 'mean' or a number from 0, but is {word!r}")
    return int(word)


def _parse_box(words: str) -> list[float]:
    try:
        box = [float(word) for word in words.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"box must be X,Y,W,H in pixels with W and H above 0, but is {words!r}")
    return box
