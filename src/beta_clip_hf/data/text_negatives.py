"""Draws the negatives of the texts of a row: variants that are false of its image."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.text_cleaning_beta_clip import clean_checked_text, clean_text
from ..text.negatives import exchanged_relation
from .fields import check_texts


def draw_caption_negatives(row: Mapping[str, Any], number: int, rng: random.Random) -> list[str]:
    """Draws some of the row's `hard_negatives`, cleaned, without replacement.

    Args:
        row: A checked row.
        number: Largest number of negatives.
        rng: The random generator.

    Raises:
        ValueError: if `hard_negatives` are not a list of texts, or one is empty after cleaning.
    """
    negatives = row.get("hard_negatives") or []
    check_texts(negatives, "hard_negatives")
    return _drawn(negatives, number, rng, "hard_negatives")


def draw_phrase_negatives(
    row: Mapping[str, Any], phrases: Sequence[str], number: int, rng: random.Random
) -> list[list[str]]:
    """Draws negatives of phrases, cleaned, without replacement.

    A phrase that brings `negatives` has these. Another one that relates two things has one negative, in which they are
    exchanged (see [`exchanged_relation`]); it is likely, but not known to be false. All others have none.

    Args:
        row: A checked row.
        phrases: Cleaned phrases, some of the row's own or extracted from its caption.
        number: Largest number of negatives of a phrase.
        rng: The random generator.

    Returns:
        The negatives of each phrase.

    Raises:
        ValueError: if a negative is empty after cleaning.
    """
    known: dict[str, Sequence[str]] = {}
    for phrase in row.get("phrases") or ():
        # A list without negatives says that there are none.
        if isinstance(phrase, Mapping) and phrase.get("negatives") is not None:
            known.setdefault(clean_text(phrase["text"]), phrase["negatives"])
    drawn = []
    for text in phrases:
        if text in known:
            negatives = known[text]
        else:
            exchanged = exchanged_relation(text)
            negatives = [exchanged] if exchanged else []
        drawn.append(_drawn(negatives, number, rng, f"negatives of the phrase {text!r}"))
    return drawn


def _drawn(negatives: Sequence[str], number: int, rng: random.Random, name: str) -> list[str]:
    chosen = rng.sample(negatives, min(number, len(negatives)))
    return [clean_checked_text(text, f"a text of {name}") for text in chosen]
