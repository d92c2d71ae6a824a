"""Records that are held out: by number, id or value, of every format, indexed or streamed."""

import io
import json
import logging
import tarfile
from collections import Counter
from itertools import chain

import datasets
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.selection import make_selection


# More workers than this machine has cores are what some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

TOTAL = 12


def image_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def record(number: int) -> dict:
    return {"image": f"{number}.png", "caption": f"Picture {number}.", "id": f"n{number}", "fold": number % 3}


def number_of(row) -> int:
    return int(row["caption"].removeprefix("Picture ").removesuffix("."))


def numbers(rows) -> list[int]:
    return [number_of(row) for row in rows]


def write_lines(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def write_tar(path, records):
    with tarfile.open(path, "w") as tar:
        for number in records:
            for suffix, data in (("png", image_bytes(number)), ("json", json.dumps(record(number)).encode())):
                member = tarfile.TarInfo(f"n{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def coco_file():
    images = [{"id": f"n{number}", "file_name": f"{number}.png"} for number in range(TOTAL)]
    captions = [{"image_id": f"n{number}", "caption": f"Picture {number}."} for number in range(TOTAL)]
    lost = {"image_id": "nowhere", "caption": "Lost."}
    return {"images": images, "annotations": [*captions, lost]}


def finehard_records():
    for number in range(TOTAL):
        info = {"bbox": [0, 0, 1, 1], "short_expr": "it", "long_expr": "all of it", "flag_short_neg": 0}
        fields = {"short_caption": "it", "f_path": f"{number}.png", "bbox_info": [info], "id": f"n{number}"}
        yield {"caption": f"Picture {number}.", **fields}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images, and their rows in every format."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(TOTAL):
        (folder / f"{number}.png").write_bytes(image_bytes(number))
    records = [record(number) for number in range(TOTAL)]
    write_lines(folder / "rows.jsonl", records)
    (folder / "rows.json").write_text(json.dumps(records))
    (folder / "rows.csv").write_text(
        "image,caption,id,fold\n" + "".join("{image},{caption},{id},{fold}\n".format(**row) for row in records)
    )
    (folder / "coco.json").write_text(json.dumps(coco_file()))
    write_lines(folder / "finehard.jsonl", finehard_records())
    (folder / "parts").mkdir()
    for part in range(3):
        write_lines(folder / "parts" / f"train-{part}.jsonl", records[4 * part : 4 * part + 4])
    (folder / "imagefolder").mkdir()
    write_lines(folder / "imagefolder" / "metadata.jsonl", records)
    (folder / "tars").mkdir()
    # Tars of different lengths, one of them empty.
    for part, ends in enumerate(((0, 5), (5, 6), (6, 6), (6, 12))):
        write_tar(folder / "tars" / f"train-{part}.tar", range(*ends))
    return folder


def shards_of(numbers_of_shards):
    """A stream of `datasets`, with a shard for each list of numbers."""

    def read(shards):
        for shard in shards:
            for number in shard:
                yield {**record(number), "image": {"bytes": image_bytes(number), "path": None}}

    return datasets.IterableDataset.from_generator(read, gen_kwargs={"shards": numbers_of_shards})


SHARDS = [list(range(5)), [5], list(range(6, 12))]
SOURCES = {
    "rows": lambda folder: {"source": [record(number) for number in range(TOTAL)], "image_root": folder},
    "jsonl": lambda folder: {"source": folder / "rows.jsonl"},
    "several jsonl": lambda folder: {"source": folder / "parts", "image_root": folder},
    "json": lambda folder: {"source": folder / "rows.json"},
    "csv": lambda folder: {"source": folder / "rows.csv"},
    "imagefolder": lambda folder: {"source": folder / "imagefolder", "image_root": folder},
    "coco": lambda folder: {"source": folder / "coco.json"},
    "finehard": lambda folder: {"source": folder / "finehard.jsonl"},
    "hub": lambda folder: {
        "source": datasets.Dataset.from_list([record(number) for number in range(TOTAL)]), "image_root": folder,
    },
    "tars": lambda folder: {"source": folder / "tars"},
    "hub stream": lambda folder: {"source": shards_of(SHARDS)},
    "hub stream of one shard": lambda folder: {"source": shards_of([list(range(TOTAL))])},
}  # fmt: skip
STREAMS = [name for name in SOURCES if "tar" in name or "stream" in name]
# Arguments, the records that they keep, and how many a stream reads until it has these.
SELECTIONS = [
    ({"skip": 1}, range(1, 12), TOTAL),
    ({"skip": 5}, range(5, 12), TOTAL),
    ({"skip": 11}, [11], TOTAL),
    ({"take": 1}, [0], 1),
    ({"take": 5}, range(5), 5),
    ({"take": 100}, range(12), TOTAL),
    ({"skip": 4, "take": 3}, [4, 5, 6], 7),
    ({"skip": 6, "take": 6}, range(6, 12), TOTAL),
    ({"select": [7, 0, 3]}, [0, 3, 7], 8),
    ({"select": range(2, 9, 3)}, [2, 5, 8], 9),
    ({"select": ["n9", "n4"]}, [4, 9], TOTAL),
]


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_reads_the_selected_records(folder, name):
    source = SOURCES[name](folder)
    ids = {number_of(row): row["id"] for row in load_rows(**source)}
    assert len(ids) == TOTAL
    for arguments, expected, read in SELECTIONS:
        rows = load_rows(**source, **arguments)
        found = list(rows)
        assert [row["id"] for row in found] == [ids[number] for number in expected], arguments
        assert numbers(found) == list(expected)
        if name in STREAMS:
            assert (rows.skipped, rows.held_out) == (0, read - len(expected)), arguments
        else:
            assert (len(rows), rows.held_out) == (len(expected), TOTAL - len(expected)), arguments
            # COCO's file has an annotation of no image, which is reported where the whole file is read.
            assert [location for location, _ in rows.skipped] in ([], ["coco.json, annotations[12]"])


@pytest.mark.parametrize("name", ["jsonl", "hub", "csv", "tars", "hub stream"])
def test_values_of_columns(folder, name):
    source = SOURCES[name](folder)
    assert numbers(load_rows(**source, select={"fold": 1})) == [1, 4, 7, 10]
    rows = load_rows(**source, select={"fold": [0, "2"], "id": ["n3", "n4", "n5"]})
    assert numbers(rows) == [3, 5]
    assert rows.held_out == TOTAL - 2


def test_the_train_split_of_docci(folder):
    """Its file holds all splits, in columns of other names."""
    splits = ["train", "test", "qual_dev", "train"]
    lines = []
    for number, split in enumerate(splits):
        texts = {"example_id": f"{split}_{number}", "description": f"Picture {number}."}
        lines.append({**texts, "split": split, "image_file": f"{number}.png"})
    path = write_lines(folder / "docci_descriptions.jsonlines", lines)
    columns = {"image_file": "image", "description": "caption", "example_id": "id"}
    rows = load_rows(path, format="jsonl", columns=columns, select={"split": "train"})
    assert [row["id"] for row in rows] == ["train_0", "train_3"]
    assert load_rows(path, format="jsonl", columns=columns, select=["test_1"])[0]["caption"] == "Picture 1."


def test_a_file_of_ids_and_rows_without_ids(folder, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("n3\n\n n8 \n")
    for select in (path, str(path)):
        assert numbers(load_rows(folder / "rows.jsonl", select=select)) == [3, 8]
    assert numbers(load_rows(folder / "tars", select=path)) == [3, 8]
    lines = write_lines(folder / "plain.jsonl", [{"image": f"{n}.png", "caption": f"Picture {n}."} for n in range(4)])
    assert numbers(load_rows(lines, select=["plain.jsonl:2"])) == [1]
    renamed = [{"image": "0.png", "caption": f"Picture {n}.", "key": 50 + n} for n in range(4)]
    assert numbers(load_rows(renamed, image_root=folder, columns={"key": "id"}, select=["52"])) == [2]


def test_bad_records_keep_their_numbers_and_all_are_counted(folder, caplog):
    lines = [record(0), "{cut", record(2), record(3), {"image": "3.png", "caption": ""}, record(5), record(6)]
    path = write_lines(folder / "bad.jsonl", lines)
    with caplog.at_level(logging.INFO):
        rows = load_rows(path, skip=3)
    assert numbers(rows) == [3, 5, 6]
    assert [location for location, _ in rows.skipped] == ["bad.jsonl:5"]
    assert len(rows) + len(rows.skipped) + rows.held_out == len(lines)
    assert caplog.messages[-1] == "bad.jsonl: 3 rows read + 1 skipped + 3 held out = 7 in the source"
    # Rows that are held out are not checked, so that they are no errors either.
    assert numbers(load_rows(path, skip=2, take=2, strict=True)) == [2, 3]
    # A line that cannot be read has no id: it is reported whichever ids are selected.
    rows = load_rows(path, select=["n5"])
    assert (numbers(rows), [location for location, _ in rows.skipped], rows.held_out) == ([5], ["bad.jsonl:2"], 5)


def test_a_stream_counts_what_it_passes_over(folder, caplog):
    rows = load_rows(folder / "tars", skip=7)
    with caplog.at_level(logging.INFO):
        assert numbers(rows) == [7, 8, 9, 10, 11]
    assert caplog.messages[-1] == "train-0.tar … train-3.tar: 5 rows read + 0 skipped + 7 held out = 12 in the source"
    assert numbers(rows) == [7, 8, 9, 10, 11]
    assert rows.held_out == 2 * 7


@pytest.mark.parametrize("name", ["tars", "hub stream", "hub stream of one shard"])
@pytest.mark.parametrize("shuffle_buffer", [0, 3])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"skip": 3}, range(3, 12)), ({"skip": 2, "take": 7}, range(2, 9)), ({"select": ["n1", "n7", "n11"]}, [1, 7, 11])],
    ids=str,
)
def test_readers_of_a_stream_share_the_selected_records(folder, monkeypatch, name, shuffle_buffer, arguments, expected):
    for processes, workers in ((1, 2), (5, 0)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        seen: Counter[int] = Counter()
        held_out = 0
        for rank in range(processes):
            monkeypatch.setenv("RANK", str(rank))
            rows = load_rows(**SOURCES[name](folder), **arguments, shuffle_buffer=shuffle_buffer)
            seen.update(numbers(DataLoader(rows, num_workers=workers, batch_size=None)))
            held_out += rows.held_out
        assert seen == Counter(expected)
        assert held_out == (TOTAL if "take" not in arguments else 9) - len(expected)


def test_a_selected_stream_is_shuffled_among_its_own(folder):
    rows = load_rows(folder / "tars", skip=2, shuffle_buffer=4, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        rows.set_epoch(epoch)
        orders.append(numbers(rows))
    assert orders[0] == orders[2] != orders[1]
    assert all(sorted(order) == list(range(2, 12)) and order != sorted(order) for order in orders)


def test_a_cut_shard_is_still_reported(folder, tmp_path, caplog):
    content = (folder / "tars" / "train-0.tar").read_bytes()
    (tmp_path / "train-0.tar").write_bytes(content[: 512 * 13 + 100])
    for arguments in ({"skip": 1}, {"select": ["n1"]}):
        caplog.clear()
        assert numbers(load_rows(tmp_path, **arguments))
        assert "train-0.tar is skipped: a shard must be a whole tar file" in caplog.text


BAD_ARGUMENTS = [
    ({"skip": -1}, "skip must be a whole number of at least 0, but is -1"),
    ({"skip": 1.5}, "skip must be a whole number of at least 0, but is 1.5"),
    ({"skip": "3"}, "skip must be a whole number of at least 0, but is '3'"),
    ({"skip": None}, "skip must be a whole number of at least 0, but is None"),
    ({"take": 0}, "take must be a whole number of at least 1, but is 0"),
    ({"take": True}, "take must be a whole number of at least 1, but is True"),
    ({"skip": 12}, "skip must leave a record of .*, but it has 12 and skip is 12"),
    ({"skip": 2000, "take": 5}, "skip must leave a record of .*, but it has 12 and skip is 2,000"),
    ({"skip": 1, "select": [1]}, "select must come without skip and take, but they are 1 and None"),
    ({"take": 1, "select": [1]}, "select must come without skip and take, but they are 0 and 1"),
    ({"select": []}, "select must name at least one record, but is empty"),
    ({"select": {}}, "select must name at least one column, but is empty"),
    ({"select": [3, -2]}, "select must have numbers from 0 on, or strings, which are ids, but has -2"),
    ({"select": [3, "n3"]}, "select must have numbers from 0 on, or strings, which are ids, but has 'n3'"),
    ({"select": [True]}, "select must have numbers from 0 on, or strings, which are ids, but has True"),
    ({"select": [3, 12]}, "select must have numbers below the 12 of .*, but has 12"),
    ({"select": 5}, "select must be numbers, ids, a file of ids, or values of columns, but is 5"),
    ({"select": "absent.txt"}, "select must be an existing file of ids, one per line, but is 'absent.txt'"),
]


@pytest.mark.parametrize("name", ["jsonl", "tars", "hub stream"])
@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS, ids=str)
def test_what_cannot_be_selected_is_refused(folder, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_rows(**SOURCES[name](folder), **arguments)


def test_absent_ids_and_values_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"select must have ids of rows\.jsonl, but has 'm1', 'm2', 'm3' and 1 more"):
        load_rows(folder / "rows.jsonl", select=["n1", "m4", "m1", "m2", "m3"])
    with pytest.raises(ValueError, match=r"select must keep a record of rows\.jsonl, but none has \{'fold': \['9'\]\}"):
        load_rows(folder / "rows.jsonl", select={"fold": 9})
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"select must be a file of ids, one per line, but empty\.txt has none"):
        load_rows(folder / "rows.jsonl", select=tmp_path / "empty.txt")


def test_all_records_need_no_selection():
    assert make_selection(0, None, None) is None


def test_the_pairs_of_skip_and_take_are_a_partition(folder):
    """A source that is cut at any number gives each row once."""
    for cut in range(1, TOTAL):
        for name in ("jsonl", "tars"):
            source = SOURCES[name](folder)
            parts = [load_rows(**source, take=cut), load_rows(**source, skip=cut)]
            assert numbers(chain.from_iterable(parts)) == list(range(TOTAL))
