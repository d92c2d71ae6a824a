"""The exported graphs against the model, of other sizes than they were traced with; and in a process without torch."""

import copy
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import CLIPModel

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.release import onnx as release_onnx
from beta_clip_hf.release.export_parts import describe_inputs
from beta_clip_hf.release.graphs import graphs_of
from beta_clip_hf.release.onnx import export_graphs, run_graph, write_graph
from without_package import run_without_package


pytestmark = pytest.mark.slow


TEXTS = ["a red ball", "The dog & its owner, in a park.", "word " * 60, "many words " * 200]
EXAMPLE = """
import runpy, sys
sys.modules.update(torch=None, transformers=None, beta_clip_hf=None)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def with_large_tables(model):
    """Moves weights so far from their first values that a table or a projection in a wrong place shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or "projection" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def saved(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(both_systems_config, tiny_tokenizer, tmp_path_factory):
    """A model with every part: two text paths, pooler, regions."""
    torch.manual_seed(3)
    model = with_large_tables(BetaCLIPModel(copy.deepcopy(both_systems_config)))
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77)
    return saved(model, processor, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def model(source):
    return BetaCLIPModel.from_pretrained(source).eval()


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_graphs(source, folder)
    return folder


@pytest.fixture
def traced_once(exported, monkeypatch):
    """Takes float32 graphs from the first export, because tracing takes most of the time."""
    monkeypatch.setattr(
        release_onnx, "write_onnx", lambda graph, file, positions: shutil.copy(exported / file.name, file)
    )


def close(found, expected):
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_images(exported, model, count):
    pixels = torch.randn(count, 3, 32, 32)
    image_embeds, patch_features = run_graph(exported / "image.onnx", {"pixel_values": pixels})
    with torch.no_grad():
        close(image_embeds, model.get_image_features(pixels).pooler_output)
        close(patch_features, model.get_patch_features(pixels))


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:2], TEXTS], ids=["one", "two", "of 248 tokens"])
def test_texts_of_the_long_path(exported, source, model, texts):
    inputs = BetaCLIPProcessor.from_pretrained(source)(text=texts, path="long", padding=True, return_tensors="pt")
    (found,) = run_graph(exported / "text.onnx", {"input_ids": inputs["input_ids"]})
    with torch.no_grad():
        close(found, model.get_text_features(**inputs, path="long").pooler_output)
        short = model.get_text_features(inputs["input_ids"][:1, :77], path="short").pooler_output
    assert (found[:1] - short).abs().max() > 0.1


def test_more_tokens_than_positions_are_an_error(exported):
    with pytest.raises(Exception, match=r"indices element out of data bounds|out of range|Gather"):
        run_graph(exported / "text.onnx", {"input_ids": torch.randint(0, 512, (1, 249))})


@pytest.mark.parametrize(("images", "index"), [(1, [0]), (2, [1, 1, 0, 1, 0, 1, 1])])
def test_images_as_texts_see_them(exported, model, images, index):
    patches, texts, index = torch.randn(images, 16, 32), 5 * torch.randn(len(index), 32), torch.tensor(index)
    inputs = {"patch_features": patches, "text_embeds": texts, "image_index": index}
    embeds, attention = run_graph(exported / "pooler.onnx", inputs)
    with torch.no_grad():
        expected, expected_attention = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
    close(embeds, expected)
    close(attention, expected_attention)
    assert attention.shape == (len(index), 8, 16)


@pytest.mark.parametrize("index", [[1], [2, 0, 0, 1, 2, 2, 2]])
def test_regions(exported, model, index):
    boxes = torch.tensor(
        [[0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], [-0.5, 0, 0.5, 2], [0.4, 0.4, 0.4, 0.6], [0.3, 0.3, 0.31, 0.32]]
    )
    boxes = boxes[torch.arange(len(index)) % 5]
    pixels, index = torch.randn(3, 3, 32, 32), torch.tensor(index)
    with torch.no_grad():
        inputs = {"patch_features": model.get_patch_features(pixels), "boxes": boxes, "image_index": index}
        expected = model.get_region_features(pixels, boxes, index)
    (found,) = run_graph(exported / "regions.onnx", inputs)
    close(found, expected)
    if len(index) > 3:
        assert not found[3].any() and found[0].any()  # a box without area


