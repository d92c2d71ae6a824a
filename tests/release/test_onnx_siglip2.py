"""The graphs of a model on SigLIP 2 towers, for images of one grid, against the model; also compiled."""

import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor, PatchMap
from beta_clip_hf.model.towers_beta_siglip2 import patches_of
from beta_clip_hf.release.export_parts import parts_of
from beta_clip_hf.release.onnx import export_graphs, run_graph, to_float16, to_int8
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import LONG, SHORT, TEXT, TOWER, tiny_model
from release.tuned_models import perturbed, saved


pytestmark = pytest.mark.slow

GRID = (3, 5)
TEXTS = ["A red DOG", "a dog on the beach " * 9, "dog"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model with every part, whose table of positions is 8 × 8."""
    processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), 4, max_length=SHORT, long_max_length=LONG)
    return saved(tiny_model(), tmp_path_factory.mktemp("source"), processor)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    words = ["export", "onnx", str(source), str(folder), "--path", "long", "--grid", *map(str, GRID)]
    assert main(words) == 0
    return folder


@pytest.fixture
def model(source):
    return BetaSiglip2Model.from_pretrained(source)


def close(found, expected):
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * max(1, float(expected.abs().max())))


@pytest.mark.parametrize("count", [1, 3])
def test_images(exported, model, count):
    pixels = torch.randn(count, 3, 12, 20)
    image_embeds, patch_features = run_graph(exported / "image.onnx", {"pixel_values": pixels})
    patches, grids = patches_of(pixels, 4)
    assert grids.tolist() == [list(GRID)] * count
    with torch.no_grad():
        close(image_embeds, model.get_image_features(patches, None, grids).pooler_output)
        close(patch_features, model.get_patch_features(patches, None, grids).features)


def test_texts(exported, source, model):
    inputs = BetaSiglip2Processor.from_pretrained(source)(text=TEXTS, path="long")
    (found,) = run_graph(exported / "text.onnx", dict(inputs))
    with torch.no_grad():
        close(found, model.get_text_features(**inputs, path="long").pooler_output)


def test_the_tokenizer_stands_alone(exported, source):
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    expected = BetaSiglip2Processor.from_pretrained(source).tokenize(TEXTS, "long")
    assert [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)] == expected.tolist()
    assert expected[1, -1] == 1 and expected[0, 3] == 1  # both ends


def test_pooler_and_regions(exported, model):
    patches, texts, index = torch.randn(2, 15, 32), torch.randn(4, 32), torch.tensor([1, 0, 1, 1])
    patch_map = PatchMap(patches, torch.tensor([GRID, GRID]), torch.ones(2, 15, dtype=torch.bool))
    with torch.no_grad():
        expected, attention = model.get_text_conditioned_image_features(
            patch_features=patch_map, text_embeds=texts, image_index=index, output_attentions=True
        )
    inputs = {"patch_features": patches, "text_embeds": texts, "image_index": index}
    found, found_attention = run_graph(exported / "pooler.onnx", inputs)
    close(found, expected)
    close(found_attention, attention)
    pixels = torch.randn(2, 3, 12, 20)
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], [-0.5, 0, 0.5, 2], [0.4, 0.4, 0.4, 0.6]])
    with torch.no_grad():
        inputs = {"patch_features": model.get_patch_features(pixels).features, "boxes": boxes, "image_index": index}
        expected = model.get_region_features(pixels, boxes, index)
    (found,) = run_graph(exported / "regions.onnx", inputs)
    close(found, expected)
    assert found[0].any() and not found[3].any()


def test_what_is_written_about_an_export(exported, model):
    about = json.loads((exported / "export.json").read_text())
    assert {name: graph["inputs"] for name, graph in about["graphs"].items()} == {
        "image": {"pixel_values": ["images", 3, 12, 20]},
        "text": {"input_ids": ["texts", LONG]},
        "pooler": {"patch_features": ["images", 15, 32], "text_embeds": ["texts", 32], "image_index": ["texts"]},
        "regions": {"patch_features": ["images", 15, 32], "boxes": ["boxes", 4], "image_index": ["boxes"]},
    }
    assert about["text"] == {"path": "long", "positions": LONG, "max_length": LONG}
    assert about["image"]["grid"] == list(GRID) and about["image"]["resize"] == {"height": 12, "width": 20}
    assert about["image"]["mean"] == [0.5] * 3 and about["image"]["resample"] == 2
    assert about["logit_scales"]["embeds"] == pytest.approx(model.logit_scale.exp().item())
    assert about["logit_bias"] == -2
    for graph in about["graphs"].values():
        for metrics in graph["agreement"].values():
            assert metrics["largest_difference"] < 1e-4 and metrics["lowest_cosine"] > 0.99999


def test_pixels_of_an_image_of_that_shape_are_the_processors(source):
    """An image whose own grid is that of the export."""
    from beta_clip_hf.release.graphs_siglip2 import _pixels

    processor = BetaSiglip2Processor.from_pretrained(source)
    settings = parts_of(source, "short", GRID).description["image"]
    image = Image.effect_noise((100, 60), 80).convert("RGB")
    patches, grids = patches_of(_pixels(image, settings)[None], 4)
    alone = processor(images=[image], max_num_patches=15)
    assert alone["spatial_shapes"].tolist() == grids.tolist() == [list(GRID)]
    torch.testing.assert_close(patches, alone["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", ["short", "box"])
def test_programs_of_torch_and_compiled_graphs(source, path, tmp_path):
    export_graphs(source, tmp_path, format="torch", path=path)
    parts = parts_of(source, path, None)
    assert parts.description["image"]["grid"] == [8, 8]
    for name, graph in parts.graphs.items():
        compiled = torch.compile(graph.module, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            outputs = compiled(**graph.inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loaded = run_graph(tmp_path / f"{name}.pt2", graph.inputs)
        for output, program_output, expected in zip(outputs, loaded, graph.expected.values(), strict=True):
            close(output, expected)
            close(program_output, expected)


@pytest.mark.parametrize(("convert", "cosine"), [(to_float16, 0.9999), (to_int8, 0.95)])
def test_smaller_dtypes(exported, tmp_path, convert, cosine):
    convert(exported / "image.onnx", tmp_path / "image.onnx", False)
    pixels = torch.randn(2, 3, 12, 20)
    smaller = run_graph(tmp_path / "image.onnx", {"pixel_values": pixels})
    full = run_graph(exported / "image.onnx", {"pixel_values": pixels})
    for output, full_output in zip(smaller, full, strict=True):
        assert output.dtype == torch.float32 and not torch.equal(output, full_output)
        assert cosine < F.cosine_similarity(output, full_output, dim=-1).min()


def test_a_siglip_of_a_fixed_resolution(tmp_path):
    torch.manual_seed(0)
    vision = {**TOWER, "patch_size": 4, "image_size": 16}
    stock = perturbed(SiglipModel(SiglipConfig(text_config=TEXT, vision_config=vision))).eval()
    stock.save_pretrained(tmp_path / "siglip")
    size = {"height": 16, "width": 16}
    SiglipProcessor(SiglipImageProcessorPil(size=size), word_tokenizer()).save_pretrained(tmp_path / "siglip")
    about = export_graphs(tmp_path / "siglip", tmp_path / "out")
    assert about["graphs"].keys() == {"image", "text", "regions"}
    assert about["text"] == {"path": "short", "positions": SHORT, "max_length": SHORT}
    assert about["image"]["resize"] == size and about["image"]["resample"] == 3
    pixels, ids = torch.randn(3, 3, 16, 16), torch.randint(3, 99, (2, SHORT))
    with torch.no_grad():
        found = run_graph(tmp_path / "out/image.onnx", {"pixel_values": pixels})[0]
        close(found, stock.get_image_features(pixels).pooler_output)
        (found,) = run_graph(tmp_path / "out/text.onnx", {"input_ids": ids})
        close(found, stock.get_text_features(ids).pooler_output)


def test_mistakes_are_told(source, tiny_clip_dir, tmp_path):
    with pytest.raises(ValueError, match=r"path must be one of \('short', 'long', 'box'\), but is 'medium'"):
        export_graphs(source, tmp_path, path="medium")
    with pytest.raises(ValueError, match="grid must have at least 1 row and 1 column, but is 0 × 4"):
        export_graphs(source, tmp_path, grid=(0, 4))
    with pytest.raises(ValueError, match=r"grid must be left out for a CLIP, .* but is \(2, 2\)"):
        export_graphs(tiny_clip_dir, tmp_path, grid=(2, 2))
