"""Options of a processor's call, as transformers' processors take them: flat, nested and common, in both batches."""

import builtins
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPProcessor

from beta_clip_hf import BetaCLIPProcessor
from beta_clip_hf.model.text_cleaning_beta_clip import clean_text


IMAGE = Image.new("RGB", (40, 60), (200, 50, 10))
LONG = "word " * 400
HIERARCHY = SimpleNamespace(caption=LONG, sentences=("A cube.",), phrases=(LONG, "a ball"))
FLAT = {
    "hierarchies": [HIERARCHY, "a wall"],
    "images": [IMAGE, IMAGE],
    "regions": [[{"box": [0, 0, 9, 9], "text": "a part", "hard_texts": ["a part", "no part"]}], []],
    "negatives": [[["no cube"], [], [], ["no ball", "two balls"]], [[]]],
}


def equal(batch, other):
    return batch.keys() == other.keys() and all(torch.equal(batch[name], other[name]) for name in batch)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": True, "max_length": 9, "return_tensors": "pt"},
        {"text_kwargs": {"padding": True, "truncation": True, "max_length": 9}, "return_tensors": "pt"},
        {"text_kwargs": {"padding": True, "max_length": 9}, "common_kwargs": {"return_tensors": "pt"}},
        {"common_kwargs": {"return_tensors": "pt"}, "text_kwargs": {"max_length": 9}, "padding": True},
        {"padding": True, "max_length": 9, "truncation": None, "return_tensors": "pt"},
    ],
)
def test_options_may_stand_anywhere(tiny_processor, options):
    clip = CLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer)
    flat = {"padding": True, "truncation": True, "max_length": 9, "return_tensors": "pt"}
    expected = clip(images=[IMAGE], text=[LONG, "a"], **flat)
    assert expected["input_ids"].shape == (2, 9)
    assert equal(tiny_processor(images=[IMAGE], text=[LONG, "a"], **options), expected)


def test_our_limits_are_the_defaults_and_do_not_yield_to_the_tokenizers(tiny_tokenizer, tiny_processor, tmp_path):
    tiny_processor.tokenizer.save_pretrained(tmp_path)
    other = type(tiny_tokenizer).from_pretrained(tmp_path, max_length=5, truncation=False)
    processor = BetaCLIPProcessor(tiny_processor.image_processor, other, max_length=60, short_max_length=20)
    for options in ({}, {"text_kwargs": {}}, {"text_kwargs": {"padding": True}}, {"max_length": None}):
        ids = processor(text=[LONG], return_tensors="pt", **options)["input_ids"]
        assert ids.shape == (1, 20)
    assert processor(text=[LONG], path="long", return_tensors="pt")["input_ids"].shape == (1, 60)
    assert processor(text=["a"], text_kwargs={"padding": "max_length"}, return_tensors="pt")["input_ids"].shape[1] == 20


@pytest.mark.parametrize(
    "options",
    [{"return_tensors": "np"}, {"common_kwargs": {"return_tensors": "np"}}, {"text_kwargs": {"return_tensors": "np"}}],
)
def test_a_flat_batch_of_arrays_holds_the_same_numbers(tiny_processor, options):
    tensors, arrays = tiny_processor(**FLAT), tiny_processor(**FLAT, **options)
    assert tensors.keys() == arrays.keys() and len(tensors) == 15
    for name, array in arrays.items():
        assert isinstance(array, np.ndarray)
        assert np.array_equal(array, tensors[name].numpy()) and array.dtype == tensors[name].numpy().dtype
    assert equal(tiny_processor(**FLAT, return_tensors="pt"), tensors)


def test_images_kwargs_reach_a_flat_batch(tiny_processor):
    flat = {"images": [IMAGE], "hierarchies": ["a"]}
    expected = tiny_processor(**flat, do_normalize=False)
    assert expected["pixel_values"].min() >= 0 > tiny_processor(**flat)["pixel_values"].min()
    assert equal(tiny_processor(**flat, images_kwargs={"do_normalize": False}), expected)
    assert equal(tiny_processor(**flat, common_kwargs={"return_tensors": "pt"}, do_normalize=False), expected)
    with pytest.raises(ValueError, match="size must be the image processor's own where boxes follow it"):
        tiny_processor(**FLAT, images_kwargs={"size": {"shortest_edge": 16}})


