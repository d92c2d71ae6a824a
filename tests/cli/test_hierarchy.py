"""`beta-clip hierarchy`: its words, its report, and its mistakes in one sentence."""

import json
from pathlib import Path

import pytest
from PIL import Image

from beta_clip_cli import arguments, hierarchy
from beta_clip_cli.main import main
from beta_clip_hf.data.readers import FORMATS, load_rows
from beta_clip_hf.text.phrases import KINDS, PhraseExtractor


CAPTIONS = ["A black dog runs through the grass. It is wet.", "Two red cubes next to a sphere.", ""]


@pytest.fixture
def words(tmp_path) -> list[str]:
    """The command for three records, the last one without a caption."""
    records = []
    for number, caption in enumerate(CAPTIONS):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        records.append({"image": f"{number}.png", "caption": caption})
    source = tmp_path / "list.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    return ["hierarchy", str(source), "--output", str(tmp_path / "built"), "--num-proc", "1"]


def test_names_are_those_of_the_library() -> None:
    assert arguments.FORMATS == FORMATS
    assert hierarchy.KINDS == KINDS
    with pytest.raises(ValueError, match=r"tagger must be one of \['nltk', 'rules', 'textblob'\]"):
        PhraseExtractor("absent")
    assert sorted(hierarchy.TAGGERS) == ["nltk", "rules", "textblob"]


def test_shards_are_built_and_reported(words, tmp_path, capsys) -> None:
    for part in range(2):
        assert main([*words, "--shard", f"{part}/2", "--kinds", "noun", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.split("\n}\n")[1] + "\n}")
    path = Path(tmp_path, "built", "train-00001-of-00002.jsonl")
    assert report["output"] == str(path)
    assert (report["rows"], report["skipped"], report["bytes"]) == (1, 1, path.stat().st_size)
    assert report["settings"]["kinds"] == ["noun"] and report["settings"]["tagger"] == "rules"
    assert load_rows(tmp_path / "built")[0]["phrases"] == ["A black dog", "the grass"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--shard", "2/2"], "shard must be i/n with 0 <= i < n, but is 2/2"),
        (["--shard", "one"], "--shard must be I/N, as in 0/4, but is 'one'"),
        (["--columns", "text"], "--columns must be THEIRS=OURS, each once, but is ['text']"),
        (["--num-proc", "0"], "num_proc must be at least 1, but is 0"),
        (["--shard", "2/3"], "list.jsonl must have a row that can be used, but all 1 were skipped"),
        (["--strict"], "list.jsonl:3: caption must be a string that is not empty, but is ''"),
    ],
)
def test_mistakes_are_one_sentence(words, capsys, wrong, message) -> None:
    assert main([*words, *wrong]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_source_that_is_not_there(words, tmp_path) -> None:
    assert main(["hierarchy", "absent-*.tar", "--output", str(tmp_path / "built")]) == 1
