"""Writes the same captioned photos as each kind of source, with damaged rows among them."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image


NUM_PHOTOS = 4
CAPTIONS = [f"Picture {number}." for number in range(NUM_PHOTOS)]


class SourceFile(NamedTuple):
    """A source on the disk."""

    place: Any
    """What `load_rows` is given."""
    damaged: int
    """Number of its rows that cannot be used."""
    encoding: str | None = None
    total: int = 0
    """Number of all of its rows, where they are not those of the photos and the damaged ones."""

    @property
    def rows(self) -> int:
        """Number of all rows of the source, as its own tools count them."""
        return self.total or NUM_PHOTOS + self.damaged


def photo(number: int) -> bytes:
    """The PNG of a photo, which has its number as its colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_photos(folder: Path) -> None:
    """Writes 0.png … 3.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_PHOTOS):
        (folder / f"{number}.png").write_bytes(photo(number))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Writes a tar of files in order. A name may be there twice."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def json_lines() -> bytes:
    """Rows in JSON Lines, with four lines that are no row."""
    lines = [json.dumps({"image": f"{number}.png", "caption": CAPTIONS[number]}) for number in range(NUM_PHOTOS)]
    broken = ['{"image": "0.png", "capt', "[1, 2]", '{"image": "absent.png", "caption": "A."}', '{"image": "1.png"}']
    return "\n".join([*lines[:2], "", *broken, *lines[2:]]).encode() + b"\n"


def csv_text(delimiter: str) -> str:
    """Rows with a delimiter, with four that cannot be used: extra cells, no caption, an open quote, no image."""
    lines = [delimiter.join(("image", "caption", "licence"))]
    lines += [delimiter.join((f"{number}.png", CAPTIONS[number], "")) for number in range(NUM_PHOTOS)]
    lines.insert(2, delimiter.join(("0.png", "A dog", " a cat", " and a bird")))
    lines.insert(3, delimiter.join(("0.png", "", "")))
    lines.insert(4, delimiter.join(("1.png", '"A 5 inch nail', "")))
    lines.append(delimiter.join(("absent.png", "A photo that is not there.", "")))
    return "\n".join(lines) + "\n"


def write_jsonl(folder: Path) -> SourceFile:
    (folder / "train.jsonl").write_bytes(json_lines())
    return SourceFile(folder / "train.jsonl", 4)


def write_compressed(suffix: str, compress: Callable[[bytes], bytes]) -> Callable[[Path], SourceFile]:
    def write(folder: Path) -> SourceFile:
        (folder / f"train.jsonl{suffix}").write_bytes(compress(json_lines()))
        return SourceFile(folder / f"train.jsonl{suffix}", 4)

    return write


def write_cut_gzip(folder: Path) -> SourceFile:
    """The rows are whole. What is cut is told as one more row, because nobody knows how many there were."""
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(json_lines())[:-6])
    return SourceFile(folder / "train.jsonl.gz", 5)


def write_json_list(folder: Path) -> SourceFile:
    rows: list[Any] = [{"image": f"{number}.png", "caption": CAPTIONS[number]} for number in range(NUM_PHOTOS)]
    (folder / "train.json").write_text(json.dumps([*rows, 7, {"image": "0.png"}]))
    return SourceFile(folder / "train.json", 2)


def write_sharegpt(folder: Path) -> SourceFile:
    """Turns of both kinds."""
    rows: list[Any] = []
    for number, caption in enumerate(CAPTIONS):
        turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": caption}]
        if number % 2:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": caption}]
        rows.append({"image": f"{number}.png", "conversations": turns})
    rows.append({"image": "0.png", "conversations": [{"from": "human", "value": "?"}]})
    rows.append({"image": "0.png", "conversations": "no turns"})
    (folder / "share.json").write_text(json.dumps(rows))
    return SourceFile(folder / "share.json", 2)


def write_csv(name: str, delimiter: str, encoding: str = "utf-8") -> Callable[[Path], SourceFile]:
    def write(folder: Path) -> SourceFile:
        (folder / name).write_bytes(csv_text(delimiter).encode(encoding))
        return SourceFile(folder / name, 4, encoding if encoding == "cp1252" else None)

    return write


def write_token(folder: Path) -> SourceFile:
    """Flickr8k's list: two captions per photo."""
    lines = []
    for number, caption in enumerate(CAPTIONS):
        lines += [f"{number}.png#0\t{caption}", f"{number}.png#1\tAnother."]
    lines.insert(3, "no name and no tab")
    (folder / "token.txt").write_text("\n".join(lines) + "\n")
    return SourceFile(folder / "token.txt", 1, total=2 * NUM_PHOTOS + 1)


