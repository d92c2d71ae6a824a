"""
`beta-clip show`: draws where each phrase of a text looks in a picture, and scores its regions.

Without a picture it draws a generated scene, so that the bare command shows something.
"""

import argparse
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from .arguments import SHIPPED_MODEL, add_device_argument
from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)

# Scenes that neither of the models that ship was trained on, in a size for people.
SCENE_SEED, SCENE_SIDE, SCENE_LEVEL = 7, 256, "easy"


class _Subject(NamedTuple):
    """What is drawn."""

    file: Path
    name: str
    """What the report and the output are named after: the path that was given, or the id of the scene."""
    texts: list[str]
    most_phrases: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip show`."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"directory or Hub id of a β-CLIP, FG-CLIP or FG-CLIP 2 (default: {SHIPPED_MODEL})",
    )
    parser.add_argument("--image", metavar="FILE", help="image to draw (default: a generated scene)")
    parser.add_argument(
        "--text",
        metavar="TEXT",
        action="append",
        default=[],
        help="caption or phrase, of any length; may be given several times (default: the phrases of the scene)",
    )
    parser.add_argument(
        "--scene", metavar="N", type=int, default=0, help="number of the generated scene to draw without --image"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write, .png or .html (default: the name of the image with -seen.png at its end)",
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
        help="region to score, as left, top, width and height in pixels; may be given several times",
    )
    add_device_argument(parser)
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Draws the picture. The report holds the scores."""
    # Wrong arguments are reported before torch is imported, which takes seconds.
    head = _parse_head(args.head)
    if args.image is not None and not args.text:
        raise ValueError("text must be given for an image, but is not: add --text")
    if not all(text.strip() for text in args.text):
        raise ValueError("text must hold some text, but is blank")
    if args.scene < 0:
        raise ValueError(f"scene must be 0 or more, but is {args.scene}")
    boxes = [_parse_box(words) for words in args.box]

    from beta_clip_hf.data.scenes import default_model
    from beta_clip_hf.inference.look import score_records
    from beta_clip_hf.visualize.look import format_hierarchies, format_scores, show_image

    model = args.model or default_model()
    with _subject(args) as subject:
        shown = show_image(
            model,
            subject.file,
            subject.texts,
            args.output or f"{Path(subject.name).stem}-seen.png",
            head=head,
            most_phrases=subject.most_phrases,
            boxes=boxes,
            box_format="xywh_pixels",
            device=args.device,
        )
    for path in shown.paths:
        logger.info("%s", path)
    document = {
        "model": model,
        "image": subject.name,
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


@contextmanager
def _subject(args: argparse.Namespace) -> Iterator[_Subject]:
    """Yields the image and the texts that were given, or else those of a generated scene, whose file is temporary."""
    if args.image is not None:
        yield _Subject(Path(args.image), args.image, args.text, args.phrases)
        return

    from beta_clip_hf.data.scenes import SceneDataset
    from beta_clip_hf.visualize.rows import noun_phrases

    logger.info("no --image: drawing scene %d of the generated ones", args.scene)
    scene = SceneDataset(args.scene + 1, seed=SCENE_SEED, image_size=SCENE_SIDE, level=SCENE_LEVEL)[args.scene]
    texts, most_phrases = args.text, args.phrases
    if not texts:
        texts = noun_phrases(scene)
        # They are phrases already.
        most_phrases = 0
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{scene['id']}.png"
        scene["image"].save(file)
        yield _Subject(file, scene["id"], texts, most_phrases)


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
