"""Every kind of directory that a model on SigLIP 2 towers is loaded from: nothing but a new pooler starts at random."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2TextModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from beta_clip_hf import BetaCLIPModel, BetaSiglip2Model
from beta_clip_hf.model.checkpoints_beta_siglip2 import to_fg_clip2
from model.siglip2_batches import TEXT, TOWER
from model.siglip2_batches import tiny_model as tiny_siglip2


GRID = {**TOWER, "patch_size": 4, "num_patches": 64}
FIXED = {**TOWER, "patch_size": 4, "image_size": 32}
KINDS = ["SigLIP", "SigLIP 2", "FG-CLIP 2", "ours", "ours without a pooler"]


def save(kind, folder):
    torch.manual_seed(7)
    if kind == "SigLIP":
        SiglipModel(SiglipConfig(text_config=TEXT, vision_config=FIXED)).save_pretrained(folder)
    elif kind == "SigLIP 2":
        Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=GRID)).save_pretrained(folder)
    elif kind == "FG-CLIP 2":
        model = tiny_siglip2(use_pooler=False, use_regions=False)
        model.save_pretrained(folder)
        save_file(to_fg_clip2(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
        stored = json.loads((folder / "config.json").read_text())
        theirs = {"model_type": "fgclip2", "text_config": {**stored["text_config"], "longtext_len": 20, "keep_len": 5}}
        (folder / "config.json").write_text(json.dumps(stored | theirs))
    else:
        tiny_siglip2(use_pooler=kind == "ours").save_pretrained(folder)
    return folder


def random_tensors(folder, **options):
    """The names of the tensors that the generator of random numbers decides."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(BetaSiglip2Model.from_pretrained(folder, **options).state_dict())
    first, second = states
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize("options", [{}, {"use_pooler": True, "use_regions": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_new_pooler_starts_at_random(kind, options, tmp_path):
    names = random_tensors(save(kind, tmp_path), **options)
    if not options or kind == "ours":
        assert names == set()
    else:
        assert names and all(name.startswith("pooler.") for name in names)


def test_one_tower_is_named(tmp_path, tiny_clip_dir):
    siglip, siglip2 = save("SigLIP", tmp_path / "1"), save("SigLIP 2", tmp_path / "2")
    SiglipVisionModel.from_pretrained(siglip).save_pretrained(tmp_path / "vision")
    Siglip2TextModel.from_pretrained(siglip2).save_pretrained(tmp_path / "text")
    CLIPVisionModel.from_pretrained(tiny_clip_dir).save_pretrained(tmp_path / "clip_vision")
    for model_class, folder, words in [
        (BetaSiglip2Model, "vision", "SiglipVisionModel"),
        (BetaSiglip2Model, "text", "Siglip2TextModel"),
        (BetaCLIPModel, "clip_vision", "CLIPVisionModel"),
    ]:
        with pytest.raises(
            ValueError, match=rf"a {model_class.__name__} must be loaded from a checkpoint of .* is {words}"
        ):
            model_class.from_pretrained(tmp_path / folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_new_part_is_started(kind, tmp_path, nan_in_new_memory):
    parts = {"use_pooler": True} | ({} if kind == "ours" else {"use_regions": True})
    model = BetaSiglip2Model.from_pretrained(save(kind, tmp_path), **parts)
    assert [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_out_of_its_range_is_refused(kind, tmp_path):
    folder = save(kind, tmp_path)
    with pytest.raises(ValueError, match="beta must"):
        BetaSiglip2Model.from_pretrained(folder, beta=-1.0)
    with pytest.raises(ValueError, match="a text path must be one of"):
        BetaSiglip2Model.from_pretrained(folder, phrase_text_path="medium")
