"""Every kind of model is evaluated as it was meant to be used: compared with direct calls of its own classes."""

import string

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    GemmaTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.models import load_model, text_inputs
from beta_clip_hf.release.convert_fg_clip import convert_back
from beta_clip_hf.release.export import export_clip
from conftest import TINY_TEXT, TINY_VISION


CPU = torch.device("cpu")
LONG = "a dog and then another dog " * 12  # 324 bytes: too long for any of the tiny models
TEXTS = ["a dog", LONG, "two cats", f"{LONG} and a cat"]


def load(folder, dtype=torch.float32):
    return load_model(str(folder), CPU, dtype)


def images(sizes=((40, 32), (32, 40), (32, 32))):
    generator = torch.Generator().manual_seed(0)
    return [
        Image.fromarray(torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())
        for width, height in sizes
    ]


def rows():
    texts = ["a dog", LONG, f"two cats and {LONG}"]
    return [{"image": image, "caption": text} for image, text in zip(images(), texts, strict=True)]


def embeds(loaded, batch_size=2):
    embedder = Embedder(loaded.model, loaded.processor, batch_size=batch_size)
    batches = list(embedder.images([{"image": image, "caption": "-"} for image in images()]))
    return torch.cat([batch.image_embeds_BD for batch in batches]), embedder.texts(TEXTS)


def by_cls(loaded):
    figures = evaluate(loaded.model, loaded.processor, rows(), batch_size=2)["figures"]
    return {name: figure for name, figure in figures.items() if "/cls/" in name}


def normalised(output):
    return output.pooler_output / output.pooler_output.norm(dim=-1, keepdim=True)


