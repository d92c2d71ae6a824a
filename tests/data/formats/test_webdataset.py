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
from beta_clip_hf.data.readers import RowStream, load_rows, open_table
from data.source_files import write_tar as write_members


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
        files = {}
        for row in range(5):
            files |= pair(5 * shard + row)
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
    assert messages[-1] == "a.tar: 2 rows read + 4 skipped = 6 in the source"
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
    files = {}
    for number in range(3):
        files |= {f"{number}.png": image_bytes(0), f"{number}.json": '{"text": "A."}'}
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


def damaged_header(content):
    """Changes a digit of the checksum of the header at the boundary of the tests above."""
    place = 512 * 12 + 148
    return content[:place] + b"7777" + content[place + 4 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damaged_header, "the header at byte 6,144 is damaged"),
        (lambda content: content * 2, "there is another archive after its end-of-archive mark"),
    ],
    ids=["header", "two in one file"],
)
def test_what_follows_where_tarfile_ends_is_not_lost_silently(shards, damage, reason):
    """Python's tarfile takes a header that it cannot read, and a mark in the middle, for the end."""
    path = shards / "train-1.tar"
    path.write_bytes(damage(path.read_bytes()))
    rows = load_rows(shards)
    list(rows)
    assert rows.skipped == 1
    table, _ = open_table(str(shards / "train-*.tar"))
    location, error = list(table.scan())[-1]
    assert location == "train-1.tar" and reason in str(error)
    with pytest.raises(ValueError, match=reason):
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


def members_of(*names):
    """Files of a tar: images by their last suffix, a caption that is the name of its file in all others."""
    return [(name, image_bytes(0) if name.endswith("png") else name.encode()) for name in names]


# What the library webdataset makes of these names: its samples, or where it refuses to go on.
NAMES = {
    "dots in some keys": (
        ["0.png", "0.txt", "IMG_1.5.png", "IMG_1.5.txt"],
        {"0": "0.txt", "IMG_1": "IMG_1.5.txt"},
        0,
    ),
    "suffixes of two parts": (["0.input.png", "0.outputs.txt"], {"0": "0.outputs.txt"}, 0),
    "more images than one": (["0.depth.png", "0.png", "0.seg.png", "0.txt"], {"0": "0.txt"}, 0),
    "folders with dots": (["./a.v1/0.png", "./a.v1/0.txt"], {"./a.v1/0": "./a.v1/0.txt"}, 0),
    "capital letters": (["A.png", "A.TXT"], {"A": "A.TXT"}, 0),
    "hidden files and notes": (["._0.png", "__meta__.x__", "README", "0.png", "0.txt"], {"0": "0.txt"}, 0),
    "a file that is no row": (["LICENSE.md", "0.png", "0.txt"], {"0": "0.txt"}, 1),
    "the same key later again": (["0.png", "0.txt", "1.png", "1.txt"], {"0": "0.txt", "1": "1.txt"}, 0),
    "images, then texts": (["0.png", "1.png", "0.txt", "1.txt"], {}, 4),
    # For the library these are one sample without a png: both photos would be lost.
    "two photos of a key with a dot": (
        ["v1.a.png", "v1.a.txt", "v1.b.png", "v1.b.txt"],
        {"v1.a": "v1.a.txt", "v1.b": "v1.b.txt"},
        0,
    ),
    "an image twice, then its text": (["0.png", "0.png", "0.txt", "1.png", "1.txt"], {"1": "1.txt"}, 1),
    "a text twice, then its image": (["0.txt", "0.txt", "0.png", "1.png", "1.txt"], {"1": "1.txt"}, 1),
    "an image twice, alone": (["0.png", "0.png", "1.png", "1.txt"], {"1": "1.txt"}, 1),
    "a row, and its image again": (["0.png", "0.txt", "0.png"], {"0": "0.txt"}, 1),
    "texts that cannot be told apart": (["0.png", "0.a.txt", "0.b.txt"], {}, 1),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_read_as_the_library_webdataset_reads_them(tmp_path, kind):
    names, wanted, skipped = NAMES[kind]
    path = write_members(tmp_path / "a.tar", members_of(*names))
    stream = load_rows(path)
    assert {row["id"]: row["caption"] for row in stream} == wanted
    assert stream.skipped == skipped
    # By index it is the same.
    table, reader = open_table(path)
    rows = [row for _, row in reader.checked(table.scan(), table.name)]
    good = [row for row in rows if not isinstance(row, ValueError)]
    assert {row["id"]: row["caption"] for row in good} == wanted
    assert len(rows) - len(good) == skipped


def test_a_file_that_comes_twice_is_a_counted_skip(tmp_path, caplog):
    members = [("0.png", image_bytes(1)), ("0.txt", b"First."), ("0.png", image_bytes(2)), ("0.txt", b"Second.")]
    stream = load_rows(write_members(tmp_path / "a.tar", members))
    assert [row["caption"] for row in stream] == ["First."]
    assert stream.skipped == 1
    assert "a.tar:0 is skipped: a file must be in the tar once, but 0.png comes again" in caplog.messages


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (b"A dog runs.", {"caption": "A dog runs."}),
        (b"a dog runs\na brown dog\n\r\n two dogs \n", {"captions": ["a dog runs", "a brown dog", "two dogs"]}),
        (b"\xef\xbb\xbfA dog.\n", {"caption": "A dog."}),
        ("café".encode("latin-1"), None),
        (b" \n", None),
    ],
)
def test_captions_are_one_per_line(tmp_path, text, columns):
    members = [("0.png", image_bytes(1)), ("0.txt", text), ("1.png", image_bytes(2)), ("1.txt", b"Kept.")]
    stream = load_rows(write_members(tmp_path / "a.tar", members))
    rows = {row["id"]: row for row in stream}
    assert "1" in rows
    assert stream.skipped == (columns is None)
    if columns is not None:
        assert {name: rows["0"].get(name) for name in columns} == columns
        assert ("captions" in rows["0"]) == ("captions" in columns)


