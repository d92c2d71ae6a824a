"""FG-CLIP 2 on SigLIP 2 towers: the authors' numbers, and the start from a plain SigLIP 2."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Siglip2Config, Siglip2Model

from beta_clip_hf import BetaSiglip2Model
from beta_clip_hf.model.checkpoints_beta_siglip2 import from_fg_clip2, to_fg_clip2
from beta_clip_hf.model.positions_beta_clip import stretch_table
from model.fg_clip2_cases import CASES, LONG_TABLE, OUR_NAMES, THEIR_LONG_TABLES, Case, largest_difference


FIRST, OTHER = THEIR_LONG_TABLES


@pytest.fixture(scope="module", params=CASES)
def case(request, golden_dir, tmp_path_factory):
    return Case(golden_dir / request.param, tmp_path_factory.mktemp(request.param))


def our_name(name):
    for theirs, ours in OUR_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def test_every_tensor_of_the_checkpoint_is_used(case):
    ours, theirs = case.model.state_dict(), dict(case.checkpoint)
    # The threshold of a training run is no tensor of theirs.
    thresholds = {"rank_loss.threshold"} & ours.keys()
    assert case.info.pop("missing_keys") == thresholds and not any(case.info.values()), case.info
    first, other = theirs.pop(FIRST), theirs.pop(OTHER)
    assert torch.equal(ours[LONG_TABLE], torch.cat([first[:20], other[20:]])) and len(ours[LONG_TABLE]) == 196
    assert ours.keys() == {LONG_TABLE, *thresholds, *map(our_name, theirs)}
    for name, tensor in theirs.items():
        assert torch.equal(ours[our_name(name)], tensor), name
    assert case.model.config.use_regions == ("logit_scale_hardneg" in theirs)


def test_the_features_are_the_authors(case):
    model, tensors = case.model, case.tensors
    with torch.no_grad():
        found = {
            "image_features": model.get_image_features(**case.images).pooler_output,
            "short_text_features": model.get_text_features(tensors["text_short"], path="short").pooler_output,
            "long_text_features": model.get_text_features(tensors["text_long"], path="long").pooler_output,
            "box_text_features": model.get_text_features(tensors["text_short"], path="box").pooler_output,
        }
        patches = model.get_patch_features(**case.images)
    for name, features in found.items():
        assert largest_difference(features, tensors[f"out.{name}"]) <= 1e-5, name
    assert torch.equal(patches.mask, tensors["pixel_attention_mask"].bool())
    assert torch.equal(patches.grid_sizes, tensors["spatial_shapes"])
    dense = tensors["out.dense_features"]
    assert largest_difference(patches.features[patches.mask], dense[patches.mask]) <= 1e-5


@pytest.mark.parametrize("kind", ["region", "edge"])
def test_the_region_features_are_the_authors(case, kind):
    tensors, sizes = case.tensors, case.tensors["image_sizes"]
    boxes, index = tensors[f"{kind}_boxes_pixels"], tensors[f"{kind}_image_index"]
    expected = tensors["out.region_features" if kind == "region" else "out.edge_region_features"]
    with torch.no_grad():
        in_pixels = case.model.get_region_features(
            boxes=boxes, region_image_index=index, box_format="xyxy_pixels", image_sizes=sizes, **case.images
        )
        shares = boxes / sizes.flip(1)[index].repeat(1, 2)
        normalized = case.model.get_region_features(boxes=shares, region_image_index=index, **case.images)
    assert largest_difference(in_pixels, expected) <= 1e-5
    assert largest_difference(normalized, expected) <= 1e-5
    assert torch.equal(in_pixels == 0, expected == 0)


def test_the_logits_of_a_plain_batch_are_the_authors(case):
    with torch.no_grad():
        outputs = case.model(case.tensors["text_short"], **case.images, return_loss=True)
    assert largest_difference(outputs.logits_per_image, case.tensors["out.logits_per_image"]) <= 1e-5
    assert outputs.loss.item() == pytest.approx(case.expected["inference_loss"]["short"], rel=1e-5)


def test_a_text_without_its_padding_is_refused(case):
    tensors = case.tensors
    with pytest.raises(ValueError, match=r"short path must have shape \(T, 64\), because .* but are \(1, \d+\): pad"):
        case.model.get_text_features(tensors["text_short_unpadded"])
    with pytest.raises(ValueError, match=r"long path must have shape \(T, 196\)"):
        case.model.get_text_features(tensors["text_short"], path="long")
    with pytest.raises(ValueError, match=r"path must be one of \('short', 'long', 'box'\), but is 'medium'"):
        case.model.get_text_features(tensors["text_short"], path="medium")


@pytest.mark.parametrize("path", ["short", "long", "box"])
def test_padding_is_attended_to_whatever_a_tokenizer_returns(case, path):
    ids = case.tensors["text_long" if path == "long" else "text_short"]
    with torch.no_grad():
        plain = case.model.get_text_features(ids, path=path).pooler_output
        masked = case.model.get_text_features(ids, attention_mask=(ids != 0).long(), path=path).pooler_output
    assert torch.equal(plain, masked)


def test_padding_of_images_changes_nothing(case):
    images = case.images
    garbage = 50 * torch.randn_like(images["pixel_values"])
    is_patch = images["pixel_attention_mask"].bool()
    dirty_images = {**images, "pixel_values": images["pixel_values"].where(is_patch[..., None], garbage)}
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.7]]).expand(len(is_patch), 4)
    num_patches = int(is_patch[1].sum())
    with torch.no_grad():
        clean, dirty = case.model.get_patch_features(**images), case.model.get_patch_features(**dirty_images)
        regions = case.model.get_region_features(boxes=boxes, **images)
        dirty_regions = case.model.get_region_features(boxes=boxes, **dirty_images)
        alone = case.model.get_patch_features(
            images["pixel_values"][1:2, :num_patches], spatial_shapes=images["spatial_shapes"][1:2]
        )
    assert largest_difference(dirty.features[is_patch], clean.features[is_patch]) <= 1e-5
    assert largest_difference(dirty_regions, regions) <= 1e-5
    assert largest_difference(alone.features[0], clean.features[1, :num_patches]) <= 1e-5


def test_the_table_is_stretched_as_the_authors_do(case):
    stretched = stretch_table(case.tensors["stretch.position_embedding_64"], 196, 64)
    assert largest_difference(stretched, case.tensors["stretch.position_embedding_196"]) <= 1e-6


def test_a_plain_siglip2_starts_as_the_authors_start(case, tmp_path):
    """Everything of FG-CLIP 2 is taken out of the checkpoint, and made anew from what is left."""
    plain = {
        name: tensor for name, tensor in case.checkpoint.items() if name.startswith(("text_model", "vision_model"))
    }
    del plain[FIRST], plain[OTHER]
    values = case.model.config.to_dict()
    config = Siglip2Config(text_config=values["text_config"], vision_config=values["vision_config"])
    stock = Siglip2Model(config)
    report = stock.load_state_dict(plain, strict=False)
    assert report.missing_keys == ["logit_scale", "logit_bias"] and not report.unexpected_keys
    stock.save_pretrained(tmp_path)
    model = BetaSiglip2Model.from_pretrained(tmp_path)
    with torch.no_grad():
        long_texts = model.get_text_features(case.tensors["text_long"], path="long").pooler_output
        box_texts = model.get_text_features(case.tensors["text_short"], path="box").pooler_output
        patches = model.get_patch_features(**case.images)
    assert largest_difference(long_texts, case.tensors["out.long_text_features_from_siglip2"]) <= 1e-5
    assert largest_difference(box_texts, case.tensors["out.box_text_features_from_siglip2"]) <= 1e-5
    expected = case.tensors["out.dense_features_from_siglip2"][patches.mask]
    assert largest_difference(patches.features[patches.mask], expected) <= 1e-5
    assert not model.config.use_regions


def test_a_released_checkpoint_has_no_scales_of_regions(case, tmp_path):
    released = {name: tensor for name, tensor in case.checkpoint.items() if name not in OUR_NAMES}
    save_file(released, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((case.folder / "config.json").read_bytes())
    assert not BetaSiglip2Model.from_pretrained(tmp_path).config.use_regions
    model = BetaSiglip2Model.from_pretrained(tmp_path, use_regions=True)
    assert model.region_logit_scale.item() == pytest.approx(4.6052)
    assert model.hard_negative_logit_scale.item() == pytest.approx(4.6052)
    assert model.rank_loss.threshold.item() == 0


def test_names_go_there_and_back(case):
    ours = from_fg_clip2(case.checkpoint)
    back = to_fg_clip2(ours)
    assert back.keys() == case.checkpoint.keys()
    for name, tensor in case.checkpoint.items():
        if name not in (FIRST, OTHER):
            assert torch.equal(back[name], tensor), name
    assert torch.equal(from_fg_clip2(back)[LONG_TABLE], ours[LONG_TABLE])
    with pytest.raises(ValueError, match=r"must hold \['text_model.*_ori.weight', 'text_model.*_res.weight'\]"):
        from_fg_clip2({})


def test_what_is_saved_is_loaded(case, tmp_path):
    case.model.save_pretrained(tmp_path)
    again, info = BetaSiglip2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert load_file(tmp_path / "model.safetensors").keys() == case.model.state_dict().keys()
    for name, tensor in case.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.config.to_diff_dict() == case.model.config.to_diff_dict()
    assert "auto_map" not in again.config.to_dict() and again.config.model_type == "beta_siglip2"


def test_scalars_stay_in_float32(case):
    model = BetaSiglip2Model.from_pretrained(case.folder, dtype=torch.bfloat16)
    assert model.patch_head.probe.dtype == torch.bfloat16
    scalars = [name for name in model.state_dict() if name.startswith("logit_") or name.endswith("_logit_scale")]
    assert len(scalars) == (4 if model.config.use_regions else 2)
    for name in scalars:
        assert torch.equal(model.get_parameter(name), case.model.get_parameter(name)), name
