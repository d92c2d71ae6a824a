import io
import json
import logging
import tarfile
from collections import Counter
from itertools import product

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf.data.formats.webdataset import expand_shards
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import RowStream, load_rows


# More workers than this machine has cores are what some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def image_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, files: dict[str, bytes | str]):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def pair(number: int) -> dict[str, bytes | str]:
    return {f"{number:04}.png": image_bytes(number), f"{number:04}.json": json.dumps({"caption": f"Picture {number}."})}


@pytest.fixture
def shards(tmp_path):
    """Four tars of 5 rows: train-0.tar has the rows 0 … 4, and so on."""
    for shard in range(4):
        files = {name: data for row in range(5) for name, data in pair(5 * shard + row).items()}
        write_tar(tmp_path / f"train-{shard}.tar", files)
    return tmp_path


def ids(rows) -> list[int]:
    return [int(row["id"]) for row in rows]


@pytest.mark.parametrize("source", ["train-*.tar", "train-{0..3}.tar", "."])
def test_tars_in_order(shards, source):
    rows = load_rows(shards if source == "." else str(shards / source))
    assert isinstance(rows, RowStream)
    assert ids(rows) == list(range(20))
    first = next(iter(rows))
    assert first["caption"] == "Picture 0."
    assert load_image(first["image"]).size == (8, 8)


def test_what_names_tars(shards):
    names = [path.name for path in expand_shards([shards / "train-2.tar", str(shards / "train-{0..1}.tar")])]
    assert names == ["train-2.tar", "train-0.tar", "train-1.tar"]
    assert ids(load_rows([shards / "train-3.tar"])) == list(range(15, 20))
    with pytest.raises(ValueError, match=r"source must name existing tar files, but is '.*train-4\.tar'"):
        load_rows(str(shards / "train-{3..4}.tar"))
    with pytest.raises(ValueError, match=r"split must be how the names of some tars begin, but is 'val' .*train-0"):
        load_rows(shards, split="val")


def test_texts_of_json_and_txt(tmp_path):
    files = {
        "dir.v1/a.jpg": image_bytes(0),
        "dir.v1/a.txt": "From the text file.\n",
        "dir.v1/b.seg.png": b"not the image",
        "dir.v1/b.PNG": image_bytes(1),
        "dir.v1/b.json": json.dumps({"captions": ["One.", "Two."], "phrases": ["two"], "id": "own", "image": "x"}),
        "dir.v1/b.cls": "7",
        "dir.v1/c.webp": image_bytes(2),
        "dir.v1/c.txt": "Not this.",
        "dir.v1/c.json": json.dumps({"caption": "From JSON."}),
    }
    for name in ("a.tar", "a.tar.gz"):
        rows = list(load_rows(write_tar(tmp_path / name, files)))
        assert [row["id"] for row in rows] == ["dir.v1/a", "dir.v1/b", "dir.v1/c"]
        assert [row["caption"] for row in rows] == ["From the text file.", "One. Two.", "From JSON."]
        assert rows[1]["phrases"] == ["two"]
        assert [load_image(row["image"]).getpixel((0, 0))[0] for row in rows] == [0, 1, 2]


def test_bad_rows_are_skipped_logged_and_counted(tmp_path, caplog):
    files = {
        **pair(0),
        "1.png": image_bytes(1),
        "2.json": json.dumps({"caption": "No image."}),
        "3.png": image_bytes(3),
        "3.json": '{"capt',
        "4.png": image_bytes(4),
        "4.txt": " ",
        **pair(5),
    }
    rows = load_rows(write_tar(tmp_path / "a.tar", files))
    with caplog.at_level(logging.WARNING):
        assert ids(rows) == [0, 5]
    assert rows.skipped == 4
    messages = [entry.getMessage() for entry in caplog.records]
    assert messages[-1] == "a.tar: 2 rows, 4 skipped"
    for message, (key, reason) in zip(
        messages[:-1],
        [("1", "caption must be"), ("2", "image must be"), ("3", "3.json must be JSON"), ("4", "caption must be")],
        strict=True,
    ):
        assert message.startswith(f"a.tar:{key} is skipped: ")
        assert reason in message
    with pytest.raises(ValueError, match=r"a\.tar:1: caption must be"):
        list(load_rows(tmp_path / "a.tar", strict=True))


