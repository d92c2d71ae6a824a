"""Captions without their summary, in random order of sentences, and at later positions (DeBias-CLIP)."""

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, TextHierarchy


SENTENCES = ["All in all a table.", "A cup is red.", "A plate is blue.", "A fork lies there."]
FALSE_CAPTIONS = ["All in all a chair.", "Nothing."]


def row(name: str, caption: str | None = None, **fields) -> dict:
    return {
        "id": name,
        "image": Image.new("RGB", (40, 40)),
        "caption": caption or " ".join(SENTENCES),
        "phrases": [{"text": "a table", "sentence": 0}, {"text": "A cup", "sentence": 1}],
        **fields,
    }


ROWS = [row(f"row {number}") for number in range(40)]


@pytest.fixture
def collate(tiny_processor):
    return lambda **options: BetaCLIPDataCollator(tiny_processor, **{"strict": True, **options})


# The first sentence


def test_the_first_sentence_goes_with_its_phrases():
    hierarchy = TextHierarchy(" ".join(SENTENCES), tuple(SENTENCES), ("table", "cup", "red"), (0, 1, 1))
    rest = hierarchy.without_first_sentence()
    assert rest.caption == " ".join(SENTENCES[1:])
    assert rest.sentences == tuple(SENTENCES[1:]) and rest.phrases == ("cup", "red") and rest.phrase_sentences == (0, 0)
    # A phrase that stands in another sentence as well stays there.
    again = TextHierarchy("A cup. The cup is red.", ("A cup.", "The cup is red."), ("cup",), (0,))
    assert again.without_first_sentence() == TextHierarchy("The cup is red.", ("The cup is red.",), ("cup",), (0,))
    alone = TextHierarchy("A cup.", ("A cup.",), ("cup",))
    assert alone.without_first_sentence() is alone
    bare = TextHierarchy("A cup. It is red.")
    assert bare.without_first_sentence() is bare


@pytest.mark.parametrize("sentences", [["One.", "Two."], ["A cup. It is red.", "Two."]])
def test_a_caption_that_is_not_its_sentences_becomes_the_others(sentences):
    assert TextHierarchy("A cup. It is red.", tuple(sentences)).without_first_sentence().caption == "Two."


@pytest.mark.parametrize("mode", ["sampled", "full", "caption_only"])
def test_captions_lose_their_first_sentence(collate, mode):
    whole = collate(caption_mode=mode)
    without = collate(caption_mode=mode, drop_first_sentence_probability=1.0)
    for example in ROWS[:5]:
        texts = without.sample_texts(example)
        assert texts.caption == " ".join(SENTENCES[1:])
        assert whole.sample_texts(example).caption == " ".join(SENTENCES)
        if mode != "caption_only":
            assert texts.sentences == tuple(SENTENCES[1:]) and texts.phrases == ("A cup",)
    alone = row("alone", "All in all a table.", phrases=[])
    assert without.sample_texts(alone).caption == "All in all a table."
    captions = row("captions", None, captions=["One.", "Two."], phrases=[])
    del captions["caption"]
    [ids] = without([captions])["input_ids"][:1]
    assert without.processor.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "two."


def test_a_share_of_the_captions_lose_it_and_the_others_are_as_before(collate):
    whole, some = collate(), collate(drop_first_sentence_probability=0.5)
    lost = 0
    for example in ROWS:
        texts, expected = some.sample_texts(example), whole.sample_texts(example)
        lost += texts != expected
        assert texts == expected or SENTENCES[0] not in texts.sentences
    assert 10 < lost < 30
    drawn = [some.sample_texts(example).caption for example in ROWS]
    some.set_epoch(1)
    assert drawn != [some.sample_texts(example).caption for example in ROWS]


def test_only_a_whole_caption_has_negatives(collate):
    rows = [{**example, "hard_negatives": FALSE_CAPTIONS} for example in ROWS[:10]]
    settings = {"caption_mode": "full", "num_caption_negatives": 2}
    assert len(collate(**settings)(rows)["negative_input_ids"]) == 20
    assert len(collate(**settings, drop_first_sentence_probability=1.0)(rows)["negative_input_ids"]) == 0
    some = collate(**settings, drop_first_sentence_probability=0.5)
    num_whole = sum(some.sample_texts(example).caption == example["caption"] for example in rows)
    assert 0 < num_whole < 10 and len(some(rows)["negative_input_ids"]) == 2 * num_whole


# The order of sentences


def test_random_order_draws_the_same_texts(collate):
    reading, shuffled = collate(num_sentences=3), collate(num_sentences=3, sentence_order="random")
    orders = set()
    for example in ROWS:
        texts, expected = shuffled.sample_texts(example), reading.sample_texts(example)
        assert sorted(texts.sentences) == sorted(expected.sentences) and texts.phrases == expected.phrases
        assert texts.caption == " ".join(texts.sentences) and expected.caption == " ".join(expected.sentences)
        assert list(expected.sentences) == sorted(expected.sentences, key=SENTENCES.index)
        for phrase, sentence in zip(texts.phrases, texts.phrase_sentences, strict=True):
            assert phrase.lower() in texts.sentences[sentence].lower()
        orders.add(texts.sentences)
    assert len(orders) > 15  # of 24


