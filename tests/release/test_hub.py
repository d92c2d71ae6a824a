import argparse
import json

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load

from beta_clip_hf import BetaCLIPTrainer, BetaCLIPTrainingArguments, SceneDataset
from beta_clip_hf.release import hub
from beta_clip_hf.release.model_card import render_card
from release.hub_server import HubServer
from without_package import run_without_package


FIGURE = {"value": 0.25, "chance": 0.1, "low": 0.2, "high": 0.3, "count": 10}
RESULTS = {
    "schema": 3,
    "model": {"name": "/data/someone/model", "sha256": "0" * 64, "parameters": 1},
    "environment": {"hardware": "a processor", "torch": "2.13"},
    "settings": {"dtype": "float32", "data": "/data/someone/photos"},
    "tasks": {"photos": {"protocol": "photos/v1", "figures": {"long/cls/text_to_image/R@1": FIGURE}}},
}
TRAINING = {
    "model": {"from_pretrained": "openai/clip-vit-base-patch16"},
    "data": {"train": "/data/someone/secret/photos.jsonl"},
    "training": {"learning_rate": 1e-5},
}
LOADER = """
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("me/model", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("me/model", trust_remote_code=True)
tokens = processor(text=["a red wall"], return_tensors="pt")
print(type(model).__module__.split(".")[0], float(model.get_text_features(**tokens).pooler_output.sum()))
"""


@pytest.fixture
def run_folder(tiny_model, tiny_processor, tmp_path):
    """What `beta-clip train` and `evaluate` leave behind."""
    folder = tmp_path / "run"
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    (folder / "train_config.json").write_text(json.dumps(TRAINING))
    (folder / "train_results.json").write_text(json.dumps({"after": {"eval_t2i_r1": 0.5}, "train": {}}))
    (folder / "evaluation" / "pictures").mkdir(parents=True)
    (folder / "evaluation" / "results.json").write_text(json.dumps(RESULTS))
    (folder / "evaluation" / "pictures" / "photos-misses.html").write_text("photos of people")
    return folder


@pytest.fixture
def server(monkeypatch):
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # large files by plain HTTP
        # The client that transformers keeps may have been made before, for the real Hub.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_card_says_what_is_known_and_no_more(run_folder):
    text = str(render_card(run_folder, "me/model", licence="cc-by-nc-4.0"))
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "cc-by-nc-4.0" and head["base_model"] == "openai/clip-vit-base-patch16"
    assert {"clip", "beta-clip"} <= set(head["tags"]) and "datasets" not in head
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "photos/v1" and result["metrics"][0]["value"] == 25.0
    for words in (
        "| photos | photos/v1 | `long/cls/text_to_image/R@1` | 25.0 | 20.0 – 30.0 | 10.0 | 10 |",
        "Trained on `photos.jsonl`", "`openai/clip-vit-base-patch16`", "t2i_r1 50.0", '"learning_rate": 1e-05',
        "may have lost some", "model.score_pairs", 'from_pretrained("me/model"', "2512.12678", "a processor",
    ):  # fmt: skip
        assert words in body, words
    assert "someone" not in text and "{{" not in text and "2505.05071" not in text


def test_a_card_of_bare_weights_claims_nothing(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    text = str(render_card(tmp_path, "me/model"))
    assert "None were measured." in text and "license: unknown" in text and "Not stated" in text
    assert "model-index" not in text
    with pytest.raises(ValueError, match=r"config\.json"):
        render_card(tmp_path / "nothing", "me/model")


def test_what_was_pushed_loads_where_the_package_is_not(
    run_folder, server, tiny_model, tiny_processor, tmp_path, caplog
):
    before = content_of(run_folder)
    parser = argparse.ArgumentParser()
    hub.add_arguments(parser)
    assert hub.run(parser.parse_args([str(run_folder), "me/model", "--private"])) == 0
    assert server.private["me/model"] and content_of(run_folder) == before
    files = server.repositories["me/model"]
    assert {"README.md", "config.json", "model.safetensors", "modeling_beta_clip.py", "results.json"} <= set(files)
    assert not any(b"someone" in content for content in files.values())
    assert not any("misses" in name for name in files)
    assert ModelCard(files["README.md"].decode()).data.library_name == "transformers"
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1"}
    output = run_without_package(LOADER, tmp_path, **environment)
    assert output.returncode == 0, output.stderr[-3000:]
    module, total = output.stdout.split()
    tokens = tiny_processor(text=["a red wall"], return_tensors="pt")
    assert module == "transformers_modules"
    assert float(total) == pytest.approx(tiny_model.get_text_features(**tokens).pooler_output.sum().item(), abs=1e-4)


def test_model_and_processor_push_themselves_with_their_code(server, tiny_model, tiny_processor):
    tiny_model.push_to_hub("me/parts")
    tiny_processor.push_to_hub("me/parts")
    files = server.repositories["me/parts"]
    assert {"model.safetensors", "modeling_beta_clip.py", "processing_beta_clip.py", "tokenizer.json"} <= set(files)
    assert "AutoModel" in json.loads(files["config.json"])["auto_map"]
    assert not any(cls._auto_class for cls in hub.AUTO_CLASSES)


def test_a_trained_model_is_pushed_by_its_trainer_with_a_card_of_the_run(server, tiny_model, tiny_processor, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}
    args = BetaCLIPTrainingArguments(report_to=[], hub_model_id="me/trained", **settings)
    rows = SceneDataset(4, image_size=32)
    trainer = BetaCLIPTrainer(tiny_model, args, train_dataset=rows, processing_class=tiny_processor)
    trainer.train()
    url = trainer.push_to_hub(licence="mit")
    files = server.repositories["me/trained"]
    assert url.startswith(f"{server.endpoint}/me/trained/commit/")
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and "me/trained" in card.content
    load(files["model.safetensors"])  # whole
    assert not any(name.startswith("checkpoint-") or name.endswith((".bin", ".pt", ".pth")) for name in files)


@pytest.mark.parametrize("fails_on", ["/api/repos/create", "/preupload", "PUT /blobs", "/commit/"])
def test_a_failed_upload_leaves_everything_as_it_was_and_says_what_to_do(run_folder, server, fails_on, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    before = content_of(run_folder)
    server.fails_on = fails_on
    with pytest.raises(OSError, match=r"could not be uploaded: .*give the same command again"):
        hub.push(run_folder, "me/model")
    assert content_of(run_folder) == before and not server.repositories.get("me/model")
    server.fails_on = None
    hub.push(run_folder, "me/model")
    assert "README.md" in server.repositories["me/model"]


def test_a_dry_run_writes_a_folder(run_folder, tmp_path):
    parser = argparse.ArgumentParser()
    hub.add_arguments(parser)
    hub.run(parser.parse_args([str(run_folder), "me/model", "--dry-run", str(tmp_path / "dry")]))
    assert {"README.md", "model.safetensors"} <= {path.name for path in (tmp_path / "dry").iterdir()}
