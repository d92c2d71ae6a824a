"""A saved checkpoint carries its own code: it loads in a process where the package cannot be imported."""

import pytest
import torch
from PIL import Image
from transformers import pipeline

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.model.remote_code_beta_clip import carrying_code
from without_package import run_without_package


pytestmark = pytest.mark.slow


LOADER = """
import sys, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
images = [Image.new("RGB", (40, 50), color) for color in ("red", "blue")]
region = {"box": [0, 10, 20, 40], "text": "a red part", "hard_texts": ["a red part", "a green part"]}
regions = {"regions": [[region], []]} if model.config.use_regions else {}
batch = processor(images=images, hierarchies=["a red wall", "a blue wall"], **regions)
outputs = model(**batch, return_loss=True)
try:
    model.encode(texts="a red wall", processor=processor)
except ImportError as error:
    assert "encode must be called on a model of the package beta-clip-hf" in str(error), error
else:
    raise SystemExit("encode needs the package")
torch.save([type(model).__name__, type(processor).__name__, outputs.loss, outputs.contextualized_embeds], sys.argv[2])
"""


PROCESSOR_LOADER = """
import sys, torch
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
region = {"box": [0, 10, 20, 40], "text": "a red part", "hard_texts": ["a red part", "a green part"]}
image = Image.new("RGB", (40, 50), "red")
batch = processor(images=[image], hierarchies=["a red wall"], regions=[[region]])
import warnings
sys.modules["ftfy"] = None  # as if it were not installed
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    processor(text=["a caf\\u00e9", "a red wall"], padding=True)
assert ["pip install ftfy" in str(warning.message) for warning in caught] == [True], caught
torch.save([type(processor).__name__, dict(batch)], sys.argv[2])
"""

# All that a processor needs: no file of the model is among them.
PROCESSOR_FILES = {
    "batch_settings",
    "boxes",
    "configuration",
    "flat_texts",
    "image_files",
    "image_loading",
    "image_views",
    "processing",
    "remote_code",
    "similar_names",
    "text_cleaning",
    "text_layout",
}


VARIANTS = {
    "β-CLIP": {},
    "no pooler": {"use_pooler": False},
    "FG-CLIP": {"use_pooler": False, "use_long_text_path": True, "use_regions": True},
    "both": {"use_long_text_path": True, "use_regions": True},
}


@pytest.fixture
def variant(request, tiny_clip_dir, tiny_processor):
    """A model of each kind that is saved, and its processor."""
    torch.manual_seed(0)
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, **VARIANTS[request.param]).eval()
    if model.config.use_long_text_path:
        tiny_processor.short_max_length = 77
        tiny_processor.squash_images()
    return model, tiny_processor


@pytest.mark.parametrize("variant", ["β-CLIP", "both"], indirect=True)
def test_auto_classes_load_it_without_the_package(variant, tmp_path):
    tiny_model, tiny_processor = variant
    classes = {BetaCLIPConfig: "AutoConfig", BetaCLIPModel: "AutoModel", BetaCLIPProcessor: "AutoProcessor"}
    with carrying_code(classes):
        tiny_model.save_pretrained(tmp_path / "model")
        tiny_processor.save_pretrained(tmp_path / "model")
    assert all(cls._auto_class is None for cls in classes)
    names = {path.name for path in (tmp_path / "model").glob("*.py")}
    assert names >= {f"{part}_beta_clip.py" for part in ("configuration", "modeling", "loss", "processing", "pooler")}

    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = run_without_package(LOADER, tmp_path, str(tmp_path / "model"), str(tmp_path / "out.pt"), **environment)
    assert done.returncode == 0, done.stderr
    model_name, processor_name, loss, embeds = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (model_name, processor_name) == ("BetaCLIPModel", "BetaCLIPProcessor")
    images = [Image.new("RGB", (40, 50), color) for color in ("red", "blue")]
    region = {"box": [0, 10, 20, 40], "text": "a red part", "hard_texts": ["a red part", "a green part"]}
    regions = {"regions": [[region], []]} if tiny_model.config.use_regions else {}
    batch = tiny_processor(images=images, hierarchies=["a red wall", "a blue wall"], **regions)
    expected = tiny_model(**batch, return_loss=True)
    assert ("hard_negative_loss" in expected.losses) == tiny_model.config.use_regions
    assert expected.loss > 0.1
    torch.testing.assert_close(loss, expected.loss)
    assert (embeds is None) == (tiny_model.pooler is None)
    if embeds is not None:
        torch.testing.assert_close(embeds, expected.contextualized_embeds)


def test_a_saved_processor_carries_its_files_and_loads_without_the_package(tiny_processor, tmp_path):
    with carrying_code({BetaCLIPProcessor: "AutoProcessor"}):
        tiny_processor.save_pretrained(tmp_path / "processor")
    names = {path.name for path in (tmp_path / "processor").glob("*.py")}
    assert names == {f"{part}_beta_clip.py" for part in PROCESSOR_FILES}

    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    words = (str(tmp_path / "processor"), str(tmp_path / "out.pt"))
    done = run_without_package(PROCESSOR_LOADER, tmp_path, *words, **environment)
    assert done.returncode == 0, done.stderr
    name, batch = torch.load(tmp_path / "out.pt", weights_only=True)
    assert name == "BetaCLIPProcessor"
    region = {"box": [0, 10, 20, 40], "text": "a red part", "hard_texts": ["a red part", "a green part"]}
    image = Image.new("RGB", (40, 50), "red")
    expected = tiny_processor(images=[image], hierarchies=["a red wall"], regions=[[region]])
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[key], expected[key]) for key in expected)


@pytest.mark.parametrize("variant", VARIANTS, indirect=True)
def test_the_zero_shot_pipeline_works_on_a_saved_model(variant, tmp_path):
    tiny_model, tiny_processor = variant
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    assert isinstance(classify.model, BetaCLIPModel)
    image = Image.new("RGB", (40, 50), "red")
    colors = ["red", "green", "blue"]
    answers = classify(image, candidate_labels=colors, hypothesis_template="a {} wall")
    text = [f"a {color} wall" for color in colors]
    inputs = tiny_processor(images=image, text=text, return_tensors="pt", padding=True)
    scores = dict(zip(colors, tiny_model(**inputs).logits_per_image.softmax(-1)[0].tolist(), strict=True))
    for answer in answers:
        assert abs(answer["score"] - scores[answer["label"]]) < 1e-5
