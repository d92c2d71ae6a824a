"""Asks a model where each text looks in an image, and how well each region matches each text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..data.fields import check_text
from ..data.images import load_image, thumbnail
from ..model.boxes_beta_clip import Box, has_area, seen_box
from ..model.image_views_beta_clip import view_in_pixels, view_of_image
from ..text.hierarchy import build_text_hierarchy
from .embedder import Embedder
from .grids import grids_of, on_grid
from .hierarchical import DEFAULT_WEIGHTS, HIERARCHICAL_PLACES, Weights, best_places, part_scores
from .progress import progress_bars
from .text_kinds import CAPTION, PHRASE, SENTENCE
from .windows import best_window_scores


SHOWN_SIDE = 1024
"""Largest side in pixels of the view that is kept for drawing."""


class ShownText(NamedTuple):
    """A text with its role in the text that it comes from."""

    text: str
    kind: str = PHRASE
    """"caption" for a text that has parts, "sentence" for one of several, "phrase" for any other."""
    group: int = 0
    """Texts of one group belong together, such as a sentence and its phrases."""


class Look(NamedTuple):
    """Holds what a model sees in an image for some texts. All tensors are float32 on the CPU."""

    view: Image.Image
    """The part of the image that the model sees."""
    similarity_T: Tensor
    """(T,) cosine of each text with the whole image, as in CLIP."""
    conditioned_T: Tensor | None
    """(T,) cosine of each text with the image as this text sees it; `None` for a model without a pooler."""
    attention_THYX: Tensor | None
    """(T, H, Y, X) attention of each head of the pooler for each text; `None` for a model without a pooler."""
    window_T: Tensor
    """(T,) cosine of each text with the window of the patch features that fits it best."""
    boxes_R4: Tensor
    """(R, 4) xyxy in units of the view's sides, cut at its borders."""
    region_scores_RT: Tensor
    """(R, T) cosine of each region with each text."""

    def maps(self, head: int | None = None) -> Tensor:
        """
        Returns (T, Y, X) heat maps: the mean of the heads, or one of them.

        Raises:
            ValueError: if the model has no pooler, or the head does not exist.
        """
        if self.attention_THYX is None:
            raise ValueError("use_pooler must be True for heat maps, but the model has no pooler")
        num_heads = self.attention_THYX.shape[1]
        if head is None:
            return self.attention_THYX.mean(dim=1)
        if not 0 <= head < num_heads:
            raise ValueError(f"head must be 'mean' or one of 0 to {num_heads - 1}, but is {head}")
        return self.attention_THYX[:, head]


class HierarchyScore(NamedTuple):
    """Holds a hierarchical score of an image and a text, and what it is made of."""

    text: str
    score: str
    """Name of the score: "hierarchical" or "hierarchical_window"."""
    caption: float
    """Cosine of the whole image and the whole text."""
    sentences: float
    """Mean score of the sentences."""
    phrases: float
    """Mean score of the phrases."""
    weights: Weights
    """Weights of the three."""
    total: float
    """The hierarchical score."""


def split_texts(texts: Sequence[str], *, most_phrases: int = 12) -> list[ShownText]:
    """
    Splits each text into its sentences, if there are several, and each sentence into its phrases. No text comes twice.

    Args:
        texts: Captions of any length, or phrases.
        most_phrases: Largest number of phrases to take from each text; 0 does not split texts.

    Returns:
        Each text, followed by its parts in the order of the text.

    Raises:
        ValueError: if there is no text, or one is blank, too long or no Unicode.

    >>> for text in split_texts(["A cat sleeps. A red ball is near.", "the sky"]):
    ...     print(text.group, text.kind, "-", text.text)
    0 caption - A cat sleeps. A red ball is near.
    1 sentence - A cat sleeps.
    1 phrase - A cat
    2 sentence - A red ball is near.
    2 phrase - A red ball
    3 phrase - the sky
    """
    if not texts:
        raise ValueError("texts must be at least one, but there is none")
    shown: list[ShownText] = []
    seen: set[str] = set()
    group = 0
    for text in texts:
        check_text(text, "text")
        parts = _parts_of(text, most_phrases, group)
        for part in parts:
            folded = folded_text(part.text)
            if folded not in seen:
                seen.add(folded)
                shown.append(part)
        group = parts[-1].group + 1
    return shown


