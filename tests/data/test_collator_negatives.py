"""Negatives of captions and phrases in a batch: which are drawn, for which texts, and which are found by rules."""

from collections import Counter

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPConfig, BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, SceneDataset


TENSORS = ["negative_attention_mask", "negative_input_ids", "negative_text_index"]
PHRASES = [
    {"text": "a red ball", "negatives": ["a blue ball", "a red box", "a green ball"]},
    {"text": "a ball left of a box", "negatives": []},  # known to have none
    {"text": "a box under a lamp"},  # not known
    "a lamp next to a cup",
]
FALSE_CAPTIONS = [f"False caption {number}." for number in range(5)]


def row(name: str, **fields) -> dict:
    caption = "There is a red ball left of a box. A box under a lamp. The lamp is next to a cup."
    return {"id": name, "image": Image.new("RGB", (40, 40)), "caption": caption, "phrases": PHRASES, **fields}


ROWS = [row("known", hard_negatives=FALSE_CAPTIONS), row("unknown", phrases=None)]


@pytest.fixture
def collate(tiny_processor):
    return lambda **options: BetaCLIPDataCollator(tiny_processor, **{"caption_mode": "full", **options})


def negatives_in(batch, tokenizer) -> list[dict[str, list[str]]]:
    """Per image the negatives of each of its texts that has any, by the text."""

    def decoded(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)

    images: list[dict[str, list[str]]] = [{} for _ in batch["pixel_values"]]
    for ids, text in zip(batch["negative_input_ids"], batch["negative_text_index"].tolist(), strict=True):
        found = images[batch["image_index"][text]]
        found.setdefault(decoded(batch["input_ids"][text]), []).append(decoded(ids))
    return images


def squeezed(texts: list[str]) -> list[str]:
    return [text.lower().replace(" ", "") for text in texts]


def found_in(batch, collator) -> list[dict[str, list[str]]]:
    images = []
    for image in negatives_in(batch, collator.processor.tokenizer):
        images.append({text.replace(" ", ""): squeezed(negatives) for text, negatives in image.items()})
    return images


def test_by_default_a_batch_has_no_negatives_and_they_change_nothing_else(collate):
    plain, with_negatives = collate()(ROWS), collate(num_caption_negatives=2, num_phrase_negatives=3)(ROWS)
    assert sorted(set(with_negatives) - set(plain)) == TENSORS
    tensors = {name: value for name, value in plain.items() if isinstance(value, torch.Tensor)}
    assert len(tensors) == 5 and all(torch.equal(with_negatives[name], value) for name, value in tensors.items())
    assert (with_negatives["negative_text_index"].diff() >= 0).all()


def test_captions_have_their_false_captions(collate):
    collator = collate(num_caption_negatives=2)
    drawn = Counter()
    for epoch in range(50):
        collator.set_epoch(epoch)
        known, unknown = found_in(collator(ROWS), collator)
        assert unknown == {}
        [(caption, negatives)] = known.items()
        assert caption == "".join(squeezed([ROWS[0]["caption"]])) and len(set(negatives)) == 2
        drawn.update(negatives)
    assert sorted(drawn) == squeezed(FALSE_CAPTIONS) and min(drawn.values()) > 8
    assert len(found_in(collate(num_caption_negatives=9)(ROWS), collator)[0][caption]) == 5
    alone = collate(num_caption_negatives=2, caption_mode="caption_only")
    assert [len(image) for image in found_in(alone(ROWS), alone)] == [1, 0]


def test_phrases_have_their_own_negatives_or_an_exchange(collate):
    collator = collate(num_phrase_negatives=2)
    known, unknown = found_in(collator(ROWS), collator)
    assert known.keys() == {"aredball", "aboxunderalamp"}
    assert set(known["aredball"]) < set(squeezed(PHRASES[0]["negatives"])) and len(known["aredball"]) == 2
    assert known["aboxunderalamp"] == ["alampunderabox"]
    # The extractor finds "a red ball left of a box" and "A box under a lamp".
    assert unknown == {"aredballleftofabox": ["aboxleftofaredball"], "aboxunderalamp": ["alampunderabox"]}


