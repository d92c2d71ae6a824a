"""Rows are read with their images for the model, and without them for the labels."""

import pytest
import torch
from PIL import Image

from beta_clip_hf.inference.identity import image_digest
from beta_clip_hf.inference.reading import ImageReader, read_texts


def rows_of_colours(*colours):
    return [{"image": Image.new("RGB", (40, 32), colour), "caption": f"all {colour}"} for colour in colours]


def test_a_batch_has_everything_but_the_images(tiny_processor):
    rows = rows_of_colours("red", "green", "blue")
    processed = ImageReader(rows, tiny_processor.image_processor)([2, 0])
    assert processed.indices == [2, 0] and processed.sizes == [(40, 32)] * 2
    assert processed.rows == [{"caption": "all blue"}, {"caption": "all red"}]
    assert processed.digests == [image_digest(rows[2]["image"]), image_digest(rows[0]["image"])]
    images = [rows[2]["image"], rows[0]["image"]]
    expected = tiny_processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(processed.inputs["pixel_values"], expected)


def test_rows_with_a_caption_are_checked_and_others_are_taken_as_they_are():
    without_caption = {"image": Image.new("RGB", (8, 8)), "label": 3}
    assert read_texts([*rows_of_colours("red"), without_caption])[1] == {"label": 3}
    with pytest.raises(ValueError, match="caption"):
        read_texts([{"image": Image.new("RGB", (8, 8)), "caption": " "}])
