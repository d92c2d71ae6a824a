"""
Scores images with texts by the parts of the texts: the caption, its sentences and its phrases.

    score(i, t) = w_c · cos(image i, t) + w_s · mean of place(i, sentence) + w_p · mean of place(i, phrase)

where place(i, part) is the score of a part by its best place in the image. Every image is scored with every text, so
that nothing tells which text belongs to which image.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..text.hierarchy import TextHierarchy, build_text_hierarchy
from ..text.phrases import PhraseExtractor
from .embedder import Embedder
from .grids import HasPatches
from .text_kinds import CAPTION, PHRASE, SENTENCE
from .windows import best_window_candidates, best_window_scores


ATTENTION, WINDOW = "attention", "window"
PLACES = (ATTENTION, WINDOW)
"""How the best place of a text is found: by the attention of the pooler (the text-conditioned score), or as the best
window of the patch features."""

HIERARCHICAL_PLACES = {"hierarchical": ATTENTION, "hierarchical_window": WINDOW}
"""Names of the hierarchical scores, and the kind of place that each looks for."""


class Weights(NamedTuple):
    """Weights of the parts of a hierarchical score. They are not negative, and their sum is 1."""

    caption: float
    sentences: float
    phrases: float


DEFAULT_WEIGHTS = {ATTENTION: Weights(0.4, 0.2, 0.4), WINDOW: Weights(0.8, 0.0, 0.2)}
"""Weights by the kind of place. docs/conditioning.md says where they come from."""


def check_weights(weights: Sequence[float]) -> Weights:
    """
    Returns the weights of caption, sentences and phrases.

    Raises:
        ValueError: if they are not three numbers from 0 whose sum is 1.
    """
    is_valid = len(weights) == 3 and all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if not is_valid or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(
            f"weights must be three numbers from 0 whose sum is 1, for caption, sentences and phrases, but are "
            f"{tuple(weights)}"
        )
    return Weights(*weights)


class PartScores(NamedTuple):
    """Scores of the parts of texts, all of one shape, such as (B, T)."""

    caption: Tensor
    """Cosines of whole images and whole texts."""
    sentences: Tensor
    """Means over the sentences of their scores by the best place."""
    phrases: Tensor
    """Means over the phrases."""

    def total(self, weights: Weights) -> Tensor:
        """Returns the hierarchical score."""
        # Products first and sums after them: a fused kernel may round the last numbers of a row differently, and break
        # ties of copies.
        return self.caption * weights.caption + self.sentences * weights.sentences + self.phrases * weights.phrases


class TextParts:
    """
    The sentences and the phrases of T texts, of which each different one is embedded and scored once.

    A text without sentences is its own sentence. Of a text without phrases the sentences count as its phrases.

    Args:
        embedder: Encodes the parts, on the text paths of sentences and phrases.
        hierarchies: The texts.
    """

    def __init__(self, embedder: Embedder, hierarchies: Sequence[TextHierarchy]) -> None:
        self.embedder = embedder
        place_of_part: dict[_Part, int] = {}
        self.sentences = _Bags(place_of_part)
        self.phrases = _Bags(place_of_part)
        sentence_path = embedder.text_path(SENTENCE)
        phrase_path = embedder.text_path(PHRASE)
        for hierarchy in hierarchies:
            sentences = [_Part(text, sentence_path) for text in hierarchy.sentences or (hierarchy.caption,)]
            phrases = [_Part(text, phrase_path) for text in hierarchy.phrases]
            self.sentences.add(sentences)
            self.phrases.add(phrases or sentences)
        self.texts = [part.text for part in place_of_part]
        self.embeds_UD = embedder.texts_on_paths(self.texts, [part.path for part in place_of_part])

    def pair_scores(self, patches: HasPatches, place: str) -> tuple[Tensor, Tensor]:
        """
        Scores every image with every text.

        Args:
            patches: B images.
            place: One of [`PLACES`].

        Returns:
            Means over the sentences and over the phrases, both (B, T) in float32 on the CPU.
        """
        if place == ATTENTION:
            scores_BU = self.embedder.pair_scores(patches, self.embeds_UD)
        else:
            scores_BU = best_window_scores(patches.patches, self.embeds_UD)
        scores_UB = scores_BU.T.float().cpu().contiguous()
        return self.sentences.means(scores_UB).T, self.phrases.means(scores_UB).T

    def candidate_scores(
        self, patches: HasPatches, place: str, image_M: Tensor, text_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Scores chosen pairs of images and texts.

        Args:
            patches: B images.
            place: One of [`PLACES`].
            image_M: (M,) int64 on the CPU: the place in the batch of the image of each pair.
            text_M: (M,) int64 on the CPU: the text of each pair.

        Returns:
            Means over the sentences and over the phrases, both (M,) in float32 on the CPU.
        """
        return (
            self._candidate_means(self.sentences, patches, place, image_M, text_M),
            self._candidate_means(self.phrases, patches, place, image_M, text_M),
        )

    def _candidate_means(
        self, bags: "_Bags", patches: HasPatches, place: str, image_M: Tensor, text_M: Tensor
    ) -> Tensor:
        """Returns (M,) means over the parts of each pair."""
        part_index, num_parts_M = bags.parts_of(text_M)
        image_index = image_M.repeat_interleave(num_parts_M)
        if place == ATTENTION:
            scores = self.embedder.candidate_scores(patches, self.embeds_UD, image_index, part_index)
        else:
            scores = best_window_candidates(patches.patches, self.embeds_UD, image_index, part_index)
        starts_M = num_parts_M.cumsum(0) - num_parts_M
        return _means(scores.float().cpu()[:, None], torch.arange(len(scores)), starts_M)[:, 0]


