"""A model on SigLIP 2 towers that was saved with its code loads in a process where the package cannot be imported."""

import pytest
import torch
from PIL import Image
from transformers import Siglip2ImageProcessorPil

from beta_clip_hf import BetaSiglip2Config, BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.model.remote_code_beta_clip import carrying_code
from model.fg_clip2_cases import word_tokenizer
from without_package import run_without_package


pytestmark = pytest.mark.slow


LOADER = """
import sys, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
images = processor(images=[Image.new("RGB", (40, 50), "red")])
texts = processor(text=["a red dog"], path="long")
with torch.no_grad():
    regions = model.get_region_features(boxes=torch.tensor([[0.1, 0.2, 0.7, 0.9]]), **images)
    long = model.get_text_features(**texts, path="long").pooler_output
torch.save([type(model).__name__, type(processor).__name__, regions, long], sys.argv[2])
"""


def test_auto_classes_load_it_without_the_package(tmp_path):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**tower, "vocab_size": 10, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**tower, "patch_size": 4, "num_patches": 16}
    model = BetaSiglip2Model(BetaSiglip2Config(text_config=text, vision_config=vision, use_regions=True)).eval()
    processor = BetaSiglip2Processor(Siglip2ImageProcessorPil(patch_size=4), word_tokenizer(), dynamic_max_patches=True)
    classes = {BetaSiglip2Config: "AutoConfig", BetaSiglip2Model: "AutoModel", BetaSiglip2Processor: "AutoProcessor"}
    with carrying_code(classes):
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")

    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = run_without_package(LOADER, tmp_path, str(tmp_path / "model"), str(tmp_path / "out.pt"), **environment)
    assert done.returncode == 0, done.stderr
    model_name, processor_name, regions, long = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (model_name, processor_name) == ("BetaSiglip2Model", "BetaSiglip2Processor")
    images = processor(images=[Image.new("RGB", (40, 50), "red")])
    with torch.no_grad():
        expected = model.get_region_features(boxes=torch.tensor([[0.1, 0.2, 0.7, 0.9]]), **images)
        texts = model.get_text_features(**processor(text=["a red dog"], path="long"), path="long").pooler_output
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(regions, expected)
    torch.testing.assert_close(long, texts)
