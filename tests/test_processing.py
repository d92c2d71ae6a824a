import html
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil, CLIPProcessor

from beta_clip_hf import BetaCLIPProcessor, Granularity
from beta_clip_hf.processing_beta_clip import clean_text


HIERARCHIES = [
    SimpleNamespace(caption="A cube. A ball.", sentences=("A cube.", "A ball."), phrases=("A cube", "A ball")),
    "Only a caption.",
    SimpleNamespace(caption="Trees", sentences=(), phrases=("Trees",), short_caption="a park"),
]


def images(n):
    return [Image.new("RGB", (40 + 5 * i, 60), (200, 50 * i, 10)) for i in range(n)]


def test_hierarchies_become_a_flat_batch(tiny_processor):
    batch = tiny_processor(images=images(3), hierarchies=HIERARCHIES)
    assert batch["image_index"].tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2]
    assert batch["granularity"].tolist() == [0, 1, 1, 2, 2, 0, 0, 2, 3]
    assert batch["granularity"][-1] == Granularity.SHORT_CAPTION
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert all(tensor.dtype == torch.int64 for name, tensor in batch.items() if name != "pixel_values")
    decoded = tiny_processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert decoded[0].replace(" ", "") == "acube.aball."
    assert decoded[-1].replace(" ", "") == "apark"
    lengths = batch["attention_mask"].sum(dim=1)
    end = tiny_processor.tokenizer.eos_token_id
    for ids, mask, length in zip(batch["input_ids"], batch["attention_mask"], lengths, strict=True):
        assert mask[:length].all() and ids[length - 1] == end and end not in ids[: length - 1]
    texts_only = tiny_processor(hierarchies=HIERARCHIES)
    assert "pixel_values" not in texts_only
    assert torch.equal(texts_only["input_ids"], batch["input_ids"])


def test_a_model_takes_the_batch_as_it_is(tiny_processor, tiny_model):
    outputs = tiny_model(**tiny_processor(images=images(3), hierarchies=HIERARCHIES), return_loss=True)
    assert outputs.loss.isfinite()
    assert outputs.contextualized_embeds.shape == (9, 32)


def test_truncation_keeps_the_end(tiny_processor):
    batch = tiny_processor(hierarchies=["word " * 10_000])
    assert batch["input_ids"].shape == (1, 248)
    assert batch["input_ids"][0, -1] == tiny_processor.tokenizer.eos_token_id
    plain = tiny_processor(text=["word " * 500], return_tensors="pt")["input_ids"]
    assert torch.equal(plain, batch["input_ids"])


@pytest.mark.parametrize(
    "text",
    [
        "plain ascii, as most captions are",
        "“curly” quotes’ and an em—dash",
        "a man &amp;amp; a &lt;dog&gt;",
        "caf\u00c3\u00a9 mojibake",
        "non\u00a0breaking\u2028space",
        "tabs\tand\nlines ",
        "红色的球",
        "👩🏽‍🚀 astronaut",
    ],
)
def test_cleaning_is_what_openai_does(text):
    import ftfy

    assert clean_text(text) == html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def test_cleaning_reaches_plain_and_hierarchical_texts(tiny_processor):
    plain = tiny_processor(text=["“dog” &amp; cat"], return_tensors="pt")["input_ids"]
    assert torch.equal(plain, tiny_processor(text='"dog" & cat', return_tensors="pt")["input_ids"])
    assert torch.equal(plain, tiny_processor(hierarchies=["“dog” &amp; cat"])["input_ids"])


def test_plain_calls_are_clips(tiny_processor):
    clip = CLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer)
    arguments = {"images": images(2), "text": ["a dog", "two cats sit"], "return_tensors": "pt", "padding": True}
    expected, batch = clip(**arguments), tiny_processor(**arguments)
    assert expected.keys() == batch.keys()
    assert all(torch.equal(expected[name], batch[name]) for name in expected)


@pytest.mark.parametrize("load", [BetaCLIPProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_save_and_load(tiny_tokenizer, tiny_config, tmp_path, load):
    processor = BetaCLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}), tiny_tokenizer, max_length=100)
    processor.save_pretrained(tmp_path)
    tiny_config.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is BetaCLIPProcessor
    assert loaded.max_length == 100
    assert loaded.image_processor.size == processor.image_processor.size
    assert torch.equal(loaded(hierarchies=HIERARCHIES)["input_ids"], processor(hierarchies=HIERARCHIES)["input_ids"])


def test_a_stock_clip_processor_loads_with_248_tokens(tiny_processor, tmp_path):
    CLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer).save_pretrained(tmp_path)
    loaded = BetaCLIPProcessor.from_pretrained(tmp_path)
    assert loaded(hierarchies=["word " * 300])["input_ids"].shape == (1, 248)


def test_wrong_input_is_named(tiny_processor):
    with pytest.raises(ValueError, match="hierarchies must be one per image, but are 3 for 2 images"):
        tiny_processor(images=images(2), hierarchies=HIERARCHIES)
    with pytest.raises(ValueError, match="only one of text and hierarchies"):
        tiny_processor(text=["a"], hierarchies=HIERARCHIES)
    with pytest.raises(ValueError, match="but a caption of image 1 is"):
        tiny_processor(hierarchies=["fine", "  "])
    with pytest.raises(ValueError, match="hierarchies must hold at least one"):
        tiny_processor(hierarchies=[])