class _Part(NamedTuple):
    """A sentence or a phrase, and the text path that it takes."""

    text: str
    path: str | None


class _Bags:
    """
    The parts of one kind of each text, as indices into the different parts of all texts.

    Args:
        place_of_part: The index of each part. New parts are added to it.
    """

    def __init__(self, place_of_part: dict[_Part, int]) -> None:
        self._place_of_part = place_of_part
        self._index: list[int] = []
        self._starts = [0]

    def add(self, parts: Sequence[_Part]) -> None:
        """Adds a text by its parts, which are at least one."""
        for part in parts:
            self._index.append(self._place_of_part.setdefault(part, len(self._place_of_part)))
        self._starts.append(len(self._index))

    def means(self, scores_UB: Tensor) -> Tensor:
        """Returns the mean over the parts of each text, (T, B), from the scores of all different parts."""
        return _means(scores_UB, torch.tensor(self._index), torch.tensor(self._starts[:-1]))

    def parts_of(self, text_M: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the parts of some texts, text by text and flat, and their number for each of the texts, (M,)."""
        starts = torch.tensor(self._starts)
        num_parts_M = starts.diff()[text_M]
        # The n-th place of a text in the flat result is the n-th of its parts.
        first_place_M = num_parts_M.cumsum(0) - num_parts_M
        shift_M = starts[:-1][text_M] - first_place_M
        places = torch.arange(int(num_parts_M.sum())) + shift_M.repeat_interleave(num_parts_M)
        return torch.tensor(self._index, dtype=torch.int64)[places], num_parts_M


def _means(scores: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """Returns the mean of the indexed rows of each bag. Equal bags have equal means, to the last bit."""
    if len(starts) == 0:
        return scores.new_zeros(0, scores.shape[1])
    return embedding_bag(index, scores, starts, mode="mean")


def text_hierarchies(
    texts: Sequence[str | TextHierarchy], extractor: PhraseExtractor | None = None
) -> list[TextHierarchy]:
    """Returns the hierarchy of each text; a string is split into its sentences and phrases."""
    hierarchies = []
    for text in texts:
        if isinstance(text, str):
            text = build_text_hierarchy(text, extractor=extractor)
        hierarchies.append(text)
    return hierarchies


def best_places(embedder: Embedder) -> list[str]:
    """Returns which of [`PLACES`] a model can find."""
    places = []
    if embedder.has_pooler:
        places.append(ATTENTION)
    if embedder.has_patch_features:
        places.append(WINDOW)
    return places


def checked_place(embedder: Embedder, place: str | None = None) -> str:
    """
    Returns the kind of place, by default the first that the model can find.

    Raises:
        ValueError: if the model cannot find it, or can find none.
    """
    places = best_places(embedder)
    chosen = place or next(iter(places), None)
    if chosen not in places:
        raise ValueError(
            f"place must be one that a {type(embedder.model).__name__} can find, of {places}, but is {chosen!r}"
        )
    return chosen


def part_scores(
    embedder: Embedder,
    images: Sequence[Any],
    texts: Sequence[str | TextHierarchy],
    *,
    place: str,
    extractor: PhraseExtractor | None = None,
    kind: str = CAPTION,
) -> PartScores:
    """
    Scores every image with the caption, the sentences and the phrases of every text.

    Args:
        embedder: Encodes them, see [`checked_place`] for the places that its model can find.
        images, texts, place, extractor: As in [`hierarchical_scores`].
        kind: Which kind of texts the whole texts are, one of [`TEXT_KINDS`].

    Returns:
        Three tensors of shape (B, T), float32 on the CPU.

    Raises:
        ValueError: if there are no images or no texts, or an image cannot be read.
    """
    if not images or not texts:
        raise ValueError(f"images and texts must be at least one each, but are {len(images)} and {len(texts)}")
    hierarchies = text_hierarchies(texts, extractor)
    caption_embeds_TD = embedder.texts([hierarchy.caption for hierarchy in hierarchies], kind)
    parts = TextParts(embedder, hierarchies)
    batches = []
    for batch in embedder.images([{"image": image} for image in images]):
        sentences_BT, phrases_BT = parts.pair_scores(batch, place)
        caption_BT = (batch.image_embeds_BD @ caption_embeds_TD.T).cpu()
        batches.append(PartScores(caption_BT, sentences_BT, phrases_BT))
    captions, sentences, phrases = zip(*batches, strict=True)
    return PartScores(torch.cat(captions), torch.cat(sentences), torch.cat(phrases))


def hierarchical_scores(
    model: Any,
    processor: Any,
    images: Sequence[Any],
    texts: Sequence[str | TextHierarchy],
    *,
    weights: Sequence[float] | None = None,
    place: str | None = None,
    extractor: PhraseExtractor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """
    Scores every image with every text by the caption, its sentences and its phrases.

    Args:
        model: A `BetaCLIPModel`, or another model as from `beta_clip_hf.inference.models.load_model`.
        processor: Its processor.
        images: B images: paths, PIL images or bytes.
        texts: T texts, as captions. A string is split into sentences and phrases; a [`TextHierarchy`] brings its own.
        weights: Weights of caption, sentences and phrases; by default the [`DEFAULT_WEIGHTS`] of the kind of place.
            Choose them on a validation split, never on the queries that are reported.
        place: How the best place of a sentence or a phrase is found: "attention" needs a pooler, "window" patch
            features. By default "attention" for a model with a pooler.
        extractor: Finds the phrases; `PhraseExtractor()` by default.
        batch_size: Number of images, and of texts, that are encoded at a time.

    Returns:
        (B, T) float32 on the CPU; higher is better.

    Raises:
        ValueError: if there are no images or no texts, an image cannot be read, the weights are not valid, or the model
            cannot find that place.

    Example:

    ```python
    scores = hierarchical_scores(model, processor, ["beach.jpg", "street.jpg"], ["A dog in a red coat. A child waves."])
    best_image = int(scores[:, 0].argmax())
    ```
    """
    embedder = Embedder(model, processor, batch_size=batch_size)
    place = checked_place(embedder, place)
    if weights is None:
        weights = DEFAULT_WEIGHTS[place]
    checked_weights = check_weights(weights)
    return part_scores(embedder, images, texts, place=place, extractor=extractor).total(checked_weights)
