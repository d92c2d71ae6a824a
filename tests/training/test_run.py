"""Training from a configuration to a directory that loads again; streams; rows that cannot be used."""

import io
import json
import math
import tarfile
from itertools import chain

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.training.run import train_and_report
from beta_clip_hf.training.setup.build import build_trainer
from beta_clip_hf.training.streams import EndlessBatches
from training.tiny_runs import StopAt


pytestmark = pytest.mark.slow


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MODEL = {
    "tokenizer": {"vocab_size": 600},
    "from_scratch": {
        "projection_dim": 32,
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
        "text_config": {**TOWER, "max_position_embeddings": 96},
    },
}


def config_of(train, output_dir, **training):
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "save_strategy": "no", "logging_steps": 1}
    return {
        "model": MODEL,
        "data": {"train": train, "num_phrases": 4},
        "training": {**settings, "output_dir": str(output_dir), "use_cpu": True, "disable_tqdm": True, **training},
    }


def jpeg(row):
    buffer = io.BytesIO()
    row["image"].save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo_rows(tmp_path_factory):
    """A JSONL file of 12 pictures, one of which is no picture and one is not there."""
    folder = tmp_path_factory.mktemp("photos")
    lines = []
    for index, row in enumerate(SceneDataset(12, level="easy")):
        name = f"{index}.jpg"
        if index != 3:
            (folder / name).write_bytes(b"no picture" if index == 5 else jpeg(row))
        lines.append(json.dumps({"id": f"row-{index}", "image": name, "caption": row["caption"]}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder / "train.jsonl"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two tars with 9 rows each."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for index in range(9 * shard, 9 * shard + 9):
                row = SceneDataset(18, level="easy")[index]
                for name, content in ((f"{index}.jpg", jpeg(row)), (f"{index}.txt", row["caption"].encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return str(folder / "train-*.tar")


def test_from_a_file_to_a_directory_that_loads(photo_rows, tmp_path):
    config = tmp_path / "config.json"
    output = tmp_path / "run"
    config.write_text(json.dumps({"model": MODEL, "training": {"use_cpu": True, "disable_tqdm": True}}))
    words = ["train", "--config", str(config), "--train-data", str(photo_rows), "--eval-data", str(photo_rows)]
    words += ["--output", str(output), "--steps", "3", "--batch-size", "4", "--seed", "7"]
    assert main([*words, "--set", "training.save_strategy=no", "--set", "training.logging_steps=1"]) == 0

    results = json.loads((output / "train_results.json").read_text())
    assert results["before"]["eval_images"] == results["after"]["eval_images"] == 10
    assert 0 <= results["after"]["eval_t2i_r1"] <= 1 and results["train"]["train_loss"] > 0.1
    assert results["skipped_rows"]["reading"] == 1 and results["skipped_rows"]["evaluation"] == 2
    assert results["skipped_rows"]["training"] >= 1
    records = [record for record in json.loads((output / "train_log.json").read_text()) if "loss" in record]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert json.loads((output / "train_config.json").read_text())["training"]["seed"] == 7
    assert Image.open(output / "train_curves.png").width > 500

    model, processor = BetaCLIPModel.from_pretrained(output), BetaCLIPProcessor.from_pretrained(output)
    assert processor.max_length == 96 and model.config.text_config.vocab_size == len(processor.tokenizer)
    batch = processor(images=SceneDataset(2)[0]["image"], hierarchies=["a red square"])
    assert model(**batch).contextualized_embeds.shape == (1, 32)


def test_strict_makes_a_bad_row_an_error(photo_rows, tmp_path, capsys):
    words = ["train", "--train-data", str(photo_rows), "--output", str(tmp_path / "run"), "--model", "unused/unused"]
    assert main([*words, "--set", "training.use_cpu=true", "--strict"]) == 1
    error = capsys.readouterr().err
    assert "train.jsonl:4" in error and "3.jpg" in error


def test_the_same_configuration_gives_the_same_model(tmp_path):
    config = config_of({"scenes": 12, "level": "easy"}, tmp_path / "a")
    trainers = [build_trainer(config_of({"scenes": 12, "level": "easy"}, tmp_path / name)) for name in "ab"]
    for trainer in trainers:
        trainer.train()
    first, second = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert config["data"]["train"] == {"scenes": 12, "level": "easy"}  # settings are not used up


def test_a_run_too_short_to_log_a_loss_is_still_a_run(tmp_path):
    config = tmp_path / "config.json"
    settings = config_of({"scenes": 8, "level": "easy"}, tmp_path / "run", max_steps=1, logging_steps=10)
    config.write_text(json.dumps(settings))
    assert main(["train", "--config", str(config)]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file() and not (tmp_path / "run" / "train_curves.png").exists()


def test_nan_ends_the_command_with_the_log_written(photo_rows, tmp_path, monkeypatch, capsys):
    from beta_clip_hf.training import trainer as module

    def poisoned(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = compute_loss(self, model, inputs)
        bad = loss * (float("nan") if self.state.global_step == 2 else 1)
        self._guard.watch(bad)
        return bad

    compute_loss = module.BetaCLIPTrainer.compute_loss
    monkeypatch.setattr(module.BetaCLIPTrainer, "compute_loss", poisoned)
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(config_of({"scenes": 8, "level": "easy"}, tmp_path / "run", save_strategy="steps", save_steps=1))
    )
    assert main(["train", "--config", str(config)]) == 1
    told = capsys.readouterr().err
    assert "checkpoint-2" in told and "steps 3 to 3" in told
    assert all(
        math.isfinite(record.get("loss", 0)) for record in json.loads((tmp_path / "run" / "train_log.json").read_text())
    )
    assert (tmp_path / "run" / "checkpoint-2").is_dir() and not (tmp_path / "run" / "checkpoint-3").exists()


def test_a_stream_goes_on_after_its_end_and_resumes_bit_for_bit(shards, tmp_path):
    """18 rows, 16 steps of 4: several passes. Cut after 7 steps and resumed, it ends with the same weights."""
    tokenizer = tmp_path / "tokenizer"
    build_trainer(config_of({"scenes": 8}, tmp_path / "unused")).processing_class.tokenizer.save_pretrained(tokenizer)

    def trainer_of(name, resume=False):
        config = config_of(shards, tmp_path / name, max_steps=10, save_strategy="steps", save_steps=7)
        config["model"] = {**MODEL, "tokenizer": str(tokenizer)}
        return build_trainer(config, resume=resume)

    whole, cut = trainer_of("whole"), trainer_of("cut")
    whole.train()
    cut.add_callback(StopAt(7))
    cut.train()
    resumed = trainer_of("cut", resume=True)
    train_and_report(resumed, str(tmp_path / "cut" / "checkpoint-7"))
    expected, weights = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
    assert whole.data_collator._epoch.get() > 0  # there was a second pass, with other texts


def test_passes_of_a_stream(shards):
    epochs = []

    class Collator:
        def set_epoch(self, epoch):
            epochs.append(epoch)

        def __call__(self, rows):
            return [row["id"] for row in rows]

    rows = load_rows(shards, shuffle_buffer=5)
    batches = EndlessBatches(DataLoader(rows, batch_size=4, drop_last=True, collate_fn=Collator()))
    seen = [batch for batch, _ in zip(DataLoader(batches, batch_size=None), range(9), strict=False)]
    passes = [list(chain.from_iterable(seen[start : start + 4])) for start in (0, 4)]
    assert [len(set(ids)) for ids in passes] == [16, 16] and passes[0] != passes[1]
    assert epochs == [0, 1, 2]
    with pytest.raises(ValueError, match="gave none"):
        next(iter(EndlessBatches(DataLoader(rows, batch_size=50, drop_last=True))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None}, "model.tokenizer must be given"),
        ({"tokenizer": {"size": 3}}, "must be a path, an id or a vocab_size"),
    ],
)
def test_wrong_models(tmp_path, change, message):
    config = config_of({"scenes": 8}, tmp_path)
    config["model"] = {**MODEL, **change}
    with pytest.raises(ValueError, match=message):
        build_trainer(config)


def test_a_tokenizer_with_more_ids_than_the_model_has(tiny_clip_dir, tiny_tokenizer, tmp_path):
    config = config_of({"scenes": 8}, tmp_path)
    config["model"] = {"from_pretrained": str(tiny_clip_dir), "tokenizer": {"vocab_size": 700}}
    with pytest.raises(ValueError, match="must have at most the model's 514 ids"):
        build_trainer(config)
    config["model"]["tokenizer"] = {"vocab_size": 514}
    trainer = build_trainer(config)
    assert trainer.model.config.text_config.max_position_embeddings == trainer.processing_class.max_length == 248
    assert trainer.processing_class.image_processor.crop_size["height"] == 32
