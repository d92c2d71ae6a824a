"""Weights between two models."""

import json

import pytest
import torch
from transformers import CLIPModel

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.model.checkpoints_beta_clip import to_fg_clip
from beta_clip_hf.model.positions_beta_clip import stretch_text_positions
from beta_clip_hf.release.interpolate import interpolate, mix
from release.tuned_models import perturbed, saved


pytestmark = pytest.mark.slow


TABLE = "text_model.embeddings.position_embedding.weight"
LONG_TABLE = "text_model.embeddings.long_position_embedding.weight"


def tensors_of(folder):
    return BetaCLIPModel.from_pretrained(folder).state_dict()


@pytest.fixture
def tuned_dir(tiny_clip_dir, tiny_processor, tmp_path):
    return saved(perturbed(BetaCLIPModel.from_pretrained(tiny_clip_dir)), tmp_path / "tuned", tiny_processor)


def test_the_weights_lie_between_in_the_given_share(tiny_clip_dir, tuned_dir, tmp_path):
    model = interpolate(tiny_clip_dir, tuned_dir, tmp_path / "out", alpha=0.3)
    base, tuned = CLIPModel.from_pretrained(tiny_clip_dir).state_dict(), tensors_of(tuned_dir)
    base[TABLE] = stretch_text_positions(base[TABLE])
    mixed = tensors_of(tmp_path / "out")
    assert mixed.keys() == tuned.keys()
    for name, tensor in mixed.items():
        assert torch.equal(model.state_dict()[name], tensor)
        if name.startswith("pooler."):  # the base has none
            assert torch.equal(tensor, tuned[name])
        else:
            expected = 0.7 * base[name].double() + 0.3 * tuned[name].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)
            assert not torch.equal(tensor, tuned[name]) and not torch.equal(tensor, base[name])
    assert not model.training
    processor = BetaCLIPProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.get_vocab() == BetaCLIPProcessor.from_pretrained(tuned_dir).tokenizer.get_vocab()


def test_the_ends_are_the_two_models_bit_for_bit(tiny_clip_dir, tuned_dir, tmp_path):
    tuned = BetaCLIPModel.from_pretrained(tuned_dir)
    with torch.no_grad():  # a sum would lose the sign of this zero
        tuned.text_projection.weight[0, 0] = -0.0
    saved(tuned, tuned_dir)
    tuned = tuned.state_dict()
    interpolate(tiny_clip_dir, tuned_dir, tmp_path / "one", alpha=1)
    interpolate(tiny_clip_dir, tuned_dir, tmp_path / "zero", alpha=0)
    base = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_pooler=False).state_dict()
    at_one, at_zero = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "zero")
    for name in tuned:
        assert torch.equal(at_one[name].view(torch.int32), tuned[name].view(torch.int32)), name
        assert torch.equal(at_zero[name], base.get(name, tuned[name])), name
    assert sum(name not in base for name in tuned) == sum(name.startswith("pooler.") for name in tuned) > 0
    assert json.loads((tmp_path / "one/config.json").read_text()) == json.loads((tuned_dir / "config.json").read_text())


def test_the_ends_take_nothing_from_the_other_side():
    base, tuned = {"w": torch.tensor([-0.0, 1.0])}, {"w": torch.tensor([-0.0, float("inf")])}
    for alpha, expected in ((0, base), (1, tuned)):
        mixed = mix(base, tuned, alpha)["w"]
        assert torch.equal(mixed.view(torch.int32), expected["w"].view(torch.int32))
        assert mixed.data_ptr() != expected["w"].data_ptr()


def test_half_precision_is_computed_in_float32_and_kept():
    base, tuned = {"w": torch.tensor([1.0, 256.0])}, {"w": torch.tensor([2.0, 257.0]).bfloat16()}
    mixed = mix(base, tuned, 0.5)["w"]
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, torch.tensor([1.5, 0.5 * 256 + 0.5 * tuned["w"][1].item()]).bfloat16())
    base, tuned = {"w": torch.randn(1000).bfloat16()}, {"w": torch.randn(1000).bfloat16()}
    mixed = mix(base, tuned, 0.3)["w"]
    assert torch.equal(mixed, (0.7 * base["w"].float() + 0.3 * tuned["w"].float()).bfloat16())
    assert not torch.equal(mixed, 0.7 * base["w"] + 0.3 * tuned["w"])
    double = mix({"w": torch.tensor([0.1])}, {"w": torch.tensor([0.3], dtype=torch.float64)}, 0.25)["w"]
    assert double.item() == 0.75 * torch.tensor(0.1).double().item() + 0.25 * 0.3


