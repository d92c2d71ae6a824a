"""Options of a processor's call: unknown ones, impossible lengths and sides are told and not swallowed."""

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPProcessor


TEXTS = ["a red bus on a street", "a dog"]
CALLS = {"plain": {"text": TEXTS}, "flat": {"hierarchies": TEXTS}}


@pytest.fixture(params=CALLS)
def texts(request):
    return CALLS[request.param]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_lenght": 9}, r"the processor got an unexpected option 'max_lenght': did you mean 'max_length'\?"),
        ({"text_kwargs": {"paddin": True}}, r"text_kwargs got an unexpected option 'paddin': did you mean 'padding'\?"),
        ({"images_kwargs": {"do_resiz": False}}, "images_kwargs got an unexpected option 'do_resiz': did you mean"),
        ({"images_kwargs": {"max_length": 9}}, "images_kwargs got an unexpected option 'max_length'"),
        ({"text_kwargs": {"do_resize": False}}, "text_kwargs got an unexpected option 'do_resize'"),
        ({"common_kwargs": {"return_tensor": "pt"}}, "common_kwargs got an unexpected option 'return_tensor': did you"),
        (
            {"image_kwargs": {}},
            r"the processor got an unexpected option 'image_kwargs': did you mean 'images_kwargs'\?",
        ),
        ({"labels": [1]}, "the processor got an unexpected option 'labels'"),
    ],
)
def test_unknown_options_are_named(tiny_processor, texts, options, message):
    with pytest.raises(TypeError, match=message):
        tiny_processor(images=[Image.new("RGB", (32, 32))] * 2, **texts, **options)


def test_options_of_other_modalities_pass(tiny_processor, texts):
    """sentence-transformers hands over the options of sound and video as well."""
    options = {"padding": True, "return_tensors": "pt"}
    expected = tiny_processor(**texts, **options)["input_ids"]
    others = {"audio_kwargs": {"sampling_rate": 16000}, "videos_kwargs": {}}
    assert torch.equal(tiny_processor(**texts, **options, **others)["input_ids"], expected)


@pytest.mark.parametrize("place", ["flat", "nested"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        *(("max_length", value, "max_length must be an integer of at least 3") for value in (0, -1, 2, 8.0, "9", True)),
        *(
            ("pad_to_multiple_of", value, "pad_to_multiple_of must be an integer of at least 1")
            for value in (0, -8, 1.5)
        ),
        ("padding_side", "left", "padding_side must be 'right', but is 'left'"),
    ],
)
def test_impossible_lengths_and_sides_are_named(tiny_processor, texts, place, option, value, message):
    options = {option: value} if place == "flat" else {"text_kwargs": {option: value}}
    with pytest.raises(ValueError, match=message):
        tiny_processor(**texts, padding=True, return_tensors="pt", **options)


def test_a_tokenizer_that_pads_on_the_left_is_refused(tiny_processor, texts, monkeypatch):
    monkeypatch.setattr(tiny_processor.tokenizer, "padding_side", "left")
    with pytest.raises(ValueError, match="padding_side must be 'right', but is 'left'"):
        tiny_processor(**texts, padding=True, return_tensors="pt")


@pytest.mark.parametrize("lengths", [{"max_length": 0}, {"max_length": "77"}, {"short_max_length": 2}])
def test_impossible_lengths_of_a_processor_are_named(tiny_processor, lengths):
    with pytest.raises(ValueError, match="max_length must be an integer of at least 3"):
        BetaCLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, **lengths)


def test_the_shortest_limit_leaves_a_token(tiny_processor, texts):
    ids = tiny_processor(**texts, padding=True, return_tensors="pt", max_length=3)["input_ids"]
    assert ids.shape == (2, 3)
    assert (ids[:, 0] == 512).all() and (ids[:, 1] < 512).all() and (ids[:, 2] == 513).all()


@pytest.mark.parametrize("images", [[], (), np.zeros((0, 32, 32, 3), np.uint8)])
def test_no_texts_and_no_images_are_named(tiny_processor, images):
    with pytest.raises(ValueError, match="text must hold at least one, but is empty"):
        tiny_processor(text=[])
    with pytest.raises(ValueError, match="images must hold at least one, but are empty"):
        tiny_processor(images=images)


def test_lists_are_returned_where_they_are_asked_for(tiny_processor):
    images = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    regions = [[{"box": [0, 0, 9, 9], "text": "a corner"}], []]
    call = {"images": images, "hierarchies": TEXTS, "regions": regions}
    tensors = tiny_processor(**call)
    for options in ({"return_tensors": None}, {"text_kwargs": {"return_tensors": None}}):
        lists = tiny_processor(**call, **options)
        assert lists.keys() == tensors.keys()
        for name, value in lists.items():
            assert type(value) is list
            assert torch.equal(
                torch.tensor(np.array(value)).reshape(tensors[name].shape).to(tensors[name]), tensors[name]
            )
    assert type(lists["input_ids"][0][0]) is type(lists["image_index"][0]) is int
    # As transformers' own processors return images then.
    plain = tiny_processor(images=images, text=TEXTS, return_tensors=None)
    assert type(plain["pixel_values"]) is list and plain["pixel_values"][0].shape == lists["pixel_values"][0].shape
