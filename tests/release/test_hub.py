import json
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPTrainer, BetaCLIPTrainingArguments, SceneDataset
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.scenes.pretrained import PRETRAINED, pretrained
from beta_clip_hf.inference.identity import environment, model_hash
from beta_clip_hf.release import hub
from beta_clip_hf.release.hub import build_repository
from beta_clip_hf.release.model_card import REQUIREMENTS, render_card
from beta_clip_hf.training.run import train_and_report
from beta_clip_hf.training.setup.build import build_trainer
from release.hub_server import HubServer
from without_package import run_without_package


pytestmark = pytest.mark.slow


FIGURE = {"value": 0.25, "chance": 0.1, "low": 0.2, "high": 0.3, "count": 10,
          "name": {"probe": "long", "score": "cls", "direction": "text_to_image", "metric": "R@1"}}  # fmt: skip
RESULTS = {
    "schema": 3,
    "model": {"name": "/data/someone/model", "sha256": "0" * 64, "parameters": 1},
    "environment": {"hardware": "a processor", "torch": "2.13"},
    "settings": {"dtype": "float32", "data": "/data/someone/photos"},
    "tasks": {"photos": {"protocol": "photos/v1", "figures": {"long/cls/text_to_image/R@1": FIGURE}}},
}
TRAINING = {
    "model": {"from_pretrained": "openai/clip-vit-base-patch16"},
    "data": {"train": "someone/photos.jsonl", "eval": "/data/someone/secret/test.jsonl"},
    "training": {"learning_rate": 1e-5, "output_dir": "someone/run", "hub_token": "hf_secret"},
}
TRAINED = {
    "after": {"eval_t2i_r1": 0.5},
    "train": {"train_runtime": 61.2, "train_samples_per_second": 3.5, "train_loss": 4.25, "epoch": 2.0},
    "best_checkpoint": "/data/someone/run/checkpoint-100",
    "run": {
        "hub_ids": ["openai/clip-vit-base-patch16"],
        "environment": {
            "hardware": "NVIDIA H200", "processes": 4, "precision": "bfloat16", "torch": "2.13.0",
            "transformers": "5.23.0", "device": "cuda:0",
        },
        "steps": 100,
        "images_per_step": 2048,
        "data": {"rows": 102400, "licence": None},
        "losses": {"step": 90, "loss": 3.75, "clip_loss": 1.5, "beta_cal_loss": 2.25},
    },
}  # fmt: skip
LOADER = """
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("me/model", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("me/model", trust_remote_code=True)
tokens = processor(text=["a red wall"], return_tensors="pt")
print(type(model).__module__.split(".")[0], float(model.get_text_features(**tokens).pooler_output.sum()))
model.push_to_hub("me/again")
"""


@pytest.fixture
def run_folder(tiny_model, tiny_processor, tmp_path):
    """What `beta-clip train` and `evaluate` leave behind."""
    folder = tmp_path / "run"
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    (folder / "train_config.json").write_text(json.dumps(TRAINING))
    (folder / "train_results.json").write_text(json.dumps(TRAINED))
    (folder / "evaluation" / "pictures").mkdir(parents=True)
    measured = {**RESULTS, "model": {**RESULTS["model"], "sha256": model_hash(tiny_model)}}
    (folder / "evaluation" / "results.json").write_text(json.dumps(measured))
    (folder / "evaluation" / "pictures" / "photos-misses.html").write_text("photos of people")
    return folder


