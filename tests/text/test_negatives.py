"""False variants of phrases by rules: what is exchanged, what becomes of articles, and what is left alone."""

import pytest

from beta_clip_hf.text.negatives import exchanged_relation


@pytest.mark.parametrize(
    ("phrase", "exchanged"),
    [
        ("a cup left of a plate", "a plate left of a cup"),
        ("a cup to the left of a plate", "a plate to the left of a cup"),
        ("a cup on the right-hand side of a plate", "a plate on the right-hand side of a cup"),
        ("a cup below a plate", "a plate below a cup"),
        ("a bird over the house", "a house over the bird"),
        ("a coin beneath a book", "a book beneath a coin"),
        ("a lamp on top of a desk", "a desk on top of a lamp"),
        ("A man in front of a car", "A car in front of a man"),
        ("A dog behind the old fence", "An old fence behind the dog"),
        ("a cake inside of an oven", "an oven inside of a cake"),
        ("red star above the ring", "ring above the red star"),
        ("two cats under the table", "the table under two cats"),
        ("his hat above a table", "a table above his hat"),
        ("people in front of a house", "a house in front of people"),
        ("a plate of food under a lamp", "a lamp under a plate of food"),
    ],
)
def test_two_things_are_exchanged(phrase, exchanged):
    assert exchanged_relation(phrase) == exchanged


@pytest.mark.parametrize(
    "phrase",
    [
        "",
        "a cup",
        "above a plate",
        "a cup above",
        "a cup next to a plate",  # the same the other way round
        "a cup near a plate",
        "a cup left of a cup",
        "the cup left of a cup",
        "red star at the top",
        "a cup left of a plate above a table",  # three things
        "a man sitting behind a car",  # more than a noun phrase
        "left of the picture above it",
    ],
)
def test_another_phrase_is_left_alone(phrase):
    assert exchanged_relation(phrase) is None


def test_to_exchange_twice_restores_the_phrase():
    for phrase in ("red star to the left of the ring", "An old cup on top of the table", "two cats under the table"):
        assert exchanged_relation(exchanged_relation(phrase)) == phrase
