"""Search results as text, as records, and as a page of pictures with a heat map for each phrase."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..data.images import load_image, thumbnail
from ..inference.text_kinds import PHRASE
from ..model.image_views_beta_clip import view_in_pixels
from ..text.phrases import PhraseExtractor
from ..visualize.heat_maps import NOWHERE, highest_of, looks_nowhere, overlay
from ..visualize.pages import Picture, Section, scale_picture, write_page
from ..visualize.tables import format_table
from .index import PhotoIndex, load_embedder
from .query import Hit, Query
from .rerank import Reranking, attention_maps
from .table import ImageTable


logger = logging.getLogger(__name__)

# A page shows this many phrases of a description.
MOST_PHRASES = 5
# Pictures on a page are not larger, so the image under a heat map need not be either. In pixels.
SHOWN_SIDE = 640
# The table of hits shows this many characters of a caption.
_CAPTION_LENGTH = 60
# Below this confidence of the best image, perhaps nothing matches.
DOUBTFUL = 0.5


def search_index(
    path: str | os.PathLike[str],
    query: Query,
    *,
    where: str | None = None,
    top: int = 20,
    rerank: int | Reranking = 0,
    exact: bool = False,
    min_confidence: float = 0.0,
    page: str | os.PathLike[str] | None = None,
    model: str | None = None,
    device: str | None = None,
) -> list[Hit]:
    """
    Searches the index under a path, and writes a page of pictures if one is asked for.

    Args:
        path: The directory or URI of the index.
        query: The query.
        where, top, rerank, exact, min_confidence: See [`PhotoIndex.search`].
        page: The file of the page, see [`write_gallery`]. By default none is written.
        model: Where the model of the index is now, if it was moved.
        device: See [`load_embedder`].

    Returns:
        The images that fit best, best first; an empty list if no image meets the condition.

    Raises:
        ValueError: see [`PhotoIndex.open`] and [`PhotoIndex.search`].
        ImportError: without LanceDB, or without matplotlib for a page with heat maps.
    """
    info = ImageTable.open(path).info
    embedder = load_embedder(model or info["model"], device=device, dtype=info["dtype"])
    index = PhotoIndex.open(path, embedder)
    hits = index.search(query, where=where, top=top, rerank=rerank, exact=exact, min_confidence=min_confidence)
    if page is not None:
        write_gallery(page, hits, index, title_of(query), phrases_to_show(query))
        logger.info("the page is %s", page)
    return hits


def format_hits(hits: Sequence[Hit]) -> str:
    """
    Formats hits as a plain-text table: rank, score, path, confidence, and the beginning of the caption.

    A line below says so if no image stands out.
    """
    if not hits:
        return "nothing was found"
    rows = []
    for rank, hit in enumerate(hits, 1):
        caption = " ".join(str(hit.columns.get("caption", "")).split())
        if len(caption) > _CAPTION_LENGTH:
            caption = caption[: _CAPTION_LENGTH - 1] + "…"
        # A sign has its place, so that tables of different searches look alike.
        confidence = "–" if hit.confidence is None else f"{hit.confidence:.2f}"
        rows.append([str(rank), f"{hit.score:6.3f}", hit.image, confidence, caption])
    table = format_table(["rank", "score", "image", "confidence", ""], rows, align="rrlrl")
    best = max((hit.confidence for hit in hits if hit.confidence is not None), default=None)
    if best is not None and best < DOUBTFUL:
        table = f"{table}\n\nPerhaps nothing matches: {1 - best:.0%} of texts without a match find an image as good."
    return table


def hit_records(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Returns hits as dicts that JSON can hold, each with its rank from 1."""
    records = []
    for rank, hit in enumerate(hits, 1):
        record = {
            "rank": rank,
            "image": hit.image,
            "score": hit.score,
            "similarity": hit.similarity,
            "confidence": hit.confidence,
            "reranked": hit.reranked,
            "columns": dict(hit.columns),
        }
        records.append(record)
    return records


def phrases_to_show(query: Query) -> list[tuple[str, float]]:
    """
    Returns the phrases whose heat maps a page shows, with their weights: the phrases of the query, else the first noun
    phrases of its description, else the whole description.
    """
    if query.phrases or query.text is None:
        return list(query.phrases)
    noun_phrases = PhraseExtractor(kinds=("noun",))(query.text)
    texts = noun_phrases[:MOST_PHRASES] or [query.text]
    return [(text, 1.0) for text in texts]


