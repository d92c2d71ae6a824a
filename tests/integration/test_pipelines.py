"""transformers' pipelines work on a saved directory: with the package, and with the code that the directory carries."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from beta_clip_hf import (
    BetaCLIPConfig,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaSiglip2Config,
    BetaSiglip2Model,
    BetaSiglip2Processor,
)
from beta_clip_hf.data.images import load_image
from beta_clip_hf.model.remote_code_beta_clip import MODEL_AUTO_CLASSES, carrying_code
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import tiny_model as tiny_siglip2
from without_package import run_without_package


COLORS = ["red", "green", "blue"]

PIPELINES_WITHOUT_PACKAGE = """
import json, sys
from PIL import Image
from transformers import pipeline
image = Image.new("RGB", (40, 50), "red")
classify = pipeline("zero-shot-image-classification", sys.argv[1], trust_remote_code=True)
embed = pipeline("image-feature-extraction", sys.argv[1], trust_remote_code=True)
answers = classify(image, candidate_labels=["red", "green", "blue"])
result = {"model": type(classify.model).__module__, "answers": answers, "embedding": embed(image)}
with open(sys.argv[2], "w") as file:
    json.dump(result, file)
"""


CODE = {
    BetaCLIPConfig: "AutoConfig",
    BetaCLIPModel: "AutoModel",
    BetaCLIPProcessor: "AutoProcessor",
    BetaSiglip2Config: "AutoConfig",
    BetaSiglip2Model: "AutoModel",
    BetaSiglip2Processor: "AutoProcessor",
}


@pytest.fixture(params=["one text path", "two text paths and regions", "on SigLIP 2 towers"])
def saved(request, tiny_model, tiny_processor, both_systems_config, tmp_path):
    """A model, its processor and the directory that holds both with their code."""
    model, processor = tiny_model, tiny_processor
    if request.param == "two text paths and regions":
        model = BetaCLIPModel(both_systems_config).eval()
        processor.short_max_length = 77
    elif request.param == "on SigLIP 2 towers":
        # Pipelines pad the texts of every SigLIP to 64 tokens.
        model = tiny_siglip2(num_positions=64, long_text_max_position_embeddings=196)
        processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4, max_num_patches=40)
    directory = tmp_path / "saved"
    with carrying_code(CODE):
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
    return model, processor, directory


def expected_results(model, processor, image):
    """What the pipelines must answer: the scores of each color, and the normalised embedding of the image."""
    # The pipeline calls the tokenizer alone, which has to lower "This" where the processor does.
    texts = [f"This is a photo of {color}." for color in COLORS]
    inputs = processor(images=image, text=texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = model(**inputs)
    logits = outputs.logits_per_image[0]
    scores = logits.sigmoid() if isinstance(model, BetaSiglip2Model) else logits.softmax(-1)
    return dict(zip(COLORS, scores.tolist(), strict=True)), outputs.image_embeds


def check_answers(answers, scores):
    assert {answer["label"] for answer in answers} == set(COLORS)
    for answer in answers:
        assert abs(answer["score"] - scores[answer["label"]]) < 1e-5


def test_pipelines_work_with_the_package(saved):
    model, processor, directory = saved
    image = Image.new("RGB", (40, 50), "red")
    scores, image_embeds = expected_results(model, processor, image)
    classify = pipeline("zero-shot-image-classification", str(directory))
    assert type(classify.model) is type(model)
    check_answers(classify(image, candidate_labels=COLORS), scores)

    embed = pipeline("image-feature-extraction", str(directory))
    assert type(embed.model) is type(model)
    torch.testing.assert_close(torch.tensor(embed(image)), image_embeds)


def test_pooling_gives_the_embedding_before_it_is_normalised(saved):
    model, processor, directory = saved
    image = Image.new("RGB", (40, 50), "red")
    embed = pipeline("image-feature-extraction", str(directory))
    expected = model.get_image_features(**processor(images=image, return_tensors="pt")).pooler_output
    torch.testing.assert_close(torch.tensor(embed(image, pool=True)), expected)
    batch = embed([image, image], pool=True, batch_size=2, return_tensors=True)
    torch.testing.assert_close(torch.cat(batch), expected.expand(2, -1))


def test_what_our_loader_returns_is_the_same_image_to_all(saved, tmp_path):
    """Pipelines cut grey of 16 bits off, and CLIP's own image processor leaves a photo on its side."""
    model, processor, directory = saved
    grey = Image.fromarray((np.arange(48 * 30).reshape(30, 48) * 45).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "grey.png")
    Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)).save(tmp_path / "photo.jpg", exif=exif)
    embed = pipeline("image-feature-extraction", str(directory))
    # What AutoImageProcessor returns; that of transformers 5.17 asks for torchvision.
    image_processor = embed.image_processor
    for name in ("grey.png", "photo.jpg"):
        path = str(tmp_path / name)
        inputs = processor(images=path, return_tensors="pt")
        loaded = load_image(path)
        assert torch.equal(image_processor(loaded, return_tensors="pt")["pixel_values"], inputs["pixel_values"])
        embeds = model(**inputs).image_embeds
        torch.testing.assert_close(torch.tensor(embed(loaded)), embeds)
        by_path = embed(path) if name == "grey.png" else None
        assert by_path is None or (torch.tensor(by_path) - embeds).abs().max() > 1e-3


