"""The processor of FG-CLIP 2 and SigLIP 2: the authors' pixels and budgets, and texts that fill their path."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    GemmaTokenizer,
    Siglip2ImageProcessorPil,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor, TextHierarchy
from beta_clip_hf.model.patch_budgets_beta_siglip2 import patch_budget
from model.fg_clip2_cases import CASES, IMAGES, word_tokenizer


@pytest.fixture
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def processor(tokenizer):
    return BetaSiglip2Processor(Siglip2ImageProcessorPil(patch_size=4), tokenizer, dynamic_max_patches=True)


def test_texts_are_words_their_end_and_padding_on_the_right(processor):
    ids = processor(text=["A RED dog", "beach"])["input_ids"]
    assert ids.shape == (2, 64) and ids.dtype == torch.int64
    assert ids[0].tolist() == [4, 5, 6, 1] + [0] * 60
    assert ids[1].tolist() == [9, 1] + [0] * 62
    assert torch.equal(processor(text="beach", path="box")["input_ids"], ids[1:])
    long = processor(text=["dog " * 300, "dog"], path="long")["input_ids"]
    assert long[0].tolist() == [6] * 195 + [1] and long[1].tolist() == [6, 1] + [0] * 194
    assert processor(text="red", padding="max_length", truncation=True).keys() == {"input_ids"}
    assert processor.tokenize([]).shape == (0, 64)


def test_the_tokenizer_alone_does_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = BetaSiglip2Processor.from_pretrained(tmp_path)
    for tokenizer in (processor.tokenizer, again.tokenizer):
        batch = tokenizer(["a red dog"], padding="max_length", max_length=64, return_tensors="pt")
        assert batch.keys() >= {"input_ids"} and "attention_mask" not in batch
        assert batch["input_ids"][0].tolist() == [4, 5, 6, 1] + [0] * 60
    assert again.dynamic_max_patches and (again.max_length, again.long_max_length) == (64, 196)
    assert torch.equal(again(text="a dog")["input_ids"], processor(text="a dog")["input_ids"])


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_the_authors_bit_for_bit(case, golden_dir, tokenizer):
    tensors = load_file(golden_dir / case / "tensors.safetensors")
    expected = json.loads((golden_dir / case / "expected.json").read_text())
    patch_size = expected["arch"]["patch_size"]
    processor = BetaSiglip2Processor(
        Siglip2ImageProcessorPil(patch_size=patch_size), tokenizer, dynamic_max_patches=True
    )
    arrays = [tensors[f"image_{number}"].numpy() for number in range(len(tensors["image_sizes"]))]
    for images in (arrays, [Image.fromarray(array) for array in arrays]):
        batch = processor(images=images)
        assert batch.keys() == set(IMAGES)
        for name in IMAGES:
            assert torch.equal(batch[name].to(tensors[name].dtype), tensors[name]), name
    alone = processor(images=arrays[0], max_num_patches=60)
    for name in IMAGES:
        assert torch.equal(alone[name].to(tensors[name].dtype), tensors[f"image_0_60_patches.{name}"]), name


@pytest.mark.parametrize("case", CASES)
def test_budgets_are_the_authors(case, golden_dir, processor):
    entries = json.loads((golden_dir / case / "expected.json").read_text())["grids"]
    assert len(entries) > 20
    for entry in entries:
        height, width = entry["height"], entry["width"]
        assert patch_budget(height, width, entry["patch_size"]) == entry["dynamic_max_num_patches"], entry
    small, large = Image.new("RGB", (40, 44)), np.zeros((3, 100, 96), dtype=np.float32)
    assert processor.patch_budget([small]) == 128
    assert processor.patch_budget([small, large]) == 784


def test_a_siglip2_processor_has_one_budget(processor):
    processor.dynamic_max_patches = False
    batch = processor(images=[Image.new("RGB", (400, 40))], text="a dog")
    assert batch["pixel_values"].shape == (1, 256, 48)
    assert batch.keys() == {*IMAGES, "input_ids"}


def test_directories_of_fg_clip2_are_read(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "fgclip2", "vision_config": {"patch_size": 4}}))
    options = {"image_processor_type": "TheirImageProcessor", "auto_map": {"AutoImageProcessor": "theirs.Theirs"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**options, "image_mean": [0.5, 0.5, 0.5]}))
    theirs = BetaSiglip2Processor.from_pretrained(tmp_path)
    image = Image.effect_noise((90, 60), 80).convert("RGB")
    expected, found = processor(images=image, text="a dog"), theirs(images=image, text="a dog")
    assert theirs.dynamic_max_patches
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_fixed_resolution_stays_one(tokenizer, tmp_path):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {**tower, "patch_size": 4, "image_size": 24}
    text = {**tower, "vocab_size": 10, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    config = SiglipConfig(text_config={**text, "max_position_embeddings": 16}, vision_config=vision)
    SiglipModel(config).save_pretrained(tmp_path)
    image_processor = SiglipImageProcessorPil(size={"height": 24, "width": 24})
    BetaSiglip2Processor(image_processor, tokenizer).save_pretrained(tmp_path)
    processor = BetaSiglip2Processor.from_pretrained(tmp_path)
    model = BetaSiglip2Model.from_pretrained(tmp_path)
    batch = processor(images=[Image.new("RGB", (50, 30), "red")], text="a dog")
    assert batch["pixel_values"].shape == (1, 3, 24, 24) and batch["input_ids"].shape == (1, 16)
    assert model(**batch).logits_per_image.shape == (1, 1)
    assert model.get_text_features(batch["input_ids"]).pooler_output.shape == (1, 32)


def test_the_auto_class_loads_what_was_saved(processor, golden_dir, tmp_path):
    BetaSiglip2Model.from_pretrained(golden_dir / CASES[0]).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is BetaSiglip2Processor and again.dynamic_max_patches
    image = Image.new("RGB", (30, 50), "blue")
    assert torch.equal(again(images=image)["pixel_values"], processor(images=image)["pixel_values"])


def test_the_tokenizer_alone_gives_the_ids_of_the_processor(tmp_path):
    """Pipelines call it alone. Gemma's own class keeps capitals, and adds no end token unless it is told to."""
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"▁adgoDG"]
    gemma = GemmaTokenizer(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    before = gemma("A Dog")["input_ids"]
    processor = BetaSiglip2Processor.from_patch_size(gemma, patch_size=4)
    expected = processor(text=["A Dog"])["input_ids"]
    assert expected[0, :7].tolist() == [letters.index(letter) for letter in "a▁dog"] + [1, 0]
    processor.save_pretrained(tmp_path)
    options = {"padding": "max_length", "max_length": 64, "truncation": True, "return_tensors": "pt"}
    for tokenizer in (processor.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        inputs = tokenizer(["A Dog"], **options)
        assert list(inputs) == ["input_ids"] and torch.equal(inputs["input_ids"], expected)
        assert tokenizer("dog " * 70, **options)["input_ids"][0, -1] == 1
    # The caller's tokenizer stays as it was, and what is loaded again gets no second rule.
    assert gemma("A Dog")["input_ids"] == before
    stored = (tmp_path / "tokenizer.json").read_text()
    BetaSiglip2Processor.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == stored and stored.count("Lowercase") == 1


def test_mistakes_are_named(processor):
    with pytest.raises(ValueError, match="at least one of images and text"):
        processor()
    with pytest.raises(ValueError, match=r"path must be one of .*, but is 'medium'"):
        processor(text="a", path="medium")
    with pytest.raises(ValueError, match=r"text\[1\] must be a string, but is 7"):
        processor(text=["a", 7])
    with pytest.raises(ValueError, match="return_tensors must be \"pt\", but is 'np'"):
        processor(text="a", return_tensors="np")
    with pytest.raises(
        TypeError, match=r"the processor got an unexpected option 'max_num_patch': did you mean 'max_num_p"
    ):
        processor(text="a", max_num_patch=9)
    with pytest.raises(TypeError, match="images_kwargs got an unexpected option 'do_resiz': did you mean 'do_resize'"):
        processor(text="a", images_kwargs={"do_resiz": False})
    with pytest.raises(ValueError, match=r"max_length must be left out or 64, .*, but is 9"):
        processor(text="a", text_kwargs={"max_length": 9})
    with pytest.raises(ValueError, match="max_length must be left out, because every text fills its path, but is 64"):
        processor(hierarchies=["a"], max_length=64)
    with pytest.raises(ValueError, match="padding must be given once, but is given by itself and in text_kwargs"):
        processor(text="a", padding="max_length", text_kwargs={"padding": "do_not_pad"})
    with pytest.raises(ValueError, match="text must hold at least one, but is empty"):
        processor(text=[])
    with pytest.raises(ValueError, match="images must hold at least one, but are empty"):
        processor(images=[])


@pytest.mark.parametrize(("path", "length"), [(None, 64), ("box", 64), ("long", 196)])
def test_the_length_of_a_path_may_be_said(processor, path, length):
    """As SigLIP 2's own pages write it."""
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    ids = processor(text=["a dog"], path=path, **options)["input_ids"]
    assert ids.shape == (1, length) and torch.equal(ids, processor(text=["a dog"], path=path)["input_ids"])


def test_options_go_where_transformers_takes_them(processor):
    image = Image.new("RGB", (30, 50), "blue")
    expected = processor(images=image, text="a", do_normalize=False)
    nested = processor(
        images=image,
        text="a",
        text_kwargs={"padding": "max_length", "truncation": True},
        images_kwargs={"do_normalize": False},
        common_kwargs={"return_tensors": "pt"},
    )
    assert nested.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(nested[name], tensor)


def test_a_flat_batch_has_the_path_of_each_text(processor):
    images = [Image.new("RGB", (40, 80), "red"), Image.new("RGB", (60, 30), "blue")]
    hierarchies = [TextHierarchy("a red dog", ("a dog",), ("dog",), short_caption="red"), "the beach " * 300]
    regions = [[{"box": [10, 20, 30, 60], "text": "A dog", "hard_texts": ["a dog", "the beach"]}], []]
    negatives = [[["a beach"], [], ["red"], []], [[]]]
    batch = processor(images=images, hierarchies=hierarchies, regions=regions, negatives=negatives)
    ids = batch["input_ids"]
    assert ids.shape == (5, 196) and batch["granularity"].tolist() == [0, 1, 2, 3, 0]
    assert torch.equal(ids[[0, 4]], processor.tokenize(["a red dog", "the beach " * 300], "long"))
    assert ids[4, -1] == 1
    assert torch.equal(ids[1:4, :64], processor.tokenize(["a dog", "dog", "red"])) and not ids[1:4, 64:].any()
    assert torch.equal(batch["region_input_ids"], processor.tokenize(["a dog"], "box"))
    assert torch.equal(batch["hard_input_ids"], processor.tokenize(["a dog", "the beach"], "box"))
    assert batch["negative_text_index"].tolist() == [0, 2] and batch["negative_input_ids"].shape == (2, 196)
    # The whole image is seen, whatever its shape.
    assert batch["boxes"].tolist() == [[0.25, 0.25, 0.75, 0.75]]
    plain = processor(images=images)
    for name in IMAGES:
        assert torch.equal(batch[name], plain[name])
    with pytest.raises(ValueError, match="hierarchies must be one per image, but are 1 for 2 images"):
        processor(images=images, hierarchies=["a dog"])
    with pytest.raises(ValueError, match="regions must come with hierarchies"):
        processor(images=images, regions=[[], []])
    with pytest.raises(ValueError, match="path must be None with hierarchies"):
        processor(hierarchies=["a dog"], path="long")
