"""The keys of the Trainer's log as values: composed here by all who write or read them, and never taken apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


EVALUATION = "eval"
"""Prefix of the keys of an evaluation, unless its caller names another."""
RECALL_DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
"""The directions of retrieval, as they stand in keys, with their words."""
RECALL_KS = (1, 5, 10)
LEARNING_RATE_KEYS = {"learning_rate": "towers", "pooler_learning_rate": "pooler"}
"""Keys of the learning rates, with the parts of the model that they are for."""


@dataclass(frozen=True)
class RecallKey:
    """
    The key of a recall in the Trainer's log.

    >>> RecallKey("photos", "i2t", 10).key
    'eval_photos_i2t_r10'
    >>> RecallKey("", "t2i", 1).key
    'eval_t2i_r1'

    Args:
        data: Name of the evaluation set; empty where the Trainer has a single set, which has no name.
        direction: One of `RECALL_DIRECTIONS`.
        k: The k of R@k.
        prefix: Prefix of the keys of the evaluation.
    """

    data: str
    direction: str
    k: int
    prefix: str = EVALUATION

    @property
    def name(self) -> str:
        """The key without the prefix."""
        name = f"{self.direction}_r{self.k}"
        return f"{self.data}_{name}" if self.data else name

    @property
    def key(self) -> str:
        """The key in a record of the log."""
        return f"{self.prefix}_{self.name}"

    @property
    def images_key(self) -> str:
        """The key of the number of images among which the recall is measured."""
        return f"{self.prefix}_{self.data}_images" if self.data else f"{self.prefix}_images"


def recall_keys(data_names: Sequence[str] = ()) -> Iterator[RecallKey]:
    """
    Yields the keys of all recalls that evaluations log.

    Args:
        data_names: Names of the evaluation sets. The set without a name is always among them.
    """
    for data in ("", *data_names):
        for direction in RECALL_DIRECTIONS:
            for k in RECALL_KS:
                yield RecallKey(data, direction, k)


__all__ = ["EVALUATION", "LEARNING_RATE_KEYS", "RECALL_DIRECTIONS", "RECALL_KS", "RecallKey", "recall_keys"]