@pytest.mark.slow
def test_pipelines_work_with_remote_code_only(saved, tmp_path):
    model, processor, directory = saved
    auto_map = json.loads((directory / "config.json").read_text())["auto_map"]
    assert {*MODEL_AUTO_CLASSES, "AutoConfig"} <= auto_map.keys()

    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = run_without_package(
        PIPELINES_WITHOUT_PACKAGE, tmp_path, str(directory), str(tmp_path / "out.json"), **environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["model"].startswith("transformers_modules")
    scores, image_embeds = expected_results(model, processor, Image.new("RGB", (40, 50), "red"))
    check_answers(result["answers"], scores)
    torch.testing.assert_close(torch.tensor(result["embedding"]), image_embeds)


def test_images_or_texts_alone_have_the_embeddings_of_a_plain_batch(saved):
    model, processor, _ = saved
    images = [Image.new("RGB", (40, 50), color) for color in COLORS]
    inputs = processor(images=images, text=COLORS, return_tensors="pt", padding=True)
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    images_alone = {name: inputs[name] for name in inputs if name not in texts}
    with torch.no_grad():
        both = model(**inputs)
        image_output = model(**images_alone)
        text_output = model(**texts)
    assert torch.equal(image_output.image_embeds, both.image_embeds)
    assert torch.equal(text_output.text_embeds, both.text_embeds)
    assert torch.equal(image_output.vision_model_output.last_hidden_state, both.vision_model_output.last_hidden_state)
    assert torch.equal(text_output.text_model_output.last_hidden_state, both.text_model_output.last_hidden_state)
    assert image_output.text_embeds is None and text_output.image_embeds is None
    assert image_output.logits_per_image is None and text_output.loss is None
    as_tuple = model(**images_alone, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], both.image_embeds)


def test_one_side_alone_is_refused_where_both_are_needed(tiny_model, tiny_processor):
    batch = tiny_processor(images=[Image.new("RGB", (40, 50))], hierarchies=["a red wall"])
    pixel_values, input_ids = batch["pixel_values"], batch["input_ids"]
    with pytest.raises(ValueError, match="at least one of input_ids and pixel_values must be given"):
        tiny_model()
    for one_side in ({"pixel_values": pixel_values}, {"input_ids": input_ids}):
        with pytest.raises(ValueError, match="a loss needs input_ids and pixel_values"):
            tiny_model(**one_side, return_loss=True)
        with pytest.raises(ValueError, match="image_index needs input_ids and pixel_values beside it"):
            tiny_model(**one_side, image_index=batch["image_index"])
    with pytest.raises(ValueError, match="granularity needs image_index beside it"):
        tiny_model(input_ids=input_ids, granularity=batch["granularity"])
    with pytest.raises(ValueError, match="pixel_values must hold at least one image"):
        tiny_model(pixel_values=pixel_values[:0])
