"""
`beta-clip search`: a query on the command line; what is found as a table, as JSON, or as a page of pictures with a heat
map for each phrase.
"""

import argparse
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..data.rows import load_image
from ..inference.processes import default_device
from ..model.boxes_beta_clip import view_of_image
from ..text.phrases import PhraseExtractor
from ..visualize.heat_maps import colour_bar, highest_of, overlay
from ..visualize.pages import Picture, Section, write_page
from .index import PhotoIndex, load_embedder
from .query import Hit, Query, parse_weighted
from .rerank import attention_maps
from .table import ImageTable


logger = logging.getLogger(__name__)

MOST_PHRASES = 5  # of a description on a page
SHOWN_SIDE = 640  # pixels: what is drawn on need not be larger


def phrases_to_show(query: Query) -> list[tuple[str, float]]:
    """The phrases whose heat maps a page shows, with their weights: those of the query, else noun phrases of its
    description, else all of it."""
    if query.phrases or query.text is None:
        return list(query.phrases)
    return [(text, 1.0) for text in PhraseExtractor(kinds=("noun",))(query.text)[:MOST_PHRASES] or [query.text]]


def with_weight(part: str, weight: float) -> str:
    """
    A part of a query as a page names it.

    >>> with_weight("a dog", 1), with_weight("a hat", 2), with_weight("the sea", -1.5)
    ('a dog', 'a hat ×2', 'not: the sea (−1.5)')
    """
    if weight < 0:
        return f"not: {part} (−{-weight:g})"
    return part if weight == 1 else f"{part} ×{weight:g}"


def title_of(query: Query) -> str:
    """All parts of a query, with their weights."""
    return "; ".join(with_weight(str(part), weight) for part, weight in (*query.weighted_texts(), *query.images))


def write_gallery(
    path: str | os.PathLike[str],
    hits: Sequence[Hit],
    index: PhotoIndex,
    title: str,
    phrases: Sequence[tuple[str, float]] = (),
) -> Path:
    """
    Writes a self-contained HTML page: a row for each hit with its image and, for each phrase, where the model looks.

    Args:
        path: Where it goes.
        hits: As found.
        index: Where they were found.
        title: What was asked.
        phrases: Texts whose heat maps are drawn, on one colour scale, with the weights that are written below them. A
            model without a trained pooler has none.

    Returns:
        `path`.

    Raises:
        ImportError: without matplotlib, where heat maps are to be drawn.
    """
    embedder, maps = index.embedder, {}
    if phrases and embedder.has_pooler:
        texts = embedder.texts([text for text, _ in phrases])
        maps = attention_maps([hit.image for hit in hits], texts, index.table, embedder)
    highest = highest_of(*(heat for of_image in maps.values() for heat in of_image))
    sections = []
    for rank, hit in enumerate(hits, 1):
        image = image_of(hit.image, index.table)
        text = f"{rank}. {hit.score:.3f}  {hit.image}"
        pictures = [] if image is None else [Picture(image, "whole image")]
        if image is not None and hit.image in maps:
            view = image.crop(view_of_image(image.size, embedder.image_processor))
            of_phrases = zip(phrases, maps[hit.image], strict=True)
            pictures += [Picture(overlay(view, heat, highest), with_weight(*phrase)) for phrase, heat in of_phrases]
        note = "the image can no longer be opened" if image is None else str(hit.columns.get("caption", ""))
        sections.append(Section(text, pictures, note))
    summary = "By the similarity of embeddings." if not any(hit.conditioned for hit in hits) else (
        "By text-conditioned scores."
    )  # fmt: skip
    if maps:
        legend = "grey where the model looks no more than evenly; one scale for all."
        sections.insert(0, Section(f"Where each phrase looks: {legend}", [Picture(colour_bar(highest), "attention")]))
    return write_page(path, title, sections, summary=summary)


def image_of(key: str, table: ImageTable) -> Image.Image | None:
    """The image, at most `SHOWN_SIDE` large: of its file, or the preview of one that comes from none."""
    try:
        if os.path.isfile(key):
            image = load_image(key)
        else:
            preview = table.fetch([key], ["preview"])[key]["preview"]
            if preview is None:
                return None
            image = Image.open(io.BytesIO(preview))
    except ValueError:
        return None
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip search`."""
    parser.add_argument("index", metavar="INDEX", help="what beta-clip index has made")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="a description, of any length")
    weighted = "with a weight behind a colon, negative for what is not wanted; may be given several times"
    parser.add_argument(
        "--phrase", metavar="TEXT", action="append", default=[], help=f"a text, {weighted}: 'a red hat:2'"
    )
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help=f"an image file, {weighted}")
    parser.add_argument(
        "--where", metavar="SQL", help="condition on the columns: \"width > 300 AND caption LIKE '%%dog%%'\""
    )
    parser.add_argument("--top", metavar="N", type=int, default=20, help="how many images")
    parser.add_argument(
        "--rerank", metavar="N", type=int, default=0, help="order so many of the best anew, by how each text sees them"
    )
    parser.add_argument("--exact", action="store_true", help="compare with every image of a large index, too")
    parser.add_argument("--html", metavar="FILE", help="also write a page of pictures with heat maps")
    parser.add_argument("--model", metavar="MODEL", help="where the model of the index is now, if it was moved")
    parser.add_argument("--device", metavar="DEVICE", default=default_device(), help="cpu, cuda, cuda:1 or another")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Searches; the report is what is found, and the exit code 0 also where that is nothing."""
    query = Query(args.text, list(map(parse_weighted, args.phrase)), list(map(parse_weighted, args.image)))
    info = ImageTable.open(args.index).info
    embedder = load_embedder(args.model or info["model"], device=args.device, dtype=info["dtype"])
    index = PhotoIndex.open(args.index, embedder)
    hits = index.search(query, where=args.where, top=args.top, rerank=args.rerank, exact=args.exact)
    if args.html:
        page = write_gallery(args.html, hits, index, title_of(query), phrases_to_show(query))
        logger.info("the page is %s", page)
    return Report([_record(rank, hit) for rank, hit in enumerate(hits, 1)], format_hits(hits))


def format_hits(hits: Sequence[Hit]) -> str:
    """A plain-text table: rank, score, path, and the beginning of the caption."""
    if not hits:
        return "nothing was found"
    width = max(len(hit.image) for hit in hits)
    lines = []
    for rank, hit in enumerate(hits, 1):
        caption = " ".join(str(hit.columns.get("caption", "")).split())
        caption = caption if len(caption) <= 60 else caption[:59] + "…"
        lines.append(f"{rank:>4}  {hit.score:>6.3f}  {hit.image:<{width}}  {caption}".rstrip())
    return "\n".join([f"rank   score  {'image':<{width}}".rstrip(), *lines])


def _record(rank: int, hit: Hit) -> dict[str, Any]:
    scores = {"score": hit.score, "similarity": hit.similarity, "conditioned": hit.conditioned}
    return {"rank": rank, "image": hit.image, **scores, "columns": dict(hit.columns)}
