"""Weights between two models on SigLIP 2 towers: stock ones, FG-CLIP 2, and ours."""

import pytest
import torch
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.release.interpolate import interpolate
from model.fg_clip2_cases import Case, word_tokenizer
from model.siglip2_batches import LONG, SHORT, TEXT, TOWER, tiny_model
from release.tuned_models import perturbed, saved


NEW_PARTS = {"use_pooler": True, "use_regions": True, "long_text_max_position_embeddings": LONG}
VISION = {**TOWER, "patch_size": 4}


def stock_dir(kind, folder):
    """A plain SigLIP 2, or a SigLIP of a fixed resolution, of one size."""
    torch.manual_seed(0)
    if kind == "siglip2":
        return saved(Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=VISION | {"num_patches": 16})), folder)
    return saved(SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION | {"image_size": 16})), folder)


def tensors_of(folder, **changes):
    return BetaSiglip2Model.from_pretrained(folder, **changes).state_dict()


@pytest.mark.parametrize("kind", ["siglip2", "siglip"])
def test_between_a_stock_model_and_one_that_was_tuned_from_it(tmp_path, kind):
    base = stock_dir(kind, tmp_path / "base")
    started = BetaSiglip2Model.from_pretrained(base, **NEW_PARTS)
    processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), 4, max_length=SHORT, long_max_length=LONG)
    first = {name: tensor.clone() for name, tensor in started.state_dict().items()}
    tuned = saved(perturbed(started), tmp_path / "tuned", processor)
    words = ["interpolate", str(base), str(tuned), str(tmp_path / "out"), "--alpha", "0", "0.3", "1"]
    assert main(words) == 0
    last = tensors_of(tuned)
    expected_of_alpha = {"alpha_0": first, "alpha_1": last, "alpha_0.3": None}
    for folder, expected in expected_of_alpha.items():
        mixed = tensors_of(tmp_path / "out" / folder)
        assert mixed.keys() == last.keys()
        for name, tensor in mixed.items():
            if name.startswith("pooler."):
                assert torch.equal(tensor, last[name]), name
            elif expected is not None:
                assert torch.equal(tensor, expected[name]), name
            else:
                between = 0.7 * first[name].double() + 0.3 * last[name].double()
                torch.testing.assert_close(tensor.double(), between, rtol=0, atol=1e-6, msg=name)
    assert not torch.equal(last["patch_head.mlp.fc1.weight"], first["patch_head.mlp.fc1.weight"])
    assert BetaSiglip2Processor.from_pretrained(tmp_path / "out/alpha_0.3").long_max_length == LONG


def test_between_two_models_of_ours(tmp_path):
    model = tiny_model()
    model.rank_loss.threshold.fill_(2.0)
    base = saved(model, tmp_path / "base")
    tuned = saved(perturbed(model), tmp_path / "tuned")
    mixed = interpolate(base, tuned, tmp_path / "out", alpha=0.5).state_dict()
    first, last = tensors_of(base), tensors_of(tuned)
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(mixed[name], tensor)
        torch.testing.assert_close(tensor, (first[name] + last[name]) / 2, rtol=0, atol=1e-6, msg=name)
        assert name in ("rank_loss.threshold", "patch_head.probe") or not torch.equal(tensor, last[name]), name


def test_between_fg_clip2_and_what_was_tuned_from_it(golden_dir, tmp_path):
    (tmp_path / "base").mkdir()
    base = Case(golden_dir / "fg_clip2_patch4", tmp_path / "base").folder
    tuned = saved(perturbed(BetaSiglip2Model.from_pretrained(base, use_regions=True)), tmp_path / "tuned")
    interpolate(base, tuned, tmp_path / "out", alpha=0.25)
    first, last = tensors_of(base, use_regions=True), tensors_of(tuned)
    for name, tensor in tensors_of(tmp_path / "out").items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * last[name], rtol=1e-6, atol=1e-6, msg=name)


def test_what_does_not_fit_is_told(tiny_clip_dir, tmp_path):
    tuned = saved(tiny_model(), tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"a BetaSiglip2Model must be loaded from .* is CLIPModel"):
        interpolate(tiny_clip_dir, tuned, tmp_path / "out", alpha=0.5)
    with pytest.raises(ValueError, match=r"a BetaCLIPModel must be loaded from .* is BetaSiglip2Model"):
        interpolate(tuned, tiny_clip_dir, tmp_path / "out", alpha=0.5)
    vision = VISION | {"num_patches": 25}
    other = saved(Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=vision)), tmp_path / "other")
    with pytest.raises(ValueError, match=r"num_patches of the base must be the tuned model's 64, but is 25"):
        interpolate(other, tuned, tmp_path / "out", alpha=0.5)
    assert not (tmp_path / "out").exists()
