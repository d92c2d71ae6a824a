"""Draws where each text looks: as figures (PNG), as one self-contained page (HTML), or as a table of scores."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.images import load_image
from ..inference.look import (
    CAPTION,
    PHRASE,
    SENTENCE,
    HierarchyScore,
    Look,
    ShownText,
    can_look,
    hierarchy_scores,
    look,
    split_texts,
)
from ..inference.models import load_model
from ..inference.processes import own_device
from .attention import plot_phrase_attention
from .heat_maps import NOWHERE, enlarged, highest_of, looks_nowhere, overlay
from .pages import Picture, Section, scale_picture, write_page
from .regions import plot_region_scores
from .tables import format_table


logger = logging.getLogger(__name__)

MOST_ON_PNG = 31
"""Largest number of heat maps of a PNG: with the image, eight rows of four."""
SUFFIXES = (".png", ".html")
PAGE_PICTURE_WIDTH = 260
TABLE_TEXT_WIDTH = 70
_INDENTS = {CAPTION: "", SENTENCE: "  ", PHRASE: "    "}


class ShownImage(NamedTuple):
    """Holds the files that [`show_image`] has written, and what the model saw."""

    paths: list[Path]
    look: Look
    texts: list[ShownText]
    """The texts that the model was asked for: those that were given, and their parts."""
    hierarchies: list[HierarchyScore]
    """Hierarchical scores of the texts that have parts."""


def show_image(
    model: str,
    image: str | Path,
    texts: Sequence[str],
    output: str | Path,
    *,
    head: int | None = None,
    most_phrases: int = 12,
    boxes: Sequence[Sequence[float]] = (),
    box_format: str = "xyxy_pixels",
    device: str | None = None,
) -> ShownImage:
    """
    Loads a model, asks it where each phrase of some texts looks in an image, and draws the answer.

    Args:
        model: Directory or Hub id of a β-CLIP, FG-CLIP or FG-CLIP 2.
        image: Path of the image.
        texts: Captions of any length, or phrases.
        output: The .png or .html to write.
        head: Head of the pooler to draw; `None` draws the mean of all heads.
        most_phrases: Largest number of phrases to take from each text; 0 does not split texts.
        boxes: Regions of the image to score.
        box_format: "xyxy_pixels", "xywh_pixels" or "xyxy_normalized".
        device: Where to run; `None` takes CUDA if it is available.

    Raises:
        ValueError: if an argument is out of range, or the model cannot answer: it has no trained pooler, or has not
            learnt regions although there are boxes.
        OSError: if the model or the image cannot be read.
    """
    output = Path(output)
    # Wrong arguments are reported before the model is loaded, which takes seconds.
    check_suffix(output)
    if most_phrases < 0:
        raise ValueError(f"phrases must be 0 or more, but is {most_phrases}")
    shown_texts = split_texts(texts, most_phrases=most_phrases)
    picture = load_image(image)
    loaded = load_model(model, own_device(device))
    _check_model(loaded.model, model, has_boxes=len(boxes) > 0)
    if len(boxes) > 0:
        _warn_of_untrained_regions(loaded.model, model)
    seen = look(loaded.model, loaded.processor, picture, shown_texts, boxes=boxes, box_format=box_format)
    paths = write_look(output, seen, shown_texts, head=head, title=Path(image).name)
    captions = [text.text for text in shown_texts if text.kind == CAPTION]
    hierarchies: list[HierarchyScore] = []
    if captions:
        hierarchies = hierarchy_scores(loaded.model, loaded.processor, picture, captions)
    return ShownImage(paths, seen, shown_texts, hierarchies)


def _check_model(model: Any, name: str, has_boxes: bool) -> None:
    """Raises `ValueError` for a model that has not learnt what is to be shown."""
    if not can_look(model):
        raise ValueError(f"model must be a β-CLIP, FG-CLIP or FG-CLIP 2, but {name} is a {type(model).__name__}")
    # FG-CLIP 2 as released has learnt regions, but carries no scales of them.
    has_regions = model.config.use_regions or hasattr(model, "patch_head")
    if has_boxes and not has_regions:
        raise ValueError(
            f"model must have learnt regions for --box, but {name} has not: train it with "
            "examples/configs/beta_fg.yaml, or take an FG-CLIP"
        )
    if not has_boxes and model.pooler is None:
        remedy = "train it with beta-clip train"
        if has_regions:
            remedy = "score regions with --box"
        raise ValueError(f"model must have a trained pooler to show where texts look, but {name} has none: {remedy}")


def _warn_of_untrained_regions(model: Any, name: str) -> None:
    """Warns of a model whose scales of regions are where they start: both from the same number.

    A training with boxes and their negatives moves each of them by a gradient of its own.
    """
    if model.config.use_regions and torch.equal(model.region_logit_scale, model.hard_negative_logit_scale):
        logger.warning(
            "%s looks as if it was never trained with boxes (its two scales of regions are equal): then its scores of "
            "regions mean nothing. Train it on rows with regions, for example with examples/configs/beta_fg.yaml",
            name,
        )


def check_suffix(path: Path) -> None:
    """Raises `ValueError` for a file that is neither a PNG nor a page."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output must end in one of {SUFFIXES}, but is {str(path)!r}")


