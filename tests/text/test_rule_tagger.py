"""The tagger asks its rules for words of a closed class only where one of them may change the tag."""

import random

import pytest

from beta_clip_hf.text import lexicon, rule_tagger
from beta_clip_hf.text.rule_tagger import tag_by_rules


class Everything:
    def __contains__(self, word: object) -> bool:
        return True


@pytest.mark.parametrize("seed", range(3))
def test_the_rules_change_no_other_word(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [words for words in vars(lexicon).values() if isinstance(words, frozenset)]
    words = sorted({word for some in lists for word in some if isinstance(word, str)} | set(".,'") | {"'s", "of"})
    rng = random.Random(seed)
    texts = [rng.choices(words, k=rng.randint(1, 20)) for _ in range(500)]
    fast = [tag_by_rules(text) for text in texts]
    monkeypatch.setattr(rule_tagger, "_PLACED", Everything())
    assert [tag_by_rules(text) for text in texts] == fast
    monkeypatch.setattr(rule_tagger, "_PLACED", frozenset())
    assert [tag_by_rules(text) for text in texts] != fast
