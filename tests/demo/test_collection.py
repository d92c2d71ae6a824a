import os

import pytest
from PIL import Image

from beta_clip_hf.data.scenes import SceneDataset
from beta_clip_hf.demo import markup, views
from beta_clip_hf.demo.collection import open_collection, scene_example
from beta_clip_hf.search.index import PhotoIndex
from data.source_files import write_tar

from .pictures import pictures_of


pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    (folder / "3.jpg").write_text("no image")
    return folder


def opened(checkpoint, **options):
    return open_collection(model=str(checkpoint), device="cpu", **options)


def test_scenes_are_searched_where_nothing_is_given(collection):
    assert len(collection.index) == 8 and collection.index.table.stores_patches
    captions = [SceneDataset(8, seed=1, level="easy")[place]["caption"] for place in range(8)]
    found = collection.index.search("a red circle", top=8)
    assert sorted(hit.columns["caption"] for hit in found) == sorted(captions)
    assert collection.example(9).caption == captions[1] and collection.example(9).image.size == (256, 256)
    assert collection.title == "8 generated scenes" and len(collection.captions()) == 3


def test_of_a_scene_the_other_caption_is_a_hard_negative():
    row = {"image": None, "caption": "true", "hard_negatives": ["1", "2", "3"]}
    assert scene_example(row | {"hard_negative_kinds": ["shape", "colour", "replace"]})[1:] == ("true", "3")
    assert scene_example(row | {"hard_negative_kinds": ["relation", "colour", "shape"]})[1:] == ("true", "2")


def test_photos_are_indexed_for_this_time_or_into_an_index(checkpoint, photos, tmp_path, caplog):
    with opened(checkpoint, photos=str(photos)) as collection:
        assert len(collection.index) == 3 and "3.jpg" in caplog.text
        folder = collection.index.table.path
        assert os.path.isdir(folder)
        assert [collection.example(n).image.getpixel((0, 0)) for n in (0, 5)] == [(255, 0, 0), (0, 0, 255)]
        assert collection.example(0)[1:] == ("", "") and collection.captions() == []
    assert not os.path.exists(folder)
    kept = tmp_path / "kept"
    with opened(checkpoint, photos=str(photos), index=str(kept)) as collection:
        assert collection.title == "3 images of photos"
    (photos / "0.png").unlink()
    with open_collection(photos=str(photos), index=str(kept), device="cpu") as collection:  # with the index's model
        assert len(collection.index) == 2
    with open_collection(index=str(kept), device="cpu") as collection:
        assert len(collection.index) == 2 and collection.title == "2 images of kept"
        assert collection.example(0).image.getpixel((0, 0)) == (0, 128, 0)
        (photos / "1.png").unlink()
        for number in (0, 1, 2):  # the only one that is left
            assert collection.example(number).image.getpixel((0, 0)) == (0, 0, 255)
        (photos / "2.png").unlink()
        for _ in range(2):
            with pytest.raises(ValueError, match="No image of the collection can be opened"):
                collection.example(0)


def test_captions_of_rows_are_examples(checkpoint, photos, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "photos/1.png", "caption": "A lawn."}\n{"image": "photos/2.png"}\n')
    with opened(checkpoint, photos=str(rows)) as collection:
        assert collection.captions() == ["A lawn."]
        assert [collection.example(n).caption for n in (0, 1)] == ["A lawn.", ""]


def test_images_inside_of_a_source_are_shown_without_heat_maps(checkpoint, photos, tmp_path):
    tar = tmp_path / "photos.tar"
    write_tar(tar, [(name, (photos / name).read_bytes()) for name in ("0.png", "1.png")])
    with opened(checkpoint, photos=str(tar)) as collection:
        found = views.find(collection.index, "a red circle", top=2, rerank=False)
        html = markup.hit_html(collection.index, found, 0)
        assert markup.NO_PATCHES in html and len(pictures_of(html)) == 1


def test_an_image_that_leaves_the_index_while_it_is_shown_costs_only_itself(checkpoint, photos):
    with opened(checkpoint, photos=str(photos)) as collection:
        found = views.find(collection.index, "a red circle", top=3, rerank=False)
        assert collection.example(0).image.getpixel((0, 0)) == (255, 0, 0)
        collection.index.table.delete([hit.image for hit in found.hits])
        for hit in found.hits[:2]:
            os.unlink(hit.image)
        assert "can no longer be opened" in markup.hit_html(collection.index, found, 0)
        assert len(views.thumbnails(collection.index, found)) == 3
        assert collection.example(0)[1:] == ("", "")


def test_what_is_missing_is_told_with_a_remedy(checkpoint, tmp_path, monkeypatch):
    missing = "must be what beta-clip index has made, but none is none: give --photos"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=missing), opened(checkpoint, index="none"):
        pass


def test_an_empty_index_has_no_examples(checkpoint, collection, tmp_path):
    PhotoIndex.create(tmp_path / "empty", collection.index.embedder, model_name=str(checkpoint))
    with opened(checkpoint, index=str(tmp_path / "empty")) as empty, pytest.raises(ValueError, match="is empty"):
        empty.example(0)