@pytest.fixture
def server(monkeypatch):
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # large files by plain HTTP
        # The client that transformers keeps may have been made before, for the real Hub.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_card_says_what_is_known_and_no_more(run_folder):
    text = str(render_card(run_folder, "me/model", license="cc-by-nc-4.0"))
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "cc-by-nc-4.0" and head["base_model"] == "openai/clip-vit-base-patch16"
    assert {"clip", "beta-clip"} <= set(head["tags"]) and "datasets" not in head
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "photos/v1" and result["metrics"][0]["value"] == 25.0
    for words in (
        "| photos | photos/v1 | `long/cls/text_to_image/R@1` | 25.0 | 20.0 – 30.0 | 10.0 | 10 |",
        "Trained on `photos.jsonl`, 102,400 rows.", "`openai/clip-vit-base-patch16`", "t2i_r1 50.0", "61 seconds",
        "Hardware: 4 × NVIDIA H200, bfloat16, torch 2.13.0", "100 steps of 2,048 images, 2 epochs",
        "Losses: `clip_loss` (weight 1), `beta_cal_loss` (weight 1).", "Mean of the loss over the training: 4.25.",
        "(step 90): `loss` 3.75, `clip_loss` 1.5, `beta_cal_loss` 2.25.", "β-CAL: ce, β = 0.5",
        '"learning_rate": 1e-05', "may have lost some", "model.score_pairs", 'from_pretrained("me/model"', "2512.12678",
        "its licence is not known here, and the weights may be bound by it", "The weights: `cc-by-nc-4.0`.",
        "a processor", "{Zohra, Fatimah and Zhao, Chen and", "Computer Vision and Pattern", "@software{beta_clip_hf",
    ):  # fmt: skip
        assert words in body, words
    assert not any(words in text for words in ("someone", "secret", "{{ ", "2505.05071"))


def test_the_card_names_the_recalls_of_each_evaluation_set(run_folder):
    after = {"eval_t2i_r1": 0.5, "eval_photos_t2i_r1": 0.25, "eval_photos_i2t_r1": 0.75, "eval_photos_i2t_r5": 0.9}
    record = {**TRAINED["run"], "evaluated_sets": ["photos"]}
    trained = {**TRAINED, "before": {"eval_i2t_r1": 0.1}, "after": after, "run": record}
    (run_folder / "train_results.json").write_text(json.dumps(trained))
    body = str(render_card(run_folder, "me/model"))
    assert "before training, per cent: i2t_r1 10.0." in body
    assert "after training, per cent: t2i_r1 50.0, photos_i2t_r1 75.0, photos_t2i_r1 25.0." in body


def test_a_card_takes_what_only_its_author_knows(run_folder):
    fields = {"data_license": "cc-by-4.0", "language": "en", "tags": ["photos"], "model_name": "Photos"}
    fields |= {"finetuned_from": "me/base", "dataset_tags": "me/photos"}
    (run_folder / "evaluation" / "results.json").unlink()
    card = render_card(run_folder, "me/model", license="mit", **fields)
    head = yaml.safe_load(card.data.to_yaml())
    assert head["license"] == "mit" and head["language"] == "en" and {"photos", "clip"} <= set(head["tags"])
    assert head["base_model"] == "me/base" and head["datasets"] == ["me/photos"]
    assert head["model-index"] == [{"name": "Photos", "results": []}] and "# Photos" in card.text
    for words in ("The training data: `cc-by-4.0`.", "Started from `me/base`", "Trained on `me/photos`, 102,400 rows"):
        assert words in card.text, words
    with pytest.raises(TypeError, match="licence"):
        render_card(run_folder, "me/model", licence="mit")


def test_of_a_run_that_was_not_logged_only_what_can_have_run_is_told(run_folder, both_systems_config):
    config = {"use_pooler": True, "use_regions": False, "region_loss_weight": 0.1, "hard_negative_loss_weight": 0.5}
    stored = json.loads((run_folder / "config.json").read_text())
    (run_folder / "config.json").write_text(json.dumps(stored | config))
    (run_folder / "train_results.json").unlink()
    text = str(render_card(run_folder, "me/model"))
    assert "Losses: `clip_loss` (weight 1), `beta_cal_loss` (weight 1).\n" in text and "The hardware is not rec" in text
    # Which of the names are on the Hub was not recorded: all of them are taken for paths.
    assert "base_model" not in text and "Started from `clip-vit-base-patch16`" in text
    (run_folder / "config.json").write_text(json.dumps(stored | config | {"use_regions": True}))
    assert "`region_loss` (weight 0.1), `hard_negative_loss` (weight 0.5)." in str(render_card(run_folder, "me/model"))


