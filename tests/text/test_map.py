import json
from pathlib import Path

import pytest

from beta_clip_hf.text.hierarchy import build_text_hierarchy
from beta_clip_hf.text.map import map_text_hierarchy
from beta_clip_hf.text.phrases import PhraseExtractor
from text.other_process import run_python


datasets = pytest.importorskip("datasets", reason="needs datasets, which is not installed")

CAPTIONS = ["A black dog runs through the grass. It is wet.", "Two red cubes next to a sphere.", "一只狗。"]
WORK = """
import datasets
from beta_clip_hf.text.map import map_text_hierarchy
dataset = datasets.load_dataset("json", data_files=FILE, split="train", cache_dir=CACHE)
print(map_text_hierarchy(dataset)[0]["phrases"])
"""
# Where nothing can be computed, only a cache can answer; another extractor must miss it.
CACHE_ONLY = (
    """
import beta_clip_hf.text.map
from beta_clip_hf.text.phrases import PhraseExtractor
def refuse(*arguments, **options):
    raise ValueError("the cache was missed")
beta_clip_hf.text.map.build_text_hierarchy = refuse
"""
    + WORK
    + """
try:
    map_text_hierarchy(dataset, extractor=PhraseExtractor(kinds=["verb"]))
except ValueError as error:
    print(error)
"""
)


@pytest.fixture
def captions_file(tmp_path: Path) -> Path:
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps({"caption": caption}) + "\n" for caption in CAPTIONS), encoding="utf-8")
    return path


def test_columns() -> None:
    dataset = datasets.Dataset.from_dict({"caption": CAPTIONS, "id": [1, 2, 3]})
    mapped = map_text_hierarchy(dataset)
    assert mapped.column_names == ["caption", "id", "sentences", "phrases", "phrase_sentences", "phrase_kinds"]
    for row in mapped:
        fields = build_text_hierarchy(row["caption"]).to_dict()
        assert {name: row[name] for name in mapped.column_names[2:]} == {n: fields[n] for n in mapped.column_names[2:]}


@pytest.mark.slow
def test_a_second_process_hits_the_cache(captions_file: Path) -> None:
    place = f"FILE, CACHE = {str(captions_file)!r}, {str(captions_file.parent / 'cache')!r}\n"
    first = run_python(place + WORK, hash_seed="1")
    assert first.stdout == "['A black dog', 'runs through', 'the grass']\n", first.stderr
    second = run_python(place + CACHE_ONLY, hash_seed="2")
    assert second.stdout.startswith(first.stdout), second.stderr
    assert "the cache was missed" in second.stdout


def test_fingerprints(captions_file: Path) -> None:
    dataset = datasets.load_dataset(
        "json", data_files=str(captions_file), split="train", cache_dir=str(captions_file.parent)
    )
    plain = map_text_hierarchy(dataset)
    assert map_text_hierarchy(dataset)._fingerprint == plain._fingerprint
    nouns = map_text_hierarchy(dataset, extractor=PhraseExtractor(kinds=["noun"]))
    assert nouns._fingerprint != plain._fingerprint
    assert nouns[0]["phrases"] == ["A black dog", "the grass"]


def test_errors_name_the_row_and_the_columns() -> None:
    dataset = datasets.Dataset.from_dict({"text": ["A dog.", " "]})
    with pytest.raises(ValueError, match=r"caption_column must be one of \['text'\]"):
        map_text_hierarchy(dataset)
    with pytest.raises(ValueError, match="row 1, column 'text': caption must hold some text"):
        map_text_hierarchy(dataset, caption_column="text")


def test_workers() -> None:
    dataset = datasets.Dataset.from_dict({"caption": CAPTIONS})
    assert map_text_hierarchy(dataset, num_proc=2)[:] == map_text_hierarchy(dataset)[:]


def test_columns_have_their_types_where_nothing_is_found() -> None:
    """A part of the rows without any phrase says nothing of its types; the parts of several processes must agree."""
    dataset = datasets.Dataset.from_dict({"caption": ["It is so.", "A dog on a sofa."], "other": [1, 2]})
    whole = map_text_hierarchy(dataset)
    assert whole.select([0])[0]["phrases"] == []
    alone = map_text_hierarchy(dataset.select([0]))
    assert alone.features == whole.features
    assert alone.features["phrases"].feature.dtype == "string"
    assert alone.features["phrase_sentences"].feature.dtype == "int64"
