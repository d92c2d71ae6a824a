"""Folders: captions beside images, one file of rows, several of them, and data sets as they are published."""

import gzip
import json

import pytest

from beta_clip_hf.data.readers import load_rows
from data.source_files import CAPTIONS, photo, write_photos


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "top"
    write_photos(top)
    return top


def captions(rows) -> list[str]:
    return [row["caption"] for row in rows]


def lines(*numbers, **fields) -> str:
    return "".join(json.dumps({"image": f"{n}.png", "caption": CAPTIONS[n], **fields}) + "\n" for n in numbers)


def test_texts_beside_images(folder):
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"One of {number}\nTwo of {number}\n")
    rows = load_rows(folder, strict=True)
    assert rows[2]["captions"] == ["One of 2", "Two of 2"]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert rows.skipped == []


@pytest.mark.parametrize("suffix", [".txt", ".caption", ".text", ".TXT"])
def test_suffixes_of_texts(folder, suffix):
    (folder / f"0{suffix}").write_text("A caption.")
    rows = load_rows(folder)
    assert captions(rows) == ["A caption."]
    assert len(rows.skipped) == 3


def test_json_beside_images_has_columns(folder):
    (folder / "0.json").write_text(json.dumps({"caption": "A square.", "phrases": ["a square"], "id": 7}))
    (folder / "1.json").write_text(json.dumps({"text": "Renamed."}))
    (folder / "2.json").write_text(json.dumps({"width": 8}))
    (folder / "2.txt").write_text("From the text.")
    rows = load_rows(folder)
    assert captions(rows) == ["A square.", "From the text."]
    assert (rows[0]["id"], rows[0]["phrases"], rows[1]["width"]) == ("7", ["a square"], 8)


def test_dots_in_names_and_folders_below(folder):
    (folder / "a.b").mkdir()
    (folder / "a.b" / "IMG 1.5.png").write_bytes(photo(0))
    (folder / "a.b" / "IMG 1.5.txt").write_text("A caption.")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.txt").write_text("Not read.")
    rows = load_rows(folder, format="sidecar")
    assert captions(rows) == ["A caption."]
    assert rows[0]["id"] == "a.b/IMG 1.5"
    assert len(rows.skipped) == 4


def test_two_images_of_a_name_and_two_texts(folder):
    (folder / "0.jpg").write_bytes(photo(0))
    (folder / "0.txt").write_text("Which?")
    (folder / "1.txt").write_text("One.")
    (folder / "1.caption").write_text("Other.")
    (folder / "2.txt").write_text("Fine.")
    rows = load_rows(folder)
    assert captions(rows) == ["Fine."]
    assert [location for location, _ in rows.skipped] == ["top/0", "top/1", "top/3"]


def test_a_folder_per_split(folder):
    for split in ("train", "test"):
        (folder / split).mkdir()
        (folder / split / "x.png").write_bytes(photo(0))
        (folder / split / "x.txt").write_text(f"Of {split}.")
    assert captions(load_rows(folder, split="test")) == ["Of test."]
    assert captions(load_rows(folder)) == ["Of train."]


@pytest.mark.parametrize("name", ["captions.jsonl", "photos.ndjson", "x.jsonl.gz", "all.csv", "all.tsv", "rows.json"])
def test_a_folder_with_one_file_of_rows(folder, name):
    text = lines(0, 1)
    if ".csv" in name or ".tsv" in name:
        text = "image,caption\n0.png,Picture 0.\n1.png,Picture 1.\n".replace(",", "\t" if ".tsv" in name else ",")
    if name == "rows.json":
        text = json.dumps([json.loads(line) for line in text.splitlines()])
    content = text.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert captions(load_rows(folder)) == CAPTIONS[:2]


def test_a_folder_with_several_files_of_rows(folder):
    (folder / "photos.csv").write_text("image,caption\n0.png,Picture 0.\n")
    (folder / "test.csv").write_text("image,caption\n1.png,Picture 1.\n")
    assert captions(load_rows(folder, split="test")) == CAPTIONS[1:2]
    with pytest.raises(ValueError, match=r"split one of \['photos', 'test'\].* has photos\.csv, test\.csv"):
        load_rows(folder)
    (folder / "photos.csv").unlink()
    with pytest.raises(ValueError, match=r"split must be 'test', as .* has no other, but is 'train'"):
        load_rows(folder)