def test_a_plain_base_gets_the_paths_and_scales_of_fg_clip(tiny_clip_dir, tmp_path):
    switches = {"use_long_text_path": True, "use_regions": True, "use_pooler": False}
    made = BetaCLIPModel.from_pretrained(tiny_clip_dir, **switches).state_dict()
    tuned_dir = saved(perturbed(BetaCLIPModel.from_pretrained(tiny_clip_dir, **switches)), tmp_path / "tuned")
    tuned = tensors_of(tuned_dir)
    interpolate(tiny_clip_dir, tuned_dir, tmp_path / "out", alpha=0.5)
    interpolate(tiny_clip_dir, tuned_dir, tmp_path / "zero", alpha=0)
    mixed, zero = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "zero")
    assert {LONG_TABLE, "long_text_projection.weight", "region_logit_scale"} < mixed.keys() == made.keys()
    for name in mixed:
        torch.testing.assert_close(mixed[name], (made[name] + tuned[name]) / 2, rtol=0, atol=1e-6)
        assert torch.equal(zero[name], made[name]), name


def test_their_own_directories_on_both_sides(golden_dir, tmp_path):
    """A base and a tuned model in FG-CLIP's layout: the result is a model of ours without a pooler."""
    base = golden_dir / "fg_clip_grid4"
    tuned = perturbed(BetaCLIPModel.from_pretrained(base))
    expected = (to_fg_clip(BetaCLIPModel.from_pretrained(base).state_dict()), to_fg_clip(tuned.state_dict()))
    interpolate(base, saved(tuned, tmp_path / "tuned"), tmp_path / "out", alpha=0.75)
    mixed = BetaCLIPModel.from_pretrained(tmp_path / "out")
    assert mixed.pooler is None
    for name, tensor in to_fg_clip(mixed.state_dict()).items():
        torch.testing.assert_close(tensor, 0.25 * expected[0][name] + 0.75 * expected[1][name], rtol=0, atol=1e-6)
    interpolate(tmp_path / "tuned", base, tmp_path / "back", alpha=1)
    theirs = BetaCLIPModel.from_pretrained(base).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in tensors_of(tmp_path / "back").items())


def test_a_base_with_a_pooler_gives_its_share_of_it(tiny_model, tmp_path):
    base = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    saved(tiny_model, tmp_path / "base")
    tuned = perturbed(tiny_model).state_dict()
    saved(tiny_model, tmp_path / "tuned")
    mixed = interpolate(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", alpha=0.5).state_dict()
    name = "pooler.fc1.weight"
    torch.testing.assert_close(mixed[name], (base[name] + tuned[name]) / 2)
    assert not torch.equal(mixed[name], tuned[name])


def test_a_model_that_was_never_stretched(tiny_clip_dir, tiny_config, tmp_path):
    tiny_config.text_config.max_position_embeddings = 77
    tuned = saved(BetaCLIPModel(tiny_config), tmp_path / "tuned")
    mixed = interpolate(tiny_clip_dir, tuned, tmp_path / "out", alpha=0.5).state_dict()
    base = CLIPModel.from_pretrained(tiny_clip_dir).state_dict()
    assert mixed[TABLE].shape == (77, 32)
    torch.testing.assert_close(mixed[TABLE], (base[TABLE] + tensors_of(tuned)[TABLE]) / 2)


def changed(config, **changes):
    """A configuration with sizes of its towers changed: `text_…` and `vision_…`."""
    values = config.to_dict()
    parts = {"text_config": dict(values["text_config"]), "vision_config": dict(values["vision_config"])}
    for name, value in changes.items():
        tower, _, field = name.partition("_")
        parts[f"{tower}_config"][field] = value
    return BetaCLIPConfig(**parts, projection_dim=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_num_hidden_layers": 3}, r"text_config\.num_hidden_layers of the base must be .* 2, but is 3"),
        ({"vision_num_attention_heads": 2}, r"vision_config\.num_attention_heads of the base must be .* 4, but is 2"),
        ({"vision_patch_size": 16}, r"vision_config\.patch_size of the base must be .* 8, but is 16"),
        ({"text_hidden_act": "gelu"}, r"text_config\.hidden_act of the base must be .* quick_gelu, but is gelu"),
        ({"text_max_position_embeddings": 99}, r"position_embedding\.weight .* \(248, 32\) .* but is \(99, 32\)"),
    ],
)
def test_the_first_difference_of_architecture_is_named(tiny_config, tuned_dir, tmp_path, changes, message):
    base = saved(BetaCLIPModel(changed(tiny_config, **changes)), tmp_path / "base")
    with pytest.raises(ValueError, match=message):
        interpolate(base, tuned_dir, tmp_path / "out", alpha=0.5)
    assert not (tmp_path / "out").exists()


