"""The model on SigLIP 2 towers: stock SigLIP 2 bit for bit, SigLIP of a fixed resolution, loading, regions."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

import reference
from beta_clip_hf import BetaSiglip2Config, BetaSiglip2Model, PatchMap
from beta_clip_hf.model.regions_beta_clip import roi_align_of_map
from beta_clip_hf.model.towers_beta_siglip2 import patches_of


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**TOWER, "vocab_size": 99, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
HALVES = [torch.float32, torch.bfloat16]
GRIDS = torch.tensor([[3, 5], [4, 4], [1, 7]])


def randomized(model):
    """Gives every parameter a random value, also those that start from 0 or 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def siglip2_dir(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("siglip2")
    vision = {**TOWER, "patch_size": 4, "num_patches": 16}
    randomized(Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=vision))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("siglip")
    # 22 pixels: the last two do not fill a patch.
    vision = {**TOWER, "patch_size": 4, "image_size": 22}
    randomized(SiglipModel(SiglipConfig(text_config=TEXT, vision_config=vision))).save_pretrained(folder)
    return folder


@pytest.fixture
def batch():
    mask = (torch.arange(18) < GRIDS.prod(dim=1)[:, None]).long()
    return {
        "input_ids": torch.randint(3, 99, (3, 64)),
        "pixel_values": torch.randn(3, 18, 48) * mask[..., None],
        "pixel_attention_mask": mask,
        "spatial_shapes": GRIDS,
    }


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_plain_batch_is_stock_siglip2_bit_for_bit(siglip2_dir, batch, dtype, attention):
    stock = Siglip2Model.from_pretrained(siglip2_dir, dtype=dtype, attn_implementation=attention)
    model = BetaSiglip2Model.from_pretrained(siglip2_dir, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        expected, found = stock(**batch, return_loss=True), model(**batch, return_loss=True)
    for name in ("image_embeds", "text_embeds"):
        assert torch.equal(found[name], expected[name]), name
    assert torch.equal(found.vision_model_output.last_hidden_state, expected.vision_model_output.last_hidden_state)
    if dtype == torch.float32:
        for name in ("loss", "logits_per_image", "logits_per_text"):
            assert torch.equal(found[name], expected[name]), name
    else:
        # Scale and bias stay in float32, so that the logits are finer than those of the stock model.
        assert found.logits_per_image.dtype == torch.float32
        torch.testing.assert_close(found.logits_per_image, expected.logits_per_image.float(), rtol=0.02, atol=0.02)


def test_features_are_those_of_stock_siglip2(siglip2_dir, batch):
    stock, model = Siglip2Model.from_pretrained(siglip2_dir), BetaSiglip2Model.from_pretrained(siglip2_dir)
    ids = batch.pop("input_ids")
    with torch.no_grad():
        images = stock.get_image_features(**batch).pooler_output
        assert torch.equal(model.get_image_features(**batch).pooler_output, images)
        del batch["pixel_attention_mask"]
        assert torch.equal(model.get_image_features(**batch).pooler_output, images)
        texts = stock.get_text_features(ids).pooler_output
        assert torch.equal(model.get_text_features(ids).pooler_output, texts)
        assert torch.equal(model.get_text_features(ids, path="short", return_dict=False)[1], texts)
        outputs = model(pixel_values=batch["pixel_values"], spatial_shapes=batch["spatial_shapes"])
        assert torch.equal(outputs.image_embeds, images / images.norm(dim=-1, keepdim=True))
        assert outputs.text_embeds is None and outputs.logits_per_image is None
        assert torch.equal(model(ids).text_embeds, texts / texts.norm(dim=-1, keepdim=True))


def test_every_tensor_comes_from_the_checkpoint_or_from_its_like(siglip2_dir):
    """The table of what a plain SigLIP 2 gives: all of its tensors, and the new parts as copies of some."""
    stored = load_file(siglip2_dir / "model.safetensors")
    model, info = BetaSiglip2Model.from_pretrained(siglip2_dir, output_loading_info=True)
    ours = model.state_dict()
    copies = {
        "long_text_head": "text_model.head",
        "box_text_head": "text_model.head",
        "patch_head": "vision_model.head",
    }
    for name, tensor in ours.items():
        part = name.split(".")[0]
        source = name.replace(part, copies.get(part, part), 1)
        if source in stored:
            assert torch.equal(tensor, stored[source]), name
    new = {name for name in ours if name.split(".")[0] in copies}
    new.add("text_model.embeddings.long_position_embedding.weight")
    assert ours.keys() == {*stored, *new} and new == set(info["missing_keys"])
    assert len(ours["text_model.embeddings.long_position_embedding.weight"]) == 196
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert "probe" in dict(model.patch_head.named_buffers())


def test_siglip_of_a_fixed_resolution_is_exact(siglip_dir, batch):
    stock = SiglipModel.from_pretrained(siglip_dir)
    model, info = BetaSiglip2Model.from_pretrained(siglip_dir, output_loading_info=True)
    stored, ours = load_file(siglip_dir / "model.safetensors"), model.state_dict()
    assert not info["unexpected_keys"] and stored.keys() <= ours.keys()
    embedding = "vision_model.embeddings.patch_embedding.weight"
    for name, tensor in stored.items():
        found = ours[name]
        if name == embedding:
            found = found.unflatten(1, (4, 4, 3)).permute(0, 3, 1, 2)
        assert torch.equal(found, tensor), name
    assert model.config.vision_config.num_patches == 25
    pixels = torch.randn(2, 3, 22, 22)
    patches, grids = patches_of(pixels, 4)
    assert grids.tolist() == [[5, 5], [5, 5]]
    with torch.no_grad():
        expected = stock(batch["input_ids"][:2], pixels, return_loss=True)
        by_patches = model(batch["input_ids"][:2], patches, None, grids, return_loss=True)
        by_pixels = model(batch["input_ids"][:2], pixels, return_loss=True)
    for found in (by_patches, by_pixels):
        torch.testing.assert_close(found.logits_per_image, expected.logits_per_image, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.loss, expected.loss)
    assert torch.equal(by_pixels.text_embeds, expected.text_embeds)
    with pytest.raises(ValueError, match="sides of at least 4 pixels, but have 22 × 3"):
        model(pixel_values=pixels[..., :3])


def test_a_patch_is_the_pixels_of_its_place():
    pixels = torch.arange(3 * 8 * 12).view(1, 3, 8, 12)
    patches, grids = patches_of(pixels, 4)
    assert grids.tolist() == [[2, 3]]
    for place in range(6):
        row, column = divmod(place, 3)
        cell = pixels[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(patches[0, place], cell.permute(1, 2, 0).flatten())


def test_tables_of_other_lengths_are_stretched_by_the_same_share(tmp_path, batch):
    vision = {**TOWER, "patch_size": 4, "num_patches": 16}
    text = {**TEXT, "max_position_embeddings": 16}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    model = BetaSiglip2Model.from_pretrained(tmp_path, long_text_max_position_embeddings=49)
    short = model.text_model.embeddings.position_embedding.weight
    long = model.text_model.embeddings.long_position_embedding.weight
    assert len(long) == 49 and torch.equal(long[:5], short[:5])
    torch.testing.assert_close(long[9], short[6])
    assert model.get_text_features(torch.ones(2, 49, dtype=torch.long), path="long").pooler_output.shape == (2, 32)
    with pytest.raises(ValueError, match=r"long_text_max_position_embeddings must be at least .* \(64\), but is 49"):
        BetaSiglip2Config(long_text_max_position_embeddings=49)


def test_regions_of_any_grids_equal_the_loop_over_samples(siglip2_dir):
    features = torch.randn(3, 18, 6, dtype=torch.float64)
    mask = torch.arange(18) < GRIDS.prod(dim=1)[:, None]
    features[~mask] = torch.inf
    shares = torch.rand(40, 4, dtype=torch.float64) * 1.6 - 0.3
    # Half of the boxes have a positive area, the others any corners.
    shares[:20, 2:] = shares[:20, :2] + torch.rand(20, 2, dtype=torch.float64)
    index = torch.randint(0, 3, (40,))
    index[index == 1] = 2  # an image without boxes
    boxes = shares * GRIDS.flip(1)[index].repeat(1, 2)
    regions = roi_align_of_map(PatchMap(features, GRIDS, mask), boxes, index)
    for region, box, image in zip(regions, boxes.tolist(), index.tolist(), strict=True):
        rows, columns = GRIDS[image].tolist()
        grid = features[image, : rows * columns].unflatten(0, (rows, columns))
        torch.testing.assert_close(region, reference.roi_align(grid, box), rtol=1e-12, atol=1e-12)
    assert (regions.abs().sum(dim=1) > 0).sum() > 10
    assert roi_align_of_map(PatchMap(features, GRIDS, mask), boxes[:0], index[:0]).shape == (0, 6)


def test_box_formats_and_their_default_index(siglip2_dir, batch):
    model = BetaSiglip2Model.from_pretrained(siglip2_dir)
    del batch["input_ids"]
    shares = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0], [0.4, 0.1, 0.9, 0.6]])
    in_pixels = shares * (4 * GRIDS.flip(1)).repeat(1, 2)
    with torch.no_grad():
        expected = model.get_region_features(boxes=shares, **batch)
        found = model.get_region_features(boxes=in_pixels, box_format="xyxy_pixels", **batch)
        sizes = torch.tensor([[30, 50], [80, 80], [10, 70]])
        raw = shares * sizes.flip(1).repeat(1, 2)
        raw[:, 2:] -= raw[:, :2]
        by_size = model.get_region_features(boxes=raw, box_format="xywh_pixels", image_sizes=sizes, **batch)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(by_size, expected)
    with pytest.raises(ValueError, match="there are 3 images and 2 boxes"):
        model.get_region_features(boxes=shares[:2], **batch)


