"""Where each text looks: its texts are those of the caption, its numbers those of the model."""

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.inference.look import CAPTION, SENTENCE, ShownText, look, score_records, split_texts


CAPTION_TEXT = "A red ball lies on the left. Behind it a <b>blue</b> box stands."


@pytest.fixture
def photo() -> Image.Image:
    """An image of noise that is wider than high: the model sees the middle of it."""
    return Image.fromarray(torch.randint(256, (40, 60, 3), dtype=torch.uint8).numpy())


def test_a_caption_is_split_and_no_text_comes_twice():
    shown = split_texts([CAPTION_TEXT, "a red ball", "the sky"])
    assert [text for text in shown if text.kind != "phrase"] == [
        (CAPTION_TEXT, CAPTION, 0),
        ("A red ball lies on the left.", SENTENCE, 1),
        ("Behind it a <b>blue</b> box stands.", SENTENCE, 2),
    ]
    assert ("A red ball", "phrase", 1) in shown and shown[-1].text == "the sky"
    folded = [text.text.casefold() for text in shown]
    assert len(set(folded)) == len(folded) and "a red ball" in folded
    assert [text.group for text in shown] == sorted(text.group for text in shown)
    assert split_texts([CAPTION_TEXT, "the sky"], most_phrases=0) == [
        (CAPTION_TEXT, "phrase", 0),
        ("the sky", "phrase", 1),
    ]
    assert sum(text.kind == "phrase" for text in split_texts([CAPTION_TEXT], most_phrases=2)) == 2
    for bad in ([], [" "]):
        with pytest.raises(ValueError, match=r"(texts must be at least one|text must be a string that is not empty)"):
            split_texts(bad)


def test_what_is_seen_is_what_the_model_gives(tiny_model, tiny_processor, photo):
    texts = ["a red ball", "the sky"]
    seen = look(
        tiny_model, tiny_processor, photo, texts, boxes=[(20, 0, 20, 20), (0, 0, 60, 40)], box_format="xywh_pixels"
    )
    inputs = tiny_processor(images=photo, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = tiny_model(**inputs)
        conditioned, attention = tiny_model.get_text_conditioned_image_features(**inputs, output_attentions=True)
        # The view is the 40 x 40 pixels in the middle: from 10 to 50.
        boxes = torch.tensor([[0.25, 0, 0.75, 0.5], [0, 0, 1, 1]])
        regions = normalize(tiny_model.get_region_features(inputs["pixel_values"], boxes), dim=-1)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(seen.similarity_T, (output.image_embeds @ output.text_embeds.T)[0], **close)
    torch.testing.assert_close(seen.conditioned_T, (conditioned * output.text_embeds).sum(-1), **close)
    torch.testing.assert_close(seen.attention_THYX.flatten(2), attention, **close)
    torch.testing.assert_close(seen.boxes_R4, boxes, **close)
    torch.testing.assert_close(seen.region_scores_RT, regions @ output.text_embeds.T, **close)
    assert seen.region_scores_RT.std() > 1e-3
    assert seen.view.size == (40, 40) and seen.view.tobytes() == photo.crop((10, 0, 50, 40)).tobytes()
    torch.testing.assert_close(seen.maps(), attention.mean(1).view(2, 4, 4), **close)
    torch.testing.assert_close(seen.maps(3), attention[:, 3].view(2, 4, 4), **close)
    with pytest.raises(ValueError, match="head must be 'mean' or one of 0 to 7, but is 8"):
        seen.maps(8)


def test_only_captions_take_the_long_path(both_systems_config, tiny_tokenizer, photo):
    model = BetaCLIPModel(both_systems_config).eval()
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77)
    seen = look(model, processor, photo, [ShownText(CAPTION_TEXT), ShownText(CAPTION_TEXT, CAPTION)])
    inputs = processor(images=photo, text=[CAPTION_TEXT], return_tensors="pt")
    with torch.no_grad():
        image = normalize(model.get_image_features(inputs["pixel_values"]).pooler_output, dim=-1)
        paths = [model.get_text_features(inputs["input_ids"], path=path).pooler_output for path in ("short", "long")]
    expected = torch.cat([image @ normalize(features, dim=-1).T for features in paths]).flatten()
    torch.testing.assert_close(seen.similarity_T, expected, rtol=0, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    # A caption of one sentence is short, unless it stands beside a long one.
    alone = look(model, processor, photo, [ShownText("a ball"), ShownText("a ball", CAPTION)]).similarity_T
    torch.testing.assert_close(alone[1], alone[0], rtol=0, atol=1e-6)
    texts = [ShownText("a ball"), ShownText("a ball", CAPTION), ShownText(CAPTION_TEXT, CAPTION)]
    beside = look(model, processor, photo, texts).similarity_T
    assert abs(beside[1] - beside[0]) > 1e-3


def test_records_have_the_scores_of_texts_and_regions(tiny_model, tiny_processor, photo):
    texts = [ShownText("a red ball"), ShownText("the sky", SENTENCE)]
    seen = look(tiny_model, tiny_processor, photo, texts, boxes=[(20, 0, 40, 20)])
    records = score_records(seen, texts)
    assert [record["text"] for record in records["texts"]] == ["a red ball", "the sky"]
    assert [record["kind"] for record in records["texts"]] == ["phrase", "sentence"]
    assert [record["conditioned"] for record in records["texts"]] == seen.conditioned_T.tolist()
    assert [record["similarity"] for record in records["texts"]] == seen.similarity_T.tolist()
    (region,) = records["regions"]
    assert region == {
        "box": [0.25, 0.0, 0.75, 0.5],
        "scores": dict(zip(["a red ball", "the sky"], seen.region_scores_RT[0].tolist(), strict=True)),
    }