def test_wrong_columns_are_one_error(tmp_path):
    files = {
        f"{number}.{suffix}": data
        for number in range(3)
        for suffix, data in [("png", image_bytes(0)), ("json", '{"text": "A."}')]
    }
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(ValueError, match=r'a\.tar must have the columns .*\["?\'id\', \'image\', \'text\'\]'):
        list(load_rows(tmp_path / "a.tar"))
    assert len(list(load_rows(tmp_path / "a.tar", columns={"text": "caption"}))) == 3


@pytest.mark.parametrize("length", [512 * 13 + 100, 512 * 12, 512 * 12 + 30], ids=["content", "boundary", "header"])
def test_a_shard_that_was_cut_is_not_lost_silently(shards, caplog, length):
    path = shards / "train-1.tar"
    path.write_bytes(path.read_bytes()[:length])
    rows = load_rows(shards)
    with caplog.at_level(logging.WARNING):
        assert ids(rows) == [0, 1, 2, 3, 4, 5, 6, 7, *range(10, 20)]
    assert rows.skipped == 1
    assert "train-1.tar is skipped: a shard must be a whole tar file, but cannot be read after 0007" in caplog.text
    with pytest.raises(ValueError, match=r"train-1\.tar: a shard must be"):
        list(load_rows(shards, strict=True))


def test_what_is_no_tar(tmp_path, caplog):
    (tmp_path / "a.tar").write_bytes(b"no tar" * 300)
    assert list(load_rows(tmp_path / "a.tar")) == []
    assert "a.tar is skipped: a shard must be a whole tar file, but cannot be read after the start" in caplog.text


def test_shuffling_depends_on_seed_and_epoch_alone(shards):
    def order(seed, epoch):
        rows = load_rows(shards, shuffle_buffer=8, seed=seed)
        rows.set_epoch(epoch)
        return ids(rows)

    orders = {(seed, epoch): order(seed, epoch) for seed, epoch in product((0, 1), (0, 1))}
    assert order(0, 1) == orders[0, 1]
    assert len({tuple(numbers) for numbers in orders.values()}) == 4
    for numbers in orders.values():
        assert sorted(numbers) == list(range(20))
        assert numbers != list(range(20))


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shuffle_buffer", [0, 4])
def test_each_row_is_read_by_one_worker(shards, workers, shuffle_buffer):
    rows = load_rows(shards, shuffle_buffer=shuffle_buffer)
    loader = DataLoader(rows, num_workers=workers, batch_size=None)
    assert sorted(ids(loader)) == list(range(20))


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (2, 2), (3, 1), (5, 0), (2, 3)])
def test_each_row_is_read_by_one_process(shards, monkeypatch, processes, workers):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    seen: Counter[int] = Counter()
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        part = ids(DataLoader(load_rows(shards, shuffle_buffer=4), num_workers=workers, batch_size=None))
        assert part
        seen.update(part)
    assert seen == Counter(range(20))


def test_workers_that_live_on_see_the_epoch_and_share_the_count(shards):
    write_tar(shards / "train-4.tar", {"x.png": image_bytes(0)})
    rows = load_rows(shards, shuffle_buffer=8)
    loader = DataLoader(rows, num_workers=2, batch_size=None, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        rows.set_epoch(epoch)
        orders.append(ids(loader))
    assert orders[0] == orders[2] != orders[1]
    assert rows.skipped == 3


def test_real_photos(shared_dir):
    rows = load_rows(shared_dir / "data/photos_small", split="val", strict=True)
    first = next(iter(rows))
    assert first["id"] == "2099323664_bb20457f26"
    assert first["phrases"] == ["The brown and white dog", "its hind legs", "the path"]
    assert load_image(first["image"]).size == (144, 144)
    assert len(list(rows)) == 887