def write_results(folder: Path) -> SourceFile:
    """Flickr30k's table, with the line that the published file has without its delimiter."""
    lines = ["image_name| comment_number| comment"]
    lines += [f"{number}.png| 0| {caption}" for number, caption in enumerate(CAPTIONS)]
    lines.append("0.png| 4   A dog runs across the grass .")
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return SourceFile(folder / "results.csv", 1)


def write_karpathy(folder: Path) -> SourceFile:
    images: list[Any] = []
    for number, caption in enumerate(CAPTIONS):
        split = "restval" if number == 3 else "train"
        images.append({"filename": f"{number}.png", "imgid": number, "split": split, "sentences": [{"raw": caption}]})
    images.append({"filename": "0.png", "split": "train", "sentences": []})
    images.append({"filename": "0.png", "split": "test", "sentences": [{"raw": "Held out."}]})
    (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return SourceFile(folder / "dataset.json", 1, total=NUM_PHOTOS + 2)


def write_coco(folder: Path) -> SourceFile:
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(NUM_PHOTOS + 1)]
    annotations = [{"id": n, "image_id": n, "caption": caption} for n, caption in enumerate(CAPTIONS)]
    annotations.append({"id": 9, "image_id": 99, "caption": "Of no image."})
    (folder / "annotations").mkdir()
    # The images lie beside the folder of the annotations, as COCO's do.
    write_photos(folder / "val2017")
    path = folder / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return SourceFile(path, 2)


def write_docci(folder: Path) -> SourceFile:
    write_photos(folder / "images")
    rows = []
    for number, caption in enumerate(CAPTIONS):
        rows.append(
            {"image_file": f"{number}.png", "description": caption, "split": "train", "example_id": f"e{number}"}
        )
    rows.append({"image_file": "0.png", "description": "", "split": "train", "example_id": "bad"})
    rows.append({"image_file": "0.png", "description": "Held out.", "split": "test", "example_id": "test"})
    path = folder / "docci_descriptions.jsonlines"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return SourceFile(path, 2, total=NUM_PHOTOS + 3)


def write_dci(folder: Path) -> SourceFile:
    top = folder / "dci"
    write_photos(top / "photos")
    (top / "annotations").mkdir()
    for number, caption in enumerate(CAPTIONS):
        content = {"image": f"{number}.png", "short_caption": caption, "extra_caption": "More of it."}
        (top / "annotations" / f"{number}.json").write_text(json.dumps(content))
    (top / "annotations" / "x.json").write_text('{"image": "0.png", "short_cap')
    (top / "annotations" / "y.json").write_text('{"image": "0.png", "short_caption": "", "extra_caption": ""}')
    return SourceFile(top, 2)


def write_sidecars(folder: Path) -> SourceFile:
    top = folder / "lora"
    write_photos(top / "one")
    for number, caption in enumerate(CAPTIONS):
        if number % 2:
            (top / "one" / f"{number}.json").write_text(json.dumps({"caption": caption, "url": None}))
        else:
            (top / "one" / f"{number}.txt").write_text(caption)
    (top / "two").mkdir()
    (top / "two" / "lonely.png").write_bytes(photo(9))
    (top / "two" / "lonely.txt.txt").write_text("A text without an image.")
    (top / "two" / "blank.png").write_bytes(photo(9))
    (top / "two" / "blank.txt").write_text("\n")
    (top / "two" / "latin.png").write_bytes(photo(9))
    (top / "two" / "latin.txt").write_bytes("café".encode("latin-1"))
    return SourceFile(top, 4)


def write_img2dataset(folder: Path) -> SourceFile:
    top = folder / "downloaded"
    write_photos(top / "00000")
    for number, caption in enumerate(CAPTIONS):
        (top / "00000" / f"{number}.txt").write_text(caption)
        columns = {"url": "https://example.org", "caption": caption, "key": f"{number}", "status": "success"}
        (top / "00000" / f"{number}.json").write_text(json.dumps(columns))
    (top / "00000_stats.json").write_text('{"count": 4}')
    (top / "00000" / "9.json").write_text('{"caption": "It was not downloaded."}')
    return SourceFile(top, 1)


def write_image_folder(folder: Path) -> SourceFile:
    top = folder / "folder"
    write_photos(top)
    (top / "metadata.csv").write_text(csv_text(",").replace("image,", "file_name,", 1))
    return SourceFile(top, 4)


