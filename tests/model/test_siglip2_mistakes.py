"""Mistakes with images of any grid, their boxes and their texts: one sentence says what must be. Nothing gives none."""

import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from beta_clip_hf import BetaSiglip2Processor
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import GRIDS, SHORT, flat_batch, padded_texts, tiny_model


RED = Image.new("RGB", (30, 20), "red")
IMAGES = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def images():
    batch = flat_batch()
    return {name: batch[name] for name in IMAGES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": torch.zeros(0, 18, 48)}, "pixel_values must hold at least one image, but holds none"),
        (
            {"pixel_values": torch.zeros(3, 18, 7)},
            r"pixel_values must have shape \(B, P, 48\) or \(B, 3,",
        ),
        ({"pixel_values": torch.zeros(18, 48)}, r"pixel_values must have shape .*, but have \(18, 48\)"),
        ({"pixel_values": torch.zeros(3, 1, 8, 8)}, r"pixel_values must have shape .*, but have \(3, 1, 8, 8\)"),
        ({"spatial_shapes": None}, "spatial_shapes must come with patches"),
        ({"spatial_shapes": GRIDS[:2]}, r"spatial_shapes must be a tensor of whole numbers \(3, 2\)"),
        ({"spatial_shapes": GRIDS.float()}, "spatial_shapes must be a tensor of whole numbers"),
        ({"spatial_shapes": torch.tensor([[3, 7]] * 3)}, "spatial_shapes must be from 1 × 1 to 18 patches"),
        ({"spatial_shapes": torch.tensor([[0, 7]] * 3)}, "spatial_shapes must be from 1 × 1 to 18 patches"),
        ({"pixel_attention_mask": torch.ones(3, 5)}, r"pixel_attention_mask must have shape \(3, 18\)"),
    ],
)
def test_images(model, images, changes, message):
    for ask in (model.get_image_features, model.get_patch_features, model.forward):
        with pytest.raises(ValueError, match=message):
            ask(**{**images, **changes})


@torch.no_grad()
def test_boxes(model, images):
    nothing = torch.zeros(0, dtype=torch.int64)
    assert model.get_region_features(boxes=torch.zeros(0, 4), region_image_index=nothing, **images).shape == (0, 32)
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    sizes = [(12, 20), (16, 16), (4, 28)]
    found = model.get_region_features(boxes=boxes, box_format="xyxy_pixels", image_sizes=sizes, **images)
    assert torch.equal(found, model.get_region_features(boxes=boxes, box_format="xyxy_pixels", **images))
    for options, message in [
        (
            {"region_image_index": torch.tensor([0, 1, 3])},
            r"must name one of .* 3 boxes, but is \[0, 1, 3\]",
        ),
        ({"region_image_index": torch.tensor([0, 1, -1])}, r"must name one of the images 0\.\.2"),
        ({"region_image_index": torch.tensor([0, 1])}, r"must name one of the images 0\.\.2 for each of the 3 boxes"),
        ({"image_sizes": torch.tensor([[20, 30]])}, r"image_sizes must have shape \(3, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.get_region_features(boxes=boxes, box_format="xyxy_pixels", **options, **images)


@torch.no_grad()
def test_texts(model, images):
    for path in ("short", "long", "box"):
        with pytest.raises(ValueError, match="input_ids must hold at least one text, but holds none"):
            model.get_text_features(padded_texts([], 20 if path == "long" else SHORT), path=path)
    patches = model.get_patch_features(**images)
    nothing = {"text_embeds": torch.zeros(0, 32), "image_index": torch.zeros(0, dtype=torch.int64)}
    pooled, attention = model.get_text_conditioned_image_features(
        patch_features=patches, output_attentions=True, **nothing
    )
    assert pooled.shape == (0, 32) and attention.shape == (0, 8, 18)
    assert model.score_pairs(patches, torch.zeros(0, 32)).shape == (3, 0)
    with pytest.raises(ValueError, match=r"must name one of the images 0\.\.2 for each of the 2 texts"):
        model.get_text_conditioned_image_features(
            patch_features=patches, text_embeds=torch.randn(2, 32), image_index=torch.tensor([0, 5])
        )


@pytest.mark.parametrize("count", [0, -1, 2.5, "x", True])
def test_a_number_of_patches(count):
    processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4)
    with pytest.raises(ValueError, match=f"max_num_patches must be a whole number from 1, but is {count!r}"):
        processor(images=[RED], max_num_patches=count)


def test_one_size_has_no_number_of_patches():
    processor = BetaSiglip2Processor(SiglipImageProcessorPil(size={"height": 16, "width": 16}), word_tokenizer())
    assert processor(images=RED)["pixel_values"].shape == (1, 3, 16, 16)
    with pytest.raises(
        ValueError, match="max_num_patches must be left out, because the image processor resizes to one"
    ):
        processor(images=[RED], max_num_patches=64)
    with pytest.raises(ValueError, match="dynamic_max_patches must be False for an image processor of one size"):
        BetaSiglip2Processor(processor.image_processor, word_tokenizer(), dynamic_max_patches=True)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 9_999), (4, 4), (3, 50)])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_any_shape_fits_into_any_number_of_patches(model, size, count):
    processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4)
    inputs = processor(images=Image.new("RGB", size, "red"), max_num_patches=count)
    assert inputs["pixel_values"].shape == (1, count, 48) and 1 <= int(inputs["spatial_shapes"].prod()) <= count
    assert model.get_image_features(**inputs).pooler_output.isfinite().all()