def test_what_only_one_of_the_two_has(tiny_clip_dir, tuned_dir, golden_dir, tmp_path):
    without = saved(BetaCLIPModel.from_pretrained(tiny_clip_dir, use_pooler=False), tmp_path / "without")
    with pytest.raises(ValueError, match=r"the tuned model must have pooler\..* like the base one, but does not"):
        interpolate(tuned_dir, without, tmp_path / "out", alpha=0.5)
    two_paths = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_pooler=False, use_long_text_path=True)
    saved(two_paths, tmp_path / "two_paths")
    with pytest.raises(ValueError, match=r"the base model must have long_text_projection\.weight like the tuned one"):
        interpolate(tuned_dir, tmp_path / "two_paths", tmp_path / "out", alpha=0.5)
    values = BetaCLIPModel.from_pretrained(golden_dir / "fg_clip_grid4").config.to_dict()
    towers = {name: values[name] for name in ("text_config", "vision_config", "projection_dim")}
    one_path = saved(BetaCLIPModel(BetaCLIPConfig(**towers, use_pooler=False)), tmp_path / "one_path")
    with pytest.raises(ValueError, match=r"the tuned model must have hard_negative_logit_scale like the base one"):
        interpolate(golden_dir / "fg_clip_grid4", one_path, tmp_path / "out", alpha=0.5)
    with pytest.raises(ValueError, match=r"hidden_size of the base must be the tuned model's 32, but is 24"):
        interpolate(golden_dir / "fg_clip_grid4", tuned_dir, tmp_path / "out", alpha=0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_is_a_share(tiny_clip_dir, tuned_dir, tmp_path, alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], but is"):
        interpolate(tiny_clip_dir, tuned_dir, tmp_path / "out", alpha=alpha)
    assert not (tmp_path / "out").exists()


def test_neither_model_is_written_over(tiny_clip_dir, tuned_dir):
    for output in (tiny_clip_dir, tuned_dir):
        with pytest.raises(ValueError, match="output must be another directory"):
            interpolate(tiny_clip_dir, tuned_dir, output, alpha=0.5)


# The command


def test_one_alpha_is_the_directory_and_several_are_directories_in_it(tiny_clip_dir, tuned_dir, tmp_path, capsys):
    command = ["interpolate", str(tiny_clip_dir), str(tuned_dir)]
    assert main([*command, str(tmp_path / "half")]) == 0
    assert main([*command, str(tmp_path / "many"), "--alpha", "0", "0.5", "1"]) == 0
    assert {path.name for path in (tmp_path / "many").iterdir()} == {"alpha_0", "alpha_0.5", "alpha_1"}
    half, also_half = tensors_of(tmp_path / "half"), tensors_of(tmp_path / "many/alpha_0.5")
    assert all(torch.equal(tensor, also_half[name]) for name, tensor in half.items())
    tuned, last = tensors_of(tuned_dir), tensors_of(tmp_path / "many/alpha_1")
    assert all(torch.equal(tensor, last[name]) for name, tensor in tuned.items())
    assert main([*command, str(tmp_path / "twice"), "--alpha", "0.5", "0.5"]) == 1
    assert "alphas must differ" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "twice"), "--discard"]) == 1
    again = ["interpolate", str(tiny_clip_dir), str(tmp_path / "many/alpha_1"), str(tmp_path / "many")]
    for more in ([], ["--tasks", "scenes"]):
        assert main([*again, "--alpha", "0", "1", *more]) == 1
        assert "output must be another directory" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()