def with_weight(part: str, weight: float) -> str:
    """
    Formats a part of a query with its weight.

    >>> with_weight("a dog", 1), with_weight("a hat", 2), with_weight("the sea", -1.5)
    ('a dog', 'a hat ×2', 'not: the sea (−1.5)')
    """
    if weight < 0:
        return f"not: {part} (−{-weight:g})"
    if weight == 1:
        return part
    return f"{part} ×{weight:g}"


def title_of(query: Query) -> str:
    """Formats all parts of a query with their weights, as the title of a page."""
    parts = [*query.weighted_texts(), *query.images]
    return "; ".join(with_weight(str(part), weight) for part, weight in parts)


def write_gallery(
    path: str | os.PathLike[str],
    hits: Sequence[Hit],
    index: PhotoIndex,
    title: str,
    phrases: Sequence[tuple[str, float]] = (),
) -> Path:
    """
    Writes a self-contained HTML page: each hit with its image and, for each phrase, where the model looks.

    Args:
        path: The file to write.
        hits: The images that were found.
        index: The index in which they were found.
        title: The title of the page.
        phrases: Texts whose heat maps are drawn on one colour scale, with the weights that are written below them. A
            model without a trained pooler has no heat maps.

    Returns:
        `path`.

    Raises:
        ImportError: without matplotlib, if there are heat maps to draw.
    """
    embedder = index.embedder
    maps: Mapping[str, Tensor] = {}
    if phrases and embedder.has_pooler:
        text_embeds_TD = embedder.texts([text for text, _ in phrases], PHRASE)
        maps = attention_maps([hit.image for hit in hits], text_embeds_TD, index.table, embedder)
    # One scale for all heat maps makes them comparable.
    all_maps: list[Tensor] = []
    for maps_TYX in maps.values():
        all_maps.extend(maps_TYX)
    highest = highest_of(*all_maps)

    sections = []
    if maps:
        legend = "grey where the model looks no more than evenly; one scale for all."
        note = NOWHERE if looks_nowhere(*all_maps) else ""
        sections.append(Section(f"Where each phrase looks: {legend}", [scale_picture(highest)], note))
    for rank, hit in enumerate(hits, 1):
        sections.append(_hit_section(rank, hit, index, phrases, maps.get(hit.image), highest))
    if any(hit.reranked is not None for hit in hits):
        summary = "The best are ordered again by the re-ranking score."
    else:
        summary = "By the similarity of embeddings."
    return write_page(path, title, sections, summary=summary)


def _hit_section(
    rank: int,
    hit: Hit,
    index: PhotoIndex,
    phrases: Sequence[tuple[str, float]],
    maps_TYX: Tensor | None,
    highest: float,
) -> Section:
    """Returns the part of the page that shows a hit; `maps_TYX` holds a map for each phrase."""
    confidence = "" if hit.confidence is None else f", confidence {hit.confidence:.2f}"
    # The name alone: a path is longer than a card is wide, and the link shows it.
    text = f"{rank}. {hit.score:.3f}{confidence}  {os.path.basename(hit.image)}"
    image = image_of(hit.image, index.table)
    if image is None:
        return Section(text, [], "the image can no longer be opened", is_card=True)
    caption = str(hit.columns.get("caption", ""))
    link = Path(hit.image).as_uri() if os.path.isfile(hit.image) else None
    pictures = [Picture(image, "whole image", alt=caption or os.path.basename(hit.image), link=link)]
    if maps_TYX is not None:
        # The model sees what its processor does not crop away, and the map covers only that.
        view = image.crop(view_in_pixels(image.size, index.embedder.image_processor))
        for (phrase, weight), map_YX in zip(phrases, maps_TYX, strict=True):
            pictures.append(Picture(overlay(view, map_YX, highest), with_weight(phrase, weight)))
    return Section(text, pictures, caption, is_card=True)


def image_of(key: str, table: ImageTable) -> Image.Image | None:
    """
    Returns the image of a key, scaled down to `SHOWN_SIDE` pixels at most.

    It comes from the image's file, or from the preview of an image without a file. `None` means that it cannot be
    opened any more.
    """
    source: str | bytes | None = key
    if not os.path.isfile(key):
        # Another process may have removed the image from the index since it was found.
        source = table.fetch([key], ["preview"]).get(key, {}).get("preview")
    if source is None:
        return None
    try:
        return thumbnail(load_image(source), SHOWN_SIDE)
    except ValueError:
        return None
