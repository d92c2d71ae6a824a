"""The hierarchy of a row: what it brings is kept, what it does not bring is built."""

import logging

from beta_clip_hf import PhraseExtractor
from beta_clip_hf.data.row_texts import hierarchy_of
from beta_clip_hf.data.rows import check_row


def row(**fields):
    return {"image": "cat.jpg", "caption": "A cat sleeps.", **fields}


def test_hierarchy_of_keeps_what_the_row_brings():
    captions = ["A black dog runs on the grass .", "A dog plays"]
    phrases = [{"text": "the grass", "boxes": [[0, 0, 2, 2]], "kind": "human"}, "A dog"]
    hierarchy = hierarchy_of(check_row({"image": "x", "captions": captions, "phrases": phrases}))
    assert hierarchy.caption == " ".join(captions)
    assert hierarchy.sentences == tuple(captions)
    assert hierarchy.phrases == ("the grass", "A dog")
    assert hierarchy.phrase_sentences[0] == 0
    assert hierarchy.phrase_sentences[1] == 1
    assert hierarchy_of(row(phrases=[])).phrases == ()
    assert hierarchy_of(row(short_caption="a cat")).short_caption == "a cat"


def test_hierarchy_of_builds_what_is_missing():
    hierarchy = hierarchy_of(row(caption="A white cat sleeps. It is on a red chair."))
    assert hierarchy.sentences == ("A white cat sleeps.", "It is on a red chair.")
    assert {"A white cat", "a red chair"} <= set(hierarchy.phrases)
    nouns = hierarchy_of(row(caption="A white cat is on a red chair."), PhraseExtractor(kinds=["noun"]))
    assert set(nouns.phrase_kinds) == {"noun"}


def test_hierarchy_of_a_row_that_map_text_hierarchy_has_seen():
    built = hierarchy_of(row(caption="A cat sleeps. It is on a chair.", short_caption="cat"))
    assert built.phrases
    assert hierarchy_of(check_row({"image": "x", "id": "1", **built.to_dict()})) == built


def test_a_caption_of_ten_thousand_words(caplog):
    sentence = "The quick brown fox sat on a small red box near nine dogs. "
    with caplog.at_level(logging.WARNING):
        hierarchy = hierarchy_of(check_row(row(caption=sentence * 770)))
    assert len(hierarchy.sentences) == 770
    assert not caplog.records
