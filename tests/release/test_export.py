"""The export as another program sees it: loaded in a process where this package is not imported."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.release.export import export_clip


pytestmark = pytest.mark.slow


TEXTS = ["a red ball", "The dog & its owner, in a park.", "word " * 60, "one two three " * 18, "many words " * 500]
IMAGES = [((40, 60), "red"), ((64, 31), "green"), ((32, 32), "blue")]
# Runs for each directory that it is given; an image processor that crops and one that squashes see different colours.
STRANGER = """
import sys, torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor, pipeline
texts, images, *folders = eval(sys.argv[1])
gradient = Image.linear_gradient("L").convert("RGB")
images = [Image.blend(gradient.resize(size), Image.new("RGB", size, colour), 0.6) for size, colour in images]
for folder in folders:
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    auto, auto_processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(auto) is CLIPModel and type(auto_processor) is CLIPProcessor
    inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
    again = auto_processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
    classify = pipeline("zero-shot-image-classification", folder)
    with torch.no_grad():
        outputs = model(**inputs)
        answers = {
            "ids": inputs["input_ids"],
            "pixel_values": inputs["pixel_values"],
            "image": model.get_image_features(inputs["pixel_values"]).pooler_output,
            "text": model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output,
            "logits": outputs.logits_per_image,
            "auto_logits": auto(**again).logits_per_image,
            "missing": list(CLIPModel.from_pretrained(folder, output_loading_info=True)[1]["missing_keys"]),
            "scores": classify(images[0], candidate_labels=["red", "green"], hypothesis_template="a {} wall"),
        }
    torch.save(answers, folder + "/answers.pt")