def test_the_code_of_a_card_reads_long_texts_whole(both_systems_config, tiny_processor, tmp_path, monkeypatch):
    BetaCLIPModel(both_systems_config).save_pretrained(tmp_path / "model")
    tiny_processor.short_max_length = 77
    tiny_processor.save_pretrained(tmp_path / "model")
    (code,) = re.findall(r"```python\n(.*?)```", render_card(tmp_path / "model", "me/model").text, flags=re.DOTALL)
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    long_text = "a red wall with a door, " * 6  # of bytes
    exec(code.replace('"me/model"', '"model"').replace("a long description of the photo", long_text), names)
    assert names["texts"]["input_ids"].shape[1] == len(long_text.replace(" ", "")) + 2 > 77


@pytest.mark.parametrize("revision", [None, "0" * 40])
def test_the_code_of_a_card_names_a_commit_and_runs(run_folder, tmp_path, monkeypatch, revision):
    card = render_card(run_folder, "me/model", revision=revision)
    (code,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert code.count("revision=revision, trust_remote_code=True") == 2
    if revision:
        assert f'revision = "{revision}"' in code and "This is the commit" in code
    else:
        assert 'revision = "main"' in code and "put the hash of the commit that you have read here" in code
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('"me/model"', '"run"'), names)
    assert names["image_embeds"].shape == (1, 32) and names["text_embeds"].shape == (2, 32)


def test_a_card_names_what_its_code_needs(run_folder, project_dir):
    """At the versions that the package itself needs."""
    card = render_card(run_folder, "me/model").text
    needed = (project_dir / "setup.cfg").read_text(encoding="utf-8")
    assert f"It needs `{REQUIREMENTS}`." in card and "ftfy" in card
    for requirement in REQUIREMENTS.split():
        assert f"\n    {requirement}\n" in needed, requirement