@pytest.mark.parametrize("images", ["Images", "flickr30k_images/flickr30k_images", "."])
def test_flickr_as_it_is_published(folder, images):
    (folder / images).mkdir(parents=True, exist_ok=True)
    for number in range(4):
        (folder / f"{number}.png").rename(folder / images / f"{number}.png")
    (folder / "captions.txt").write_text("image,caption\n0.png,A dog .\n0.png,It runs .\n1.png,A cat .\n")
    for source in (folder, folder / "captions.txt"):
        rows = load_rows(source, strict=True)
        assert captions(rows) == ["A dog . It runs .", "A cat ."]
        assert (folder / images / "0.png").samefile(rows[0]["image"])


def test_images_are_looked_for_near_the_captions_only_if_they_are_not_beside_them(folder, monkeypatch, tmp_path):
    (folder / "other").mkdir()
    (folder / "other" / "3.png").write_bytes(photo(9))
    (folder / "rows.jsonl").write_text(lines(0, 3))
    (folder / "3.png").unlink()
    rows = load_rows(folder / "rows.jsonl")
    assert len(rows) == 1
    # Scripts write paths that start from where they run.
    monkeypatch.chdir(tmp_path)
    (folder / "rows.jsonl").write_text(lines(0).replace("0.png", "top/0.png"))
    assert captions(load_rows("top/rows.jsonl")) == CAPTIONS[:1]
    (folder / "rows.jsonl").write_text(lines(0).replace("0.png", "nowhere/0.png"))
    with pytest.raises(ValueError, match=r"say where with image_root \(--image-root\)"):
        load_rows("top/rows.jsonl")


def test_karpathy_splits(folder):
    images = []
    for number, split in enumerate(["train", "restval", "val", "test"]):
        sentences = [{"raw": f"Caption {k} of {number}.", "tokens": []} for k in range(5)]
        image = {"filename": f"{number}.png", "filepath": "val2014", "cocoid": 100 + number, "split": split}
        images.append({**image, "sentences": sentences})
    (folder / "val2014").mkdir()
    for number in range(4):
        (folder / f"{number}.png").rename(folder / "val2014" / f"{number}.png")
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    for split, ids in (("train", ["100", "101"]), ("val", ["102"]), ("validation", ["102"]), ("test", ["103"])):
        rows = load_rows(folder / "dataset_coco.json", split=split, strict=True)
        assert [row["id"] for row in rows] == ids
        assert [len(row["captions"]) for row in rows] == [5] * len(ids)
        assert rows.held_out == 4 - len(ids)
    with pytest.raises(ValueError, match=r"split must be one of \['restval', 'test', 'train', 'val'\]"):
        load_rows(folder / "dataset_coco.json", split="dev7")
    rows = load_rows(folder / "dataset_coco.json", skip=1)
    assert ([row["id"] for row in rows], rows.held_out) == (["101"], 3)


def test_docci_with_other_names_if_asked(folder):
    record = {"image_file": "0.png", "description": "Long.", "split": "test", "example_id": "test_0"}
    (folder / "docci_descriptions.jsonlines").write_text(json.dumps(record) + "\n")
    [row] = load_rows(folder / "docci_descriptions.jsonlines", split="test")
    assert (row["id"], row["caption"]) == ("test_0", "Long.")
    columns = {"image_file": "image", "description": "caption", "example_id": "id"}
    [row] = load_rows(folder / "docci_descriptions.jsonlines", split="test", columns=columns)
    assert (row["id"], row["caption"]) == ("test_0", "Long.")
    with pytest.raises(ValueError, match=r"split must be one of \['test'\]"):
        load_rows(folder / "docci_descriptions.jsonlines")


def test_dci_splits(tmp_path):
    top = tmp_path / "densely_captioned_images"
    write_photos(top / "photos")
    (top / "annotations").mkdir()
    for number in range(4):
        content = {"image": f"{number}.png", "short_caption": f"Short {number}.", "extra_caption": "Long."}
        (top / "annotations" / f"{number}.json").write_text(json.dumps(content))
    (top / "splits.json").write_text(
        json.dumps({"train": ["0.json", "1.json"], "valid": ["2.json"], "test": ["3.json"]})
    )
    for source in (top, tmp_path, top / "annotations"):
        assert captions(load_rows(source)) == ["Short 0. Long.", "Short 1. Long."]
    [row] = load_rows(top, split="val")
    assert (row["short_caption"], row["id"]) == ("Short 2.", "2")
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train', 'valid'\] in splits\.json"):
        load_rows(top, split="other")


