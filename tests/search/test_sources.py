"""What an index is given, it keeps: collections beside each other, moved photos, odd names and columns."""

import io
import json
import logging
import os
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf.search.columns import plain_columns, safe_names
from beta_clip_hf.search.index import PhotoIndex
from beta_clip_hf.search.sources import open_photos


pytestmark = pytest.mark.slow


@pytest.fixture
def index(tmp_path, embedder):
    """An empty index. `encoded` counts the images that its model has seen."""
    index = PhotoIndex.create(tmp_path / "index", embedder)
    encode = embedder.encode_images

    def counted(processed):
        index.encoded += len(processed.indices)
        return encode(processed)

    index.encoded = 0
    embedder.encode_images = counted
    return index


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(file, "PNG")
    return file.getvalue()


def rows_of(*colours):
    return [{"image": png(colour), "caption": colour} for colour in colours]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def counts(added):
    return added.new, added.moved, added.changed, added.updated, added.deleted, added.unchanged


# Collections


def saved_splits(folder):
    datasets = pytest.importorskip("datasets")
    splits = {
        name: datasets.Dataset.from_list(rows_of(*colours))
        for name, colours in {"train": ("red", "blue"), "test": ("green",)}.items()
    }
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def collections(tmp_path, kind):
    """Two collections with the arguments that tell them apart, of two images and of one."""
    if kind == "lists":
        return (rows_of("red", "blue"), {"name": "a"}), (rows_of("green"), {"name": "b"})
    if kind == "datasets":
        datasets = pytest.importorskip("datasets")
        first, second = datasets.Dataset.from_list(rows_of("red", "blue")), datasets.Dataset.from_list(rows_of("green"))
        return (first, {"name": "a"}), (second, {"name": "b"})
    if kind == "splits":
        folder = saved_splits(tmp_path / "saved")
        return (folder, {"split": "train"}), (folder, {"split": "test"})
    datasets = pytest.importorskip("datasets")
    for name, colours in {"a": ("red", "blue"), "b": ("green",)}.items():
        datasets.Dataset.from_list(rows_of(*colours)).to_parquet(tmp_path / f"{name}-00000.parquet")
    if kind == "ranges":
        datasets.Dataset.from_list(rows_of("red", "blue", "green")).to_parquet(tmp_path / "all.parquet")
        return (tmp_path / "all.parquet", {"take": 2}), (tmp_path / "all.parquet", {"skip": 2})
    if kind == "globs":
        return (str(tmp_path / "a-*.parquet"), {}), (str(tmp_path / "b-*.parquet"), {})
    return ([tmp_path / "a-00000.parquet"], {}), ([tmp_path / "b-00000.parquet"], {})


@pytest.mark.parametrize("kind", ["lists", "datasets", "splits", "ranges", "globs", "lists of files"])
def test_a_second_collection_stays_beside_the_first(index, tmp_path, kind):
    (first, first_options), (second, second_options) = collections(tmp_path, kind)
    assert counts(index.add(first, **first_options)) == (2, 0, 0, 0, 0, 0)
    assert counts(index.add(second, **second_options)) == (1, 0, 0, 0, 0, 0)
    assert len(index) == 3
    # Each is found again by itself.
    assert counts(index.add(first, **first_options)) == (0, 0, 0, 0, 0, 2)
    assert counts(index.add(second, **second_options)) == (0, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("0.txt", "A red picture.", "sidecar"),
        ("photos.jsonl", '{"image": "0.png", "caption": "A red picture."}', "imagefolder"),
    ],
)
def test_a_folder_says_that_texts_beside_its_photos_are_left_out(tmp_path, caplog, name, text, format):
    """The format that it names reads them."""
    caplog.set_level(logging.INFO)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    assert len(open_photos(tmp_path).keys()) == 1 and "without the texts" not in caplog.text
    (tmp_path / name).write_text(text)
    (key,) = open_photos(tmp_path).keys()
    assert f"without the texts that lie beside them; --format {format}" in caplog.text
    caplog.clear()
    photos = open_photos(tmp_path, format=format)
    assert photos.keys() == [key] and photos.row(key)["caption"] == "A red picture."
    assert "without the texts" not in caplog.text


@pytest.mark.parametrize("in_memory", [rows_of("red"), "Dataset"], ids=["list", "Dataset"])
def test_rows_in_memory_must_have_a_name(index, in_memory):
    if in_memory == "Dataset":
        in_memory = pytest.importorskip("datasets").Dataset.from_list(rows_of("red"))
    with pytest.raises(ValueError, match=r"name must be given for .* in memory \(name=, --name\)"):
        index.add(in_memory)
    with pytest.raises(ValueError, match="the name of a source must be text"):
        index.add(in_memory, name=" ")
    assert len(index) == 0


