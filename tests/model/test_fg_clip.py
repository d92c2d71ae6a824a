"""FG-CLIP in the same model: the authors' numbers, both text paths, loading, saving and starting from plain CLIP."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.model.checkpoints_beta_clip import from_fg_clip, is_fg_clip, read_weights, to_fg_clip, weight_names
from beta_clip_hf.model.positions_beta_clip import stretch_text_positions


CASES = ["fg_clip_grid4", "fg_clip_grid6"]
END = 49407
OUR_NAMES = {
    "text_filip_projection.weight": "long_text_projection.weight",
    "text_model.embeddings.position_embedding_ori.weight": "text_model.embeddings.long_position_embedding.weight",
    "logit_scale_finegraind": "region_logit_scale",
    "logit_scale_hardneg": "hard_negative_logit_scale",
}
PARTS = {
    "clip_loss": "global_long",
    "short_clip_loss": "global_short",
    "region_loss": "regional",
    "hard_negative_loss": "hard",
}
COMBINATIONS = [(False, False), (True, False), (False, True), (True, True)]


class Case:
    """A golden case as a model directory, its model, its numbers, and its batch in the layout of this package."""

    def __init__(self, golden, folder):
        shutil.copy(golden / "checkpoint.safetensors", folder / "model.safetensors")
        shutil.copy(golden / "config.json", folder / "config.json")
        self.folder = folder
        self.tensors = load_file(golden / "tensors.safetensors")
        self.expected = json.loads((golden / "expected.json").read_text())
        self.model, self.info = BetaCLIPModel.from_pretrained(folder, output_loading_info=True)

    def batch(self, add_box_loss, use_hard_neg):
        tensors, images = self.tensors, len(self.tensors["pixel_values"])
        boxes, flagged = tensors["box_nums"].tolist(), tensors["hard_nums"].tolist()
        slots = []
        for image in range(images):
            slots += range(4 * image, 4 * image + boxes[image])
        short = torch.nn.functional.pad(tensors["text_short"], (0, 248 - 77), value=END)
        batch = {
            "pixel_values": tensors["pixel_values"],
            "input_ids": torch.stack([tensors["text_long"], short], dim=1).flatten(0, 1),
            "image_index": torch.arange(images).repeat_interleave(2),
            "granularity": torch.tensor([0, 3] * images),
            "return_loss": True,
        }
        if add_box_loss or use_hard_neg:
            batch["boxes"] = tensors["box_infos"][slots]
            batch["region_image_index"] = torch.tensor(slots) // 4
        if add_box_loss:
            batch["region_input_ids"] = tensors["box_texts"][slots]
        if use_hard_neg:  # the last boxes of an image are the flagged ones
            last = []
            for image in range(images):
                end = sum(boxes[: image + 1])
                last += range(end - flagged[image], end)
            batch["hard_input_ids"] = tensors["hard_texts"]
            batch["hard_region_index"] = torch.tensor(last).repeat_interleave(11)
        return batch

    def losses(self, add_box_loss, use_hard_neg):
        (found,) = [
            entry
            for entry in self.expected["losses"]
            if (entry["add_box_loss"], entry["use_hard_neg"]) == (add_box_loss, use_hard_neg)
        ]
        return found


@pytest.fixture(scope="module", params=CASES)
def case(request, golden_dir, tmp_path_factory):
    return Case(golden_dir / request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def one_case(golden_dir, tmp_path_factory):
    return Case(golden_dir / CASES[0], tmp_path_factory.mktemp("one"))


def largest_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_every_tensor_of_the_checkpoint_is_used_and_nothing_is_stretched(case):
    assert not any(case.info.values()), case.info
    theirs, ours = load_file(case.folder / "model.safetensors"), case.model.state_dict()
    assert is_fg_clip(theirs) and weight_names(case.folder) == set(theirs)
    for name, tensor in theirs.items():
        if not name.endswith(("_ori.weight", "_res.weight")):
            assert torch.equal(ours[OUR_NAMES.get(name, name)], tensor), name
    table = ours["text_model.embeddings.long_position_embedding.weight"]
    first, other = (theirs[f"text_model.embeddings.position_embedding_{part}.weight"] for part in ("ori", "res"))
    assert torch.equal(table[:20], first[:20]) and torch.equal(table[20:], other[20:]) and len(table) == 248
    assert len(ours) == len(theirs) - 1
    assert case.model.pooler is None
    assert case.model.config.text_config.max_position_embeddings == 77


def test_the_features_are_the_authors(case):
    model, tensors = case.model, case.tensors
    grid, pixels = case.expected["arch"]["grid"], tensors["pixel_values"]
    with torch.no_grad():
        found = {
            "image_features": model.get_image_features(pixels).pooler_output,
            "short_text_features": model.get_text_features(tensors["text_short"], path="short").pooler_output,
            "long_text_features": model.get_text_features(tensors["text_long"], path="long").pooler_output,
            "dense_features": model.get_patch_features(pixels),
        }
        for name in ("roi", "roi_edge"):
            boxes = tensors[f"{name}_boxes_grid"]
            index, normalized = boxes[:, 0].long(), boxes[:, 1:] / grid
            found[f"{name}_features"] = model.get_region_features(pixels, normalized, index)
            side = pixels.shape[-1]
            in_pixels = model.get_region_features(pixels, normalized * side, index, "xyxy_pixels")
            torch.testing.assert_close(in_pixels, found[f"{name}_features"], rtol=0, atol=2e-6)
    for name, features in found.items():
        assert largest_difference(features, tensors[f"out.{name}"]) < 1e-5, name


@pytest.mark.parametrize(("add_box_loss", "use_hard_neg"), COMBINATIONS)
def test_losses_and_gradient_norms_are_the_authors(case, add_box_loss, use_hard_neg):
    expected, model = case.losses(add_box_loss, use_hard_neg), case.model
    model.zero_grad()
    outputs = model(**case.batch(add_box_loss, use_hard_neg))
    outputs.loss.backward()
    assert outputs.losses.keys() == {name for name, theirs in PARTS.items() if expected[theirs] is not None}
    for name, part in outputs.losses.items():
        assert part.item() == pytest.approx(expected[PARTS[name]], rel=1e-5), name
    assert outputs.loss.item() == pytest.approx(expected["total"], rel=1e-5)
    norms = {name: norm for name, norm in expected["grad_norm"].items() if not name.endswith("_res.weight")}
    table = "text_model.embeddings.position_embedding_ori.weight"
    norms[table] = math.hypot(norms[table], expected["grad_norm"][table.replace("_ori", "_res")])
    for name, norm in norms.items():
        gradient = model.get_parameter(OUR_NAMES.get(name, name)).grad
        found = 0.0 if gradient is None else gradient.norm().item()
        assert found == pytest.approx(norm or 0.0, rel=1e-4), name
    for name, signed in expected["grad_signed"].items():
        gradient = model.get_parameter(OUR_NAMES.get(name, name)).grad
        assert (0.0 if gradient is None else gradient.item()) == pytest.approx(signed or 0.0, rel=1e-4), name
    every = torch.stack([p.grad.double().norm() for p in model.parameters() if p.grad is not None]).norm()
    assert every.item() == pytest.approx(expected["grad_norm_all_parameters"], rel=1e-4)


def test_what_is_saved_is_loaded_bit_for_bit(case, tmp_path):
    case.model.save_pretrained(tmp_path)
    again, info = BetaCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    state_dict = case.model.state_dict()
    assert again.state_dict().keys() == state_dict.keys()
    assert all(torch.equal(value, state_dict[name]) for name, value in again.state_dict().items())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "beta_clip"
    assert type(AutoModel.from_pretrained(tmp_path)) is BetaCLIPModel


def test_their_layout_and_ours_are_turned_into_each_other(case):
    theirs = read_weights(case.folder)
    back = to_fg_clip(from_fg_clip(theirs))
    assert back.keys() == theirs.keys()
    for name, tensor in theirs.items():
        used = {"_ori.weight": slice(0, 20), "_res.weight": slice(20, 248)}
        rows = next((rows for end, rows in used.items() if name.endswith(end)), slice(None))
        assert torch.equal(back[name][rows] if tensor.ndim else back[name], tensor[rows] if tensor.ndim else tensor), (
            name
        )
    assert from_fg_clip(back).keys() == case.model.state_dict().keys()
    del theirs["logit_scale_hardneg"]
    with pytest.raises(ValueError, match=r"must hold .*logit_scale_hardneg"):
        from_fg_clip(theirs)


@pytest.mark.parametrize("lost", [name for name in OUR_NAMES if name != "logit_scale_hardneg"])
def test_a_checkpoint_that_lacks_a_tensor_is_not_taken_for_a_plain_clip(one_case, tmp_path, lost):
    shutil.copy(one_case.folder / "config.json", tmp_path / "config.json")
    tensors = load_file(one_case.folder / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"must hold .*{lost}"):
        BetaCLIPModel.from_pretrained(tmp_path, pooler_num_attention_heads=4)


def test_a_pooler_is_added_when_it_is_asked_for(one_case):
    model, info = BetaCLIPModel.from_pretrained(
        one_case.folder, use_pooler=True, pooler_num_attention_heads=4, output_loading_info=True
    )
    assert info["missing_keys"] and all(name.startswith("pooler.") for name in info["missing_keys"])
    assert model.pooler.num_heads == 4 and model.config.use_long_text_path
    outputs = model(**one_case.batch(True, True))
    assert outputs.losses.keys() == {*PARTS, "beta_cal_loss"}
    assert outputs.losses["clip_loss"].item() == pytest.approx(one_case.losses(True, True)["global_long"], rel=1e-5)


def test_half_precision_and_other_arguments_of_from_pretrained(one_case):
    model = BetaCLIPModel.from_pretrained(one_case.folder, dtype=torch.bfloat16, hard_negative_loss_weight=2.0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.hard_negative_loss_weight == 2.0


def test_a_plain_clip_start_stretches_and_copies_as_the_authors(one_case, tmp_path):
    state_dict = load_file(one_case.folder / "model.safetensors")
    plain = {name: value for name, value in state_dict.items() if name not in OUR_NAMES and "_res." not in name}
    shutil.copy(one_case.folder / "config.json", tmp_path)
    save_file(plain, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = BetaCLIPModel.from_pretrained(tmp_path, use_long_text_path=True, use_regions=True, use_pooler=False)
    ours, tensors = model.state_dict(), one_case.tensors
    assert all(torch.equal(ours[name], value) for name, value in plain.items())
    table = ours["text_model.embeddings.long_position_embedding.weight"]
    torch.testing.assert_close(table, tensors["stretch.position_embedding_248"], rtol=0, atol=2e-7)
    assert torch.equal(ours["long_text_projection.weight"], plain["text_projection.weight"])
    assert ours["region_logit_scale"] == ours["hard_negative_logit_scale"] == plain["logit_scale"]
    with torch.no_grad():
        features = model.get_text_features(tensors["text_long"], path="long").pooler_output
    assert largest_difference(features, tensors["out.long_text_features_from_clip"]) < 1e-5


def test_the_two_paths_of_a_new_model_start_from_its_one(tiny_clip_dir, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    model, info = BetaCLIPModel.from_pretrained(tmp_path, use_long_text_path=True, output_loading_info=True)
    assert set(info["missing_keys"]) == {
        "text_model.embeddings.long_position_embedding.weight",
        "long_text_projection.weight",
    }
    ids = torch.tensor([[512, *range(100), 513]])
    with torch.no_grad():
        expected = tiny_model.get_text_features(ids).pooler_output
        for path in ("short", "long"):
            torch.testing.assert_close(model.get_text_features(ids, path=path).pooler_output, expected)


# The two paths


@pytest.fixture
def two_paths(tiny_clip_dir):
    torch.manual_seed(1)
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_long_text_path=True, use_regions=True)
    with torch.no_grad():  # so that the long path is not a copy of the short one
        model.long_text_projection.weight.normal_()
    return model


def ids_of_length(length, width):
    return torch.tensor([[512, *(7 * i % 500 for i in range(length - 2)), *[513] * (width - length + 1)]])


def test_the_short_path_is_clips_own(two_paths, tiny_clip_dir):
    clip = CLIPModel.from_pretrained(tiny_clip_dir)
    ids = torch.cat([ids_of_length(77, 77), ids_of_length(5, 77)])
    with torch.no_grad():
        expected = clip.get_text_features(ids).pooler_output
        assert torch.equal(two_paths.get_text_features(ids, path="short").pooler_output, expected)
        assert torch.equal(two_paths.get_text_features(ids).pooler_output, expected)
        long = two_paths.get_text_features(ids, path="long").pooler_output
    assert (long - expected).abs().max() > 0.1


def test_the_long_path_is_clip_with_the_stretched_table(two_paths, tiny_clip_dir):
    clip = CLIPModel.from_pretrained(tiny_clip_dir)
    table = stretch_text_positions(clip.text_model.embeddings.position_embedding.weight.data)
    clip.text_model.embeddings.position_embedding = torch.nn.Embedding.from_pretrained(table)
    clip.text_model.embeddings.position_ids = torch.arange(248)[None]
    clip.text_projection.weight.data = two_paths.long_text_projection.weight.data
    ids = torch.cat([ids_of_length(248, 248), ids_of_length(30, 248)])
    with torch.no_grad():
        expected = clip.get_text_features(ids).pooler_output
        torch.testing.assert_close(two_paths.get_text_features(ids, path="long").pooler_output, expected)
        # Any length up to 248, and whatever stands behind the end.
        short_ids = ids[1:, :30]
        torch.testing.assert_close(two_paths.get_text_features(short_ids, path="long").pooler_output, expected[1:])


def test_a_flat_batch_takes_the_path_of_each_granularity(two_paths):
    ids = torch.cat([ids_of_length(length, 200) for length in (200, 12, 4, 30, 12, 70, 6)])
    granularity = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    index = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    with torch.no_grad():
        outputs = two_paths(
            input_ids=ids, pixel_values=torch.randn(2, 3, 32, 32), image_index=index, granularity=granularity
        )
        long = two_paths.get_text_features(ids, path="long").pooler_output
        short = two_paths.get_text_features(ids[1:], path="short").pooler_output
    expected = torch.where((granularity == 0)[:, None], long, torch.cat([short[:1], short]))
    torch.testing.assert_close(outputs.text_embeds, torch.nn.functional.normalize(expected, dim=-1))


def test_padding_beyond_77_is_cut_and_texts_beyond_it_are_refused(two_paths):
    with torch.no_grad():
        padded = two_paths.get_text_features(ids_of_length(20, 248), attention_mask=torch.ones(1, 248))
        bare = two_paths.get_text_features(ids_of_length(20, 20))
    torch.testing.assert_close(padded.pooler_output, bare.pooler_output)
    with pytest.raises(ValueError, match="on the short path must have at most 77 tokens, but has 78"):
        two_paths.get_text_features(ids_of_length(78, 100))
    with pytest.raises(ValueError, match="on the long path must have at most 248 tokens, but has 249"):
        two_paths.get_text_features(ids_of_length(249, 249), path="long")
    with pytest.raises(ValueError, match="on the short path must have at most 77 tokens, but has 90"):
        two_paths.get_text_conditioned_image_features(torch.randn(1, 3, 32, 32), ids_of_length(90, 90))


def test_paths_are_named_right_or_refused(two_paths, tiny_model):
    ids = ids_of_length(5, 5)
    for path in ("long", "short"):
        with pytest.raises(ValueError, match="must be None for a model with one text path, but is"):
            tiny_model.get_text_features(ids, path=path)
    with pytest.raises(ValueError, match=r"must be one of .* but is 'middle'"):
        two_paths.get_text_features(ids, path="middle")


def test_conditioned_features_of_either_path(two_paths):
    pixels, ids = torch.randn(1, 3, 32, 32), ids_of_length(9, 9)
    with torch.no_grad():
        for path in ("short", "long"):
            embeds = two_paths.get_text_features(ids, path=path).pooler_output
            found = two_paths.get_text_conditioned_image_features(pixels, ids, path=path)
            expected = two_paths.get_text_conditioned_image_features(pixels, text_embeds=embeds)
            torch.testing.assert_close(found, expected)


def test_defaults_of_a_configuration_with_two_paths():
    config = BetaCLIPConfig(use_long_text_path=True)
    assert config.text_config.max_position_embeddings == 77
    assert (config.long_text_max_position_embeddings, config.short_clip_loss_weight) == (248, 1.0)
    assert BetaCLIPConfig().short_clip_loss_weight == 0.0
    with pytest.raises(ValueError, match="region_loss_weight must not be negative"):
        BetaCLIPConfig(region_loss_weight=-1)
