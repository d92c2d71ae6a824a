"""
Computes everything that the demo shows of a model: search results, heat maps, and comparisons of captions.

Nothing here knows of the page. `markup.py` writes these results as HTML.
"""

from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from PIL import Image

from ..data.images import thumbnail
from ..inference.look import CAPTION, PHRASE, SENTENCE, Look, ShownText, can_look, folded_text, look, split_texts
from ..search.gallery import image_of, phrases_to_show
from ..search.index import PhotoIndex
from ..search.query import Hit, Query
from ..visualize.heat_maps import enlarged, highest_of, overlay


MOST_PHRASES = 40
"""Largest number of phrases of a caption."""
MOST_DIFFERENT = 4
"""Largest number of phrases that are shown of each of two captions."""
SHOWN_SIDE = 512
"""Largest side in pixels of a picture. Larger pictures would only take longer to load."""
# A re-ranked search orders so many images anew for each image that it returns.
_RERANKED_PER_RESULT = 10
_MISSING_COLOUR = "#888888"


class Seen(NamedTuple):
    """An image, some texts, and what the model sees in the image for them."""

    look: Look
    texts: list[ShownText]

    def view(self) -> Image.Image:
        """Returns the part of the image that the model sees, in the size in which it is shown."""
        return shown_size(self.look.view)

    def highest(self, head: int | None = None) -> float:
        """Returns the end of the colour scale that all texts share, in multiples of uniform attention."""
        return highest_of(*self.look.maps(head))

    def heat_map(self, place: int, head: int | None = None) -> Image.Image:
        """
        Draws where a text looks.

        Args:
            place: Position of the text.
            head: Head of the pooler; `None` draws the mean of all heads.
        """
        return overlay(self.view(), self.look.maps(head)[place], self.highest(head))


class Found(NamedTuple):
    """Holds the images that a text has found, the best first, and the phrases whose heat maps are shown."""

    hits: list[Hit]
    phrases: list[str]


class Scores(NamedTuple):
    """Holds the scores of two captions for an image, by the same method."""

    first: float
    second: float

    @property
    def winner(self) -> str:
        """The caption with the higher score, "A" or "B"; "" if the scores are equal."""
        if self.first > self.second:
            return "A"
        if self.second > self.first:
            return "B"
        return ""


class Comparison(NamedTuple):
    """Two captions of an image."""

    seen: Seen
    """What the model sees for both captions, for the phrases of the first alone, and for those of the second alone."""
    num_only_first: int
    """The number of phrases that only the first caption has."""

    def scores(self) -> dict[str, Scores]:
        """Returns the cosines of both captions with the image, by the name of the method."""
        look = self.seen.look
        similarities = {"whole image (CLS)": look.similarity_T}
        if look.conditioned_T is not None:
            similarities["as each text sees it (text-conditioned)"] = look.conditioned_T
        return {name: Scores(float(scores_T[0]), float(scores_T[1])) for name, scores_T in similarities.items()}

    def differing_texts(self) -> dict[str, range]:
        """Returns the positions of the phrases that only one caption has, by the letter of the caption."""
        end_of_first = 2 + self.num_only_first
        return {"A": range(2, end_of_first), "B": range(end_of_first, len(self.seen.texts))}


def explore(model: Any, processor: Any, image: Image.Image, caption: str) -> Seen:
    """
    Asks a model what it sees in an image for a caption, its sentences and their phrases.

    Raises:
        ValueError: if the model has no patch features, as a SigLIP.
    """
    _check_model(model)
    texts = split_texts([caption], most_phrases=MOST_PHRASES)
    return Seen(look(model, processor, image, texts), texts)


def compare(model: Any, processor: Any, image: Image.Image, first: str, second: str) -> Comparison:
    """
    Asks a model which of two captions fits an image better, and where the phrases look in which they differ.

    Raises:
        ValueError: if the captions are the same, or the model has no patch features, as a SigLIP.
    """
    _check_model(model)
    only_first, only_second = differences(first, second)
    captions = [ShownText(first, CAPTION), ShownText(second, CAPTION)]
    phrases = [ShownText(text, PHRASE) for text in only_first + only_second]
    texts = captions + phrases
    return Comparison(Seen(look(model, processor, image, texts), texts), len(only_first))


def differences(first: str, second: str) -> tuple[list[str], list[str]]:
    """
    Returns the phrases that only one of two captions has, at most `MOST_DIFFERENT` of each caption.

    Captions with the same phrases differ in sentences, or else as a whole.

    Raises:
        ValueError: if the captions are the same.

    >>> differences("A red cube is near a ball.", "A blue cube is near a ball.")
    (['A red cube'], ['A blue cube'])
    """
    first_parts = split_texts([first], most_phrases=MOST_PHRASES)
    second_parts = split_texts([second], most_phrases=MOST_PHRASES)
    # A caption of one sentence without phrases counts as a phrase itself.
    for kinds in ({PHRASE}, {SENTENCE}, {CAPTION, PHRASE}):
        first_texts = _texts_by_words(first_parts, kinds)
        second_texts = _texts_by_words(second_parts, kinds)
        only_first = [text for words, text in first_texts.items() if words not in second_texts]
        only_second = [text for words, text in second_texts.items() if words not in first_texts]
        if only_first or only_second:
            return only_first[:MOST_DIFFERENT], only_second[:MOST_DIFFERENT]
    raise ValueError("The two captions must differ, but are the same.")


def _texts_by_words(parts: list[ShownText], kinds: AbstractSet[str]) -> dict[str, str]:
    """Returns the texts of some kinds by what makes them the same, see [`folded_text`]."""
    return {folded_text(part.text): part.text for part in parts if part.kind in kinds}


def find(index: PhotoIndex, text: str, top: int, rerank: bool) -> Found:
    """
    Searches an index by a text.

    Args:
        index: The index.
        text: The description.
        top: Largest number of images to return.
        rerank: Whether ten times as many of the best are ordered again by the hierarchical score.
    """
    num_reranked = 0
    if rerank:
        num_reranked = _RERANKED_PER_RESULT * top
    hits = index.search(text, top=top, rerank=num_reranked)
    phrases = [phrase for phrase, _ in phrases_to_show(Query(text))]
    return Found(hits, phrases)


def thumbnails(index: PhotoIndex, found: Found) -> list[tuple[Image.Image, str]]:
    """Returns a picture and a label for each hit. An image that cannot be opened any more is grey."""
    shown = []
    for rank, hit in enumerate(found.hits, 1):
        image = image_of(hit.image, index.table)
        if image is None:
            image = Image.new("RGB", (SHOWN_SIDE, SHOWN_SIDE), _MISSING_COLOUR)
        # The key of an image on Windows has backslashes.
        file_name = hit.image.replace("\\", "/").rpartition("/")[2]
        name = hit.columns.get("caption") or file_name
        shown.append((image, f"{rank}. {hit.score:.3f} — {name}"))
    return shown


def shown_size(image: Image.Image) -> Image.Image:
    """Returns an image in the size in which it is shown: a small one enlarged, a large one scaled down."""
    return thumbnail(enlarged(thumbnail(image, SHOWN_SIDE).convert("RGB")), SHOWN_SIDE)


def _check_model(model: Any) -> None:
    if not can_look(model):
        raise ValueError(f"The model must be a β-CLIP, FG-CLIP or FG-CLIP 2 for this, but is a {type(model).__name__}.")