def test_a_name_makes_one_collection_of_several_places(index, tmp_path, photos, checkpoint):
    rows = [{"image": f"photos/{n}.png", "caption": "x"} for n in range(3)]
    first, second = jsonl(tmp_path / "a.jsonl", rows), jsonl(tmp_path / "b.jsonl", rows[1:])
    index.add(first, name="mine")
    # Rows without an id are called by their file and line, which are a column.
    assert counts(index.add(second, name="mine")) == (0, 0, 0, 2, 1, 0)
    words = ["index", str(first), "--output", str(tmp_path / "other"), "--model", str(checkpoint), "--device", "cpu"]
    assert main([*words, "--name", "mine"]) == 0
    assert {stored.file_source for stored in PhotoIndex.open(tmp_path / "other").table.known().values()} == {"mine"}


def test_relative_names_are_those_of_their_folder(index, tmp_path, monkeypatch):
    for folder, colour in (("one", "red"), ("two", "green")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (9, 9), colour).save(tmp_path / folder / "a.png")
        monkeypatch.chdir(tmp_path / folder)
        jsonl(tmp_path / folder / "rows.jsonl", [{"image": "a.png", "caption": colour}])
        index.add("rows.jsonl")
    assert len(index) == 2


# Folders


def test_links_to_a_folder_are_the_folder(index, tmp_path, photos):
    (tmp_path / "link").symlink_to(photos)
    (photos / "loop").symlink_to(photos)
    (photos / "again.png").symlink_to(photos / "0.png")
    assert counts(index.add(tmp_path / "link")) == (6, 0, 0, 0, 0, 0)
    assert counts(index.add(photos)) == (0, 0, 0, 0, 0, 6)
    rows = jsonl(tmp_path / "rows.jsonl", [{"image": "link/0.png", "caption": "red"}])
    assert counts(index.add(rows)) == (0, 0, 0, 1, 0, 0)


def test_folders_of_systems_are_left_out(photos):
    for name in ("@eaDir", "#recycle", ".thumbnails", "__MACOSX", "deep/@eaDir"):
        (photos / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(photos / name / "SYNOPHOTO_THUMB_M.jpg")
    assert len(open_photos(photos).keys()) == 6


def test_a_name_without_utf8_costs_one_photo(index, photos, capsys):
    with open(os.fsencode(photos) + b"/caf\xe9.png", "wb") as file:
        file.write(png("pink"))
    os.mkdir(os.fsencode(photos) + b"/\xff")
    with open(os.fsencode(photos) + b"/\xff/a.png", "wb") as file:
        file.write(png("pink"))
    added = index.add(photos)
    assert counts(added) == (6, 0, 0, 0, 0, 0) and len(added.unreadable) == 2
    assert sorted(map(os.path.basename, added.unreadable)) == ["a.png", "caf\\udce9.png"]
    json.dumps(added.unreadable).encode()


@pytest.mark.parametrize("field", ["caption", "place", "image", "id"])
def test_half_an_emoji_costs_one_row(index, tmp_path, field):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "b.png")
    bad = {"image": "b.png", "caption": "fine", field: "half \ud83d"}
    rows = jsonl(tmp_path / "rows.jsonl", [bad, {"image": "a.png", "caption": "whole 🙂"}])
    added = index.add(rows)
    # An image has no id in the index.
    if field != "id":
        assert counts(added) == (1, 0, 0, 0, 0, 0) and len(added.unreadable) == 1
        json.dumps(added.unreadable, ensure_ascii=False).encode()
    assert [hit.columns["caption"] for hit in index.search("x", where="caption LIKE '%🙂'")] == ["whole 🙂"]


# Moved photos


def test_a_renamed_folder_costs_no_embedding(index, photos):
    index.add(photos)
    before = {os.path.basename(key): fields.file_sha256 for key, fields in index.table.known().items()}
    vectors = index.table.fetch(list(index.table.known()), ["vector"])
    index.encoded = 0
    os.rename(photos / "below", photos / "below 2020")
    os.rename(photos / "0.png", photos / "first.png")
    assert counts(index.add(photos)) == (0, 2, 0, 0, 0, 4) and index.encoded == 0
    after = index.table.fetch([str(photos / "first.png"), str(photos / "below 2020/5.png")], ["vector"])
    assert after[str(photos / "first.png")] == vectors[str(photos / "0.png")]
    assert after[str(photos / "below 2020/5.png")] == vectors[str(photos / "below/5.png")]
    assert len(index) == 6 and before.keys() - {"0.png"} < {os.path.basename(key) for key in index.table.known()}
    assert counts(index.add(photos)) == (0, 0, 0, 0, 0, 6)


@pytest.mark.parametrize("store_patches", [False, True])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_moved_photos_are_found_and_reranked_as_before(tmp_path, embedder, photos, store_patches, precision):
    index = PhotoIndex.create(tmp_path / "index", embedder, store_patches=store_patches, precision=precision)
    index.add(photos)
    before = [(hit.image, hit.score) for hit in index.search("a red wall", rerank=6)]
    os.rename(photos, tmp_path / "moved")
    # The old place is another source, which the index keeps until it is indexed again.
    assert counts(index.add(tmp_path / "moved")) == (6, 0, 0, 0, 0, 0)
    found = index.search("a red wall", where=f"file_source = '{tmp_path / 'moved'}'", rerank=6)
    after = [(hit.image.replace("/moved/", "/photos/"), hit.score) for hit in found]
    assert [key for key, _ in after] == [key for key, _ in before]
    assert [score for _, score in after] == pytest.approx([score for _, score in before], abs=2e-3)


