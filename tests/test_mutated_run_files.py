"""Recipes and records of runs that a stranger has changed: each is read, or is one sentence that names the file."""

import json
import random
import tracemalloc

import pytest

from beta_clip_cli.errors import sentence_of
from beta_clip_hf.files import write_json
from beta_clip_hf.release.measured_results import IMAGES_FILE
from beta_clip_hf.release.model_card import render_card
from beta_clip_hf.training.setup.config import check_complete, read_config
from test_strangers_files import mutated


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Far more than a recipe or a record takes, and far less than a machine has.
MOST_BYTES = 64 * 2**20
ODD_WORDS = ("!!python/object/apply:os.system [ls]", "*unknown", "[[[", "{}", "? [1]", ".nan", "1e999", "\t", "- 1")
LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
ODD_RECIPES = (
    "model: 3", "model: [1, 2]", "data: text", "- 1", "3: {}", "? [a]\n: 1", "a: " + "[" * 400, "\x00", "a: &a [*a]",
    "", LAUGHS, "training: &t {max_steps: *t}", "model: {config: 7}", "training: {seed: [[[[]]]]}",
)  # fmt: skip


def assert_read_or_told(function, path, content):
    """Reads what a file holds. An error must be one sentence, and nothing large may be allocated."""
    tracemalloc.start()
    try:
        function()
    except Exception as error:
        sentence = sentence_of(error, [])
        assert sentence is not None and "\n" not in sentence and len(sentence) < 2000, (content[:300], repr(error))
        assert str(path) in sentence or isinstance(error, ValueError), (content[:300], sentence)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_BYTES, content[:300]


def mutated_text(text, rng):
    """A text of YAML with something wrong in it: cut, a byte changed, a line lost, twice there or turned round."""
    kind = rng.randrange(5)
    lines = text.splitlines()
    place = rng.randrange(len(lines))
    if kind == 0:
        return text[: rng.randrange(len(text))].encode()
    if kind == 1:
        content = bytearray(text.encode())
        content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    if kind == 2:
        del lines[place]
    elif kind == 3:
        lines.insert(place, lines[rng.randrange(len(lines))])
    else:
        lines[place] = lines[place].partition(":")[0] + ": " + rng.choice(ODD_WORDS)
    return "\n".join(lines).encode()


def test_a_mutated_recipe_is_read_or_told(project_dir, tmp_path):
    rng = random.Random(0)
    path = tmp_path / "recipe.yaml"

    def read():
        check_complete(read_config(path, [("data.train", "a.jsonl"), ("training.output_dir", "out")]))

    for source in sorted((project_dir / "examples" / "configs").glob("*.yaml")):
        text = source.read_text(encoding="utf-8")
        for _ in range(12):
            content = mutated_text(text, rng)
            path.write_bytes(content)
            assert_read_or_told(read, path, content)


@pytest.mark.parametrize("content", ODD_RECIPES)
def test_a_recipe_of_another_shape_is_told(content, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    assert_read_or_told(lambda: check_complete(read_config(path)), path, content)


ENVIRONMENT = {"processes": 1, "hardware": "a processor", "precision": "float32", "torch": "2.13", "transformers": "5"}
RECORDS = {
    "train_config.json": {
        "model": {"from_pretrained": "a"},
        "data": {"train": "b.jsonl"},
        "training": {"max_steps": 3},
    },
    "train_results.json": {
        "before": {"eval_loss": 2.0, "eval_images": 4},
        "after": {"eval_loss": 1.0, "eval_images": 4},
        "training": {"train_runtime": 3.5, "train_loss": 1.5, "train_steps_per_second": 2.0},
        "run": {"steps": 3, "legs": [{"start": 0, "steps": 3}], "environment": ENVIRONMENT},
    },
    IMAGES_FILE: {"train": {"images": 2, "sha256": "0" * 32}, "evaluation": {"eval": 0.5}},
}


def test_mutated_records_of_a_card_are_read_or_told(checkpoint):
    for name, record in RECORDS.items():
        write_json(record, checkpoint / name)
    render_card(checkpoint, "me/model")
    rng = random.Random(1)
    for name in (*RECORDS, "config.json"):
        path = checkpoint / name
        content = path.read_bytes()
        for _ in range(30):
            changed = mutated(content, rng)
            path.write_bytes(changed)
            assert_read_or_told(lambda: str(render_card(checkpoint, "me/model")), path, changed)
        path.write_bytes(content)


def test_mutated_information_of_an_index_is_told(tmp_path):
    pytest.importorskip("lancedb")
    from beta_clip_hf.search import info as index_info
    from beta_clip_hf.search.index import PhotoIndex
    from beta_clip_hf.search.schema import SCHEMA
    from beta_clip_hf.search.table import ImageTable

    info = {"model": "none", "dtype": "float32", "sha256": "0" * 64, "precision": "float32", "truncate_dim": None}
    content = json.dumps({**info, "schema": SCHEMA, "stores_patches": False, "patch_width": 8}).encode()
    path = tmp_path / "photos.index"
    ImageTable.create(path, 8, info)
    rng = random.Random(2)
    read = json.loads
    for _ in range(60):
        changed = mutated(content, rng)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_info.json, "loads", lambda _, changed=changed: read(changed))
            assert_read_or_told(lambda: PhotoIndex.open(path).truncate_dim, path, changed)
