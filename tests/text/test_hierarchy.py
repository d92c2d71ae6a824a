import dataclasses
import json
import random

import pytest

from beta_clip_hf.text.hierarchy import TextHierarchy, build_text_hierarchy
from beta_clip_hf.text.phrases import PhraseExtractor
from beta_clip_hf.text.sentences import split_sentences


CAPTION = (
    "A black dog stands next to a red ball on the grass. It is raining! The dog looks up at the sky. "
    "Two men in blue jackets walk behind it. A bird flies over the house. The dog barks."
)


@pytest.fixture
def hierarchy() -> TextHierarchy:
    return build_text_hierarchy(CAPTION)


def many_phrases() -> TextHierarchy:
    """Noun phrases first: a cap that cuts the end off would leave no relation."""
    kinds = ["noun"] * 40 + ["verb"] * 6 + ["relation"] * 20
    return TextHierarchy(
        caption="One. Two.",
        sentences=("One.", "Two."),
        phrases=tuple(f"phrase {index}" for index in range(len(kinds))),
        phrase_sentences=tuple(index % 2 for index in range(len(kinds))),
        phrase_kinds=tuple(kinds),
    )


def test_phrases_know_their_sentences(hierarchy: TextHierarchy) -> None:
    assert hierarchy.caption == CAPTION
    assert len(hierarchy.sentences) == 6
    assert len(hierarchy.phrases) > 10
    for phrase, sentence in zip(hierarchy.phrases, hierarchy.phrase_sentences, strict=True):
        assert phrase in hierarchy.sentences[sentence]
    assert list(hierarchy.phrase_sentences) == sorted(hierarchy.phrase_sentences)
    assert set(hierarchy.phrase_kinds) == {"noun", "verb", "relation"}


def test_a_phrase_of_two_sentences_is_listed_with_the_first() -> None:
    hierarchy = build_text_hierarchy("A dog runs. A dog sleeps on the grass.")
    assert hierarchy.phrases == ("A dog", "sleeps on", "the grass")
    assert hierarchy.phrase_sentences == (0, 1, 1)


def test_a_list_of_captions() -> None:
    hierarchy = build_text_hierarchy(["A dog runs. It is wet.", " ", "A cat sits"])
    assert hierarchy.caption == "A dog runs. It is wet. A cat sits"
    assert hierarchy.sentences == ("A dog runs. It is wet.", "A cat sits")


def test_given_sentences_and_phrases() -> None:
    hierarchy = build_text_hierarchy(
        "A dog and a cat. 一只黑狗在草地上。",
        sentences=[" A dog and a cat. ", "一只黑狗在草地上。"],
        phrases=[
            *("黑狗", "a CAT", "og and"),
            {"text": "unseen", "boxes": []},
            {"text": "dog", "sentence": 1, "kind": "noun"},
            "a CAT",
        ],
        short_caption=" animals ",
    )
    assert hierarchy.sentences == ("A dog and a cat.", "一只黑狗在草地上。")
    assert hierarchy.phrases == ("黑狗", "a CAT", "og and", "unseen", "dog", "a CAT")
    assert hierarchy.phrase_sentences == (1, 0, 0, 0, 1, 0)
    assert hierarchy.phrase_kinds == ("given", "given", "given", "given", "noun", "given")
    assert hierarchy.short_caption == "animals"
    assert build_text_hierarchy("A dog.", phrases=[], sentences=[]).phrases == ()


def test_the_extractor_is_used() -> None:
    hierarchy = build_text_hierarchy(CAPTION, extractor=PhraseExtractor(kinds=["relation"]))
    assert set(hierarchy.phrase_kinds) == {"relation"}


@pytest.mark.parametrize(
    "caption", ["🐶", "!!!", "狗", "كلب", "कुत्ता", "a " * 10_000, "\x00", "A dog\n\n", "?!", "e\u0301"]
)
def test_odd_captions(caption: str) -> None:
    hierarchy = build_text_hierarchy(caption)
    assert hierarchy.sentences
    sample = hierarchy.sample(random.Random(0))
    assert sample.caption.strip()
    json.dumps(sample.to_dict())


@pytest.mark.parametrize("caption", ["", "  \n", [], ["", " "], None, 3, ["a dog", None]])
def test_blank_captions(caption: object) -> None:
    with pytest.raises(ValueError, match="caption"):
        build_text_hierarchy(caption)  # type: ignore[arg-type]


def test_blank_phrases() -> None:
    with pytest.raises(ValueError, match=r"phrases\[1\] must hold some text"):
        build_text_hierarchy("A dog.", phrases=["dog", " "])
    with pytest.raises(ValueError, match="phrase_sentences must be in"):
        build_text_hierarchy("A dog.", phrases=[{"text": "dog", "sentence": 3}])