def write_look(
    path: str | Path, seen: Look, texts: Sequence[ShownText], *, head: int | None = None, title: str = ""
) -> list[Path]:
    """
    Draws what a model saw as figures (`.png`) or as a self-contained page (`.html`).

    Args:
        path: File to write. The figure of regions goes beside a PNG, to `NAME-regions.png`, or to `path` itself if the
            model has no pooler and so no other figure.
        seen: Answer of [`look`].
        texts: The texts that were asked for.
        head: Head of the pooler to draw; `None` draws the mean of all heads.
        title: Heading of the page; by default the first text.

    Returns:
        The files that were written.

    Raises:
        ValueError: if `path` has another suffix, or the head does not exist.
        ImportError: if matplotlib is not installed.
    """
    path = Path(path)
    check_suffix(path)
    if seen.attention_THYX is not None and looks_nowhere(*seen.maps(head)):
        logger.warning(NOWHERE)
    if path.suffix.lower() == ".html":
        return [_write_page(path, seen, texts, head, title)]
    paths = []
    if seen.attention_THYX is not None:
        if len(texts) > MOST_ON_PNG:
            logger.warning("%d of %d texts are drawn: a page (.html) holds all", MOST_ON_PNG, len(texts))
        drawn_texts = []
        notes = []
        for index, text in enumerate(texts[:MOST_ON_PNG]):
            drawn_texts.append(text.text)
            notes.append(_score_note(seen, index))
        maps_TYX = seen.maps(head)[:MOST_ON_PNG]
        paths.append(plot_phrase_attention(seen.view, drawn_texts, maps_TYX, path, notes=notes))
    if len(seen.boxes_R4):
        regions_path = path
        if paths:
            regions_path = path.with_name(f"{path.stem}-regions{path.suffix}")
        paths.append(_draw_regions(regions_path, seen, texts))
    return paths


def _score_note(seen: Look, index: int) -> str:
    """Formats both scores of a text with the whole image."""
    assert seen.conditioned_T is not None
    return f"as seen {seen.conditioned_T[index]:.2f}, cosine {seen.similarity_T[index]:.2f}"


def _draw_regions(path: Path, seen: Look, texts: Sequence[ShownText]) -> Path:
    """Draws the scores of regions with phrases if there are any: no region shows a whole caption."""
    indices = [index for index, text in enumerate(texts) if text.kind == PHRASE]
    if not indices:
        indices = list(range(len(texts)))
    region_texts = [texts[index].text for index in indices]
    return plot_region_scores(seen.view, seen.boxes_R4, region_texts, seen.region_scores_RT[:, indices], path)


