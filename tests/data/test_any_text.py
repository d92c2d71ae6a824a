"""Properties of texts and rows, for any Unicode that Hypothesis thinks of. The examples are the same in each run."""

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beta_clip_hf.data.rows import check_row
from beta_clip_hf.model.text_cleaning_beta_clip import clean_text, is_blank
from beta_clip_hf.text.hierarchy import build_text_hierarchy
from beta_clip_hf.text.phrases import PhraseExtractor
from beta_clip_hf.text.sentences import split_sentences


pytestmark = pytest.mark.slow

# Nothing is stored, and a busy machine is no failure.
anything = settings(max_examples=150, deadline=None, derandomize=True, database=None)

# Pieces that texts of trouble are made of: markers whole and in parts, entities, joiners, marks, halves of an emoji.
PIECES = (
    "<|endoftext|>", "<|startoftext|>", "<|", "|>", "endoftext", "startoftext", "&lt;", "&amp;", "&nbsp;", "&#x200b;",
    "\uff1c", "\uff5c", "\uff1e", "\u200b", "\u200d", "\u202e", "\ufe0f", "\u3164", "\u0301", "\x00", "\x1b[31m",
    "\ud83d", "\ude00", "🙂", "é", "â€™", "Mr. ", "3.5", "... ", "。", "a red dog", " next to ", "\n\n", "\t", "- ",
)  # fmt: skip
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
markers = ("<|endoftext|>", "<|startoftext|>")


def without_spaces(text):
    return "".join(text.split())


@anything
@given(texts)
def test_cleaning_leaves_no_marker_and_is_done_once(text):
    cleaned = clean_text(text)
    assert not any(marker in cleaned for marker in markers)
    assert cleaned == cleaned.strip() and clean_text(cleaned) is cleaned
    # A text without entities and markers is settled by one pass, also as a plain string.
    if html.unescape(str(cleaned)) == cleaned:
        assert clean_text(str(cleaned)) == cleaned


@anything
@given(text=texts)
def test_a_text_has_one_beginning_and_one_end(text, tiny_tokenizer):
    cleaned = clean_text(text)
    if is_blank(cleaned) or any("\ud800" <= character <= "\udfff" for character in cleaned):
        return
    ids = tiny_tokenizer(cleaned)["input_ids"]
    assert (ids[0], ids[-1]) == (tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id)
    assert ids.count(tiny_tokenizer.bos_token_id) == ids.count(tiny_tokenizer.eos_token_id) == 1


@anything
@given(texts)
def test_sentences_lose_nothing(text):
    sentences = split_sentences(text)
    assert without_spaces("".join(sentences)) == without_spaces(text)
    assert all(sentence == " ".join(sentence.split()) and sentence for sentence in sentences)


@anything
@given(texts)
def test_phrases_are_stretches_of_the_text(text):
    collapsed = " ".join(text.split())
    phrases = PhraseExtractor().extract(text)
    assert all(phrase.text and phrase.text in collapsed for phrase in phrases)
    assert len({phrase.text.casefold() for phrase in phrases}) == len(phrases)


@anything
@given(texts)
def test_a_hierarchy_is_made_or_refused(text):
    try:
        hierarchy = build_text_hierarchy(text)
    except ValueError as error:
        assert is_blank(text) and len(str(error)) < 1000
    else:
        assert all(0 <= sentence < len(hierarchy.sentences) for sentence in hierarchy.phrase_sentences)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=20)),
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = (
    "image", "file_name", "images", "caption", "captions", "sentences", "phrases", "phrase_sentences", "phrase_kinds",
    "short_caption", "regions", "box_format", "conversations", "messages", "width", "height", "id",
)  # fmt: skip
rows = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)


@anything
@given(rows, texts)
def test_a_row_is_settled_or_refused(row, caption):
    for record in (row, {"image": "a.png", "caption": caption, **row}):
        try:
            checked = check_row(record)
        except ValueError as error:
            assert 0 < len(str(error)) < 1000
        else:
            assert not is_blank(checked["caption"]) and "image" in checked
            # It is checked once. A copy of it is settled, too.
            assert check_row(checked) is checked
            assert check_row(dict(checked))["caption"] == checked["caption"]


@anything
@given(texts)
def test_a_caption_that_a_row_may_have_is_utf_8(text):
    try:
        checked = check_row({"image": "a.png", "caption": text})
    except ValueError:
        return
    assert checked["caption"].encode()
