"""`PhotoIndex`: what is encoded, what is kept, and what an index refuses."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_hf.data.images import load_image
from beta_clip_hf.search import index as index_module
from beta_clip_hf.search import sources
from beta_clip_hf.search.index import PhotoIndex, load_embedder
from beta_clip_hf.search.query import Query
from beta_clip_hf.search.sources import open_photos
from data.source_files import write_tar
from ddp_helpers import run_processes


pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "photos.index"


def names(index):
    return sorted(os.path.basename(image) for image in index.table.known())


def counts(added):
    return (added.new, added.changed, added.updated, added.deleted, added.unchanged, len(added.unreadable))


def counting(monkeypatch):
    """The images that are decoded from now on."""
    decoded = []

    def load(image):
        decoded.append(os.path.basename(str(image)))
        return load_image(image)

    monkeypatch.setattr(sources, "load_image", load)
    return decoded


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_folder_is_embedded_as_the_model_does_it(path, embedder, photos):
    index = PhotoIndex.create(path, embedder)
    assert counts(index.add(photos)) == (6, 0, 0, 0, 0, 0)
    assert names(index) == [f"{number}.png" for number in range(6)]
    for key, stored in index.table.fetch(list(index.table.known()), ["vector", "width", "height"]).items():
        inputs = embedder.processor(images=load_image(key), return_tensors="pt")
        with torch.no_grad():
            features = embedder.model.get_image_features(**inputs).pooler_output[0]
        assert torch.allclose(torch.tensor(stored["vector"]), features / features.norm(), atol=1e-6)
        assert (stored["width"], stored["height"]) == Image.open(key).size


def test_only_what_has_changed_is_encoded_again(path, embedder, photos, monkeypatch):
    index = PhotoIndex.create(path, embedder)
    index.add(photos)
    before = index.table.known()
    decoded = counting(monkeypatch)
    assert counts(index.add(photos)) == (0, 0, 0, 0, 6, 0) and decoded == []
    (photos / "0.png").unlink()
    Image.new("RGB", (30, 30), "pink").save(photos / "1.png")
    os.utime(photos / "2.png", ns=(1, 1))  # another time, the same content
    shutil.copy(photos / "3.png", photos / "6.png")
    assert counts(index.add(photos)) == (1, 1, 1, 1, 3, 0) and sorted(decoded) == ["1.png", "6.png"]
    after = index.table.known()
    assert names(index) == ["1.png", "2.png", "3.png", "4.png", "5.png", "6.png"]
    assert after[str(photos / "2.png")].file_modified_ns == 1
    assert after[str(photos / "1.png")].file_sha256 != before[str(photos / "1.png")].file_sha256
    hit = index.search(Query(images=[(photos / "1.png", 1.0)]), top=1)[0]
    assert hit.image == str(photos / "1.png") and hit.similarity == pytest.approx(1, abs=1e-5)
    assert counts(index.add(photos)) == (0, 0, 0, 0, 6, 0)


def test_unreadable_files_are_listed_and_tried_again(path, embedder, photos):
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:60])
    (photos / "7.jpg").write_text("no image")
    index = PhotoIndex.create(path, embedder)
    added = index.add(photos)
    assert counts(added) == (5, 0, 0, 0, 0, 2)
    assert [os.path.basename(image) for image, _ in index.unreadable()] == ["1.png", "7.jpg"]
    assert all("must be readable" in error for _, error in index.unreadable())
    Image.new("RGB", (9, 9), "pink").save(photos / "1.png")
    assert counts(index.add(photos)) == (1, 0, 0, 0, 5, 1)
    assert [os.path.basename(image) for image, _ in index.unreadable()] == ["7.jpg"]
    (photos / "2.png").write_text("broken now")
    assert counts(index.add(photos)) == (0, 0, 0, 1, 5, 2) and "2.png" not in names(index)


def test_a_stopped_run_goes_on_where_it_was(path, embedder, photos, monkeypatch):
    monkeypatch.setattr(index_module, "IMAGES_PER_FRAGMENT", 2)
    index = PhotoIndex.create(path, embedder)
    decoded = counting(monkeypatch)

    def stop(image):
        if len(decoded) == 5:
            raise KeyboardInterrupt
        decoded.append(image)
        return load_image(image)

    monkeypatch.setattr(sources, "load_image", stop)
    with pytest.raises(KeyboardInterrupt):
        index.add(photos)
    assert len(PhotoIndex.open(path)) == 4
    decoded = counting(monkeypatch)
    assert counts(PhotoIndex.open(path, embedder).add(photos)) == (2, 0, 0, 0, 4, 0) and len(decoded) == 2
    assert names(index) == [f"{number}.png" for number in range(6)]


def test_rows_bring_columns_that_change_without_encoding(path, embedder, photos, monkeypatch):
    rows = [
        {"image": "photos/0.png", "caption": "A red wall.", "year": 2020, "stars": 4, "phrases": ["a wall"]},
        {"image": "photos/1.png", "captions": ["Green.", "A lawn."], "year": 2021, "stars": 4.5},
        {"image": "photos/2.png", "year": 2022},
        {"image": "photos/2.png", "caption": "The same image again."},
        {"image": "photos/none.png", "caption": "It is not there."},
    ]
    file = write_rows(photos.parent / "rows.jsonl", rows)
    index = PhotoIndex.create(path, embedder)
    assert counts(index.add(file)) == (3, 0, 0, 0, 0, 1)
    assert index.table.columns["year"] == "int64" and index.table.columns["stars"] == "double"
    assert "phrases" not in index.table.columns
    found = {os.path.basename(hit.image): hit.columns for hit in index.search("a wall")}
    assert found["1.png"]["caption"] == "Green. A lawn."
    assert found["2.png"]["caption"] == "The same image again."
    decoded = counting(monkeypatch)
    rows[0] |= {"caption": "A wall.", "place": "Rome"}
    del rows[0]["year"]
    assert counts(index.add(write_rows(file, rows))) == (0, 0, 1, 0, 2, 1)
    assert decoded == [str(photos.parent / "photos/none.png").rpartition("/")[2]]
    found = {os.path.basename(hit.image): hit.columns for hit in index.search("a wall")}
    assert found["0.png"]["caption"] == "A wall." and found["0.png"]["place"] == "Rome"
    assert "year" not in found["0.png"]
    with pytest.raises(ValueError, match="column 'year' must be int64, as in the index, but is string"):
        index.add(write_rows(file, [{**rows[1], "year": "MMXX"}]))
    assert len(index) == 3


def test_rows_of_a_photo_have_all_captions_or_those_of_the_first(photos):
    rows = [
        {"image": "photos/0.png", "caption": "A red wall."},
        {"image": "photos/1.png"},
        {"image": "photos/0.png", "caption": "A wall."},
        {"image": "photos/1.png"},
    ]
    file = write_rows(photos.parent / "rows.jsonl", rows)
    together, apart = open_photos(file), open_photos(file, group=False)
    key = str(photos / "0.png")
    assert list(together.keys()) == list(apart.keys()) == [key, str(photos / "1.png")]
    assert together.row(key)["caption"] == "A red wall. A wall."
    assert apart.row(key)["caption"] == "A red wall."
    assert together.row_digest(key) != apart.row_digest(key)
    assert (len(together.skipped), len(apart.skipped)) == (0, 2)
    assert "caption" not in together.row(str(photos / "1.png"))


def test_tars_are_read_by_index(path, embedder, photos):
    members = [(f"{number}.png", (photos / f"{number}.png").read_bytes()) for number in range(3)]
    members.insert(1, ("0.txt", b"A dark wall."))
    tar = write_tar(photos.parent / "train.tar", members)
    index = PhotoIndex.create(path, embedder)
    assert counts(index.add(tar)) == (3, 0, 0, 0, 0, 0)
    captions = {hit.image.rpartition("#")[2]: hit.columns.get("caption") for hit in index.search("a wall")}
    assert captions == {"0": "A dark wall.", "1": None, "2": None}
    assert counts(index.add(tar)) == (0, 0, 0, 0, 3, 0)


def test_a_folder_leaves_alone_what_rows_have_brought(path, embedder, photos):
    file = write_rows(photos.parent / "rows.jsonl", [{"image": "photos/0.png", "caption": "Red."}])
    index = PhotoIndex.create(path, embedder)
    index.add(photos)
    assert counts(index.add(file)) == (0, 0, 1, 0, 0, 0)  # the row takes the image over
    assert counts(index.add(photos)) == (0, 0, 0, 0, 6, 0)
    assert [hit.columns["caption"] for hit in index.search("red", where="caption IS NOT NULL")] == ["Red."]
    assert counts(index.add(write_rows(file, [{"image": "photos/1.png", "caption": "Green."}]))) == (0, 0, 1, 1, 0, 0)


def test_images_without_a_file_have_a_preview(path, embedder, photos):
    rows = [{"image": (photos / f"{n}.png").read_bytes(), "caption": f"Image {n}.", "id": n} for n in range(3)]
    index = PhotoIndex.create(path, embedder)
    assert counts(index.add(rows, name="rows")) == (3, 0, 0, 0, 0, 0)
    rows[1]["image"] = (photos / "4.png").read_bytes()
    assert counts(index.add(rows, name="rows")) == (0, 1, 0, 0, 2, 0)
    assert sorted(index.table.known()) == ["rows#0", "rows#1", "rows#2"]
    assert index.table.fetch(["rows#0"], ["preview"])["rows#0"]["preview"].startswith(b"\xff\xd8")
    with pytest.raises(ValueError, match="rerank must be 0 where no image can be opened again"):
        index.search("an image", rerank=3)


def test_grey_of_more_bits_is_embedded_and_shown_as_that_of_eight(path, embedder):
    grey, rows = np.arange(256, dtype=np.uint8).reshape(16, 16), []
    for number, values in enumerate((grey, grey.astype(np.uint16) * 257)):
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
        rows.append({"image": file.getvalue(), "id": number})
    index = PhotoIndex.create(path, embedder)
    index.add(rows, name="rows")
    found = index.table.fetch(["rows#0", "rows#1"], ["preview", "vector"])
    assert found["rows#0"]["preview"] == found["rows#1"]["preview"]
    assert np.array_equal(found["rows#0"]["vector"], found["rows#1"]["vector"])


def test_a_saved_data_set_of_images_alone_is_indexed(path, embedder, photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": (photos / f"{number}.png").read_bytes(), "path": None} for number in range(3)]
    saved = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    index = PhotoIndex.create(path, embedder)
    assert counts(index.add(tmp_path / "saved")) == (3, 0, 0, 0, 0, 0)  # no `format` is given
    keys = [f"{tmp_path / 'saved'}#saved:{number}" for number in range(3)]
    assert sorted(index.table.known()) == keys
    hits = index.search(Query(images=[(images[1]["bytes"], 1.0)]))
    assert hits[0].image == keys[1] and hits[0].similarity == pytest.approx(1, abs=1e-4)
    assert counts(index.add(tmp_path / "saved")) == (0, 0, 0, 0, 3, 0)


def test_another_model_is_refused(path, embedder, photos, tiny_model, checkpoint):
    PhotoIndex.create(path, embedder).add(photos)
    with pytest.raises(ValueError, match=r"of dtype float32, but is of dtype bfloat16"):
        PhotoIndex.open(path, load_embedder(checkpoint, device="cpu", dtype="bfloat16"))
    with torch.no_grad():
        tiny_model.visual_projection.weight += 0.01
    tiny_model.save_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"of weights \w{16}, but is of weights \w{16}"):
        PhotoIndex.open(path, load_embedder(checkpoint, device="cpu"))
    with pytest.raises(ValueError, match="of weights"):
        PhotoIndex.open(path).search("loaded by its name")


@pytest.mark.parametrize("names_model", (False, True), ids=("the name it was loaded by", "the name it is given"))
def test_a_model_of_a_relative_path_is_found_from_another_directory(
    path, checkpoint, photos, tmp_path, monkeypatch, names_model
):
    monkeypatch.chdir(checkpoint.parent)
    embedder = load_embedder(checkpoint.name, device="cpu", batch_size=2)
    model_name = checkpoint.name if names_model else None
    PhotoIndex.create(path, embedder, model_name=model_name).add(photos)
    monkeypatch.chdir(tmp_path)
    assert len(PhotoIndex.open(path).search("a red square", top=2)) == 2


def test_what_is_no_index_or_no_collection(path, embedder, tmp_path):
    with pytest.raises(ValueError, match="must be an index, but holds none"):
        PhotoIndex.open(path)
    index = PhotoIndex.create(path, embedder)
    with pytest.raises(ValueError, match="must not hold an index yet"):
        PhotoIndex.create(path, embedder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must be a folder with photos below it"):
        index.add(tmp_path / "empty")
    assert index.search("nothing is there yet") == []


def in_two_processes(rank, path, checkpoint, photos):
    index_module.IMAGES_PER_FRAGMENT = 1
    index = PhotoIndex.create(path, load_embedder(checkpoint, device="cpu", batch_size=2))
    added = index.add(photos)
    return counts(added), len(index)


def test_two_processes_each_append_their_part(path, embedder, checkpoint, photos, tmp_path):
    (photos / "7.jpg").write_text("no image")
    several = run_processes(in_two_processes, str(path), str(checkpoint), str(photos))
    assert several == [((6, 0, 0, 0, 0, 1), 6)] * 2
    alone = PhotoIndex.create(tmp_path / "alone", embedder)
    alone.add(photos)
    together = PhotoIndex.open(path, embedder)
    assert together.unreadable() == alone.unreadable() and together.table.known() == alone.table.known()
    keys = list(alone.table.known())
    vectors = together.table.fetch(keys, ["vector"])
    expected = alone.table.fetch(keys, ["vector"])
    assert list(vectors) and set(vectors) == set(expected)
    for key in vectors:
        stored = torch.tensor(vectors[key]["vector"])
        assert torch.allclose(stored, torch.tensor(expected[key]["vector"]), atol=1e-6)