@pytest.fixture(scope="module")
def legacy(tiny_clip_config, tiny_tokenizer, tmp_path_factory):
    """The text graph of a CLIP as old as OpenAI's, whose configuration says that EOS is 2; with its weights beside."""
    config = copy.deepcopy(tiny_clip_config)
    config.text_config.eos_token_id = 2
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("legacy")
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32)
    saved(with_large_tables(CLIPModel(config)), processor, folder)
    model, processor, _ = load_model(str(folder), torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_onnx, "MOST_BYTES_INSIDE", 0)
        write_graph(graphs_of(model, processor, None)["text"], folder / "text.onnx", positions=77)
    return folder, model, processor


def test_the_legacy_rule_reads_a_text_at_its_largest_id(legacy):
    """No text has the token that the configuration calls EOS: the largest id is meant."""
    folder, model, processor = legacy
    inputs = processor(text=TEXTS, padding=True, return_tensors="pt")
    ids = inputs["input_ids"]
    end = int(ids[0].argmax())
    assert ids.shape[1] == 77 and 4 < end < 20
    ids[:, 3] = 2  # a token as any other
    ids[0, end + 1 :] = torch.randint(0, 512, (76 - end,))  # has no influence
    (found,) = run_graph(folder / "text.onnx", {"input_ids": ids})
    with torch.no_grad():
        close(found, model.get_text_features(**inputs).pooler_output)
        close(found[:1], model.get_text_features(ids[:1, : end + 1]).pooler_output)


def test_large_weights_lie_beside_their_graph(legacy):
    folder, _, processor = legacy
    inputs = {"input_ids": processor(text=TEXTS, padding=True, return_tensors="pt")["input_ids"]}
    release_onnx.to_float16(folder / "text.onnx", folder / "half.onnx", True)
    release_onnx.to_int8(folder / "text.onnx", folder / "int8.onnx", True)
    (expected,) = run_graph(folder / "text.onnx", inputs)
    for name, cosine in (("half", 0.9999), ("int8", 0.98)):
        assert (folder / f"{name}.onnx.data").stat().st_size > 514 * 32  # the table of tokens, and more
        assert F.cosine_similarity(run_graph(folder / f"{name}.onnx", inputs)[0], expected, dim=-1).min() > cosine


def test_texts_of_the_short_path(source, model, tmp_path):
    processor = BetaCLIPProcessor.from_pretrained(source)
    write_graph(graphs_of(model, processor, "short")["text"], tmp_path / "text.pt2", positions=77)
    inputs = processor(text=TEXTS, path="short", padding=True, return_tensors="pt")
    (found,) = run_graph(tmp_path / "text.pt2", {"input_ids": inputs["input_ids"]})
    with torch.no_grad():
        close(found, model.get_text_features(**inputs, path="short").pooler_output)


def test_a_plain_clip_as_programs_of_torch(tiny_clip_dir, tiny_processor, tmp_path):
    source = shutil.copytree(tiny_clip_dir, tmp_path / "clip")
    tiny_processor.save_pretrained(source)
    assert main(["export", "onnx", str(source), str(tmp_path / "out"), "--format", "torch"]) == 0
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["graphs"].keys() == {"image", "text", "regions"}
    assert about["text"] == {"path": None, "positions": 77, "max_length": 77}

    clip = CLIPModel.from_pretrained(source).eval()
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(0, 512, (2, 77))
    ids[:, -1] = 513
    with torch.no_grad():
        found = run_graph(tmp_path / "out" / "image.pt2", {"pixel_values": pixels})[0]
        close(found, clip.get_image_features(pixels).pooler_output)
        (found,) = run_graph(tmp_path / "out" / "text.pt2", {"input_ids": ids})
        close(found, clip.get_text_features(ids).pooler_output)