def write_named_table(folder: Path) -> SourceFile:
    """A folder with one file of rows, whatever it is called."""
    top = folder / "named"
    write_photos(top)
    (top / "captions.jsonl").write_bytes(json_lines())
    return SourceFile(top, 4)


def write_kaggle(folder: Path) -> SourceFile:
    """Flickr8k as Kaggle has it: captions.txt beside the folder Images."""
    top = folder / "kaggle"
    write_photos(top / "Images")
    (top / "captions.txt").write_text(csv_text(","))
    return SourceFile(top, 4)


def tar_members() -> list[tuple[str, bytes]]:
    """Samples of four rows, and three samples that are none."""
    members: list[tuple[str, bytes]] = []
    for number, caption in enumerate(CAPTIONS):
        members += [(f"{number}.png", photo(number)), (f"{number}.txt", caption.encode())]
    members += [("7.png", photo(7)), ("7.txt", "café".encode("latin-1"))]
    members += [("8.png", photo(8))]
    members += [("9.txt", b"No image.")]
    return members


def write_webdataset(folder: Path) -> SourceFile:
    return SourceFile(write_tar(folder / "train.tar", tar_members()), 3)


def write_gzipped_webdataset(folder: Path) -> SourceFile:
    return SourceFile(write_tar(folder / "train.tar.gz", tar_members()), 3)


def write_list(folder: Path) -> SourceFile:
    rows: list[Any] = [{"image": photo(number), "caption": CAPTIONS[number]} for number in range(NUM_PHOTOS)]
    return SourceFile([*rows, "no dict", {"image": photo(0)}], 2)


def columns() -> dict[str, list[Any]]:
    """Columns of a table, with a caption that is missing and an image that is."""
    images: list[Any] = [{"bytes": photo(number), "path": None} for number in range(NUM_PHOTOS)]
    return {"image": [*images, images[0], None], "caption": [*CAPTIONS, None, "No image."]}


def write_parquet(folder: Path) -> SourceFile:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns()), folder / "train.parquet")
    return SourceFile(folder / "train.parquet", 2)


def write_parquet_parts(folder: Path) -> SourceFile:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns())
    pyarrow.parquet.write_table(table[:3], folder / "train-00000-of-00002.parquet")
    pyarrow.parquet.write_table(table[3:], folder / "train-00001-of-00002.parquet")
    return SourceFile(str(folder / "train-*.parquet"), 2)


def write_arrow(folder: Path) -> SourceFile:
    import pyarrow

    table = pyarrow.table(columns())
    with pyarrow.ipc.new_file(str(folder / "train.arrow"), table.schema) as file:
        file.write_table(table)
    return SourceFile(folder / "train.arrow", 2)


def write_saved_dataset(folder: Path) -> SourceFile:
    import datasets

    datasets.Dataset.from_dict(columns()).save_to_disk(folder / "saved")
    return SourceFile(folder / "saved", 2)


SOURCES: dict[str, Callable[[Path], SourceFile]] = {
    "JSON Lines": write_jsonl,
    "JSON Lines, gzip": write_compressed(".gz", gzip.compress),
    "JSON Lines, bzip2": write_compressed(".bz2", bz2.compress),
    "JSON Lines, xz": write_compressed(".xz", lzma.compress),
    "JSON Lines, gzip that is cut": write_cut_gzip,
    "JSON list": write_json_list,
    "ShareGPT4V": write_sharegpt,
    "CSV": write_csv("train.csv", ","),
    "CSV with semicolons": write_csv("train.csv", ";"),
    "CSV with pipes": write_csv("train.csv", "|"),
    "TSV": write_csv("train.tsv", "\t"),
    "CSV in UTF-16": write_csv("train.csv", ",", "utf-16"),
    "CSV in cp1252": write_csv("train.csv", ",", "cp1252"),
    "token.txt": write_token,
    "results.csv": write_results,
    "Karpathy": write_karpathy,
    "COCO": write_coco,
    "DOCCI": write_docci,
    "DCI": write_dci,
    "texts beside images": write_sidecars,
    "img2dataset": write_img2dataset,
    "image folder": write_image_folder,
    "folder with one table": write_named_table,
    "captions.txt": write_kaggle,
    "webdataset": write_webdataset,
    "webdataset, gzip": write_gzipped_webdataset,
    "list of dicts": write_list,
    "Parquet": write_parquet,
    "Parquet in parts": write_parquet_parts,
    "Arrow": write_arrow,
    "save_to_disk": write_saved_dataset,
}
NEED_DATASETS = {"Parquet", "Parquet in parts", "Arrow", "save_to_disk"}