@pytest.fixture
def clip_dir(tiny_clip_dir, tiny_tokenizer, tmp_path):
    """A plain CLIP as it is published, with its processor."""
    folder = tmp_path / "clip"
    CLIPModel.from_pretrained(tiny_clip_dir).save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor, tiny_tokenizer).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_plain_clip_is_clip(clip_dir):
    """Its 77 positions are not stretched, its texts end where they do, and all is equal to `CLIPModel`."""
    clip, processor = CLIPModel.from_pretrained(clip_dir).eval(), CLIPProcessor.from_pretrained(clip_dir)
    loaded = load(clip_dir)
    assert (loaded.has_trained_pooler, loaded.image_size) == (False, 32)
    weights = loaded.model.state_dict()
    assert weights.keys() == clip.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in clip.state_dict().items())

    tokens = processor(text=TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    assert tokens["input_ids"].shape == (4, 77) and (tokens["input_ids"][:, 0] != tokens["input_ids"][:, -1]).all()
    inputs = text_inputs(loaded.model, loaded.processor, TEXTS)
    assert all(torch.equal(inputs[name], tensor) for name, tensor in tokens.items())
    features = clip.get_text_features(**tokens)
    assert torch.equal(loaded.model.get_text_features(**inputs).pooler_output, features.pooler_output)
    image_embeds, text_embeds = embeds(loaded)
    pixels = processor(images=images(), return_tensors="pt")
    torch.testing.assert_close(text_embeds, normalised(features), atol=1e-6, rtol=0)
    torch.testing.assert_close(image_embeds, normalised(clip.get_image_features(**pixels)), atol=1e-6, rtol=0)


def test_clip_by_its_own_classes_has_the_same_figures(clip_dir):
    clip, processor = CLIPModel.from_pretrained(clip_dir), CLIPProcessor.from_pretrained(clip_dir)
    figures = evaluate(clip, processor, rows(), batch_size=2)["figures"]
    assert figures and figures == by_cls(load(clip_dir))


@pytest.mark.slow
def test_a_plain_clip_and_its_beta_clip_are_the_same(clip_dir, tmp_path):
    """The β-CLIP has the positions of the CLIP; that with stretched ones reads more of a text, and is another model."""
    clip = CLIPModel.from_pretrained(clip_dir)
    for name, source in (("kept", None), ("stretched", clip_dir)):
        config = BetaCLIPConfig(**clip.config.to_dict()) if source is None else None
        weights = {"config": config, "state_dict": clip.state_dict()} if source is None else {}
        model = BetaCLIPModel.from_pretrained(source, **weights)
        model.save_pretrained(tmp_path / name)
        processor = BetaCLIPProcessor.from_pretrained(clip_dir)
        processor.max_length = 77 if source is None else 248
        processor.save_pretrained(tmp_path / name)
    plain, kept, stretched = (load(folder) for folder in (clip_dir, tmp_path / "kept", tmp_path / "stretched"))
    assert kept.has_trained_pooler and not plain.has_trained_pooler
    assert by_cls(plain) and by_cls(plain) == by_cls(kept)
    assert all(map(torch.equal, embeds(plain), embeds(kept)))
    assert not torch.allclose(embeds(plain)[1][1], embeds(stretched)[1][1])


def test_a_beta_clip_of_fewer_positions_than_its_processor_says_is_cut_to_them(clip_dir, tmp_path):
    clip = CLIPModel.from_pretrained(clip_dir)
    config = BetaCLIPConfig(**clip.config.to_dict())
    BetaCLIPModel.from_pretrained(None, config=config, state_dict=clip.state_dict()).save_pretrained(tmp_path)
    processor = BetaCLIPProcessor.from_pretrained(clip_dir)
    assert processor.max_length == 248
    processor.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.model.config.text_config.max_position_embeddings == loaded.processor.max_length == 77
    assert torch.equal(embeds(loaded)[1], embeds(load(clip_dir))[1])


@pytest.mark.slow
def test_a_beta_clip_and_its_export_are_the_same(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path / "beta")
    tiny_processor.save_pretrained(tmp_path / "beta")
    export_clip(tmp_path / "beta", tmp_path / "clip")
    beta, plain = load(tmp_path / "beta"), load(tmp_path / "clip")
    assert (beta.has_trained_pooler, plain.has_trained_pooler) == (True, False)
    assert plain.processor.max_length == 248
    assert all(map(torch.equal, embeds(beta), embeds(plain)))
    assert by_cls(beta) and by_cls(beta) == by_cls(plain)


@torch.no_grad()
def test_fg_clip_keeps_both_of_its_paths(tiny_clip_dir, tiny_tokenizer, tmp_path):
    switches = {"use_long_text_path": True, "use_regions": True, "use_pooler": False}
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, **switches).eval()
    model.long_text_projection.weight.neg_()
    model.save_pretrained(tmp_path / "ours")
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32, short_max_length=77)
    processor.save_pretrained(tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert not loaded.has_trained_pooler and loaded.processor.image_processor.size == {"height": 32, "width": 32}
    embedder = Embedder(loaded.model, loaded.processor)
    for kind, path, length in (("sentence", "short", 77), ("caption", "long", 248)):
        inputs = processor(text=TEXTS, path=path, padding=True, return_tensors="pt")
        assert inputs["input_ids"].shape == (4, length)
        expected = normalised(model.get_text_features(**inputs, path=path))
        actual = embedder.texts(TEXTS, kind)
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def case_sensitive_tokenizer():
    """Gemma's, of letters only, as checkpoints of SigLIP 2 bring it: texts end with EOS and are padded on the right."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_letters]
    return GemmaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        padding_side="right",
        model_input_names=["input_ids"],
        add_bos_token=False,
        add_eos_token=True,
    )


@pytest.fixture(params=["one size", "NaFlex"])
def siglip(request, tmp_path):
    """The folder of a SigLIP of 32 × 32 pixels, or of a NaFlex of 16 patches."""
    tokenizer = case_sensitive_tokenizer()
    text = {**TINY_TEXT, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    if request.param == "one size":
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=TINY_VISION))
        processor = SiglipProcessor(SiglipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    else:
        vision = {**TINY_TEXT, "num_patches": 16, "patch_size": 8}
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
        processor = Siglip2Processor(Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16), tokenizer)
    model.save_pretrained(tmp_path / "siglip")
    processor.save_pretrained(tmp_path / "siglip")
    return tmp_path / "siglip"


@torch.no_grad()
def test_siglip_gives_what_a_direct_call_gives(siglip):
    model, processor = AutoModel.from_pretrained(siglip).eval(), AutoProcessor.from_pretrained(siglip)
    loaded = load(siglip)
    assert (loaded.has_trained_pooler, loaded.image_size) == (False, 32)
    image_embeds, text_embeds = embeds(loaded)
    texts = processor(text=TEXTS, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    assert texts["input_ids"].shape == (4, 64)
    pixels = processor.image_processor(images(), return_tensors="pt")
    torch.testing.assert_close(text_embeds, normalised(model.get_text_features(**texts)), atol=1e-6, rtol=0)
    torch.testing.assert_close(image_embeds, normalised(model.get_image_features(**pixels)), atol=1e-6, rtol=0)
    assert float((text_embeds[0] - text_embeds[2]).norm()) > 1e-3
    figures = evaluate(loaded.model, loaded.processor, rows(), batch_size=2)["figures"]
    assert {name.split("/")[1] for name in figures} == {"cls"}


def test_siglip_reads_lower_case_whatever_its_tokenizer_does(siglip):
    loaded = load(siglip)
    embedder = Embedder(loaded.model, loaded.processor)
    assert torch.equal(embedder.texts(["Two CATS"]), embedder.texts(["two cats"]))


def test_siglip_is_measured_on_boxes_by_its_image_embedding_only(siglip):
    """Its whole image is seen; patch features it has none."""
    loaded = load(siglip)
    embedder = Embedder(loaded.model, loaded.processor, squash=True)
    (batch,) = embedder.images(rows())
    assert batch.patches.features.shape[:2] == (3, 0) and batch.patches.grid_sizes.tolist() == [[0, 0]] * 3
    region = {"box": [0, 0, 9, 9], "text": "a dog", "negatives": ["a cat"]}
    figures = evaluate(loaded.model, loaded.processor, [{**row, "regions": [region]} for row in rows()])["figures"]
    scores = {name.split("/")[1] for name in figures if name.startswith("region_negatives")}
    assert scores == {"cls"}


@torch.no_grad()
def test_another_model_with_features_of_both_sides_is_taken(tiny_tokenizer, tmp_path):
    ids = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513, "vocab_size": 514}
    text = {**TINY_TEXT, **ids, "max_position_embeddings": 20}
    model = MetaClip2Model(MetaClip2Config(text_config=text, vision_config=TINY_VISION, projection_dim=32)).eval()
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = CLIPProcessor(image_processor, tiny_tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    tokens = processor(text=TEXTS, padding=True, truncation=True, max_length=20, return_tensors="pt")
    _, text_embeds = embeds(load(tmp_path))
    torch.testing.assert_close(text_embeds, normalised(model.get_text_features(**tokens)), atol=1e-6, rtol=0)


def test_a_model_of_texts_alone_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="features of images and of texts, but is BertModel"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(clip_dir, dtype):
    half = load(clip_dir, dtype)
    assert half.model.dtype == dtype
    for exact, rounded in zip(embeds(load(clip_dir)), embeds(half), strict=True):
        assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
        assert float((exact * rounded).sum(dim=-1).min()) > 0.999


@torch.no_grad()
@pytest.mark.parametrize("own_class", [True, False])
def test_images_of_another_size_interpolate_the_positions(clip_dir, own_class):
    size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    CLIPImageProcessorPil(**size).save_pretrained(clip_dir)
    (clip_dir / "processor_config.json").unlink()
    clip, processor = CLIPModel.from_pretrained(clip_dir).eval(), CLIPProcessor.from_pretrained(clip_dir)
    model = clip if own_class else load(clip_dir).model
    (batch,) = Embedder(model, processor).images(rows())
    pixels = processor(images=images(), return_tensors="pt")
    assert pixels["pixel_values"].shape[-2:] == (48, 48)
    expected = normalised(clip.get_image_features(**pixels, interpolate_pos_encoding=True))
    torch.testing.assert_close(batch.image_embeds_BD, expected, atol=1e-6, rtol=0)
    side = 0 if own_class else 6
    assert batch.patches.grid_sizes.unique(dim=0).tolist() == [[side, side]]
    assert batch.patches.features.shape[1] == side * side