@pytest.mark.parametrize(("dtype", "cosine"), [("float16", 0.9999), ("int8", 0.98)])
def test_smaller_dtypes(exported, source, traced_once, tmp_path, dtype, cosine):
    assert main(["export", "onnx", str(source), str(tmp_path), "--dtype", dtype]) == 0
    about = json.loads((tmp_path / "export.json").read_text())
    full = json.loads((exported / "export.json").read_text())
    pixels = torch.randn(2, 3, 32, 32)
    found = run_graph(tmp_path / "image.onnx", {"pixel_values": pixels})
    full_outputs = run_graph(exported / "image.onnx", {"pixel_values": pixels})
    for output, full_output in zip(found, full_outputs, strict=True):
        assert output.dtype == torch.float32
        assert cosine < F.cosine_similarity(output, full_output, dim=-1).min()
        assert not torch.equal(output, full_output)
    for name in ("image", "text", "pooler"):
        smaller, larger = ((folder / f"{name}.onnx").stat().st_size for folder in (tmp_path, exported))
        assert smaller < 0.8 * larger
        for output, metrics in about["graphs"][name]["agreement"].items():
            assert 10 * full["graphs"][name]["agreement"][output]["largest_difference"] < metrics["largest_difference"]
            assert cosine < metrics["lowest_cosine"] <= 1.00001
    assert about["graphs"]["regions"] == full["graphs"]["regions"]  # without weights


def test_the_tokenizer_stands_alone(exported, source):
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    expected = BetaCLIPProcessor.from_pretrained(source)(text=TEXTS, path="long", padding=True, return_tensors="np")
    assert [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)] == expected["input_ids"].tolist()
    assert expected["input_ids"].shape[1] == 248


def test_what_is_written_about_an_export(exported, model):
    about = json.loads((exported / "export.json").read_text())
    assert {name: graph["inputs"] for name, graph in about["graphs"].items()} == {
        "image": {"pixel_values": ["images", 3, 32, 32]},
        "text": {"input_ids": ["texts", "length"]},
        "pooler": {"patch_features": ["images", 16, 32], "text_embeds": ["texts", 32], "image_index": ["texts"]},
        "regions": {"patch_features": ["images", 16, 32], "boxes": ["boxes", 4], "image_index": ["boxes"]},
    }
    assert about["text"] == {"path": "long", "positions": 248, "max_length": 248}
    assert about["image"]["mean"][0] == 0.48145466 and about["image"]["center_crop"] == {"height": 32, "width": 32}
    assert about["logit_scales"]["embeds"] == pytest.approx(model.logit_scale.exp().item())
    for graph in about["graphs"].values():
        # Nothing of the machine that it was made on.
        assert b"site-packages" not in (exported / graph["file"]).read_bytes()
        for metrics in graph["agreement"].values():
            assert metrics["largest_difference"] < 1e-4 and metrics["lowest_cosine"] > 0.99999