def test_what_a_row_gives_is_its_own(collate):
    options = {"num_caption_negatives": 2, "num_phrase_negatives": 1, "num_phrases": 2}
    collator = collate(**options)
    whole = found_in(collator(ROWS), collator)
    assert found_in(collator(ROWS[::-1]), collator) == whole[::-1]
    others = []
    for seed in range(4):
        others.append(str(found_in(collate(seed=seed, **options)(ROWS), collator)))
    assert others[0] == str(whole) and len(set(others)) > 2
    # The negatives of the caption do not depend on the phrases.
    fewer = found_in(collate(**options | {"num_phrase_negatives": 0})(ROWS), collator)
    assert fewer[0].items() < whole[0].items()


def test_a_short_pair_has_none(collate):
    rows = [row("short", hard_negatives=FALSE_CAPTIONS, short_caption="A ball.")]
    collator = collate(num_caption_negatives=2, num_phrase_negatives=2, short_caption_probability=1.0)
    batch = collator(rows)
    assert batch["negative_input_ids"].shape == (0, 1)
    wanted = collate(num_caption_negatives=2, include_short_caption=True)(rows)
    assert wanted["negative_text_index"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_caption_negatives": -1}, "num_caption_negatives must not be negative, but is -1"),
        ({"num_phrase_negatives": -1}, "num_phrase_negatives must not be negative, but is -1"),
        (
            {"num_caption_negatives": 1, "caption_mode": "sampled"},
            'caption_mode must be "full" or "caption_only" where num_caption_negatives is not 0',
        ),
    ],
)
def test_arguments_out_of_range(collate, options, message):
    with pytest.raises(ValueError, match=message):
        collate(**options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hard_negatives": "False."}, "bad: hard_negatives must be a list, but is 'False.'"),
        ({"hard_negatives": ["&nbsp;"]}, "bad: a text of hard_negatives must be a text that is not empty"),
        ({"phrases": [{"text": "a", "negatives": [3]}]}, r"bad: phrases\[0\].negatives\[0\] must be a string"),
        (
            {"phrases": [{"text": "a", "negatives": ["&nbsp;"]}]},
            "bad: a text of negatives of the phrase 'a' must be a text that is not empty",
        ),
    ],
)
def test_a_bad_negative_is_an_error(collate, fields, message):
    collator = collate(num_caption_negatives=1, num_phrase_negatives=1, strict=True)
    with pytest.raises(ValueError, match=message):
        collator([row("bad", **fields)])


@pytest.mark.parametrize("two_paths", [False, True])
def test_a_model_takes_the_batch_and_its_plan(tiny_clip_dir, tiny_tokenizer, two_paths):
    torch.manual_seed(0)
    weights = {"text_negative_loss_weight": 0.3, "conditioned_negative_loss_weight": 0.7}
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_long_text_path=two_paths, **weights).eval()
    short = 77 if two_paths else None
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, max_length=77, short_max_length=short)
    rows = [SceneDataset(4, level="easy", image_size=32)[index] for index in range(4)]
    collator = BetaCLIPDataCollator(
        processor, caption_mode="full", num_caption_negatives=2, num_phrase_negatives=2, strict=True
    )
    batch = collator(rows)
    assert len(batch["negative_input_ids"]) > 4 * (2 + 2 * 2)
    expected = model(**batch | {"plan": None})

    def refuse(*args, **kwargs):
        raise AssertionError("the model makes a plan of its own")

    model.plan_texts = model._plan_batch = refuse
    found = model(**batch)
    torch.testing.assert_close(found.loss, expected.loss)
    assert {"text_negative_loss", "conditioned_negative_loss"} < found.losses.keys()


def test_a_plain_clip_trains_on_a_batch_with_all_texts(tiny_clip_config, tiny_processor):
    values = tiny_clip_config.to_dict()
    towers = {"text_config": {**values["text_config"], "max_position_embeddings": 248}}
    config = BetaCLIPConfig(
        **towers,
        vision_config=values["vision_config"],
        projection_dim=32,
        use_pooler=False,
        text_negative_loss_weight=0.5,
    )
    model = BetaCLIPModel(config)
    rows = [SceneDataset(4, level="easy", image_size=32)[index] for index in range(4)]
    collator = BetaCLIPDataCollator(tiny_processor, num_phrase_negatives=2, strict=True)
    outputs = model(**collator(rows))
    assert outputs.losses.keys() == {"clip_loss", "text_negative_loss"}
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
