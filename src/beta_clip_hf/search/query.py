"""
Queries: a description, phrases and images with weights.

A weight belongs to a score. Embeddings have length 1, so the weighted sum of cosines Σ w·⟨part, image⟩ equals
⟨Σ w·part, image⟩, and one search of the index answers any query. A text-conditioned score is not linear in the text:
each text is scored by itself, and the weighted sum is taken over the scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.fields import is_utf8
from ..inference.embedder import Embedder
from ..inference.quantization import truncate
from ..inference.text_kinds import PHRASE
from .calibration import Calibration, count_words


# Columns of a table row that a hit does not repeat, beside those that begin with "file_".
_INTERNAL_COLUMNS = ("image", "vector", "row_sha256")


@dataclass(frozen=True)
class Query:
    """
    A query of texts and images, with at least one part.

    Args:
        text: A description of any length, with weight 1.
        phrases: Texts with weights. A negative weight stands for something unwanted.
        images: Images (paths, PIL images or bytes) with weights.

    Raises:
        ValueError: if there is no part, a text is blank or has no UTF-8, or a weight is 0 or not finite.
    """

    text: str | None = None
    phrases: Sequence[tuple[str, float]] = ()
    images: Sequence[tuple[Any, float]] = ()

    def __post_init__(self) -> None:
        texts = [text for text, _ in self.weighted_texts()]
        if not texts and not self.images:
            raise ValueError("a query must have a text, a phrase or an image, but has none")
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"a text of a query must not be blank, but is {text!r}")
            if not is_utf8(text):
                raise ValueError(f"a text of a query must be text that UTF-8 can hold, but is {text!a}")
        for _, weight in [*self.phrases, *self.images]:
            if not math.isfinite(weight) or weight == 0:
                raise ValueError(f"the weight of a part must be a number other than 0, but is {weight}")

    def weighted_texts(self) -> list[tuple[str, float]]:
        """Returns the description and the phrases, each with its weight."""
        if self.text is None:
            return list(self.phrases)
        return [(self.text, 1.0), *self.phrases]


@dataclass
class Hit:
    """An image that a search has found."""

    image: str
    """The path of the image file, or "SOURCE#ID" for an image without a file."""
    similarity: float
    """The weighted mean of the cosines between the parts of the query and the image."""
    reranked: float | None = None
    """The weighted mean of the scores by which the image was re-ranked; `None` if it was not."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The columns of the index for this image: caption, width, height, and those of its row."""
    vector_D: np.ndarray | None = field(default=None, repr=False, compare=False)
    """(D,) the normalised embedding of the image."""
    confidence: float | None = None
    """The share of texts without a match whose best image has less of a lift, see [`Calibration`]; `None` for a query
    with images, and for an index that is not calibrated."""

    @property
    def score(self) -> float:
        """The score that ranks the image: `reranked` if it is known, else `similarity`."""
        if self.reranked is None:
            return self.similarity
        return self.reranked