@pytest.mark.parametrize("squash", [False, True], ids=["cropped", "squashed"])
def test_the_example_searches_without_torch(exported, source, model, project_dir, tmp_path, squash):
    processor = BetaCLIPProcessor.from_pretrained(source)
    folder = shutil.copytree(exported, tmp_path / "exported")
    if squash:
        processor.squash_images()
        about = json.loads((folder / "export.json").read_text())
        about["image"] |= describe_inputs(model, processor, "long")["image"]
        (folder / "export.json").write_text(json.dumps(about))
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0)
    images, turned = {}, Image.Exif()
    turned[274] = 6  # the camera was held upright
    for number in range(18):  # more than a batch
        name, (width, height) = f"{number:02}.png", [(48, 33), (31, 64), (32, 32)][number % 3]
        image = Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / "photos" / name, exif=turned if number == 0 else None)
        images[name] = image.transpose(Image.Transpose.ROTATE_270) if number == 0 else image
    text = "a red ball on a table"
    example = project_dir / "examples" / "onnx_search.py"
    done = run_without_package(EXAMPLE, tmp_path, str(example), str(folder), str(tmp_path / "photos"), text)
    assert done.returncode == 0, done.stderr
    assert "the best 18 of 18 photos, by cosine with the image as the text sees it" in done.stderr
    found = {name: float(score) for score, name in map(str.split, done.stdout.splitlines())}

    inputs = processor(images=list(images.values()), text=[text], path="long", return_tensors="pt")
    with torch.no_grad():
        patches = model.get_patch_features(inputs["pixel_values"])
        text_embeds = model.get_text_features(inputs["input_ids"], path="long").pooler_output
        scores = model.score_pairs(patches, text_embeds)[:, 0].tolist()
    assert found == pytest.approx(dict(zip(images, scores, strict=True)), abs=2e-4)
    assert max(scores) - min(scores) > 1e-3
    assert list(found) == sorted(images, key=lambda name: -found[name])


def test_the_example_says_how_it_is_used(project_dir, tmp_path):
    done = run_without_package(EXAMPLE, tmp_path, str(project_dir / "examples" / "onnx_search.py"), "--help")
    assert done.returncode == 1
    assert done.stderr == "usage: python examples/onnx_search.py EXPORTED PHOTOS TEXT\n"


def test_mistakes_are_told(source, exported, tiny_clip_dir, tiny_processor, traced_once, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"dtype must be one of .'float32',. for the format 'torch', but is 'int8'"):
        export_graphs(source, tmp_path, format="torch", dtype="int8")
    with pytest.raises(ValueError, match="format must be one of"):
        export_graphs(source, tmp_path, format="tflite")
    with pytest.raises(ValueError, match="output must be another directory"):
        export_graphs(source, source)
    clip = shutil.copytree(tiny_clip_dir, tmp_path / "clip")
    tiny_processor.save_pretrained(clip)
    with pytest.raises(ValueError, match="path must be None for a processor with one text path, but is 'short'"):
        export_graphs(clip, tmp_path / "out", path="short")
    monkeypatch.setattr(release_onnx, "TOLERANCE", 1e-12)
    with pytest.raises(ValueError, match=r"image_embeds of .* must be the model's up to [\d.]+e-12, but differs by"):
        export_graphs(source, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install onnx onnxruntime onnxscript"):
        export_graphs(source, tmp_path / "out")


def writer_of_half(place):
    """A writer of a library that fails half way. Its path is the argument at a place, or the one called `f`."""

    def write_half(*args, **settings):
        file = settings.get("f") or args[place]
        if hasattr(file, "write"):
            file.write(b"half")
        else:
            Path(file).write_bytes(b"half")
        raise OSError("the disk is full")

    return write_half


@pytest.mark.parametrize(
    ("target", "place", "name", "dtype"),
    [
        ("torch.onnx.export", 1, "image.onnx", "float32"),
        ("onnx.save", 1, "image.onnx", "float16"),
        ("onnxruntime.quantization.quantize_dynamic", 1, "image.onnx", "int8"),
        ("torch.export.save", 1, "image.pt2", "float32"),
    ],
)
def test_a_failure_leaves_the_old_graph(source, traced_once, tmp_path, monkeypatch, target, place, name, dtype):
    if target == "torch.onnx.export":
        monkeypatch.undo()
    model, processor, _ = load_model(str(source), torch.device("cpu"))
    graph = graphs_of(model, processor, "long")["image"]
    (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(target, writer_of_half(place))
    with pytest.raises(OSError, match="the disk is full"):
        write_graph(graph, tmp_path / name, dtype, positions=248)
    assert (tmp_path / name).read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_the_old_tokenizer(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text("old")

    class Unwritable:
        save = staticmethod(writer_of_half(0))

    with pytest.raises(OSError, match="the disk is full"):
        release_onnx._save_tokenizer(Unwritable(), file)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