def _write_page(path: Path, seen: Look, texts: Sequence[ShownText], head: int | None, title: str) -> Path:
    """Writes a page with a section for each group of texts, and one for the regions."""
    sections: list[Section] = []
    summary = ""
    if seen.attention_THYX is not None:
        heads = "the mean of the pooler's heads"
        if head is not None:
            heads = f"head {head} of the pooler"
        summary = (
            f"Heat maps: {heads}, on one colour scale, grey where a text looks no more than evenly. “As seen” is the "
            "cosine of a text with the image as this text sees it, “cosine” that with the whole image."
        )
        if looks_nowhere(*seen.maps(head)):
            summary = f"{NOWHERE} {summary}"
        sections += _heat_map_sections(seen, texts, head)
    if len(seen.boxes_R4):
        with tempfile.TemporaryDirectory() as folder:
            figure = load_image(_draw_regions(Path(folder) / "regions.png", seen, texts))
        note = "The cosine of each region's feature with each text; the best is in bold."
        alt = "The boxes in the image, and a table of the cosine of each box with each text"
        sections.append(Section("Regions", [Picture(figure, is_wide=True, alt=alt)], note))
    return write_page(path, title or texts[0].text, sections, summary=summary, width=PAGE_PICTURE_WIDTH)


def _heat_map_sections(seen: Look, texts: Sequence[ShownText], head: int | None) -> list[Section]:
    """Makes a section for each group of texts. The first one also has the image and the colour scale."""
    maps_TYX = seen.maps(head)
    view = enlarged(seen.view)
    highest = highest_of(*maps_TYX)
    indices_by_group: dict[int, list[int]] = {}
    for index, text in enumerate(texts):
        indices_by_group.setdefault(text.group, []).append(index)
    sections: list[Section] = []
    for group in sorted(indices_by_group):
        indices = indices_by_group[group]
        pictures = []
        for index in indices:
            is_phrase = texts[index].kind == PHRASE
            # The heading of the section repeats the text of a caption or a sentence.
            name = f"the {texts[index].kind}"
            if is_phrase:
                name = texts[index].text
            heat_map = overlay(view, maps_TYX[index], highest)
            pictures.append(Picture(heat_map, f"{name}\n{_score_note(seen, index)}", is_marked=not is_phrase))
        if not sections:
            pictures = [Picture(view, "what the model sees"), *pictures, scale_picture(highest)]
        sections.append(Section(texts[indices[0]].text, pictures))
    return sections


def format_scores(seen: Look, texts: Sequence[ShownText]) -> str:
    """
    Formats the scores of each text as a plain-text table.

    Args:
        seen: Answer of [`look`].
        texts: The texts that were asked for.
    """
    columns = {}
    if seen.conditioned_T is not None:
        columns["as seen"] = seen.conditioned_T
    columns["cosine"] = seen.similarity_T
    columns["window"] = seen.window_T
    for number, scores_T in enumerate(seen.region_scores_RT, start=1):
        columns[f"box {number}"] = scores_T
    rows = []
    for index, text in enumerate(texts):
        scores = [f"{float(scores_T[index]):.3f}" for scores_T in columns.values()]
        rows.append([*scores, _INDENTS[text.kind] + _shortened(text.text)])
    return format_table([*columns, "text"], rows, align="r" * len(columns) + "l")


def format_hierarchies(scores: Sequence[HierarchyScore]) -> str:
    """Formats hierarchical scores and what they are made of as a plain-text table."""
    header = ["caption", "sentences", "phrases", "total", "score", "text"]
    rows = []
    for score in scores:
        numbers = (score.caption, score.sentences, score.phrases, score.total)
        cells = [f"{number:.3f}" for number in numbers]
        rows.append([*cells, score.score, _shortened(score.text)])
    return format_table(header, rows, align="rrrrll")


def _shortened(text: str) -> str:
    """Cuts a text that is too long for a table."""
    if len(text) > TABLE_TEXT_WIDTH:
        return text[: TABLE_TEXT_WIDTH - 1] + "…"
    return text