def test_turns_of_conversations(folder):
    user, text = {"role": "user", "content": "?"}, [{"type": "image"}, {"type": "text", "text": "A square."}]
    records = [
        {"image": "0.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Zero."}]},
        {"image": "1.png", "conversations": [user, {"role": "assistant", "content": "One."}]},
        {"images": ["2.png"], "messages": [user, {"role": "assistant", "content": text}]},
        {"images": ["0.png", "1.png"], "messages": [user, {"role": "assistant", "content": "Two images."}]},
        {"image": "3.png", "messages": [user]},
    ]
    (folder / "turns.json").write_text(json.dumps(records))
    rows = load_rows(folder / "turns.json")
    assert captions(rows) == ["Zero.", "One.", "A square."]
    assert [location for location, _ in rows.skipped] == ["turns.json:4", "turns.json:5"]


def test_lists_and_globs_of_one_kind(folder):
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(0).encode()))
    (folder / "b.jsonl").write_text(lines(1))
    rows = load_rows([folder / "a.jsonl.gz", folder / "b.jsonl"])
    assert [row["id"] for row in rows] == ["a.jsonl.gz:1", "b.jsonl:1"]
    assert len(load_rows(str(folder / "*.jsonl*"))) == 2
    (folder / "c.csv").write_text("image,caption\n2.png,Picture 2.\n")
    with pytest.raises(ValueError, match="source must be files of one format"):
        load_rows([folder / "b.jsonl", folder / "c.csv"])


def test_json_lines_in_utf16(folder):
    (folder / "a.jsonl").write_bytes(lines(0, 1).encode("utf-16"))
    assert captions(load_rows(folder / "a.jsonl")) == CAPTIONS[:2]


def test_without_zstandard_the_package_is_named(folder, monkeypatch):
    (folder / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    from beta_clip_hf.data.formats import compression

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(compression.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"files that end in \.zst need the package zstandard: pip install zstandard"):
        load_rows(folder / "a.jsonl.zst")


def test_zstandard(folder):
    zstandard = pytest.importorskip("zstandard")
    frames = [zstandard.compress(lines(number).encode()) for number in (0, 1)]
    (folder / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert captions(load_rows(folder / "a.jsonl.zst")) == CAPTIONS[:2]
    (folder / "a.jsonl.zst").write_bytes(b"".join(frames)[:-6])
    rows = load_rows(folder / "a.jsonl.zst")
    assert captions(rows)[:1] == CAPTIONS[:1]
    assert "a compressed file must be whole" in rows.skipped[-1][1]


def test_the_text_may_have_the_whole_name_of_the_image(folder):
    (folder / "0.png.txt").write_text("The first.")
    (folder / "1.png.json").write_text('{"caption": "The second."}')
    (folder / "2.txt").write_text("The third.")
    # Two images of the same name can have texts of their own.
    (folder / "0.jpg").write_bytes(photo(7))
    (folder / "0.jpg.txt").write_text("Another.")
    rows = load_rows(folder)
    assert {row["id"]: row["caption"] for row in rows} == {
        "0.jpg": "Another.",
        "0.png": "The first.",
        "1.png": "The second.",
        "2": "The third.",
    }
    assert [reason for _, reason in rows.skipped] == ["one text must be beside 3, but there are 0"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_of_editors_on_windows(folder, encoding):
    (folder / "0.txt").write_bytes("A café.\r\nA cup.".encode(encoding))
    assert load_rows(folder)[0]["captions"] == ["A café.", "A cup."]


def test_a_folder_of_flickr8k_as_it_is_published(tmp_path):
    write_photos(tmp_path / "Flicker8k_Dataset")
    lines_of_tokens = "".join(f"{number}.png#0\t{CAPTIONS[number]}\n" for number in range(4))
    (tmp_path / "Flickr8k.token.txt").write_text(lines_of_tokens)
    (tmp_path / "Flickr8k.lemma.token.txt").write_text(lines_of_tokens.replace("Picture", "picture"))
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("0.png\n1.png\n")
    assert captions(load_rows(tmp_path)) == CAPTIONS


def test_images_without_any_text_are_told(folder):
    with pytest.raises(ValueError, match=r"must have captions, but has images only: write the text of each image"):
        load_rows(folder)
