"""Rows are read with their images for the model, and without them for the labels."""

import torch
from PIL import Image

from beta_clip_hf.inference.identity import image_digest
from beta_clip_hf.inference.reading import ImageReader, read_usable_texts


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
    blank = {"id": "7", "image": Image.new("RGB", (8, 8)), "caption": " "}
    texts, lost = read_usable_texts([*rows_of_colours("red"), without_caption, blank])
    assert texts == [{"caption": "all red"}, {"label": 3}, {}]
    assert list(lost) == [2] and lost[2].id == "7" and lost[2].reason.startswith("caption must be")