@dataclass(frozen=True)
class EmbeddedQuery:
    """Holds the texts of a query, and the embeddings of its parts."""

    texts: Sequence[str]
    """T texts: the description, if there is one, and the phrases."""
    text_embeds_TD: Tensor
    """(T, D), normalised, on the model's device, whole. The other tensors are on the CPU."""
    weights_T: Tensor
    """(T,) the weights of the texts."""
    text_vectors_TD: Tensor
    """(T, D) the embeddings of the texts as the index holds embeddings: on the CPU, cut if it cuts them."""
    image_part_D: Tensor
    """(D,) the weighted sum of the embeddings of the query's images, cut if the index cuts them."""
    total_weight: float
    """The sum of the absolute weights."""
    has_description: bool
    """Whether the first text is the description."""
    has_images: bool
    """Whether images are parts of the query."""

    @property
    def vector_D(self) -> Tensor:
        """Returns the weighted sum of all embeddings of the query, (D,)."""
        return self.weights_T @ self.text_vectors_TD + self.image_part_D

    @property
    def num_words(self) -> float:
        """Returns the length of the query: the words of its description, or of a phrase on average."""
        texts = self.texts[:1] if self.has_description else self.texts
        return sum(map(count_words, texts)) / max(len(texts), 1)

    def check_has_confidence(self, calibration: Calibration | None) -> None:
        """Raises `ValueError` if the images that the query finds have no confidence, see [`hit`]."""
        if self.has_images:
            raise ValueError("min_confidence must be 0 for this search, because its query has images")
        if calibration is None:
            raise ValueError(
                "min_confidence must be 0 for this search, because the index is not calibrated: index again"
            )

    def hit(self, row: Mapping[str, Any], calibration: Calibration | None = None) -> Hit:
        """
        Scores an image by its embedding.

        Args:
            row: A row that [`ImageTable.nearest`] returns.
            calibration: What texts without a match score in the collection.
        """
        vector_D = row["vector"]
        similarity = float(self.vector_D.numpy() @ vector_D) / self.total_weight
        columns = {}
        for name, value in row.items():
            is_internal = name in _INTERNAL_COLUMNS or name.startswith("file_")
            if value is not None and not is_internal:
                columns[name] = value
        confidence = None
        # An image is closer to images than any text is: a query with images has no confidence.
        if calibration is not None and not self.has_images:
            lift = similarity - float(self.vector_D.numpy() @ calibration.mean_D) / self.total_weight
            confidence = calibration.confidence(lift, self.num_words)
        return Hit(row["image"], similarity, columns=columns, vector_D=vector_D, confidence=confidence)


def embed_query(query: Query, embedder: Embedder, truncate_dim: int | None = None) -> EmbeddedQuery:
    """
    Encodes the parts of a query, in a model with several text paths each on its own.

    A description is a caption or a short caption, see [`kind_of_descriptions`], and a phrase is a phrase.

    Args:
        query: The query.
        embedder: The embedder with the model of the index.
        truncate_dim: The numbers of each embedding that the index keeps, see [`truncate`].

    Raises:
        ValueError: if an image cannot be read, or the parts cancel out.
    """
    phrase_embeds_TD = embedder.texts([phrase for phrase, _ in query.phrases], PHRASE)
    if query.text is None:
        text_embeds_TD = phrase_embeds_TD
    else:
        description_1D = embedder.descriptions([query.text])
        text_embeds_TD = torch.cat([description_1D, phrase_embeds_TD])

    # A score is the mean of the cosines of the parts, so each part is cut and normalised by itself.
    text_vectors_TD = truncate(text_embeds_TD.cpu(), truncate_dim)
    image_part_D = torch.zeros(text_vectors_TD.shape[1])
    for image, weight in query.images:
        batch = next(iter(embedder.images([{"image": image}])))
        image_part_D += weight * truncate(batch.image_embeds_BD.cpu(), truncate_dim)[0]

    texts = [text for text, _ in query.weighted_texts()]
    text_weights = [weight for _, weight in query.weighted_texts()]
    image_weights = [weight for _, weight in query.images]
    total_weight = sum(map(abs, text_weights + image_weights))
    weights_T = torch.tensor(text_weights, dtype=torch.float32)
    embedded = EmbeddedQuery(
        texts,
        text_embeds_TD,
        weights_T,
        text_vectors_TD,
        image_part_D,
        total_weight,
        has_description=query.text is not None,
        has_images=bool(query.images),
    )
    # The cosine distance of the index is undefined for a vector of length 0.
    if embedded.vector_D.norm() < 1e-4 * total_weight:
        raise ValueError("the parts of a query must not cancel out, but do: change a weight")
    return embedded


def parse_weighted(text: str) -> tuple[str, float]:
    """
    Splits a text or a path from the weight after its last colon. The weight is 1 if there is none.

    >>> parse_weighted("a red hat:2"), parse_weighted("a dog"), parse_weighted("C:/photo.jpg:-0.5")
    (('a red hat', 2.0), ('a dog', 1.0), ('C:/photo.jpg', -0.5))
    """
    before, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return before, float(weight)
    except ValueError:
        # The colon belongs to the text: "at 12 o'clock: a dog", "C:/photo.jpg".
        return text, 1.0
