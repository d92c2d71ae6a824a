"""Files that strangers have written: mutated at random, with code, with links. Each is one sentence, or is read."""

import copy
import json
import logging
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from beta_clip_cli.errors import sentence_of, visible
from beta_clip_cli.main import VisibleFormatter
from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.evaluation.compare import compare, format_comparison
from beta_clip_hf.files import naming_errors, replacing, write_json, write_text
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.inference.stored_sizes import check_sizes


CPU = torch.device("cpu")
ODD_VALUES = [None, True, -1, 0, 3, 10**12, 10**30, 1e308, float("nan"), "", "\x1b[2J", "../..", [], {}, [[]], {"a": 1}]


def places(value, place=()):
    """The places of all values in a tree of JSON."""
    found = [place] if place else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*place, key))
    return found


def mutated(content, rng):
    """The bytes of a JSON file with something wrong in it."""
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        position = rng.randrange(len(content))
        return content[:position] + bytes([rng.randrange(256)]) + content[position + 1 :]
    tree = copy.deepcopy(json.loads(content))
    *path, key = rng.choice(places(tree))
    parent = tree
    for step in path:
        parent = parent[step]
    if kind == 2:
        del parent[key]
    else:
        parent[key] = rng.choice(ODD_VALUES)
    return json.dumps(tree).encode()


def is_told(error, name):
    sentence = sentence_of(error, [name])
    return sentence is not None and "\n" not in sentence and (name in sentence or isinstance(error, ValueError))


@pytest.mark.slow
# Damaged files make other libraries warn, in words that differ from version to version; what counts is how it ends.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_mutated_model_directory_is_read_or_told(file, checkpoint):
    path = checkpoint / file
    if not path.exists():
        pytest.skip("this version of transformers does not write it")
    content = path.read_bytes()
    rng = random.Random(file)
    for _ in range(25):
        path.write_bytes(mutated(content, rng))
        try:
            load_model(str(checkpoint), CPU)
        except Exception as error:
            assert is_told(error, str(checkpoint)), (path.read_bytes()[:200], repr(error))


RESULT = {
    "schema": 3,
    "model": {"name": "a"},
    "tasks": {"photos": {"protocol": "p", "data": "d", "subset": None, "dtype": "float32", "figures": {}}},
}


def test_mutated_results_are_read_or_told(tmp_path):
    from beta_clip_hf.evaluation.results import SCHEMA

    paths = [tmp_path / side / "results.json" for side in "ab"]
    for path in paths:
        write_json({**RESULT, "schema": SCHEMA}, path)
        (path.parent / "values").mkdir()
        save_file({"unused": torch.zeros(1)}, path.parent / "values" / "photos.safetensors")
    content = paths[0].read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        paths[0].write_bytes(mutated(content, rng))
        try:
            format_comparison(compare(*paths))
        except Exception as error:
            assert is_told(error, str(paths[0])), (paths[0].read_bytes(), repr(error))


@pytest.mark.parametrize("index", range(3))
def test_a_mutated_index_is_told(index, tmp_path):
    pytest.importorskip("lancedb")
    from beta_clip_hf.search.table import ImageTable

    path = tmp_path / "photos.index"
    table = ImageTable.create(path, 8, {"schema": 1, "model": "m"})
    del table
    files = sorted(found for found in path.rglob("*") if found.is_file())
    rng = random.Random(index)
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: rng.randrange(len(content))] if index else b"\xff" * len(content))
        try:
            len(ImageTable.open(path))
        except Exception as error:
            assert is_told(error, str(path)), (file, repr(error))
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 10**9),
        ("vocab_size", 10**12),
        ("num_hidden_layers", 10**6),
        ("image_size", -1),
        ("patch_size", "8"),
    ],
)
def test_no_model_is_built_that_no_machine_could_hold(key, value, checkpoint, monkeypatch):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    part = "text_config" if key in ("vocab_size", "num_hidden_layers") else "vision_config"
    config[part][key] = value
    path.write_text(json.dumps(config))
    monkeypatch.setattr(BetaCLIPModel, "from_pretrained", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(ValueError, match=rf"{key} of config\.json: {part} must be a whole number from 1 to"):
        load_model(str(checkpoint), CPU)


def test_the_sizes_of_real_models_pass():
    check_sizes(
        {"projection_dim": 1280, "text_config": {"vocab_size": 256_000, "hidden_size": 1664}, "vision_config": {}}
    )


EVIL = "raise SystemExit('the code of the checkpoint ran')\n"


@pytest.mark.filterwarnings("ignore")
def test_code_in_a_model_directory_never_runs(checkpoint, monkeypatch):
    # Whoever is asked would say yes.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (checkpoint / "evil.py").write_text(EVIL)
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        path = checkpoint / name
        values = json.loads(path.read_text()) if path.exists() else {}
        classes = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
        values["auto_map"] = {**dict.fromkeys(classes, "evil.Evil"), "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        if name != "preprocessor_config.json" or path.exists():
            path.write_text(json.dumps(values))
    try:
        loaded = load_model(str(checkpoint), CPU)
    except (ValueError, OSError):
        pass
    else:
        assert type(loaded.model) is BetaCLIPModel
    assert not any(module.endswith("evil") for module in sys.modules)


def test_a_planted_link_is_not_followed(tmp_path):
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    output = tmp_path / "output"
    output.mkdir()
    path = output / "results.json"
    with replacing(path) as unfinished:
        unfinished.write_text("old")
    for link in (path, unfinished):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write_text(path, "new")
        assert target.read_text() == "mine"
        assert path.read_text() == "new" and not path.is_symlink()
        assert sorted(entry.name for entry in output.iterdir()) == ["results.json"]


def test_control_characters_do_not_reach_the_terminal():
    text = "a \x1b]0;title\x07 \x9b2J \r \x00 \u202e dog\n\tand hf_abcdefghijklmnop"
    shown = visible(text)
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
    assert "\x9b" not in shown and "\u202e" not in shown and r"\x1b]0;title\x07" in shown
    record = logging.LogRecord("beta_clip_hf", logging.INFO, "", 0, "%s", (text,), None)
    line = VisibleFormatter("%(message)s").format(record)
    assert "\x1b" not in line and "abcdefghijklmnop" not in line


def test_errors_name_the_file_whatever_breaks():
    message = r"a\.json must be results, but cannot be read \(KeyError: 'tasks'\)"
    with pytest.raises(ValueError, match=message), naming_errors("a.json", "results"):
        _ = {}["tasks"]
    with pytest.raises(ValueError, match=r"^a\.json: Expecting value"), naming_errors("a.json", "results"):
        json.loads("")
    with pytest.raises(FileNotFoundError), naming_errors("a.json", "results"):
        Path("/nowhere/a.json").read_text()
    with pytest.raises(ValueError, match=r"^hidden_size of"), naming_errors("a.json", "results"):
        check_sizes({"hidden_size": 0})