def test_a_card_of_bare_weights_claims_nothing(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    text = str(render_card(tmp_path, "me/model"))
    assert "Nothing was measured." in text and "license: unknown" in text and "not stated" in text
    assert "The training is not recorded" in text and "its licence is not known here" in text
    assert not any(word in text for word in ("model-index", "trained with", "β-CAL", "Losses", "Started"))
    with pytest.raises(ValueError, match=r"config\.json"):
        render_card(tmp_path / "nothing", "me/model")


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_model_that_ships_has_a_card(name, caplog):
    """The results.json beside it is not one of `evaluate`: it is passed over, and the log says so."""
    card = str(render_card(Path(pretrained(name)), "me/model"))
    assert "no results.json of `beta-clip evaluate`" in caplog.text
    assert "| photos |" not in card


def test_what_was_pushed_loads_where_the_package_is_not(
    run_folder, server, tiny_model, tiny_processor, tmp_path, caplog
):
    before = content_of(run_folder)
    assert main(["push", str(run_folder), "me/model", "--private"]) == 0
    assert server.private["me/model"] and content_of(run_folder) == before
    files = server.repositories["me/model"]
    assert {"README.md", "config.json", "model.safetensors", "modeling_beta_clip.py", "results.json"} <= set(files)
    assert not any(b"someone" in content or b"secret" in content for content in files.values())
    assert json.loads(files["train_config.json"])["model"] == TRAINING["model"]
    assert json.loads(files["results.json"])["tasks"]["photos"]["protocol"] == "photos/v1"
    assert not any("misses" in name for name in files)
    assert ModelCard(files["README.md"].decode()).data.library_name == "transformers"
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1"}
    environment["HF_TOKEN"] = "hf_test"
    output = run_without_package(LOADER, tmp_path, **environment)
    assert output.returncode == 0, output.stderr[-3000:]
    module, total = output.stdout.split()
    tokens = tiny_processor(text=["a red wall"], return_tensors="pt")
    assert module == "transformers_modules"
    assert {"README.md", "model.safetensors"} <= set(server.repositories["me/again"])  # with transformers' own card
    assert float(total) == pytest.approx(tiny_model.get_text_features(**tokens).pooler_output.sum().item(), abs=1e-4)


def test_a_name_alone_is_one_of_ones_own_and_the_card_says_whose(run_folder, server):
    url = hub.push(run_folder, "model")
    assert url.startswith(f"{server.endpoint}/me/model/commit/")
    card = server.repositories["me/model"]["README.md"].decode()
    assert 'from_pretrained("me/model"' in card
    # The example loads the code of the commit that brought it, and the second commit brings nothing but the card.
    commit = url.rpartition("/")[2]
    assert re.fullmatch("[0-9a-f]{40}", commit) and f'revision = "{commit}"' in card
    server.repositories["me/model"]["README.md"] = str(render_card(run_folder, "me/model")).encode()
    assert server.commit_of("me/model") == commit
    assert server.messages == ["Model of run", "The card names the commit of the code"]


def test_model_and_processor_push_themselves_with_their_code(server, tiny_model, tiny_processor):
    tiny_model.push_to_hub("me/parts")
    tiny_processor.push_to_hub("me/parts")
    files = server.repositories["me/parts"]
    assert {"model.safetensors", "modeling_beta_clip.py", "processing_beta_clip.py", "tokenizer.json"} <= set(files)
    assert "AutoModel" in json.loads(files["config.json"])["auto_map"]
    assert not any(cls._auto_class for cls in chain.from_iterable(hub.CLASSES.values()))


def test_the_first_model_in_a_repository_brings_the_card(server, tiny_model, tiny_processor):
    tiny_processor.push_to_hub("me/parts")
    assert "README.md" not in server.repositories["me/parts"]
    tiny_model.push_to_hub("me/parts", tags=["photos"])
    card = ModelCard(server.repositories["me/parts"]["README.md"].decode())
    assert "photos" in card.data.tags and "beta-clip" in card.data.tags and card.data.license == "unknown"
    assert 'from_pretrained("me/parts"' in card.text and "[More Information Needed]" not in card.text
    assert re.search('revision = "[0-9a-f]{40}"', card.text) and server.messages[-2] == "Upload model"
    server.repositories["me/parts"]["README.md"] = b"---\nlicense: mit\n---\nWritten by hand."
    tiny_model.push_to_hub("me/parts")
    tiny_processor.push_to_hub("me/parts")
    assert "Written by hand." in server.repositories["me/parts"]["README.md"].decode()


def test_a_trained_model_is_pushed_by_its_trainer_with_a_card_of_the_run(server, tiny_model, tiny_processor, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}
    args = BetaCLIPTrainingArguments(report_to=[], hub_model_id="me/trained", logging_steps=1, **settings)
    rows = SceneDataset(4, image_size=32)
    trainer = BetaCLIPTrainer(tiny_model, args, train_dataset=rows, processing_class=tiny_processor)
    metrics = trainer.train().metrics
    url = trainer.push_to_hub("After two steps", license="mit", language="en", tags="photos", model_name="Two steps")
    files = server.repositories["me/trained"]
    assert url.startswith(f"{server.endpoint}/me/trained/commit/") and server.messages == ["After two steps"]
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and card.data.language == "en" and "photos" in card.data.tags
    assert card.data.model_name == "Two steps"
    logged = trainer.state.log_history[-2]
    for words in (
        'from_pretrained("me/trained"', 'Trained on generated scenes of level "medium", 4 rows.',
        "What it started from is not recorded", "2 steps of 2 images, 1 epochs.", "The training data: `apache-2.0`.",
        f"Hardware: 1 × {environment(args.device)['hardware']}, float32, torch {torch.__version__}",
        f"(step 2): `loss` {logged['loss']:.4g}, `clip_loss` {logged['clip_loss']:.4g}",
        f"{metrics['train_runtime']:,.0f} seconds", f"over the training: {metrics['train_loss']:.4g}.",
    ):  # fmt: skip
        assert words in card.text, words
    recipe = json.loads(re.search(r"```json\n(.*?)```", card.text, flags=re.DOTALL)[1])
    assert recipe["training"] == {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
    assert recipe["data"]["train"] == {"scenes": 4, "seed": 0, "image_size": 32, "level": "medium"}
    load(files["model.safetensors"])  # whole
    assert not any(name.startswith("checkpoint-") or name.endswith((".bin", ".pt", ".pth")) for name in files)


def test_a_base_on_the_hub_is_named_by_its_id(server, tiny_model, tiny_processor, tmp_path):
    tiny_model.push_to_hub("me/base")
    model = BetaCLIPModel.from_pretrained("me/base", cache_dir=tmp_path)
    settings = {"output_dir": str(tmp_path / "run"), "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}
    rows = list(map(SceneDataset(2, image_size=32).__getitem__, range(2)))
    args = BetaCLIPTrainingArguments(report_to=[], hub_model_id="me/tuned", **settings)
    trainer = BetaCLIPTrainer(model, args, train_dataset=load_rows(rows), processing_class=tiny_processor)
    trainer.train()
    trainer.push_to_hub(dataset_tags=["me/photos"])
    card = ModelCard(server.repositories["me/tuned"]["README.md"].decode())
    assert card.data.base_model == "me/base" and "Started from `me/base`." in card.text
    assert card.data.datasets == ["me/photos"] and "Trained on `me/photos`, 2 rows." in card.text
    assert "its licence is not known here" in card.text and "not stated" in card.text


def test_a_trainer_leaves_what_its_command_has_written(server, tiny_model, tiny_processor, tmp_path, monkeypatch):
    tiny_model.save_pretrained(tmp_path / "runs" / "base")
    tiny_processor.save_pretrained(tmp_path / "runs" / "base")
    monkeypatch.chdir(tmp_path)
    training = {"output_dir": "runs/own", "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}
    training |= {"report_to": "none", "hub_model_id": "me/own"}
    config = {"model": {"from_pretrained": "runs/base"}, "data": {"train": {"scenes": 4}}, "training": training}
    trainer = build_trainer(config)
    train_and_report(trainer)
    folder = tmp_path / "runs" / "own"
    before = {path: path.read_bytes() for path in folder.glob("train_*.json")}
    shutil.rmtree(tmp_path / "runs" / "base")  # what is no path today was one then
    trainer.push_to_hub()
    assert len(before) == 3 and all(path.read_bytes() == content for path, content in before.items())
    files = server.repositories["me/own"]
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model is None and "Started from `base`." in card.text
    assert not any(b"runs/base" in content for content in files.values())
    trainer.train()  # another run in the same place
    trainer.push_to_hub()
    runtime = trainer.state.log_history[-1]["train_runtime"]
    assert json.loads((folder / "train_results.json").read_text())["train"]["train_runtime"] == runtime


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
    assert main(["push", str(run_folder), "me/model", "--dry-run", str(tmp_path / "dry")]) == 0
    assert {"README.md", "model.safetensors"} <= {path.name for path in (tmp_path / "dry").iterdir()}


def write_half(file):
    Path(file).write_bytes(b"half")
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("target", "writer", "name"),
    [
        ("huggingface_hub.ModelCard.save", lambda card, file: write_half(file), "README.md"),
        ("shutil.copyfile", lambda source, file: write_half(file), "train_curves.png"),
    ],
)
def test_a_failure_leaves_the_old_file(run_folder, tmp_path, monkeypatch, target, writer, name):
    (run_folder / "train_curves.png").write_bytes(b"curves")
    build_repository(run_folder, tmp_path / "dry", "me/model")
    path = tmp_path / "dry" / name
    path.write_bytes(b"old")
    monkeypatch.setattr(target, writer)
    with pytest.raises(OSError, match="the disk is full"):
        build_repository(run_folder, tmp_path / "dry", "me/model")
    assert path.read_bytes() == b"old" and not list((tmp_path / "dry").glob(".*"))