def test_validation(hierarchy: TextHierarchy) -> None:
    with pytest.raises(ValueError, match="must be of one length"):
        TextHierarchy("a", ("a",), ("a", "b"), (0,), ("noun",))
    with pytest.raises(ValueError, match=r"phrase_sentences must be in \[0, 0\), but is 0"):
        TextHierarchy("a", phrases=("a",))
    with pytest.raises(ValueError, match="phrase_sentences must be in"):
        TextHierarchy("a", ("a",), ("a",), (-1,), ("noun",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        hierarchy.caption = "other"  # type: ignore[misc]


def test_dict_round_trip(hierarchy: TextHierarchy) -> None:
    fields = json.loads(json.dumps(hierarchy.to_dict()))
    assert TextHierarchy.from_dict(fields) == hierarchy
    assert hash(TextHierarchy.from_dict(fields)) == hash(hierarchy)


def test_a_sample_is_a_part(hierarchy: TextHierarchy) -> None:
    seen = set()
    for seed in range(50):
        sample = hierarchy.sample(random.Random(seed), num_sentences=2, num_phrases=4)
        assert sample == hierarchy.sample(random.Random(seed), num_sentences=2, num_phrases=4)
        positions = [hierarchy.sentences.index(sentence) for sentence in sample.sentences]
        assert len(positions) == 2 and positions == sorted(positions)
        assert len(sample.phrases) <= 4
        order = [hierarchy.phrases.index(phrase) for phrase in sample.phrases]
        assert order == sorted(order)
        for phrase, sentence in zip(sample.phrases, sample.phrase_sentences, strict=True):
            assert phrase in sample.sentences[sentence]
        seen.add(sample.sentences)
    assert len(seen) == 15  # every pair of six sentences


def test_a_repeated_phrase_follows_its_later_sentence(hierarchy: TextHierarchy) -> None:
    assert "The dog" in hierarchy.phrases and hierarchy.phrases.count("The dog") == 1
    for seed in range(200):
        sample = hierarchy.sample(random.Random(seed), num_sentences=1)
        if sample.sentences == ("The dog barks.",):
            assert sample.phrases == ("The dog",)
            return
    pytest.fail("the sentence was never drawn")


def test_everything_fits(hierarchy: TextHierarchy) -> None:
    sample = hierarchy.sample(random.Random(0), num_sentences=10)
    assert sample == hierarchy


def test_the_cap_goes_across_kinds() -> None:
    hierarchy = many_phrases()
    chosen = set()
    for seed in range(20):
        sample = hierarchy.sample(random.Random(seed))
        counts = {kind: sample.phrase_kinds.count(kind) for kind in ("noun", "verb", "relation")}
        assert counts == {"noun": 12, "verb": 6, "relation": 12}
        chosen |= set(sample.phrases)
    assert chosen == set(hierarchy.phrases)
    assert hierarchy.sample(random.Random(0), num_phrases=0).phrases == ()


@pytest.mark.parametrize(
    ("sentences", "separator", "caption"),
    [
        (["A dog.", "A cat."], ". ", "A dog. A cat."),
        (["A dog", "A cat"], ". ", "A dog. A cat"),
        (["A dog .", "A cat !", "A bird"], ". ", "A dog. A cat ! A bird"),
        (["Wait...", "Look?", "OK."], ". ", "Wait... Look? OK."),
        (["一只狗。", "一只猫。"], ". ", "一只狗。 一只猫。"),
        (["A dog.", "A cat."], " ", "A dog. A cat."),
        (["A dog.", "A cat."], " | ", "A dog. | A cat."),
        (
            ["A dog (brown)", 'It says "hi."', "A 🐶", "50%", "A cat"],
            ". ",
            'A dog (brown). It says "hi." A 🐶. 50%. A cat',
        ),
    ],
)
def test_joined_caption(sentences: list[str], separator: str, caption: str) -> None:
    hierarchy = build_text_hierarchy(sentences, phrases=[])
    assert hierarchy.sample(random.Random(0), separator=separator).caption == caption


def test_captions_become_sentences_of_the_joined_text() -> None:
    captions = ["a dog runs", "a brown dog (wet)", "Two dogs play .", "一只狗。", "a dog on grass"]
    joined = build_text_hierarchy(captions, phrases=[]).caption
    assert joined == "a dog runs. a brown dog (wet). Two dogs play . 一只狗。 a dog on grass"
    found = split_sentences(joined)
    assert [sentence.rstrip(" .") for sentence in found] == [caption.rstrip(" .") for caption in captions]
    assert build_text_hierarchy(["a dog"], phrases=[]).caption == "a dog"


def test_wrong_sample_sizes(hierarchy: TextHierarchy) -> None:
    with pytest.raises(ValueError, match="num_sentences must be at least 1"):
        hierarchy.sample(random.Random(0), num_sentences=0)
    with pytest.raises(ValueError, match="num_phrases must be at least 0"):
        hierarchy.sample(random.Random(0), num_phrases=-1)


def test_three_fields_are_enough():
    hierarchy = TextHierarchy("A dog. A red ball.", ["A dog.", "A red ball."], ["a red ball", "A dog", "elsewhere"])
    assert hierarchy.phrase_sentences == (1, 0, 0)
    assert hierarchy.phrase_kinds == ("given",) * 3


def test_a_caption_may_stand_alone() -> None:
    alone = TextHierarchy("A dog. A red ball.", short_caption="a dog")
    assert alone.columns() == {"sentences": [], "phrases": [], "phrase_sentences": [], "phrase_kinds": []}
    assert alone.sample(random.Random(0), num_sentences=1, num_phrases=0) == alone
    assert TextHierarchy.from_dict(alone.to_dict()) == alone
