"""Draws where each text looks: as figures (PNG), or as one self-contained page (HTML)."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.images import load_image
from ..inference.look import PHRASE, Look, ShownText, look, split_texts
from ..inference.models import load_model
from ..inference.processes import own_device
from ..model.modeling_beta_clip import BetaCLIPModel
from .attention import plot_phrase_attention
from .heat_maps import colour_bar, enlarged, highest_of, overlay
from .pages import Picture, Section, write_page
from .regions import plot_region_scores


logger = logging.getLogger(__name__)

MOST_ON_PNG = 31  # heat maps: with the image, eight rows of four
SUFFIXES = (".png", ".html")


class ShownImage(NamedTuple):
    """What [`show_image`] has drawn, and what the model saw."""

    paths: list[Path]
    """The files that were written."""
    look: Look
    texts: list[ShownText]


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
        model: Directory or Hub id of a β-CLIP or FG-CLIP.
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
    # What is wrong with the arguments is reported before the model is loaded.
    check_suffix(output)
    if most_phrases < 0:
        raise ValueError(f"phrases must be 0 or more, but is {most_phrases}")
    shown_texts = split_texts(texts, most_phrases=most_phrases)
    picture = load_image(image)
    loaded = load_model(model, own_device(device))
    _check_model(loaded.model, model, has_boxes=len(boxes) > 0)
    seen = look(loaded.model, loaded.processor, picture, shown_texts, boxes=boxes, box_format=box_format)
    paths = write_look(output, seen, shown_texts, head=head, title=Path(image).name)
    return ShownImage(paths, seen, shown_texts)


def _check_model(model: Any, name: str, has_boxes: bool) -> None:
    """Raises `ValueError` for a model that has not learnt what is to be shown."""
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
    check_suffix(path)
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


def check_suffix(path: Path) -> None:
    """Raises `ValueError` for a file that is neither a PNG nor a page."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output must end in one of {SUFFIXES}, but is {str(path)!r}")


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
