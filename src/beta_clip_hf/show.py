"""
`beta-clip show`: where each phrase of a text looks in a picture, and what its regions are like, as PNG or as a page.

Letters: T texts, H heads, R regions, D projection width; Y, X rows and columns of patches.
"""

import argparse
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from .data.rows import load_image
from .heat_maps import colour_bar, enlarged, highest_of, overlay
from .inference.models import load_model, text_inputs
from .inference.processes import default_device, own_device
from .model.boxes_beta_clip import box_in_view, cut_box, has_area, pixel_box, view_of_image
from .model.modeling_beta_clip import BetaCLIPModel
from .pages import Picture, Section, write_page
from .reports import Report, add_json_argument, reporting
from .text.hierarchy import build_text_hierarchy
from .visualize import plot_phrase_attention, plot_region_scores


logger = logging.getLogger(__name__)

CAPTION, SENTENCE, PHRASE = "caption", "sentence", "phrase"
MOST_ON_PNG = 31  # heat maps: with the image, eight rows of four
SHOWN_SIDE = 1024  # pixels: what is drawn on need not be larger
SUFFIXES = (".png", ".html")


class ShownText(NamedTuple):
    """A text and what it is of the text that was given."""

    text: str
    kind: str = PHRASE
    """ "caption" of a text that has parts, "sentence" of one of several, else "phrase"."""
    group: int = 0
    """Texts of one group belong together: a sentence and its phrases."""


class Look(NamedTuple):
    """What a model sees of an image for some texts. All tensors are float32 on the CPU."""

    view: Image.Image
    """The part of the image that the model sees."""
    similarity_T: Tensor
    """(T,) cosine of each text with the whole image, as in CLIP."""
    conditioned_T: Tensor | None
    """(T,) cosine of each text with the image as this text sees it; `None` for a model without a pooler."""
    attention_THYX: Tensor | None
    """(T, H, Y, X) where each head of the pooler looks for each text."""
    boxes_R4: Tensor
    """(R, 4) xyxy in units of the view's sides, cut at its borders."""
    region_scores_RT: Tensor
    """(R, T) cosine of each region with each text."""

    def maps(self, head: int | None = None) -> Tensor:
        """
        (T, Y, X) where each text looks: the mean of the heads, or one of them.

        Raises:
            ValueError: without a pooler, or for a head that is not there.
        """
        if self.attention_THYX is None:
            raise ValueError("use_pooler must be True for heat maps, but the model has no pooler")
        heads = self.attention_THYX.shape[1]
        if head is None:
            return self.attention_THYX.mean(dim=1)
        if not 0 <= head < heads:
            raise ValueError(f"head must be 'mean' or one of 0 to {heads - 1}, but is {head}")
        return self.attention_THYX[:, head]


def split_texts(texts: Sequence[str], *, most_phrases: int = 12) -> list[ShownText]:
    """
    Each text, followed by its sentences if there are several, each followed by its phrases. No text comes twice.

    Args:
        texts: Captions of any length, or phrases.
        most_phrases: Of each text; 0 leaves the texts as they are.

    Raises:
        ValueError: where a text is blank, or there is none.

    >>> [(one.text, one.kind, one.group) for one in split_texts(["A cat sleeps. A red ball is near.", "the sky"])]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('A cat sleeps. A red ball is near.', 'caption', 0), ('A cat sleeps.', 'sentence', 1), ('A cat', 'phrase', 1),
     ('A red ball is near.', 'sentence', 2), ('A red ball', 'phrase', 2), ('the sky', 'phrase', 3)]
    """
    if not texts:
        raise ValueError("texts must be at least one, but there is none")
    shown: list[ShownText] = []
    seen: set[str] = set()
    group = 0

    def add(text: str, kind: str) -> None:
        folded = text.casefold().strip(" .")
        if folded not in seen:
            seen.add(folded)
            shown.append(ShownText(text, kind, group))

    for text in texts:
        hierarchy = build_text_hierarchy(text)
        phrases = list(zip(hierarchy.phrases, hierarchy.phrase_sentences, strict=True))[:most_phrases]
        phrases = [one for one in phrases if one[0].casefold() != hierarchy.caption.casefold().strip(" .")]
        has_parts = most_phrases > 0 and (len(hierarchy.sentences) > 1 or phrases)
        add(hierarchy.caption, CAPTION if has_parts else PHRASE)
        for place, sentence in enumerate(hierarchy.sentences if has_parts else ()):
            if len(hierarchy.sentences) > 1:
                group += 1
                add(sentence, SENTENCE)
            for phrase, home in phrases:
                if home == place:
                    add(phrase, PHRASE)
        group += 1
    return shown


