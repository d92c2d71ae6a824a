"""Every rule of the tagger has an example, and every rule is needed."""

import re
from pathlib import Path

import pytest

from beta_clip_hf.text import tagging_rules
from beta_clip_hf.text.lexicon import COLOURS, SIDES
from beta_clip_hf.text.rule_tagger import tag_by_rules
from beta_clip_hf.text.taggers import TOKEN
from beta_clip_hf.text.tagging_rules import RULES_OF_CLASSES, RULES_OF_WORDS


# A bar stands before the word that the tag belongs to. The examples are those of `tagging_rules.py`.
PARTICIPLES = {
    "A brightly | painted wall": "A",
    "A | swimming pool": "A",
    "they are | sailing boats": "V",
    "| swimming pool": "A",
    "| climbing gear": "A",
    "A | running dog": "A",
    "a small | painted wall": "A",
    "the girl's | folded arms": "A",
    "A big and | smiling boy": "A",
    "Both | painted walls": "A",
    "both | smiling boys": "V",
    "one | smiling at the camera": "V",
    "A | smiling and happy boy": "A",
    "The | injured": "N",
    "The | siding": "N",
    "a man in red | climbing": "V",
    "in | running water": "A",
    "a boy | climbing a tree": "V",
    "with | painted walls": "A",
    "a wall | painted red": "V",
    "A ball | shaped lamp": "A",
    "houses | painted white": "V",
}
VERBS = {
    "a | rose bush": "A",
    "the | rose": "N",
    "She | waves": "V",
    "a dog that | barks": "V",
    "One | waves": "V",
    "A man in red | watches the sea": "V",
    "Big | waves": "N",
    "the last | rides a horse": "V",
    "the boy on the left | sits": "V",
    "The | waves": "N",
    "the girl's | walks": "N",
    "on | waves": "N",
    "A dog sits and | watches.": "V",
    "sand and | waves": "N",
    "The boy | rides a bike": "V",
    "the boy happily | sits": "V",
    "A dog | races": "V",
    "Water | drops on stones": "V",
    "above ocean | waves": "N",
    "They | wave": "V",
    "he can | wave": "V",
    "dogs that | bark": "V",
    "To | sit": "V",
    "to | wave at people": "V",
    "to | work": "N",
    "Men sit and | talk": "V",
    "a bike and | race": "N",
    "Two dogs | race": "V",
    "the crew | row a boat": "V",
    "a man and a woman | ride": "V",
    "A couple | sit on a bench": "V",
    "a water | slide is": "N",
}
OTHER_WORDS = {
    "A soft , | pastel dress": "A",
    "the sky is | azure.": "A",
    "a man | vaults over a wall": "V",
    "the | top shelf": "A",
    "the | top of the hill": "N",
    "A cat at the window | left sitting": "N",
    "The very | top": "N",
    "just | left": "A",
    "a | nearby tree": "A",
    "the | back door": "A",
    "the red | one": "N",
    "a | can": "N",
    "a blue square | can be seen": "B",
    "a red square | can also be seen": "B",
    "a small green | must have fallen": "B",
    "Through the window one | can see a lake": "B",
    "three | can be seen": "B",
    "A blue | can": "N",
    "a tin | can lies": "N",
    "the dog | can vault": "B",
    "a watering | can": "N",
    "The can | can be opened": "B",
    "a strong | will": "N",
    "The red | will be visible": "B",
    "the | might of the sea": "N",
    "The | must in a barrel": "N",
    "a human | being": "N",
    "a wall is | being painted": "B",
    "a day in | May": "N",
    "a | may tree": "N",
    "a bird | may fly": "B",
    "they are | all happy": "R",
    "they are | both happy": "R",
    "a man in | black": "N",
    "wearing | black": "N",
    "a | red ball": "A",
    "a | red and blue ball": "A",
    "behind | her": "O",
    "behind | her dog": "D",
    "each | other": "O",
    "on | that wall": "D",
    "the girl | 's bag": "G",
    "it | 's a bag": "B",
    "the girl | ’s bag": "G",
    "it | ’s a bag": "B",
    "the girls | ' bags": "G",
    "she says | ' no": "X",
    "the girls | ’ bags": "G",
    "she says | ’ no": "X",
}
EXAMPLES = PARTICIPLES | VERBS | OTHER_WORDS


def tag_after_bar(example: str) -> str:
    """The tag of the word after the bar."""
    before, _, after = example.partition("|")
    tags = tag_by_rules(TOKEN.findall(before + after))
    return tags[len(TOKEN.findall(before))]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(example: str) -> None:
    assert tag_after_bar(example) == EXAMPLES[example]


def test_the_examples_of_the_rules_are_tested() -> None:
    source = Path(tagging_rules.__file__).read_text(encoding="utf-8")
    quoted = re.findall(r'"([^"\n]*\|[^"\n]*)"', source)
    assert len(quoted) > 60
    folded = {example.casefold() for example in EXAMPLES}
    assert not [example for example in quoted if example.casefold() not in folded]


# One word of each list of words that share a rule, and every word that has a rule of its own.
SINGLE_WORDS = ["top", "black", *(word for word in RULES_OF_WORDS if word not in SIDES | COLOURS)]


@pytest.mark.parametrize("word_class", RULES_OF_CLASSES)
def test_the_rule_of_every_class_is_needed(word_class: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES_OF_CLASSES, word_class, lambda reading: reading.word_class)
    assert some_example_is_wrong()


@pytest.mark.parametrize("word", SINGLE_WORDS)
def test_the_rule_of_every_word_is_needed(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES_OF_WORDS, word, lambda reading: reading.word_class)
    assert some_example_is_wrong()


def some_example_is_wrong() -> bool:
    return any(tag_after_bar(example) != tag for example, tag in EXAMPLES.items())
