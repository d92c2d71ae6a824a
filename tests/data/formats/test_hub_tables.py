"""Data sets of the library `datasets`, beyond what test_readers.py asks of every source."""

import pytest

from beta_clip_hf.data.formats.hub import is_saved_dataset
from beta_clip_hf.data.readers import open_table


datasets = pytest.importorskip("datasets")


def test_a_data_set_of_images_alone_has_its_rows():
    images = datasets.Dataset.from_dict({"image": [{"bytes": b"0", "path": None}, {"bytes": b"1", "path": None}]})
    for features in (images, images.cast_column("image", datasets.Image())):
        table, _ = open_table(features)
        unread_image = {"bytes": None, "path": None}
        assert list(table.scan()) == [(f"dataset:{place}", {"image": unread_image}) for place in (0, 1)]


def test_what_datasets_has_saved_is_known_as_such(tmp_path):
    saved = datasets.Dataset.from_dict({"image": ["0.png"]})
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "splits")
    assert is_saved_dataset(tmp_path / "one") and is_saved_dataset(tmp_path / "splits")
    (tmp_path / "one" / "dataset_info.json").unlink()
    assert not is_saved_dataset(tmp_path / "one") and not is_saved_dataset(tmp_path)