# Later positions


def lengths_of(batch, kind=""):
    return batch[f"{kind}attention_mask"].sum(dim=1)


def test_a_caption_begins_anywhere_and_ends_within_its_positions(collate, tiny_processor):
    tiny_processor.max_length = 120
    settings = {"caption_mode": "full", "include_short_caption": True}
    plain = collate(**settings)(ROWS)
    padded = collate(**settings, prefix_padding_probability=1.0)(ROWS)
    is_caption = plain["granularity"] == 0
    shifts = lengths_of(padded) - lengths_of(plain)
    assert not shifts[~is_caption].any()
    num_free = 120 - int(lengths_of(plain)[is_caption][0])
    assert num_free > 30 and shifts.min() >= 0 and shifts.max() <= num_free
    assert len(set(shifts[is_caption].tolist())) > 15 and shifts[is_caption].max() > 0.7 * num_free
    tokenizer = tiny_processor.tokenizer
    for text, shift in enumerate(shifts.tolist()):
        expected = plain["input_ids"][text, : lengths_of(plain)[text]].tolist()
        expected = [expected[0], *[0] * shift, *expected[1:]]
        found = padded["input_ids"][text].tolist()
        assert found == expected + [tokenizer.pad_token_id] * (len(found) - len(expected))
    others = {"input_ids", "attention_mask", "plan"}
    for name in plain.keys() - others:
        assert torch.equal(torch.as_tensor(padded[name]), torch.as_tensor(plain[name]))


def test_a_share_of_the_captions_is_moved(collate):
    plain, padded = collate()(ROWS), collate(prefix_padding_probability=0.5)(ROWS)
    is_moved = (lengths_of(padded) > lengths_of(plain))[plain["granularity"] == 0]
    assert 8 < is_moved.sum() < 32
    alone = collate(prefix_padding_probability=0.5)(ROWS[7:8])
    first = int((padded["image_index"] == 7).nonzero()[0, 0])
    assert lengths_of(alone)[0] == lengths_of(padded)[first]


def test_a_caption_without_free_positions_stays(collate):
    long = [row("long", "word " * 300, phrases=[])]
    settings = {"caption_mode": "caption_only"}
    plain, padded = collate(**settings)(long), collate(**settings, prefix_padding_probability=1.0)(long)
    assert plain["input_ids"].shape == (1, 248) and torch.equal(plain["input_ids"], padded["input_ids"])


def test_negatives_move_with_their_caption(collate, tiny_processor):
    tiny_processor.max_length = 120
    rows = [{**example, "hard_negatives": ["No.", "word " * number]} for number, example in enumerate(ROWS[1:30], 1)]
    settings = {"caption_mode": "full", "num_caption_negatives": 2, "num_phrase_negatives": 1}
    plain, padded = collate(**settings)(rows), collate(**settings, prefix_padding_probability=1.0)(rows)
    shifts = lengths_of(padded) - lengths_of(plain)
    index = plain["negative_text_index"]
    assert torch.equal(lengths_of(padded, "negative_") - lengths_of(plain, "negative_"), shifts[index])
    assert shifts.max() > 20 and lengths_of(padded, "negative_").max() <= 120
    none = collate(**settings, prefix_padding_probability=1.0)([row("none", phrases=[])])
    assert none["negative_input_ids"].shape == (0, 1)


@pytest.mark.parametrize("two_paths", [False, True])
def test_the_model_reads_the_padding_as_tokens(tiny_clip_dir, tiny_tokenizer, two_paths):
    torch.manual_seed(0)
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_long_text_path=two_paths).eval()
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77 if two_paths else None)
    collator = BetaCLIPDataCollator(processor, caption_mode="full", prefix_padding_probability=1.0, strict=True)
    batch = collator(ROWS[:4])
    is_caption = batch["granularity"] == 0
    assert lengths_of(batch)[is_caption].max() > 100

    def refuse(*args, **kwargs):
        raise AssertionError("the model makes a plan of its own")

    model.plan_texts = model._plan_batch = refuse
    with torch.no_grad():
        outputs = model(**batch)
        path = "long" if two_paths else None
        features = model.get_text_features(batch["input_ids"][is_caption], path=path).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1)
    torch.testing.assert_close(outputs.text_embeds[is_caption], expected, atol=1e-5, rtol=1e-4)
    del batch["return_loss"]
    plain = BetaCLIPDataCollator(processor, caption_mode="full")(ROWS[:4])
    del plain["return_loss"], plain["plan"]
    del model.plan_texts, model._plan_batch
    assert (model(**plain).text_embeds[is_caption] - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_first_sentence_probability": 1.1}, r"drop_first_sentence_probability must be in \[0, 1\], but is 1.1"),
        ({"prefix_padding_probability": -0.1}, r"prefix_padding_probability must be in \[0, 1\], but is -0.1"),
        ({"sentence_order": "any"}, "sentence_order must be one of .*, but is 'any'"),
        ({"sentence_order": "random", "caption_mode": "full"}, 'sentence_order must be "reading" where captions are'),
    ],
)
def test_arguments_out_of_range(collate, options, message):
    with pytest.raises(ValueError, match=message):
        collate(**options)
