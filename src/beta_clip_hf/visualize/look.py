"""Draws where each text looks: as figures (PNG), or as one self-contained page (HTML)."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..data.rows import load_image
from ..inference.look import PHRASE, Look, ShownText
from .attention import plot_phrase_attention
from .heat_maps import colour_bar, enlarged, highest_of, overlay
from .pages import Picture, Section, write_page
from .regions import plot_region_scores


logger = logging.getLogger(__name__)

MOST_ON_PNG = 31  # heat maps: with the image, eight rows of four
SUFFIXES = (".png", ".html")


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