def _parts_of(text: str, most_phrases: int, group: int) -> list[ShownText]:
    """Returns a text and its parts; `group` is the number of the first group."""
    hierarchy = build_text_hierarchy(text)
    caption = hierarchy.caption
    phrases = list(zip(hierarchy.phrases, hierarchy.phrase_sentences, strict=True))[:most_phrases]
    # A phrase that is the whole text would be shown twice.
    phrases = [(phrase, sentence) for phrase, sentence in phrases if folded_text(phrase) != folded_text(caption)]
    has_sentences = len(hierarchy.sentences) > 1
    # A text without parts is a phrase, whatever its length: "caption" would send it down the long text path.
    if most_phrases == 0 or not (has_sentences or phrases):
        return [ShownText(caption, PHRASE, group)]
    parts = [ShownText(caption, CAPTION, group)]
    for index, sentence in enumerate(hierarchy.sentences):
        if has_sentences:
            group += 1
            parts.append(ShownText(sentence, SENTENCE, group))
        for phrase, sentence_index in phrases:
            if sentence_index == index:
                parts.append(ShownText(phrase, PHRASE, group))
    return parts


def folded_text(text: str) -> str:
    """Returns what texts have in common that differ only in capitals, outer spaces or their full stop."""
    return text.casefold().strip(" .")


def can_look(model: Any) -> bool:
    """Tells whether a model has patch features, without which it sees nothing of the places of an image."""
    return hasattr(model, "encode_images")


@torch.no_grad()
def look(
    model: Any,
    processor: Any,
    image: Any,
    texts: Sequence[str | ShownText],
    *,
    boxes: Sequence[Sequence[float]] = (),
    box_format: str = "xyxy_pixels",
) -> Look:
    """
    Asks a model what it sees in one image for each text and each region.

    Args:
        model: A `BetaCLIPModel` or `BetaSiglip2Model`, on any device. Heat maps come from its pooler, if it has one.
        processor: Processor of the model.
        image: PIL image, path or bytes.
        texts: T texts. A model with several text paths encodes sentences and phrases on theirs. All texts of the kind
            "caption" take one path: that of short captions if all of them are short, see [`kind_of_descriptions`].
        boxes: R boxes of the image.
        box_format: "xyxy_pixels", "xywh_pixels" (of the image as given) or "xyxy_normalized".

    Raises:
        ValueError: if the image cannot be read, there is no text, or the model sees nothing of a box.
    """
    image = load_image(image)
    if not texts:
        raise ValueError("texts must be at least one, but there is none")
    shown_texts = [ShownText(text) if isinstance(text, str) else text for text in texts]
    # All boxes are checked before the model runs.
    seen_boxes = _seen_boxes(boxes, box_format, image, processor.image_processor)
    embedder = Embedder(model, processor)
    with progress_bars(False):
        text_embeds_TD = _text_embeds(embedder, shown_texts)
    num_texts = len(text_embeds_TD)
    batch = embedder.image(image)
    similarity_T = (batch.image_embeds_BD @ text_embeds_TD.T)[0]
    conditioned_T, attention_THYX = None, None
    if embedder.has_pooler:
        first_image = torch.zeros(num_texts, dtype=torch.int64, device=text_embeds_TD.device)
        conditioned_T = embedder.conditioned_scores(batch, text_embeds_TD, first_image).cpu()
        attention_THP = embedder.attention(batch, text_embeds_TD, first_image)
        # The grid is that of the image as the model sees it: images of another shape or size have other grids.
        attention_THYX = on_grid(attention_THP, grids_of(batch.patches)[0]).cpu()
    region_scores_RT = torch.zeros(0, num_texts)
    if seen_boxes:
        region_embeds_RD = embedder.view_embeds(batch, seen_boxes, torch.zeros(len(seen_boxes), dtype=torch.int64))
        region_scores_RT = (region_embeds_RD @ text_embeds_TD.T).cpu()
    return Look(
        # A processor that pads sees more than the image; PIL fills what lies outside with black.
        view=thumbnail(image.crop(view_in_pixels(image.size, processor.image_processor)), SHOWN_SIDE),
        similarity_T=similarity_T.cpu(),
        conditioned_T=conditioned_T,
        attention_THYX=attention_THYX,
        window_T=best_window_scores(batch.patches, text_embeds_TD)[0].float().cpu(),
        # Without boxes the list is empty, and its tensor has one axis only.
        boxes_R4=torch.tensor(seen_boxes, dtype=torch.float32).reshape(-1, 4),
        region_scores_RT=region_scores_RT,
    )


