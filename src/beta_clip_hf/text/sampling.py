"""Draws phrases so that no kind crowds out another, and joins the sentences that were drawn."""

import random
import unicodedata
from collections.abc import Sequence

from .sentences import CLOSERS


# Unicode counts them as punctuation, but they end no sentence: "a battery at 50%".
_SIGNS = "%‰°#&@*"


def choose_in_turns(items: list[int], kinds: Sequence[str], limit: int, rng: random.Random) -> list[int]:
    """Chooses at most `limit` items.

    Kinds take turns over a shuffle of each: first one item of every kind, then a second one, and so on.

    Args:
        items: Sorted numbers.
        kinds: Kind of each item.
        limit: Largest number of items.
        rng: Source of chance; not used if there are few enough items.

    Returns:
        The chosen items, sorted.
    """
    if len(items) <= limit:
        return items
    items_by_kind: dict[str, list[int]] = {}
    for item, kind in zip(items, kinds, strict=True):
        items_by_kind.setdefault(kind, []).append(item)
    queue = []
    for order, group in enumerate(items_by_kind.values()):
        rng.shuffle(group)
        for turn, item in enumerate(group):
            queue.append((turn, order, item))
    queue.sort()
    return sorted(item for _, _, item in queue[:limit])


def join_sentences(sentences: Sequence[str], separator: str) -> str:
    """Joins sentences to a caption.

    The separator takes the place of a sentence's own full stop. Other closing marks stay.

    >>> join_sentences(["A dog.", "Look!", "A cat."], ". ")
    'A dog. Look! A cat.'
    """
    stop = separator.strip()
    joined = ""
    for sentence in sentences[:-1]:
        # Dots that are more than one are an ellipsis, not a full stop.
        if stop and sentence.endswith(stop) and not sentence.endswith(stop * 2):
            joined += sentence.removesuffix(stop).rstrip() + separator
        elif stop and _has_closing_mark(sentence):
            joined += sentence + separator.removeprefix(stop)
        else:
            joined += sentence + separator
    return joined + sentences[-1]


def join_captions(captions: Sequence[str]) -> str:
    """Joins several captions of an image to one text. One without a mark at its end gets a full stop before the next.

    >>> join_captions(["A dog runs", "It is brown.", "a lawn"])
    'A dog runs. It is brown. a lawn'
    """
    closed = [caption if _has_closing_mark(caption) else f"{caption.rstrip()}." for caption in captions[:-1]]
    return " ".join([*closed, *captions[-1:]])


def _has_closing_mark(text: str) -> bool:
    """Tells whether a text ends with a punctuation mark. Quotes and brackets after the mark do not count."""
    words = text.rstrip().rstrip(CLOSERS)
    return bool(words) and words[-1] not in _SIGNS and unicodedata.category(words[-1]).startswith("P")
