"""Methods of models take lists and numpy arrays where they take tensors; what is neither is named in a sentence."""

from inspect import signature

import numpy as np
import pytest
import torch

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from model import siglip2_batches


BOXES = [[0.0, 0.0, 0.5, 0.5], [0.25, 0.1, 1.0, 0.9], [0.0, 0.5, 1.0, 1.0]]
METHODS = (
    "get_image_features",
    "get_text_features",
    "get_patch_features",
    "get_region_features",
    "get_text_conditioned_image_features",
    "score_pairs",
    "score_candidates",
)


@pytest.fixture(scope="module", params=["CLIP", "SigLIP 2"])
def case(request):
    """A model, the arguments of its images, and texts."""
    torch.manual_seed(0)
    if request.param == "SigLIP 2":
        batch = siglip2_batches.flat_batch()
        images = {name: batch[name] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")}
        return siglip2_batches.tiny_model(), images, siglip2_batches.padded_texts([3, 5, 8], siglip2_batches.SHORT)
    tower = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**tower, "vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 0}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    model = BetaCLIPModel(BetaCLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    ids = torch.randint(1, 97, (3, 7))
    ids[:, 6] = 98
    return model, {"pixel_values": torch.randn(3, 3, 32, 32)}, ids


def arguments_of(method, case):
    """Returns the tensors of a method by name."""
    model, images, ids = case
    with torch.no_grad():
        patches = model.get_patch_features(**images)
    embeds = torch.randn(3, 32)
    if method in ("get_image_features", "get_patch_features"):
        return images
    if method == "get_text_features":
        return {"input_ids": ids}
    if method == "get_region_features":
        return {**images, "boxes": torch.tensor(BOXES), "region_image_index": torch.tensor([2, 0, 1])}
    if method == "get_text_conditioned_image_features":
        return {**images, "input_ids": ids, "image_index": torch.tensor([0, 0, 2])}
    if method == "score_pairs":
        return {"patch_features": patches, "text_embeds": embeds}
    places = torch.tensor([0, 2])
    return {"patch_features": patches, "text_embeds": embeds, "image_index": places, "text_index": places}


def value_of(output):
    tensor = getattr(output, "pooler_output", output)
    return getattr(tensor, "features", tensor)


@torch.no_grad()
@pytest.mark.parametrize("form", ["lists", "numpy", "by place"])
@pytest.mark.parametrize("method", METHODS)
def test_lists_and_arrays_are_taken_as_tensors(case, method, form):
    model = case[0]
    tensors = arguments_of(method, case)
    expected = value_of(getattr(model, method)(**tensors))
    in_that_form = {}
    for name, value in tensors.items():
        if isinstance(value, torch.Tensor):
            # numpy's own numbers have 64 bits.
            value = value.numpy().astype(np.float64 if value.is_floating_point() else np.int64)
            value = value if form == "numpy" else value.tolist()
        in_that_form[name] = value
    if form == "by place":
        first = next(iter(signature(getattr(model, method)).parameters))
        found = getattr(model, method)(in_that_form.pop(first), **in_that_form)
    else:
        found = getattr(model, method)(**in_that_form)
    torch.testing.assert_close(value_of(found), expected)


@torch.no_grad()
def test_no_boxes_and_one_box(case):
    model, images, _ = case
    assert model.get_region_features(**images, boxes=[], region_image_index=[]).shape == (0, 32)
    with pytest.raises(ValueError, match=r"boxes must have shape \(R, 4\), but are \(4,\)"):
        model.get_region_features(**images, boxes=BOXES[0])


@pytest.mark.parametrize(
    "boxes", ["a box", [[0, 0, 1], [0, 0, 1, 1]], [[[0, 0, 1, 1]], []], object(), [["0", 0, 1, 1]], {"x": 1}]
)
def test_what_is_no_tensor_is_named(case, boxes):
    model, images, _ = case
    with pytest.raises(ValueError, match="boxes must be a tensor, or numbers in lists of equal length or a numpy arr"):
        model.get_region_features(**images, boxes=boxes)


def test_an_index_that_is_no_whole_number_is_named(case):
    model, images, _ = case
    with pytest.raises(ValueError, match="the image index must name one of the images"):
        model.get_region_features(**images, boxes=BOXES, region_image_index=[0.0, 0.5, 1.0])


def test_forward_says_that_it_takes_tensors(case):
    model, images, ids = case
    with pytest.raises(ValueError, match="input_ids must be a tensor, as a processor and a collator make it, but"):
        model(**images, input_ids=ids.tolist())
    with pytest.raises(ValueError, match="boxes must be a tensor"):
        model(**images, input_ids=ids, image_index=torch.arange(3), boxes=BOXES)