def test_the_tars_of_img2dataset(tmp_path):
    """They are numbered, and all of one split; a table and counts lie beside them."""
    for number in range(2):
        row = {
            "caption": f"Photo {number}.",
            "url": "https://example.org",
            "key": f"00000000{number}",
            "status": "success",
        }
        members = [(f"00000000{number}.png", image_bytes(number)), (f"00000000{number}.txt", row["caption"].encode())]
        members.append((f"00000000{number}.json", json.dumps(row).encode()))
        write_members(tmp_path / f"0000{number}.tar", members)
        (tmp_path / f"0000{number}_stats.json").write_text('{"count": 1}')
        (tmp_path / f"0000{number}.parquet").write_bytes(b"not read")
    assert [row["caption"] for row in load_rows(tmp_path)] == ["Photo 0.", "Photo 1."]
    assert len(list(load_rows(tmp_path, split="test"))) == 2


@pytest.mark.parametrize("length", [512 * 13 + 100, 512 * 12, 512 * 12 + 30], ids=["content", "boundary", "header"])
def test_a_shard_that_was_cut_is_told_by_index_too(shards, length):
    path = shards / "train-1.tar"
    path.write_bytes(path.read_bytes()[:length])
    table, _ = open_table(str(shards / "train-*.tar"))
    entries = list(table.scan())
    assert len(table) == 18
    assert len(entries) == 19
    location, error = entries[-1]
    assert location == "train-1.tar"
    assert "cannot be read after 0007" in str(error)


def test_compressed_tars_are_not_read_by_index(tmp_path):
    path = write_members(tmp_path / "a.tar.gz", members_of("0.png", "0.txt"))
    with pytest.raises(
        ValueError, match=r"tars must not be compressed where rows are read by index, but a\.tar\.gz is"
    ):
        open_table(path)
