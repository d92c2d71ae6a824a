"""`beta-clip show`: draws where each phrase of a text looks in a picture, and scores its regions."""

import argparse
import logging
import math
from pathlib import Path

from .arguments import add_device_argument
from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip show`."""
    parser.add_argument("--model", metavar="MODEL", required=True, help="directory or Hub id of a β-CLIP or FG-CLIP")
    parser.add_argument("--image", metavar="FILE", required=True, help="image to look at")
    parser.add_argument(
        "--text",
        metavar="TEXT",
        action="append",
        required=True,
        help="caption of any length, or phrase; may be given several times",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write, .png or .html (default: the image's name with -seen.png)",
    )
    parser.add_argument("--head", metavar="HEAD", default="mean", help="head of the pooler: a number from 0, or mean")
    parser.add_argument(
        "--phrases",
        metavar="N",
        type=int,
        default=12,
        help="largest number of phrases to take from each text; 0 does not split texts",
    )
    parser.add_argument(
        "--box",
        metavar="X,Y,W,H",
        action="append",
        default=[],
        help="region to score, in pixels; may be given several times",
    )
    add_device_argument(parser)
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Draws the picture. The report holds the scores."""
    # Wrong arguments are reported before torch is imported, which takes seconds.
    head = _parse_head(args.head)
    boxes = [_parse_box(words) for words in args.box]

    from beta_clip_hf.inference.look import score_records
    from beta_clip_hf.visualize.look import format_hierarchies, format_scores, show_image

    shown = show_image(
        args.model,
        args.image,
        args.text,
        args.output or f"{Path(args.image).stem}-seen.png",
        head=head,
        most_phrases=args.phrases,
        boxes=boxes,
        box_format="xywh_pixels",
        device=args.device,
    )
    for path in shown.paths:
        logger.info("%s", path)
    document = {
        "model": args.model,
        "image": args.image,
        "head": args.head,
        "pictures": [str(path) for path in shown.paths],
        **score_records(shown.look, shown.texts),
    }
    # The report repeats the boxes as the user gave them, not as the model saw them.
    for region, box in zip(document["regions"], boxes, strict=True):
        region["box"] = box
    hierarchies = []
    for score in shown.hierarchies:
        hierarchies.append({**score._asdict(), "weights": list(score.weights)})
    document["hierarchical"] = hierarchies
    tables = [format_scores(shown.look, shown.texts)]
    if shown.hierarchies:
        tables.append(format_hierarchies(shown.hierarchies))
    return Report(document, "\n\n".join(tables))


def _parse_head(word: str) -> int | None:
    """Returns the number of a head; `None` stands for the mean of all heads."""
    if word == "mean":
        return None
    if not word.isdecimal():
        raise ValueError(f"head must be 'mean' or a number from 0, but is {word!r}")
    return int(word)


def _parse_box(words: str) -> list[float]:
    """Returns the four numbers of `X,Y,W,H`."""
    try:
        box = [float(word) for word in words.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"box must be X,Y,W,H in pixels with W and H above 0, but is {words!r}")
    return box
