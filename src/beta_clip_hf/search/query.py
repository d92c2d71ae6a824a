"""
What is searched for: a description, phrases and images with weights.

Weights are of scores. By embeddings, that is the same as a weighted sum of embeddings: all are of length 1, and the sum
of w·⟨query, image⟩ is ⟨sum of w·query, image⟩; so one search of the index serves any query. A text-conditioned score is
not linear in the text: there each text scores for itself, and the weighted sum is of the scores.

Letters: T texts, D projection width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inference.embedder import Embedder


@dataclass(frozen=True)
class Query:
    """
    A query: at least one of its parts.

    Args:
        text: A description, of any length; its weight is 1.
        phrases: Texts with weights. A negative weight is for what is not wanted.
        images: Images (paths, PIL images, bytes) with weights.

    Raises:
        ValueError: where there is no part, a text is blank, or a weight is 0 or not finite.
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
        for _, weight in [*self.phrases, *self.images]:
            if not math.isfinite(weight) or weight == 0:
                raise ValueError(f"the weight of a part must be a number other than 0, but is {weight}")

    def weighted_texts(self) -> list[tuple[str, float]]:
        """The description and the phrases."""
        return [*([] if self.text is None else [(self.text, 1.0)]), *self.phrases]


@dataclass
class Hit:
    """An image that was found."""

    image: str
    """Path of its file; "SOURCE#ID" where it comes from none."""
    similarity: float
    """The mean of the cosines of the query's parts with the image's embedding, by their weights."""
    conditioned: float | None = None
    """The same with text-conditioned scores of the texts, for what was re-ranked."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What the index knows else of it: caption, width, height, the columns of its row."""
    vector_D: np.ndarray | None = field(default=None, repr=False, compare=False)
    """(D,) its embedding, normalised."""

    @property
    def score(self) -> float:
        """What it is ranked by."""
        return self.similarity if self.conditioned is None else self.conditioned


@dataclass(frozen=True)
class EmbeddedQuery:
    """A query as embeddings."""

    text_embeds_TD: Tensor
    """(T, D), normalised, on the model's device."""
    weights_T: Tensor
    """(T,), on the CPU, as is all else."""
    image_part_D: Tensor
    """(D,) the weighted sum of the embeddings of its images."""
    total_weight: float
    """The sum of the absolute weights."""

    @property
    def vector_D(self) -> Tensor:
        """(D,) the weighted sum of all its embeddings."""
        return self.weights_T @ self.text_embeds_TD.cpu() + self.image_part_D

    def hit(self, row: Mapping[str, Any]) -> Hit:
        """An image as [`ImageTable.nearest`] gives it, with its score."""
        vector_D = row["vector"]
        similarity = float(self.vector_D.numpy() @ vector_D) / self.total_weight
        columns = {
            name: value
            for name, value in row.items()
            if name not in ("image", "vector", "row_sha256") and not name.startswith("file_") and value is not None
        }
        return Hit(row["image"], similarity, columns=columns, vector_D=vector_D)


def embed_query(query: Query, embedder: Embedder) -> EmbeddedQuery:
    """
    Encodes the parts of a query. A model with a path for long texts takes it for the description, not for phrases.

    Raises:
        ValueError: where an image cannot be read, or the parts cancel out.
    """
    parts = [embedder.texts([query.text], whole_captions=True)] if query.text is not None else []
    text_embeds_TD = torch.cat([*parts, embedder.texts([text for text, _ in query.phrases])])
    image_part_D = torch.zeros(text_embeds_TD.shape[1])
    for image, weight in query.images:
        batch = next(iter(embedder.images([{"image": image}])))
        image_part_D += weight * batch.image_embeds_BD[0].cpu()
    weights = [weight for _, weight in query.weighted_texts()]
    total = sum(map(abs, [*weights, *(weight for _, weight in query.images)]))
    embedded = EmbeddedQuery(text_embeds_TD, torch.tensor(weights, dtype=torch.float32), image_part_D, total)
    if embedded.vector_D.norm() < 1e-4 * total:
        raise ValueError("the parts of a query must not cancel out, but do: change a weight")
    return embedded


def parse_weighted(text: str) -> tuple[str, float]:
    """
    A text or a path with a weight behind its last colon; 1 without one.

    >>> parse_weighted("a red hat:2"), parse_weighted("a dog"), parse_weighted("C:/photo.jpg:-0.5")
    (('a red hat', 2.0), ('a dog', 1.0), ('C:/photo.jpg', -0.5))
    """
    before, colon, weight = text.rpartition(":")
    try:
        return (before, float(weight)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0
