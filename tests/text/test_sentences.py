import random
import time

import pytest

from beta_clip_hf.text.sentences import split_sentences


CASES = {
    "titles": (
        "Mr. Smith and Dr. J. R. Jones live on St. Mark's Place. They walk on Main St. The dog follows.",
        ["Mr. Smith and Dr. J. R. Jones live on St. Mark's Place.", "They walk on Main St.", "The dog follows."],
    ),
    "decimals": (
        "It is 3.5 m long, i.e. 4 steps, e.g. big ones. OK?",
        ["It is 3.5 m long, i.e. 4 steps, e.g. big ones.", "OK?"],
    ),
    "quotes": (
        'He asks "why?" and leaves. "Stop!" she says. “It is late.” The end.',
        ['He asks "why?" and leaves.', '"Stop!" she says.', "“It is late.”", "The end."],
    ),
    "ellipsis": ("wait... what? The end… Then nothing", ["wait... what?", "The end…", "Then nothing"]),
    "lower case": ("a dog runs. a cat sits . a bird flies .", ["a dog runs.", "a cat sits .", "a bird flies ."]),
    "no space": (
        "The grass.The dog is wet. See README.MD, U.S.A.",
        ["The grass.", "The dog is wet.", "See README.MD, U.S.A."],
    ),
    "abbreviation at the end": (
        "The sun sets at 5 p.m. The sky is red.",
        ["The sun sets at 5 p.m.", "The sky is red."],
    ),
    "abbreviation inside": (
        "It was 5 p.m. yesterday. The U.S. Army band.",
        ["It was 5 p.m. yesterday.", "The U.S. Army band."],
    ),
    "initials": ("A work of N.C. Wyeth in D.C. The frame", ["A work of N.C. Wyeth in D.C.", "The frame"]),
    "numbers at the end": ("The number is 23. A dog runs.", ["The number is 23.", "A dog runs."]),
    "list": ("1. A dog. 2. A cat.\n- A bird\n- a fish", ["1. A dog.", "2. A cat.", "- A bird", "- a fish"]),
    "lines": ("Title\n\nThe text. Wrapped\nline here.", ["Title", "The text.", "Wrapped line here."]),
    "chinese": ("「你好。」他说。一只狗!一只猫？好", ["「你好。」", "他说。", "一只狗!", "一只猫？", "好"]),  # noqa: RUF001
    "japanese": ("犬が走る。猫がいる。", ["犬が走る。", "猫がいる。"]),
    "hindi": ("एक कुत्ता दौड़ रहा है। बच्चा बैठा है।", ["एक कुत्ता दौड़ रहा है।", "बच्चा बैठा है।"]),
    "arabic": ("كلب يركض في الحقل. هل هو سعيد؟ نعم.", ["كلب يركض في الحقل.", "هل هو سعيد؟", "نعم."]),
    "russian": ("Собака бежит. Кошка спит!", ["Собака бежит.", "Кошка спит!"]),
    "emoji": ("🐶🌳! A dog 🐶.", ["🐶🌳!", "A dog 🐶."]),
    "no words": ("!!!", ["!!!"]),
    "leading dots": ("... A dog. . . A cat.", ["... A dog. . .", "A cat."]),
    "blank": (" \n\t ", []),
    "empty": ("", []),
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    text, expected = CASES[name]
    assert split_sentences(text) == expected


def odd_texts(count: int = 300) -> list[str]:
    """Random mixtures of words, marks, quotes, scripts and white space."""
    rng = random.Random(0)
    parts = [
        "dog",
        "A",
        "Mr",
        "the",
        "3",
        "5.5",
        "U.S.",
        "e.g.",
        "狗",
        "है",
        "🐶",
        "\u200d",
        "كلب",
        "\x00",
        "naïve",
        "don't",
    ]
    parts += [*".!?…。।؟,;:'\"”)(\n\t ", ". ", "? ", "...", "\r\n", "\u00a0", " \n\n "]
    return ["".join(rng.choices(parts, k=rng.randint(1, 40))) for _ in range(count)]


def test_nothing_is_lost_and_nothing_is_blank() -> None:
    texts = odd_texts()
    counts = [len(split_sentences(text)) for text in texts]
    assert max(counts) > 3
    for text in texts:
        sentences = split_sentences(text)
        assert "".join("".join(sentences).split()) == "".join(text.split())
        assert all(sentence and sentence == " ".join(sentence.split()) for sentence in sentences)


@pytest.mark.parametrize("unit", ["a big dog runs. ", "dog ", ".", "...x", '"', "\n", "a.", "狗。", "A. "])
def test_time_is_linear(unit: str) -> None:
    started = time.process_time()
    split_sentences(unit * (100_000 // len(unit)))
    assert time.process_time() - started < 3


@pytest.mark.parametrize("text", [None, 3, ["a dog"]])
def test_not_a_string(text: object) -> None:
    with pytest.raises(ValueError, match="text must be a string"):
        split_sentences(text)  # type: ignore[arg-type]
