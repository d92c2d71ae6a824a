"""A repository of a model on SigLIP 2 towers holds its code and a card that says what it is."""

import json

import pytest
import torch
from safetensors.torch import save_file

from beta_clip_hf import BetaSiglip2Processor
from beta_clip_hf.release.hub import build_repository
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import LONG, SHORT, tiny_model


@pytest.fixture
def processor():
    return BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4, max_length=SHORT, long_max_length=LONG)


def test_an_adapter_is_pushed_with_its_own_classes(processor, tmp_path):
    folder, repository = tmp_path / "adapter", tmp_path / "repository"
    tiny_model().config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "google/siglip2-base-patch16-naflex"}')
    save_file({"lora": torch.zeros(1)}, folder / "adapter_model.safetensors")
    build_repository(folder, repository, "me/adapter")
    card = (repository / "README.md").read_text(encoding="utf-8")
    assert 'BetaSiglip2Model.from_pretrained("me/adapter")' in card
    assert 'BetaSiglip2Processor.from_pretrained("me/adapter")' in card
    assert BetaSiglip2Processor.from_pretrained(repository).long_max_length == LONG


@pytest.mark.slow
def test_a_repository_has_code_and_card(processor, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    build_repository(tmp_path / "model", tmp_path / "repository", "me/model")
    config = json.loads((tmp_path / "repository/config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_beta_siglip2.BetaSiglip2Model"
    assert config["auto_map"]["AutoModelForZeroShotImageClassification"] == config["auto_map"]["AutoModel"]
    assert (tmp_path / "repository/modeling_beta_siglip2.py").exists()
    card = (tmp_path / "repository/README.md").read_text()
    for words in (
        "A β-CLIP and FG-CLIP 2 SigLIP 2 model",
        'path="long", padding=True',
        "Images of any shape in patches of 4; embeddings of 32 numbers.",
        "8 (short captions; texts of boxes) or 20 (long captions)",
        "arXiv:2510.10921",
        "- siglip2",
        "- fg-clip-2",
        "@inproceedings{xie2026fgclip2,",
    ):
        assert words in card, words