@pytest.mark.parametrize("nested", [False, True])
def test_text_options_of_a_flat_batch(tiny_tokenizer, tiny_processor, nested):
    processor = BetaCLIPProcessor(tiny_processor.image_processor, tiny_tokenizer, max_length=60, short_max_length=20)

    def call(**options):
        return processor(**FLAT, **({"text_kwargs": options} if nested else options))

    default = call()
    assert default["attention_mask"].sum(dim=1).tolist()[:3] == [60, 8, 20]
    assert equal(call(padding=True, truncation=True), default)
    assert equal(call(padding="longest", truncation="longest_first", padding_side="right"), default)
    shorter = call(max_length=30)
    assert shorter["attention_mask"].sum(dim=1).tolist()[:3] == [30, 8, 20]
    shortest = call(max_length=6)
    assert shortest["attention_mask"].sum(dim=1).tolist()[:3] == [6, 6, 6]
    assert (shortest["input_ids"][:3, -1] == tiny_tokenizer.eos_token_id).all()
    full = call(padding="max_length")
    assert [full[name].shape[1] for name in ("input_ids", "region_input_ids", "negative_input_ids")] == [60, 20, 60]
    assert call(pad_to_multiple_of=16)["input_ids"].shape[1] == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": False}, "padding must be True or 'max_length' with hierarchies, but is False"),
        ({"padding_side": "left"}, "padding_side must be 'right', but is 'left'"),
        ({"truncation": False}, "truncation must be left unset with hierarchies, but is False"),
        ({"return_offsets_mapping": True}, "return_offsets_mapping must be left unset with hierarchies, but is True"),
        ({"text_kwargs": {"stride": 3}}, "stride must be left unset with hierarchies, but is 3"),
        ({"max_length": 8, "text_kwargs": {"max_length": 9}}, "max_length was passed two times"),
    ],
)
def test_what_a_flat_batch_cannot_do_is_said(tiny_processor, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(**FLAT, **options)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": ["a", None]}, r"text\[1\] must be a string, but is None"),
        ({"text": 3}, "text must be a string or a list of strings, but is 3"),
        ({"hierarchies": "a caption"}, "hierarchies must be a list with the texts of each image, but is 'a caption'"),
        ({"hierarchies": HIERARCHY}, "hierarchies must be a list with the texts of each image, but is namespace"),
        ({"hierarchies": ["a", None]}, r"hierarchies\[1\] must be a caption, or have .* but is None"),
        ({"hierarchies": ["a"], "negatives": [["no"]]}, r"negatives\[0\]\[0\] must be a list of texts, but is 'no'"),
        ({"hierarchies": ["a"], "negatives": [None]}, r"negatives\[0\] must be a list for each text .* but is None"),
        ({"hierarchies": ["a"], "negatives": [[[None]]]}, r"a text of negatives\[0\]\[0\] must be a text"),
        ({"hierarchies": ["a"], "images": [IMAGE], "regions": [None]}, r"regions\[0\] must be a list of regions"),
        ({"hierarchies": ["a"], "images": [IMAGE], "regions": [["x"]]}, r"regions\[0\]\[0\] must have a box"),
        ({}, "You need to provide at least one input"),
    ],
)  # fmt: skip
def test_wrong_lists_and_none_are_named(tiny_processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(**inputs)


SPELLED = [
    ("a dog <|endoftext|> on a sofa", "a dog on a sofa"),
    ("<|startoftext|>a dog<|endoftext|>", "a dog"),
    ("a <|ENDOFTEXT|> dog", "a dog"),
    ("a &lt;|endoftext|&gt; dog", "a dog"),
    ("a <|end<|endoftext|>oftext|> dog", "a <|end oftext|> dog"),
]


@pytest.mark.parametrize(("spelled", "meant"), SPELLED)
def test_special_tokens_in_a_text_are_never_special(tiny_processor, spelled, meant):
    plain = tiny_processor(text=[spelled], return_tensors="pt")
    assert equal(plain, tiny_processor(text=[meant], return_tensors="pt"))
    end = tiny_processor.tokenizer.eos_token_id
    start = tiny_processor.tokenizer.bos_token_id
    ids = plain["input_ids"][0].tolist()
    assert (ids.count(start), ids.count(end)) == (1, 1) and ids[-1] == end

    def flat(text):
        hierarchy = SimpleNamespace(caption=text, sentences=(text,), phrases=(text,), short_caption=text)
        regions = [[{"box": [0, 0, 9, 9], "text": text, "hard_texts": [text]}]]
        return tiny_processor(
            images=[IMAGE], hierarchies=[hierarchy], regions=regions, negatives=[[[text], [text], [], []]]
        )

    assert equal(flat(spelled), flat(meant))


def test_a_text_of_special_tokens_alone_is_empty(tiny_processor):
    with pytest.raises(ValueError, match="a text must not be empty, but a caption of image 0 is"):
        tiny_processor(hierarchies=["<|endoftext|>"])


def test_without_ftfy_a_warning_says_what_is_not_mended(monkeypatch):
    real_import = builtins.__import__

    def import_without_ftfy(name, *args, **kwargs):
        if name == "ftfy":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_without_ftfy)
    assert clean_text("two\nlines\tof &amp; text ") == "two\nlines\tof & text"
    with pytest.warns(
        UserWarning, match="ftfy is not installed, so texts that are not plain ASCII .* pip install ftfy"
    ):
        assert clean_text("café") == "café"
