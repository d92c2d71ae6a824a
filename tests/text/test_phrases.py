import importlib.util
import json
import pickle
import random
import sys
import time

import pytest

from beta_clip_hf.text.phrases import KINDS, Phrase, PhraseExtractor
from beta_clip_hf.text.taggers import TOKEN
from text.other_process import run_python


NOUNS = {
    "A black and white dog runs through the tall grass.": ["A black and white dog", "the tall grass"],
    "A red, white, and blue flag hangs on the wall.": ["A red, white, and blue flag", "the wall"],
    "A group of small children play in a large body of water.": ["A group of small children", "a large body of water"],
    "The girl's blue backpack is at the swimming pool.": ["The girl's blue backpack", "the swimming pool"],
    "A man in red watches the ocean waves.": ["A man", "red", "the ocean waves"],
    "Two women walk their dogs and a boy rides his bike.": ["Two women", "their dogs", "a boy", "his bike"],
    "A very tall man is happy and the sky is cloudy.": ["A very tall man", "the sky"],
    "A blue square can be seen in the corner.": ["A blue square", "the corner"],
    "A red circle will be behind the small green.": ["A red circle", "the small green"],
    "A rusty beer can lies beside the green trash can.": ["A rusty beer can", "the green trash can"],
    "The image shows a smiling boy with a painted face.": ["a smiling boy", "a painted face"],
}
OTHERS = {
    "A cat is standing on a table.": [("standing on", "verb")],
    "A boy climbing up a tree looks down at the dog.": [("climbing up", "verb"), ("looks down at", "verb")],
    "He jumps to catch a ball.": [],
    "A red cube next to a blue sphere.": [("A red cube next to a blue sphere", "relation")],
    "To the left of the door, a lamp hangs.": [("To the left of the door", "relation")],
    "The red cube is in front of the green cone.": [("in front of the green cone", "relation")],
    "A woman sits in front of a house.": [("sits in front of", "verb")],
    "The ball between a chair and a table.": [("The ball between a chair and a table", "relation")],
    "A cat on a mat under a window.": [("A cat on a mat", "relation"), ("a mat under a window", "relation")],
}


@pytest.mark.parametrize("caption", NOUNS)
def test_noun_phrases(caption: str) -> None:
    assert PhraseExtractor(kinds=["noun"])(caption) == NOUNS[caption]


@pytest.mark.parametrize("caption", OTHERS)
def test_verbs_and_relations(caption: str) -> None:
    found = PhraseExtractor(kinds=["verb", "relation"]).extract(caption)
    assert [tuple(phrase) for phrase in found] == OTHERS[caption]


def test_phrases_keep_their_order_and_appear_once() -> None:
    extractor = PhraseExtractor()
    phrases = extractor.extract("The dog sees a dog. The Dog stands on the grass, the grass is green.")
    assert phrases == [
        Phrase("The dog", "noun"),
        Phrase("a dog", "noun"),
        Phrase("stands on", "verb"),
        Phrase("the grass", "noun"),
    ]


@pytest.mark.parametrize(
    "caption", ["", "   ", "一只黑狗在草地上奔跑。", "كلب يركض", "एक कुत्ता दौड़ रहा है।", "🐶🌳", "!!!", "a", "\x00"]
)
def test_no_phrases(caption: str) -> None:
    assert PhraseExtractor()(caption) == []


def test_scripts_may_be_mixed() -> None:
    assert PhraseExtractor()("A black dog 狗 and a naïve café owner 🐶 on the Straße") == [
        "A black dog",
        "a naïve café owner",
        "on the Straße",
        "the Straße",
    ]


def odd_texts(count: int = 300) -> list[str]:
    rng = random.Random(0)
    parts = [
        "a",
        "red",
        "dog",
        "dogs",
        "runs",
        "running",
        "painted",
        "next",
        "to",
        "of",
        "and",
        ",",
        "'s",
        "'",
        ".",
        "on",
        "in",
        "front",
        "her",
        "that",
        "one",
        "back",
        "very",
        "is",
    ]
    parts += ["between", "狗", "🐶", "-", "3", "\n", '"', "left", "can"]
    return [" ".join(rng.choices(parts, k=rng.randint(1, 40))) for _ in range(count)]


def test_every_phrase_is_a_stretch_of_the_text() -> None:
    extractor, kinds = PhraseExtractor(), set()
    for text in odd_texts():
        phrases = extractor.extract(text)
        kinds |= {phrase.kind for phrase in phrases}
        assert all(phrase.text in " ".join(text.split()) for phrase in phrases)
        assert len({phrase.text.casefold() for phrase in phrases}) == len(phrases)
        assert phrases == extractor.extract(text)
        assert all(len(phrase.text.split()) < 60 for phrase in phrases)
    assert kinds == set(KINDS)


def test_another_process_finds_the_same() -> None:
    texts = odd_texts(50)
    code = (
        "import json; from beta_clip_hf.text.phrases import PhraseExtractor\n"
        "print(json.dumps([PhraseExtractor()(text) for text in json.load(sys.stdin)]))"
    )
    answer = run_python(code, input=json.dumps(texts), hash_seed="7")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [PhraseExtractor()(text) for text in texts]


@pytest.mark.parametrize(
    "unit", ["a big red dog runs by the tree and ", "red ", "dog ", "red , and ", "next to ", "walking ", "'s ", "x"]
)
def test_time_is_linear(unit: str) -> None:
    text = (unit * 50_000)[:50_000]
    started = time.process_time()
    PhraseExtractor().extract(text)
    assert time.process_time() - started < 5


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="tagger must be one of"):
        PhraseExtractor("spacy")
    with pytest.raises(ValueError, match="kinds must be among"):
        PhraseExtractor(kinds=["nouns"])
    with pytest.raises(ValueError, match="kinds must be among"):
        PhraseExtractor(kinds="noun")
    with pytest.raises(ValueError, match="text must be a string"):
        PhraseExtractor()(None)  # type: ignore[arg-type]


def test_own_tagger_and_pickle() -> None:
    extractor = PhraseExtractor(only_nouns)
    assert extractor("dog cat") == ["dog cat"]
    assert pickle.loads(pickle.dumps(PhraseExtractor(kinds=["noun"]))).kinds == ("noun",)


def only_nouns(tokens: list[str]) -> str:
    return "N" * len(tokens)


def test_missing_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ImportError, match=r"pip install nltk"):
        PhraseExtractor("nltk")


def test_tokens() -> None:
    assert TOKEN.findall("The dog's half-open mouth, a bird's-eye view... U.S. don't") == [
        *("The", "dog", "'s", "half-open", "mouth", ",", "a", "bird's-eye", "view", "...", "U", ".", "S", ".", "don't")
    ]


# Both taggers are optional: the library must be tested where they are absent. .ci/run installs them and allows no skip.
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("textblob") is None, reason="needs textblob: extra `text`, not the default"
)
def test_textblob_tagger() -> None:
    extractor = PhraseExtractor("textblob")
    assert extractor("A black dog is standing on a table.") == ["A black dog", "standing on", "a table"]
    assert isinstance(extractor("a/b & c ' d <x> \\ | 狗 of"), list)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nltk") is None, reason="needs nltk: extra `text`, not the default")
def test_nltk_tagger(shared_dir, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(shared_dir / "data" / "nltk_data")])
    assert PhraseExtractor("nltk")("A black dog is standing on a table.") == ["A black dog", "standing on", "a table"]
