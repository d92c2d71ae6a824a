"""The export of a model on SigLIP 2 towers is a stock SigLIP 2 with the numbers of one text path."""

import pytest
import torch
from transformers import AutoModel, AutoProcessor, Siglip2Model, Siglip2Processor

from beta_clip_cli import export_siglip2 as command
from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.model.configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import LONG, SHORT, flat_batch, padded_texts, tiny_model


def test_the_paths_of_the_help_are_those_of_the_library():
    assert command.TEXT_PATHS == SIGLIP_TEXT_PATHS


@pytest.mark.parametrize("path", SIGLIP_TEXT_PATHS)
def test_the_export_computes_the_same(tmp_path, path):
    model = tiny_model()
    processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4, max_length=SHORT)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "ours")
    assert main(["export", "siglip2", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--path", path]) == 0
    exported = AutoModel.from_pretrained(tmp_path / "theirs")
    assert type(exported) is Siglip2Model
    assert type(AutoProcessor.from_pretrained(tmp_path / "theirs")) is Siglip2Processor
    ids = padded_texts([3, 7], LONG if path == "long" else SHORT)
    names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    images = {name: flat_batch()[name] for name in names}
    with torch.no_grad():
        expected = model.get_text_features(ids, path=path).pooler_output
        assert torch.equal(exported.get_text_features(ids).pooler_output, expected)
        expected = model.get_image_features(**images).pooler_output
        assert torch.equal(exported.get_image_features(**images).pooler_output, expected)
    assert torch.equal(exported.logit_bias, model.logit_bias)
    # Our model loads what it has written.
    again = BetaSiglip2Model.from_pretrained(tmp_path / "theirs", long_text_max_position_embeddings=LONG)
    assert torch.equal(again.text_model.head.weight, exported.text_model.head.weight)