assert "beta_clip_hf" not in sys.modules
"""


def pictures():
    gradient = Image.linear_gradient("L").convert("RGB")
    return [Image.blend(gradient.resize(size), Image.new("RGB", size, colour), 0.6) for size, colour in IMAGES]


def random_model(config):
    """Weights far enough from their first values that a table or a projection in a wrong place shows."""
    torch.manual_seed(3)
    model = BetaCLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or "projection" in name:
                parameter.normal_(std=0.3)
    return model


def saved(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def two_path_config(clip_config, **changes):
    values = clip_config.to_dict()
    towers = {name: values[name] for name in ("text_config", "vision_config")}
    return BetaCLIPConfig(**towers, projection_dim=32, use_long_text_path=True, use_regions=True, **changes)


@pytest.fixture(scope="module")
def one_path_dir(tiny_clip_config, tiny_tokenizer, tmp_path_factory):
    values = tiny_clip_config.to_dict()
    text = values["text_config"] | {"max_position_embeddings": 248}
    config = BetaCLIPConfig(text_config=text, vision_config=values["vision_config"], projection_dim=32)
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32)
    return saved(random_model(config), processor, tmp_path_factory.mktemp("one_path"))


@pytest.fixture(scope="module")
def two_path_dir(tiny_clip_config, tiny_tokenizer, tmp_path_factory):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77, squash=True)
    model = random_model(two_path_config(tiny_clip_config))
    return saved(model, processor, tmp_path_factory.mktemp("two_path"))


@pytest.fixture(scope="module")
def exports(one_path_dir, two_path_dir, tmp_path_factory):
    """By name: our model, our processor, the path, and what the other process found in the export."""
    sources = {"one": (one_path_dir, None), "long": (two_path_dir, None), "short": (two_path_dir, "short")}
    parent = tmp_path_factory.mktemp("exports")
    for name, (source, path) in sources.items():
        export_clip(source, parent / name, path=path)
    folders = [str(parent / name) for name in sources]
    command = [sys.executable, "-c", STRANGER, repr([TEXTS, IMAGES, *folders])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=parent)
    assert done.returncode == 0, done.stderr
    return {
        name: (
            BetaCLIPModel.from_pretrained(source),
            BetaCLIPProcessor.from_pretrained(source),
            None if name == "one" else name,
            torch.load(parent / name / "answers.pt", weights_only=True),
            parent / name,
        )
        for name, (source, _) in sources.items()
    }


@pytest.mark.parametrize("name", ["one", "long", "short"])
def test_another_program_finds_our_embeddings(exports, name):
    model, processor, path, outputs, _ = exports[name]
    inputs = processor(images=pictures(), text=TEXTS, path=path, padding=True, return_tensors="pt")
    assert torch.equal(outputs["ids"], inputs["input_ids"])
    assert outputs["ids"].shape[1] == (77 if name == "short" else 248)  # the longest text is cut
    assert torch.equal(outputs["pixel_values"], inputs["pixel_values"])
    with torch.no_grad():
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"], path=path).pooler_output
    assert (image.std(dim=0) > 1e-3).all() and (text.std(dim=0) > 1e-3).all()
    torch.testing.assert_close(outputs["image"], image, rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs["text"], text, rtol=0, atol=1e-6)
    cosines = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    logits = model.logit_scale.exp() * cosines
    torch.testing.assert_close(outputs["logits"], logits, rtol=0, atol=1e-4)
    assert torch.equal(outputs["auto_logits"], outputs["logits"])
    assert outputs["missing"] == []


@pytest.mark.parametrize("name", ["one", "long", "short"])
def test_the_pipeline_of_another_program_gives_our_scores(exports, name):
    model, processor, path, outputs, _ = exports[name]
    labels = ["red", "green"]
    inputs = processor(
        images=pictures()[0], text=[f"a {label} wall" for label in labels], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        text = model.get_text_features(inputs["input_ids"], path=path).pooler_output
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        cosines = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
        scores = (model.logit_scale.exp() * cosines).softmax(dim=-1)[0].tolist()
    expected = dict(zip(labels, scores, strict=True))
    assert abs(expected["red"] - 0.5) > 1e-3
    assert {score["label"]: score["score"] for score in outputs["scores"]} == pytest.approx(expected, abs=1e-5)


def test_the_paths_differ_and_the_short_one_ends_with_its_last_row(exports):
    long, short = exports["long"], exports["short"]
    model = long[0]
    assert (long[3]["text"][:2] - short[3]["text"][:2]).abs().max() > 0.1
    table = CLIPModel.from_pretrained(short[4]).text_model.embeddings.position_embedding.weight
    ours = model.text_model.embeddings.position_embedding.weight
    assert table.shape == (248, 32) and torch.equal(table[:77], ours)
    assert torch.equal(table[77:], ours[76:].expand(171, -1))
    long_table = CLIPModel.from_pretrained(long[4]).text_model.embeddings.position_embedding.weight
    assert torch.equal(long_table, model.text_model.embeddings.long_position_embedding.weight)


@pytest.mark.parametrize("name", ["one", "long", "short"])
def test_the_files_hold_nothing_of_ours(exports, name):
    folder = exports[name][4]
    config = json.loads((folder / "config.json").read_text())
    stock = json.loads(CLIPConfig().to_json_string(use_diff=False)).keys() | {"dtype", "transformers_version"}
    assert config["model_type"] == "clip" and config["architectures"] == ["CLIPModel"]
    assert config.keys() <= stock
    assert config["text_config"]["max_position_embeddings"] == 248
    for path in folder.glob("*.json"):
        if path.name != "tokenizer.json":
            assert "beta" not in path.read_text().lower(), path.name
    processor = CLIPProcessor.from_pretrained(folder)
    assert processor.tokenizer.model_max_length == (77 if name == "short" else 248)
    squashes = name != "one"
    for file in ("processor_config.json", "preprocessor_config.json"):
        stored = json.loads((folder / file).read_text())
        stored = stored.get("image_processor", stored)
        assert stored["do_center_crop"] is not squashes
        assert stored["size"] == ({"height": 32, "width": 32} if squashes else {"shortest_edge": 32})


@pytest.mark.parametrize("path", ["long", "short"])
@pytest.mark.parametrize("name", ["fg_clip_grid4", "fg_clip_grid6"])
def test_their_own_directory_is_exported_with_the_authors_numbers(golden_dir, tmp_path, name, path):
    tensors = load_file(golden_dir / name / "tensors.safetensors")
    export_clip(golden_dir / name, tmp_path, path=path)
    clip, ours = CLIPModel.from_pretrained(tmp_path).eval(), BetaCLIPModel.from_pretrained(golden_dir / name).eval()
    with torch.no_grad():
        image = clip.get_image_features(tensors["pixel_values"]).pooler_output
        text = clip.get_text_features(tensors[f"text_{path}"]).pooler_output
        our_image = ours.get_image_features(tensors["pixel_values"]).pooler_output
        our_text = ours.get_text_features(tensors[f"text_{path}"], path=path).pooler_output
    torch.testing.assert_close(image, our_image, rtol=0, atol=1e-6)
    torch.testing.assert_close(text, our_text, rtol=0, atol=1e-6)
    for features, expected in ((image, "image_features"), (text, f"{path}_text_features")):
        expected = tensors[f"out.{expected}"]
        assert (features - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_model_of_77_positions_is_filled_up_and_its_texts_are_cut_there(tiny_config, tiny_processor, tmp_path):
    tiny_config.text_config.max_position_embeddings = 77
    model = random_model(tiny_config)
    tiny_processor(text=TEXTS, padding=True, return_tensors="pt")  # cuts at 248, which the tokenizer saves along
    clip = export_clip(saved(model, tiny_processor, tmp_path / "source"), tmp_path / "out")
    table = clip.text_model.embeddings.position_embedding.weight
    ours = model.text_model.embeddings.position_embedding.weight
    assert torch.equal(table[:77], ours) and torch.equal(table[77:], ours[76:].expand(171, -1))
    processor = CLIPProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(text=TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 77
    with torch.no_grad():
        expected = model.get_text_features(**inputs).pooler_output
        torch.testing.assert_close(clip.get_text_features(**inputs).pooler_output, expected, rtol=0, atol=1e-6)


def test_texts_are_cut_where_the_processor_cuts_them(tiny_model, tiny_tokenizer, tmp_path):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, max_length=40)
    export_clip(saved(tiny_model, processor, tmp_path / "source"), tmp_path / "out")
    assert CLIPProcessor.from_pretrained(tmp_path / "out").tokenizer.model_max_length == 40


def test_texts_of_the_short_path_are_cut_where_the_processor_cuts_them(two_path_dir, tiny_tokenizer, tmp_path):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, max_length=100, short_max_length=20)
    source = saved(BetaCLIPModel.from_pretrained(two_path_dir), processor, tmp_path / "source")
    for path, length in (("short", 20), ("long", 100)):
        export_clip(source, tmp_path / path, path=path)
        assert CLIPProcessor.from_pretrained(tmp_path / path).tokenizer.model_max_length == length


def test_the_dtype_is_kept(tiny_model, tiny_processor, tmp_path):
    source = saved(tiny_model.to(torch.bfloat16), tiny_processor, tmp_path / "source")
    assert export_clip(source, tmp_path / "out").dtype == torch.bfloat16
    clip = CLIPModel.from_pretrained(tmp_path / "out")
    ours = tiny_model.state_dict()
    for name, tensor in clip.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, ours[name]), name


def test_what_is_lost_is_told(one_path_dir, tiny_clip_config, tiny_processor, tmp_path, caplog):
    caplog.set_level("INFO", "beta_clip_hf")
    export_clip(one_path_dir, tmp_path / "a")
    assert "Not in the export: the pooler" in caplog.text and "text path" not in caplog.text
    caplog.clear()
    source = saved(random_model(two_path_config(tiny_clip_config)), tiny_processor, tmp_path / "source")
    export_clip(source, tmp_path / "b", path="short")
    for part in ("the pooler", "the long text path", "region_logit_scale", "hard_negative_logit_scale"):
        assert part in caplog.text
    caplog.clear()
    export_clip(source, tmp_path / "c")
    assert "the short text path" in caplog.text and "Exporting the long text path" in caplog.text


def test_a_plain_clip_is_stretched(tiny_clip_dir, tmp_path, caplog):
    caplog.set_level("INFO", "beta_clip_hf")
    clip = export_clip(tiny_clip_dir, tmp_path)
    expected = BetaCLIPModel.from_pretrained(tiny_clip_dir).text_model.embeddings.position_embedding.weight
    assert torch.equal(clip.text_model.embeddings.position_embedding.weight, expected)
    assert "nothing, all weights are" in caplog.text and "No processor is saved" in caplog.text
    assert not (tmp_path / "tokenizer.json").exists()


def test_code_saved_beside_the_source_stays_there(tiny_model, tiny_processor, tmp_path):
    classes = {BetaCLIPConfig: "AutoConfig", BetaCLIPModel: "AutoModel", BetaCLIPProcessor: "AutoProcessor"}
    try:
        for cls, auto_class in classes.items():
            cls.register_for_auto_class(auto_class)
        saved(tiny_model, tiny_processor, tmp_path / "source")
    finally:
        for cls in classes:
            cls._auto_class = None
    assert "auto_map" in (tmp_path / "source/config.json").read_text()
    export_clip(tmp_path / "source", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.py"))
    assert not [path.name for path in (tmp_path / "out").glob("*.json") if "auto_map" in path.read_text()]


def test_paths_that_are_not_there_and_the_source_as_output(one_path_dir, two_path_dir, tmp_path):
    with pytest.raises(ValueError, match="path must be left out for a model with one text path, but is 'long'"):
        export_clip(one_path_dir, tmp_path / "out", path="long")
    with pytest.raises(ValueError, match=r"path must be one of \('short', 'long'\), but is 'middle'"):
        export_clip(two_path_dir, tmp_path / "out", path="middle")
    assert not (tmp_path / "out").exists()
    before = (one_path_dir / "config.json").read_text()
    with pytest.raises(ValueError, match="output must be another directory"):
        export_clip(one_path_dir, one_path_dir / "." / "")
    assert (one_path_dir / "config.json").read_text() == before


def test_the_command(two_path_dir, tmp_path, caplog):
    assert main(["export", "clip", str(two_path_dir), str(tmp_path / "out"), "--path", "short"]) == 0
    clip, ours = CLIPModel.from_pretrained(tmp_path / "out"), BetaCLIPModel.from_pretrained(two_path_dir)
    assert torch.equal(clip.text_projection.weight, ours.text_projection.weight)
    assert main(["export", "clip", str(tmp_path / "absent"), str(tmp_path / "out")]) == 1
