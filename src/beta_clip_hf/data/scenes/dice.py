"""Random draws that are the same on every machine and with every version of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar


Item = TypeVar("Item")


class Dice:
    """Draws reproducibly from a key.

    Two things of `random.Random` are used: seeding with a string and `random()`. Python promises to keep their results
    from version to version, and makes no such promise for `choice`, `shuffle` and `sample`.

    The order of the draws is part of the data set: a draw more or less changes everything after it.

    Args:
        key: Values that name the draws. Equal keys give equal draws.

    >>> Dice("scenes", 0).integer(1, 6) == Dice("scenes", 0).integer(1, 6)
    True
    """

    def __init__(self, *key: object) -> None:
        self._random = random.Random("/".join(str(part) for part in key)).random

    def chance(self, probability: float) -> bool:
        """Returns `True` with a probability."""
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        """Returns a number between two numbers."""
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """Returns an integer between two integers, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """Returns one of the items."""
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Returns the items in random order."""
        return sorted(items, key=lambda _: self._random())
