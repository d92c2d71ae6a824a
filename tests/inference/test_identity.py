"""Hashes: equal for what is the same, different for what changes a result."""

import hashlib
import io
import os

import pytest
import torch
from PIL import Image

from beta_clip_hf.inference import identity
from beta_clip_hf.inference.identity import config_hash, image_digest, loaded_model_hash, model_hash
from beta_clip_hf.inference.models import load_model


def test_a_file_has_one_digest_however_it_is_given(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, "PNG")
    content = buffer.getvalue()
    path = tmp_path / "red.png"
    path.write_bytes(content)
    expected = hashlib.sha256(content).digest()
    assert image_digest(path) == image_digest(str(path)) == image_digest(content) == expected
    assert image_digest({"bytes": content, "path": "elsewhere.png"}) == expected
    assert image_digest({"bytes": None, "path": str(path)}) == expected
    with pytest.raises(OSError, match="gone"):
        image_digest(tmp_path / "gone.png")


def test_an_image_without_a_file_has_the_digest_of_its_pixels():
    image = Image.new("RGB", (4, 3), "red")
    assert image_digest(image) == image_digest(image.copy())
    others = [Image.new("RGB", (4, 3), "blue"), Image.new("RGB", (3, 4), "red"), Image.new("L", (12, 3), 0)]
    assert len({image_digest(other) for other in [image, *others]}) == 4


def test_weights_have_one_hash_and_every_change_another(tiny_model):
    before = model_hash(tiny_model)
    assert before == model_hash(tiny_model)
    with torch.no_grad():
        tiny_model.visual_projection.weight[0, 0] += 1
    changed = model_hash(tiny_model)
    halved = model_hash(tiny_model.to(torch.bfloat16))
    assert len({before, changed, halved}) == 3


def test_the_weights_of_files_that_have_not_changed_are_hashed_once(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "HF_HOME", str(tmp_path / "home"))
    hashed = []
    monkeypatch.setattr(identity, "model_hash", lambda model: hashed.append(1) or model_hash(model))

    def found(dtype=torch.float32):
        model = load_model(str(checkpoint), torch.device("cpu"), dtype).model
        assert loaded_model_hash(str(checkpoint), model) == model_hash(model)
        return len(hashed)

    # Files that may still be written to are hashed each time.
    assert [found(), found()] == [1, 2]

    def age(seconds):
        for path in checkpoint.iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))

    age(60)
    assert [found(), found()] == [3, 3]
    assert [found(torch.bfloat16), found(torch.bfloat16), found()] == [4, 4, 4]
    age(60)
    assert [found(), found()] == [5, 5]
    # Another file of the same size.
    with torch.no_grad():
        model = load_model(str(checkpoint), torch.device("cpu")).model
        model.visual_projection.weight[0, 0] += 1
        model.save_pretrained(checkpoint)
    age(30)
    assert [found(), found()] == [6, 6]


def test_a_home_that_cannot_be_written_to_costs_only_the_hash(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setattr(identity, "HF_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(identity, "_SETTLED_SECONDS", -60.0)
    model = load_model(str(checkpoint), torch.device("cpu")).model
    assert loaded_model_hash(str(checkpoint), model) == model_hash(model)


def test_the_place_of_a_configuration_does_not_count(tiny_model, tiny_processor):
    before = config_hash(tiny_model, tiny_processor)
    tiny_model.config._name_or_path = "elsewhere"
    assert config_hash(tiny_model, tiny_processor) == before
    tiny_model.config.vision_config.hidden_act = "relu"
    assert config_hash(tiny_model, tiny_processor) != before


def test_the_last_call_of_a_tokenizer_does_not_count(tiny_model, tiny_processor):
    before = config_hash(tiny_model, tiny_processor)
    tiny_processor(text=["a dog", "two dogs"], padding=True, return_tensors="pt")
    assert config_hash(tiny_model, tiny_processor) == before