def _seen_boxes(
    boxes: Sequence[Sequence[float]], box_format: str, image: Image.Image, image_processor: Any
) -> list[Box]:
    """Returns what the model sees of each box, in shares of the view; raises `ValueError` if that is nothing."""
    view = view_of_image(image.size, image_processor)
    seen_boxes = []
    for box in boxes:
        box_in_view = seen_box(box, box_format, image.size, view)
        if not has_area(box_in_view):
            # The view may end between two pixels, but an image can only be cut between them.
            view_pixels = view_in_pixels(image.size, image_processor)
            raise ValueError(
                f"boxes must lie in what the model sees of the image, {view_pixels} of its pixels, but "
                f"{list(box)} ({box_format}) does not"
            )
        seen_boxes.append(box_in_view)
    return seen_boxes


def _text_embeds(embedder: Embedder, texts: Sequence[ShownText]) -> Tensor:
    """Embeds texts, (T, D), each on the path of its kind."""
    captions = [text.text for text in texts if text.kind == CAPTION]
    caption_kind = embedder.description_kind(captions)
    paths = [embedder.text_path(caption_kind if text.kind == CAPTION else text.kind) for text in texts]
    return embedder.texts_on_paths([text.text for text in texts], paths)


def score_records(seen: Look, texts: Sequence[ShownText]) -> dict[str, Any]:
    """
    Returns the scores ready for JSON: `texts` with the scores of each text, `regions` with each region and text.

    Args:
        seen: Answer of [`look`].
        texts: The texts that were asked for.
    """
    text_records = []
    for index, text in enumerate(texts):
        # A model without a pooler has no such score. The key stays, so that all records have the same keys.
        conditioned = None
        if seen.conditioned_T is not None:
            conditioned = float(seen.conditioned_T[index])
        record = {
            "text": text.text,
            "kind": text.kind,
            "conditioned": conditioned,
            "similarity": float(seen.similarity_T[index]),
            "window": float(seen.window_T[index]),
        }
        text_records.append(record)
    region_records = []
    for box, scores in zip(seen.boxes_R4.tolist(), seen.region_scores_RT.tolist(), strict=True):
        by_text = {text.text: score for text, score in zip(texts, scores, strict=True)}
        region_records.append({"box": box, "scores": by_text})
    return {"texts": text_records, "regions": region_records}


def hierarchy_scores(model: Any, processor: Any, image: Any, texts: Sequence[str]) -> list[HierarchyScore]:
    """
    Scores an image with each text by its sentences and phrases, with the default weights.

    Args:
        model, processor: As for [`look`].
        image: PIL image, path or bytes.
        texts: Captions of any length, which all take one text path, as in [`look`].

    Returns:
        For each text each hierarchical score that the model has.
    """
    embedder = Embedder(model, processor)
    kind = embedder.description_kind(texts)
    places = best_places(embedder)
    parts_by_name = {}
    with progress_bars(False):
        for name, place in HIERARCHICAL_PLACES.items():
            if place in places:
                parts_by_name[name] = part_scores(embedder, [image], texts, place=place, kind=kind)
    scores = []
    for index, text in enumerate(texts):
        for name, parts in parts_by_name.items():
            weights = DEFAULT_WEIGHTS[HIERARCHICAL_PLACES[name]]
            caption, sentences, phrases = (float(part_BT[0, index]) for part_BT in parts)
            total = float(parts.total(weights)[0, index])
            scores.append(HierarchyScore(text, name, caption, sentences, phrases, weights, total))
    return scores
