"""What tests share: one thread, no network, the shared data where it is at hand, and a tiny CLIP with its tokenizer."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from integration.mixins import source


PROJECT = Path(__file__).resolve().parent.parent
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_VISION = {**TINY_TEXT, "image_size": 32, "patch_size": 8}


def pytest_configure(config: pytest.Config) -> None:
    for marker in source.markers():
        config.addinivalue_line("markers", f"{marker}: of transformers' own tests")
    # As many processes as cores run at once: more threads in each would only wait for one another.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test starts from the same random state, whichever tests run before it or beside it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def project_dir() -> Path:
    """The root of the repository."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The shared data beside the repository; tests that need it are skipped where it is absent."""
    path = PROJECT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the shared data, which must be in ../shared, but is absent")
    return path


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Numbers that the authors' own code produced on random weights."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer of bytes only, 514 ids: 512 starts a text, 513 ends and pads it."""
    return train_clip_tokenizer([], vocab_size=514)


@pytest.fixture(scope="session")
def tiny_clip_config(tiny_tokenizer: CLIPTokenizer) -> CLIPConfig:
    """A stock CLIP of 32 × 32 pixels in 16 patches, 77 positions, 2 layers of width 32, projected to 32."""
    ids = {"bos_token_id": tiny_tokenizer.bos_token_id, "eos_token_id": tiny_tokenizer.eos_token_id}
    text = {**TINY_TEXT, **ids, "pad_token_id": tiny_tokenizer.pad_token_id, "vocab_size": len(tiny_tokenizer)}
    return CLIPConfig(text_config=text, vision_config=TINY_VISION, projection_dim=32)


@pytest.fixture(scope="session")
def tiny_clip_dir(tiny_clip_config: CLIPConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that `CLIPModel.save_pretrained` wrote; read it, never write into it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny_clip")
    CLIPModel(tiny_clip_config).save_pretrained(path)
    return path


@pytest.fixture
def tiny_config(tiny_clip_config: CLIPConfig) -> BetaCLIPConfig:
    """The same sizes for β-CLIP: 248 positions, and a pooler of 8 heads."""
    values = tiny_clip_config.to_dict()
    text = {**values["text_config"], "max_position_embeddings": 248}
    return BetaCLIPConfig(text_config=text, vision_config=values["vision_config"], projection_dim=32)


@pytest.fixture(scope="session")
def both_systems_config(tiny_clip_config: CLIPConfig) -> BetaCLIPConfig:
    """The same sizes with every part: pooler, two text paths (77 and 248 positions), regions. Copy it to change it."""
    values = tiny_clip_config.to_dict()
    towers = {name: values[name] for name in ("text_config", "vision_config")}
    switches = {"use_long_text_path": True, "use_regions": True, "mask_identical_region_texts": True}
    return BetaCLIPConfig(**towers, projection_dim=32, **switches)


@pytest.fixture
def tiny_model(tiny_config: BetaCLIPConfig) -> BetaCLIPModel:
    """A new β-CLIP of `tiny_config` with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return BetaCLIPModel(tiny_config).eval()


@pytest.fixture
def tiny_processor(tiny_tokenizer: CLIPTokenizer) -> BetaCLIPProcessor:
    """The processor of `tiny_model`: images of 32 × 32 pixels, texts of at most 248 tokens."""
    return BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32)


@pytest.fixture
def checkpoint(tiny_model: BetaCLIPModel, tiny_processor: BetaCLIPProcessor, tmp_path: Path) -> Path:
    """`tiny_model` and its processor as a directory, each test's own."""
    path = tmp_path / "checkpoint"
    tiny_model.save_pretrained(path)
    tiny_processor.save_pretrained(path)
    return path


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """Every tensor without values is full of NaN, as it may be by chance: what nobody starts shows itself."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(was_deterministic)
