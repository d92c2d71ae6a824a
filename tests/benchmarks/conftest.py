"""What the tests of benchmarks share: the repository root on the path, and a tiny plain CLIP to fine-tune."""

from pathlib import Path

import pytest
import torch

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor


@pytest.fixture(autouse=True)
def root_on_path(project_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`benchmarks` is imported from the root of the repository, as `python -m benchmarks.study` does."""
    monkeypatch.syspath_prepend(project_dir)


@pytest.fixture(scope="session")
def plain_clip_dir(tiny_tokenizer, tmp_path_factory) -> Path:
    """A tiny plain CLIP with dropout: its training draws random numbers."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tiny_tokenizer, name) for name in names}
    config = BetaCLIPConfig(
        use_pooler=False,
        projection_dim=32,
        text_config={**tower, **ids, "vocab_size": len(tiny_tokenizer), "attention_dropout": 0.1},
        vision_config={**tower, "image_size": 32, "patch_size": 8, "attention_dropout": 0.1},
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("plain_clip")
    BetaCLIPModel(config).save_pretrained(path)
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, squash=True).save_pretrained(path)
    return path
