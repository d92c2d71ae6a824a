"""What people write into their files that costs less than it seems: blank captions, separators, old encodings."""

import json

import pytest
from PIL import Image

from beta_clip_hf.data.columns import check_columns
from beta_clip_hf.data.readers import load_rows


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def test_a_blank_caption_costs_itself_and_not_the_photo(folder, caplog):
    def photo(captions):
        return {"image": str(folder / "a.png"), "captions": captions}

    rows = load_rows([photo(["A dog.", " ", None, "", "It runs."])])
    assert rows[0]["captions"] == ["A dog.", "It runs."] and rows[0]["caption"] == "A dog. It runs."
    assert "3 of its captions are blank" in caplog.text
    # What is no text is still refused, and so are captions that are all blank.
    rows = load_rows([photo(["A dog."]), photo([" ", None]), photo(["A dog.", 5]), photo([])], group=False)
    assert len(rows) == 1 and len(rows.skipped) == 3


@pytest.mark.parametrize("first_line", ["sep=;", "\ufeffsep=;", "sep=; "])
def test_a_line_that_names_the_separator_is_no_header(folder, first_line):
    (folder / "a.csv").write_text(f"{first_line}\nimage;caption\na.png;One, two.\n", encoding="utf-8")
    rows = load_rows(folder / "a.csv")
    assert [row["caption"] for row in rows] == ["One, two."]


def test_an_encoding_that_fits_is_named(folder):
    (folder / "a.csv").write_bytes(b"image,caption\na.png,caf\x81 \x93x\x94\n")
    # The byte 0x81 is none of cp1252 either.
    with pytest.raises(ValueError, match="--encoding mac-roman"):
        load_rows(folder / "a.csv")
    with pytest.raises(ValueError, match="none of cp1252; if it is mac-roman"):
        load_rows(folder / "a.csv", encoding="cp1252")
    (folder / "a.csv").write_bytes(b"image,caption\na.png,caf\xe9\n")
    with pytest.raises(ValueError, match="--encoding cp1252"):
        load_rows(folder / "a.csv")


def test_a_folder_per_class_is_not_advised_to_train_on_its_labels():
    with pytest.raises(ValueError, match="must have captions, but has the labels of a folder per class"):
        check_columns(["image", "label"], "photos")
    check_columns(["image", "label", "caption"], "photos")


def test_a_column_that_looks_alike_is_named():
    with pytest.raises(ValueError, match=r"\['txt'\] is not in .*; did you mean text\?"):
        load_rows([{"image": b"1", "text": "A dog."}], columns={"txt": "caption"})


def test_a_folder_that_is_laid_out_as_that_of_coco_is_read(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "1.png")
        content = {
            "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}],
            "annotations": [{"id": 1, "image_id": 1, "caption": f"A photo of {split}."}],
        }
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    rows = load_rows(tmp_path)
    assert [row["caption"] for row in rows] == ["A photo of train2017."]
    assert rows[0]["image"].endswith("train2017/1.png")
    assert load_rows(tmp_path, split="val")[0]["caption"] == "A photo of val2017."