@torch.no_grad()
def look(
    model: BetaCLIPModel,
    processor: Any,
    image: Any,
    texts: Sequence[str | ShownText],
    *,
    boxes: Sequence[Sequence[float]] = (),
    box_format: str = "xyxy_pixels",
) -> Look:
    """
    Asks a model what it sees of one image for each text, and of each region.

    Args:
        model: A β-CLIP or FG-CLIP, on any device; its pooler, if it has one, gives the heat maps.
        processor: Its processor.
        image: PIL image, path or bytes.
        texts: T of them. Of a model with two text paths, those of the kind "caption" take the long one.
        boxes: R boxes of the image.
        box_format: "xyxy_pixels", "xywh_pixels" (of the image as given) or "xyxy_normalized".

    Raises:
        ValueError: where the image cannot be read, there is no text, or the model sees nothing of a box.
    """
    image = load_image(image)
    shown = [text if isinstance(text, ShownText) else ShownText(text) for text in texts]
    if not shown:
        raise ValueError("texts must be at least one, but there is none")
    view = view_of_image(image.size, processor.image_processor)
    seen = []
    for box in boxes:
        seen.append(cut_box(box_in_view(pixel_box(box, box_format, image.size), view)))
        if not has_area(seen[-1]):
            raise ValueError(
                f"boxes must lie in what the model sees of the image, {tuple(map(round, view))} of its pixels, but "
                f"{list(box)} ({box_format}) does not"
            )
    text_TD = _text_embeds(model, processor, shown)
    pixels = processor.image_processor([image], return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    is_other_size = pixels.shape[-2:] != (side, side)
    image_1D, patches_1PD = model.encode_images(pixels, is_other_size)
    conditioned_T = attention_THYX = None
    if model.pooler is not None:
        conditioned_TD, attention_THP = model.get_text_conditioned_image_features(
            patch_features=patches_1PD, text_embeds=text_TD, output_attentions=True
        )
        conditioned_T = (conditioned_TD * text_TD).sum(dim=-1).float().cpu()
        attention_THYX = attention_THP.unflatten(-1, (rows, columns)).float().cpu()
    boxes_R4 = torch.tensor(seen, dtype=torch.float32).reshape(-1, 4)
    regions_RD = normalize(image_1D[:0], dim=-1)
    if len(seen):
        features = model.get_region_features(pixels, boxes_R4.to(model.device), interpolate_pos_encoding=is_other_size)
        regions_RD = normalize(features, dim=-1)
    cropped = image.crop(tuple(map(round, view)))
    cropped.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    similarity_T = (normalize(image_1D, dim=-1) @ text_TD.T)[0].float().cpu()
    return Look(cropped, similarity_T, conditioned_T, attention_THYX, boxes_R4, (regions_RD @ text_TD.T).float().cpu())


def _text_embeds(model: BetaCLIPModel, processor: Any, texts: Sequence[ShownText]) -> Tensor:
    """(T, D) normalised; each text on its own path."""
    embeds: list[Tensor] = [torch.empty(0)] * len(texts)
    for is_caption in (True, False):
        places = [place for place, one in enumerate(texts) if (one.kind == CAPTION) == is_caption]
        path = "long" if is_caption and model.config.use_long_text_path else None
        if places:
            inputs = text_inputs(model, processor, [texts[place].text for place in places], path).to(model.device)
            options: dict[str, Any] = {} if path is None else {"path": path}
            features = normalize(model.get_text_features(**inputs, **options).pooler_output, dim=-1)
            for place, embed in zip(places, features, strict=True):
                embeds[place] = embed
    return torch.stack(embeds)


def write_look(
    path: str | Path, seen: Look, texts: Sequence[ShownText], *, head: int | None = None, title: str = ""
) -> list[Path]:
    """
    Draws what was seen, as the suffix of the file says: a figure (PNG), or a self-contained page (HTML).

    Args:
        path: Where it goes. As a PNG the regions have a figure of their own beside it, `NAME-regions.png`, or this one
            where the model has no pooler.
        seen: See [`look`].
        texts: Those that were asked for.
        head: Of the pooler; the mean of all by default.
        title: Of the page.

    Returns:
        The files.

    Raises:
        ValueError: where the suffix is another, or for a head that is not there.
        ImportError: without matplotlib.
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix.lower() == ".html":
        return [_write_page(path, seen, texts, head, title)]
    paths = []
    if seen.attention_THYX is not None:
        if len(texts) > MOST_ON_PNG:
            logger.warning("%d of %d texts are drawn: a page (.html) holds all", MOST_ON_PNG, len(texts))
        maps_TYX, drawn = seen.maps(head)[:MOST_ON_PNG], texts[:MOST_ON_PNG]
        notes = [_note(seen, place) for place in range(len(drawn))]
        paths.append(plot_phrase_attention(seen.view, [one.text for one in drawn], maps_TYX, path, notes=notes))
    if len(seen.boxes_R4):
        beside = path.with_name(f"{path.stem}-regions{path.suffix}") if paths else path
        paths.append(_draw_regions(beside, seen, texts))
    return paths


def records(seen: Look, texts: Sequence[ShownText]) -> dict[str, Any]:
    """The scores as JSON: those of each text, and those of each region with each text."""
    of_texts = []
    for place, one in enumerate(texts):
        conditioned = None if seen.conditioned_T is None else float(seen.conditioned_T[place])
        scores = {"conditioned": conditioned, "similarity": float(seen.similarity_T[place])}
        of_texts.append({"text": one.text, "kind": one.kind, **scores})
    of_regions = [
        {"box": box, "scores": dict(zip((one.text for one in texts), scores, strict=True))}
        for box, scores in zip(seen.boxes_R4.tolist(), seen.region_scores_RT.tolist(), strict=True)
    ]
    return {"texts": of_texts, "regions": of_regions}


def format_scores(seen: Look, texts: Sequence[ShownText]) -> str:
    """The same as a plain-text table."""
    names = ["" if seen.conditioned_T is None else "as seen", "cosine"]
    names += [f"box {number}" for number in range(1, len(seen.boxes_R4) + 1)]
    lines = ["".join(f"{name:>8}" for name in names if name) + "  text"]
    for place, one in enumerate(texts):
        values = [] if seen.conditioned_T is None else [float(seen.conditioned_T[place])]
        values += [float(seen.similarity_T[place]), *seen.region_scores_RT[:, place].tolist()]
        indent = {CAPTION: "", SENTENCE: "  ", PHRASE: "    "}[one.kind]
        text = one.text if len(one.text) <= 70 else one.text[:69] + "…"
        lines.append("".join(f"{value:8.3f}" for value in values) + f"  {indent}{text}")
    return "\n".join(lines)


def _note(seen: Look, place: int) -> str:
    assert seen.conditioned_T is not None
    return f"as seen {seen.conditioned_T[place]:.2f}, cosine {seen.similarity_T[place]:.2f}"


def _draw_regions(path: Path, seen: Look, texts: Sequence[ShownText]) -> Path:
    """Phrases only, where there are some: a region is no whole caption."""
    places = [place for place, one in enumerate(texts) if one.kind == PHRASE] or list(range(len(texts)))
    named = [texts[place].text for place in places]
    return plot_region_scores(seen.view, seen.boxes_R4, named, seen.region_scores_RT[:, places], path)


def _write_page(path: Path, seen: Look, texts: Sequence[ShownText], head: int | None, title: str) -> Path:
    """A section for each group of texts, and one for the regions."""
    sections: list[Section] = []
    summary = ""
    if seen.attention_THYX is not None:
        maps_TYX, view = seen.maps(head), enlarged(seen.view)
        highest = highest_of(*maps_TYX)
        heads = "the mean of the pooler's heads" if head is None else f"head {head} of the pooler"
        summary = (
            f"Heat maps: {heads}, on one colour scale, grey where a text looks no more than evenly. “As seen” is the "
            "cosine of a text with the image as this text sees it, “cosine” that with the whole image."
        )
        for group in sorted({one.group for one in texts}):
            places = [place for place, one in enumerate(texts) if one.group == group]
            pictures = []
            for place in places:
                text, kind = texts[place].text, texts[place].kind
                caption = f"{text if kind == PHRASE else f'the {kind}'}\n{_note(seen, place)}"
                pictures.append(Picture(overlay(view, maps_TYX[place], highest), caption, is_marked=kind != PHRASE))
            if not sections:
                pictures = [Picture(view, "what the model sees"), *pictures, Picture(colour_bar(highest), "attention")]
            sections.append(Section(texts[places[0]].text, pictures))
    if len(seen.boxes_R4):
        with tempfile.TemporaryDirectory() as folder:
            figure = load_image(_draw_regions(Path(folder) / "regions.png", seen, texts))
        note = "The cosine of each region's feature with each text; the best is in bold."
        sections.append(Section("Regions", [Picture(figure, "", is_wide=True)], note))
    return write_page(path, title or texts[0].text, sections, summary=summary, width=260)


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
    _check_suffix(output)  # before the model is loaded
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


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output must end in one of {SUFFIXES}, but is {str(path)!r}")


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
