"""Ways to write the path of a file: home directory, back-slashes, percent signs, accents, letters of a glob."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from beta_clip_hf.data.paths import find_path, usual_place
from beta_clip_hf.data.readers import load_rows
from data.source_files import photo


NFC = unicodedata.normalize("NFC", "Café é")
NFD = unicodedata.normalize("NFD", NFC)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path


def one_row(folder, written, *, name="rows.jsonl"):
    (folder / name).write_text(json.dumps({"image": written, "caption": "A photo."}) + "\n")
    [row] = load_rows(folder / name, strict=True)
    return Path(row["image"])


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("in/a.png", "in\\a.png"),
        ("in/a.png", ".\\in\\a.png"),
        ("in/a b.png", "in/a%20b.png"),
        ("in/100%.png", "in/100%.png"),
        ("in/a%20b.png", "in/a%20b.png"),
        ("in/a\\b.png", "in/a\\b.png"),
        ("in/~a.png", "in/~a.png"),
        ("in/[1]*.png", "in/[1]*.png"),
        (f"in/{NFC}.png", f"in/{NFC}.png"),
        (f"in/{NFC}.png", f"in/{NFD}.png"),
        (f"in/{NFD}.png", f"in/{NFC}.png"),
        (f"in/{NFC}.png", f"in\\{NFD}.png"),
        ("in/Größe 5:3.png", "in/Gro\u0308ße 5:3.png"),
    ],
)
def test_images_are_found_as_they_are_written(folder, file, written):
    (folder / file).write_bytes(photo(1))
    assert one_row(folder, written) == folder / file


def test_folders_and_files_in_other_forms(folder):
    (folder / NFD).mkdir()
    (folder / NFD / f"{NFC}.png").write_bytes(photo(1))
    assert one_row(folder, f"{NFC}/{NFD}.png") == folder / NFD / f"{NFC}.png"


def test_what_is_there_comes_before_what_may_be_meant(folder):
    (folder / "in" / "a%20b.png").write_bytes(photo(1))
    (folder / "in" / "a b.png").write_bytes(photo(2))
    assert one_row(folder, "in/a%20b.png").name == "a%20b.png"


def test_addresses_of_files_and_absolute_paths(folder):
    (folder / "in" / "a b.png").write_bytes(photo(1))
    assert one_row(folder, (folder / "in" / "a b.png").as_uri()).samefile(folder / "in" / "a b.png")
    assert one_row(folder, str(folder / "in" / "a b.png")).samefile(folder / "in" / "a b.png")


def test_a_path_that_leads_nowhere_is_named_as_written(folder):
    (folder / "rows.jsonl").write_text(json.dumps({"image": "in\\absent é.png", "caption": "A photo."}) + "\n")
    with pytest.raises(ValueError, match=r"in\\\\absent é\.png.*image_root \(--image-root\)"):
        load_rows(folder / "rows.jsonl")


@pytest.mark.parametrize("name", ["100%.jsonl", "[1].jsonl", "a*b.jsonl", f"{NFD}.jsonl", "~.jsonl", "{0..3}.jsonl"])
def test_names_of_sources(folder, name):
    (folder / "a.png").write_bytes(photo(1))
    assert one_row(folder, "a.png", name=name) == folder / "a.png"
    other_form = unicodedata.normalize("NFC", name)
    assert len(load_rows(folder / other_form)) == 1


def test_the_home_directory(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "in" / "a.png").write_bytes(photo(1))
    assert one_row(folder, "~/in/a.png") == folder / "in" / "a.png"
    for source in ("~/rows.jsonl", "~/r*.jsonl", ["~/rows.jsonl"], Path("~/rows.jsonl")):
        assert len(load_rows(source)) == 1
    (folder / "elsewhere").mkdir()
    (folder / "rows.jsonl").rename(folder / "elsewhere" / "rows.jsonl")
    (folder / "elsewhere" / "rows.jsonl").write_text('{"image": "a.png", "caption": "A photo."}\n')
    assert len(load_rows("~/elsewhere/rows.jsonl", image_root="~/in")) == 1
    with pytest.raises(ValueError, match="source must"):
        load_rows("~/absent.jsonl")


def test_tables_of_other_kinds_in_folders_with_such_names(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    top = folder / "[2020] 100%"
    top.mkdir()
    (top / "a.png").write_bytes(photo(1))
    table = datasets.Dataset.from_dict({"image": ["a.png"], "caption": ["A photo."]})
    table.to_parquet(top / "rows [1].parquet")
    assert len(load_rows(top / "rows [1].parquet")) == 1
    (top / "rows.csv").write_text("image,caption\na.png,A photo.\n")
    assert len(load_rows(top / "rows.csv")) == 1
    (top / "a.txt").write_text("A photo.")
    assert len(load_rows(top, format="sidecar")) == 1


def test_find_path_and_usual_place(folder):
    assert find_path("absent.png", "root") == os.path.join("root", "absent.png")
    assert usual_place(["a", 1]) == ["a", 1]
    assert usual_place([{"image": "a"}]) == [{"image": "a"}]
    assert usual_place(None) is None