def test_photos_that_exchange_their_names_keep_their_embeddings(index, photos):
    index.add(photos)
    vectors = index.table.fetch(list(index.table.known()), ["vector"])
    index.encoded = 0
    for old, new in (("0.png", "spare"), ("1.png", "0.png"), ("spare", "1.png")):
        os.rename(photos / old, photos / new)
    assert counts(index.add(photos)) == (0, 0, 2, 0, 0, 4) and index.encoded == 0
    after = index.table.fetch([str(photos / "0.png"), str(photos / "1.png")], ["vector"])
    assert after[str(photos / "0.png")] == vectors[str(photos / "1.png")] != vectors[str(photos / "0.png")]
    assert after[str(photos / "1.png")] == vectors[str(photos / "0.png")]


def test_a_moved_photo_takes_the_columns_of_its_row(index, tmp_path, photos):
    rows = [{"image": f"photos/{n}.png", "caption": f"photo {n}"} for n in range(2)]
    index.add(jsonl(tmp_path / "rows.jsonl", rows))
    index.encoded = 0
    os.rename(photos / "1.png", photos / "one.png")
    rows[1] = {"image": "photos/one.png", "caption": "renamed", "year": 2020}
    assert counts(index.add(jsonl(tmp_path / "rows.jsonl", rows))) == (0, 1, 0, 0, 0, 1) and index.encoded == 0
    (hit,) = index.search("x", where="year = 2020")
    assert hit.image.endswith("one.png") and hit.columns["caption"] == "renamed"
    # Rows that are packed into a file keep it too, and have a preview then.
    packed = [{"image": (photos / name).read_bytes(), "caption": name, "id": name} for name in ("0.png", "one.png")]
    index.add(packed, name="packed")
    assert counts(index.add(packed[:1], name="packed")) == (0, 0, 0, 0, 1, 1)
    packed[0]["id"] = "zero"
    index.encoded = 0
    assert counts(index.add(packed[:1], name="packed")) == (0, 1, 0, 0, 0, 0) and index.encoded == 0
    assert index.table.fetch(["packed#zero"], ["preview"])["packed#zero"]["preview"].startswith(b"\xff\xd8")


# Columns


def test_odd_columns_have_safe_names_and_values(index):
    row = {
        "image": png("red"),
        "big": 2**63,
        "_rowid": 7,
        "_distance": 0.5,
        "": "unnamed one",
        "a.b": 1,
        "a_b": 2,
        "*": "star",
        "it's `quoted`": "x",
        "vector": "text",
        "preview": "p",
        "half": np.float16(0.5),
        "flag": np.bool_(True),
        "count": np.uint64(2**64 - 1),
        "day": date(2020, 2, 29),
        "price": Decimal("1.50"),
        "width": 99,
        "list": [1, 2],
    }
    index.add([row], name="odd")
    (hit,) = index.search("x", where="`a_b` = 2 AND day < '2021' AND `unnamed` LIKE 'unn%'")
    assert hit.columns == {
        "width": 20, "height": 20, "big": str(2**63), "rowid": 7, "distance": 0.5, "unnamed": "unnamed one", "a_b_2": 1,
        "a_b": 2, "_": "star", "it's _quoted_": "x", "vector_2": "text", "preview_2": "p", "half": 0.5, "flag": True,
        "count": str(2**64 - 1), "day": "2020-02-29", "price": "1.50", "id": "rows[0]",
    }  # fmt: skip
    assert counts(index.add([row], name="odd")) == (0, 0, 0, 0, 0, 1)


def test_a_column_that_changes_its_type_is_refused_before_anything_is_written(index):
    index.add([{"image": png("red"), "id": 1, "year": 2020}], name="a")
    version = index.table._images.version
    for year in ("MMXX", 2**70, True):
        rows = [{"image": png("blue"), "id": 2, "new": 1, "year": year}]
        with pytest.raises(
            ValueError, match=r"column 'year' must be int64, as in the index, but is .* --columns year=NEW"
        ):
            index.add(rows, name="b")
    assert index.table._images.version == version and "new" not in index.table.columns and len(index) == 1
    assert counts(index.add(rows, name="b", columns={"year": "is_new"})) == (1, 0, 0, 0, 0, 0)
    # Values of several types within one source are texts.
    index.add([{"image": png("grey"), "id": 3, "mixed": 1}, {"image": png("pink"), "mixed": "x"}], name="c")
    assert index.table.columns["mixed"] == "string"


def test_names_are_safe_whatever_their_order():
    names = ["b.c", "b_c", "", " ", "_rowaddr", "rowaddr", "\ud83d"]
    assert safe_names(names) == safe_names(names[::-1])
    assert len(set(safe_names(names).values())) == len(names)
    assert plain_columns({"image": "a.png", 3: "three", "none": None, "x": float("inf")}) == {
        "3": "three",
        "x": float("inf"),
    }