def test_the_auto_class_loads_what_was_saved(siglip2_dir, tmp_path, batch):
    model = BetaSiglip2Model.from_pretrained(siglip2_dir, use_regions=True)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is BetaSiglip2Model and again.config.use_regions
    with torch.no_grad():
        assert torch.equal(again(**batch).logits_per_image, model(**batch).logits_per_image)


def test_half_precision_is_stored_as_such(siglip2_dir, tmp_path):
    model = BetaSiglip2Model.from_pretrained(siglip2_dir, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and model.logit_scale.dtype == torch.float32
    model.save_pretrained(tmp_path)
    again = BetaSiglip2Model.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == tensor.dtype and torch.equal(again.state_dict()[name], tensor), name


def test_a_new_model_has_first_values_of_its_own():
    vision = {**TOWER, "patch_size": 4, "num_patches": 16}
    model = BetaSiglip2Model(BetaSiglip2Config(text_config=TEXT, vision_config=vision, use_regions=True))
    for name in ("region_logit_scale", "hard_negative_logit_scale"):
        assert model.get_parameter(name).item() == pytest.approx(4.6052), name
    assert model.rank_loss.threshold.item() == 0
    for name in ("long_text_head.weight", "box_text_head.weight", "patch_head.attention.in_proj_weight"):
        assert model.get_parameter(name).std() > 0.05, name
    table = model.text_model.embeddings.long_position_embedding.weight
    assert table.shape == (196, 32) and table.std() > 0.01


def test_a_missing_tensor_is_named(siglip2_dir, tmp_path):
    weights = load_file(siglip2_dir / "model.safetensors")
    del weights["text_model.head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((siglip2_dir / "config.json").read_bytes())
    with pytest.raises(
        ValueError, match=r"must have all tensors of BetaSiglip2Model, but .* lacks text_model.head.weight"
    ):
        BetaSiglip2Model.from_pretrained(tmp_path)
    # A checkpoint of ours may lack nothing that its configuration names.
    BetaSiglip2Model.from_pretrained(siglip2_dir).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("patch_head.")}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks patch_head\."):
        BetaSiglip2Model.from_pretrained(tmp_path)


def test_other_kinds_are_refused(tiny_clip_dir, siglip2_dir, tmp_path):
    with pytest.raises(
        ValueError, match=r"a BetaSiglip2Model must be loaded from .* is CLIPModel \(model_type 'clip'\)"
    ):
        BetaSiglip2Model.from_pretrained(tiny_clip_dir)
    values = json.loads((siglip2_dir / "config.json").read_text())
    values["vision_config"]["vision_use_head"] = False
    with pytest.raises(ValueError, match="vision_use_head must be True"):
        BetaSiglip2Config(text_config=values["text_config"], vision_config=values["vision_config"])
    with pytest.raises(ValueError, match=r"projection_size of the text tower must be .* \(768\), but is 32"):
        BetaSiglip2Config(text_config=TEXT)
    assert CLIPModel.from_pretrained(tiny_clip_dir) is not None


def test_bad_batches_are_refused(siglip2_dir, batch):
    model = BetaSiglip2Model.from_pretrained(siglip2_dir)
    with pytest.raises(ValueError, match=r"spatial_shapes must come with patches .*, but is missing"):
        model(pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="at least one of input_ids and pixel_values"):
        model()
    with pytest.raises(ValueError, match="a loss needs input_ids and pixel_values"):
        model(batch["input_ids"], return_loss=True)
    batch["input_ids"] = batch["input_ids"][:2]
    with pytest.raises(ValueError, match="there are 2 texts and 3 images"):
        model(**batch, return_loss=True)


def test_every_parameter_of_a_region_step_has_a_gradient(siglip2_dir, batch):
    model = BetaSiglip2Model.from_pretrained(siglip2_dir)
    ids = batch.pop("input_ids")
    features = [
        model.get_region_features(boxes=torch.tensor([[0.1, 0.1, 0.9, 0.9]]).expand(3, 4), **batch),
        model.get_image_features(**batch).pooler_output,
        model.get_text_features(ids, path="short").pooler_output,
        model.get_text_features(ids, path="box").pooler_output,
        model.get_text_features(torch.randint(3, 99, (2, 196)), path="long").pooler_output,
    ]
    sum(part.square().sum() for part in features).backward()
    without = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    assert without == {"logit_scale", "logit_bias"}
