"""[`load_rows`]: finds out what a source is, and opens it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .coco import COCO, CocoTable, is_coco, without_polygons
from .finehard import FINEHARD
from .json_files import (
    JSON_SUFFIXES,
    common_folder,
    is_finehard,
    json_array,
    json_files,
    json_records,
    json_tables,
    jsonl_files,
    jsonl_of_split,
    names_in_messages,
    read_json,
)
from .records import HubStream, HubTable, JsonLines, ListTable, PackedTable, Table, csv_table
from .row_dataset import RecordFormat, RowDataset, RowReader, RowStream
from .webdataset import TarShards, expand_shards


FORMATS = ("rows", "jsonl", "json", "csv", "hf", "imagefolder", "webdataset", "finehard", "coco")

_FORMAT_OF_SUFFIX = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "hf",
    ".tar": "webdataset",
    ".tgz": "webdataset",
    ".gz": "webdataset",
}
_OF_SEVERAL_FILES = ("finehard", "coco")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def load_rows(
    source: Any,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    streaming: bool = False,
    shuffle_buffer: int = 0,
    seed: int = 0,
    strict: bool = False,
) -> RowDataset | RowStream:
    """Opens a data set of images and captions. Images are read and decoded later, by the collator.

    Args:
        source: A file (`.jsonl`, `.json`, `.csv`, `.parquet`, `.tar`), a glob or list of `.jsonl` files or tars, a
            directory (an image folder with a metadata file, a Hub data set, tars, `SPLIT.jsonl`, or `SPLIT-*.jsonl`),
            the id of a data set on the Hub, a `datasets.Dataset`, or a list of dicts. FineHARD and COCO: a JSON file, a
            glob, a directory of them, or a list of those.
        format: One of "rows", "jsonl", "json", "csv", "hf", "imagefolder", "webdataset", "finehard", "coco"; found out
            by default, but for several `.json` files.
        image_root: Directory that relative image paths start from; the directory of the file or files by default.
        columns: `{present: wanted}` where names differ, as in `{"text": "caption"}`.
        split: Of a directory or a Hub data set.
        streaming: Whether a Hub data set is streamed; tars always are, other files never.
        shuffle_buffer: Rows held for shuffling a stream; 0 keeps the order.
        seed: Of that shuffling; the epoch is the other part of it (`set_epoch`).
        strict: Whether a row that cannot be used is an error; else it is skipped, logged and counted (`.skipped`).

    Returns:
        A `RowDataset`, or a `RowStream` for tars and where `streaming`.

    Raises:
        ValueError: where the source is not there, not of that format, or lacks a column; if `strict`, for any bad row.
        ImportError: for Parquet and Hub data sets without the package `datasets`.

    >>> rows = load_rows([{"image": b"...", "text": "A red square."}], columns={"text": "caption"})
    >>> rows[0]["id"], rows[0]["caption"]
    ('rows[0]', 'A red square.')
    """
    opened, reader = _open(source, format, image_root, columns, split, streaming, shuffle_buffer, seed)
    if isinstance(opened, (TarShards, HubStream)):
        return RowStream(opened.name, opened, reader, strict=strict)
    return RowDataset(opened, reader, strict=strict)


def open_table(
    source: Any,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
) -> tuple[Table, RowReader]:
    """The records of a source by index, none of them read yet, and what makes rows of them.

    Args:
        source, format, image_root, columns, split: as in [`load_rows`].

    Raises:
        ValueError: as `load_rows`, and where the source is a stream.
        ImportError: as `load_rows`.
    """
    opened, reader = _open(source, format, image_root, columns, split)
    if isinstance(opened, (TarShards, HubStream)):
        raise ValueError(f"source must have rows that can be read by index, but {opened.name} is a stream")
    return opened, reader


def is_saved_dataset(folder: str | Path) -> bool:
    """Whether `save_to_disk` of `datasets` has written a folder."""
    names = {path.name for path in Path(folder).glob("*.json")}
    return "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names


def _open(
    source: Any,
    format: str | None,
    image_root: str | Path | None,
    columns: Mapping[str, str] | None,
    split: str,
    streaming: bool = False,
    shuffle_buffer: int = 0,
    seed: int = 0,
) -> tuple[Table | TarShards | HubStream, RowReader]:
    guessed = format is None
    format = format or _guess_format(source, split)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, but is {format!r}")
    if streaming and format not in ("hf", "webdataset"):
        raise ValueError(f"streaming must be False for the format {format!r}, but is True")

    if format == "imagefolder":
        source, guessed = _metadata_file(Path(source), split), False
        format = _FORMAT_OF_SUFFIX[source.suffix]
    if format == "jsonl":
        files = jsonl_files(source, split)
        source = files[0] if len(files) == 1 else files
    elif format in _OF_SEVERAL_FILES:
        source = json_files(source)
    if image_root is None and isinstance(source, list) and format in ("jsonl", *_OF_SEVERAL_FILES):
        image_root = common_folder(source)
    elif image_root is None and isinstance(source, (str, Path)) and Path(source).is_file():
        image_root = Path(source).parent

    if format == "webdataset":
        shards = TarShards(_shards(source, split), shuffle_buffer=shuffle_buffer, seed=seed)
        return shards, RowReader(image_root, columns)
    if format != "hf":
        table, record_format = _open_table(source, format, guessed)
        return table, RowReader(image_root, columns, record_format)
    dataset, name = _open_hub_dataset(source, split, streaming)
    reader = RowReader(image_root, columns)
    if hasattr(dataset, "__len__"):
        return HubTable(dataset, name), reader
    return HubStream(dataset, name, shuffle_buffer=shuffle_buffer, seed=seed), reader


def _open_table(source: Any, format: str, guessed: bool) -> tuple[Table, RecordFormat]:
    if format == "rows":
        return ListTable(source), RecordFormat()
    if format == "finehard":
        return json_tables(source), FINEHARD
    if format == "coco":
        named = zip(names_in_messages(source), source, strict=True)
        return CocoTable((name, read_json(path, name, without_polygons)) for name, path in named), COCO
    if format == "jsonl" and isinstance(source, list):
        table = json_tables(source)
        return table, FINEHARD if guessed and is_finehard(table) else RecordFormat()
    if not isinstance(source, (str, Path)) or not Path(source).is_file():
        raise ValueError(f"source must be an existing file, but is {str(source)!r}")
    path = Path(source)
    if guessed and path.suffix in JSON_SUFFIXES:
        return _open_json(path)
    openers: dict[str, Any] = {"jsonl": JsonLines, "json": json_array, "csv": csv_table}
    return openers[format](path), RecordFormat()


def _open_json(path: Path) -> tuple[Table, RecordFormat]:
    """The records of a JSON file, whose own content says what they are; it is read once."""
    table = json_records(path)
    if table is None:
        content = read_json(path, object_hook=without_polygons)
        if is_coco(content):
            return CocoTable([(path.name, content)]), COCO
        if not (isinstance(content, dict) and "bbox_info" in content):
            found = f"has the keys {sorted(content)}" if isinstance(content, dict) else f"is {type(content).__name__}"
            raise ValueError(
                f'{path.name} must be a JSON list of records, or an object with "images" and "annotations", but '
                f"{found}; or give the format, one of {('json', 'jsonl', *_OF_SEVERAL_FILES)}"
            )
        table = PackedTable(path.name, [content])
    return table, FINEHARD if is_finehard(table) else RecordFormat()


def _guess_format(source: Any, split: str) -> str:
    if not isinstance(source, (str, Path)):
        if hasattr(source, "column_names"):
            return "hf"
        if not isinstance(source, Sequence):
            raise ValueError(f"source must be a path, a list or a `datasets.Dataset`, but is a {type(source).__name__}")
        if not source or not isinstance(source[0], (str, Path)):
            return "rows"
        if all(Path(path).suffix == ".jsonl" for path in source):
            return "jsonl"
        if Path(source[0]).suffix in JSON_SUFFIXES:
            raise ValueError(f"format must be one of {_OF_SEVERAL_FILES} for a list of JSON files, but is not given")
        return "webdataset"
    path = Path(source)
    if path.is_dir():
        return _guess_format_of_directory(path, split)
    if path.suffix in _FORMAT_OF_SUFFIX:
        return _FORMAT_OF_SUFFIX[path.suffix]
    if not path.exists() and str(source).count("/") == 1:  # as in "user/photos"
        return "hf"
    if path.exists():
        raise ValueError(
            "source must end in .jsonl, .json, .csv or .parquet (for training also in .tar, .tgz or .gz), or have its "
            f"format given, but is {str(source)!r}"
        )
    raise ValueError(
        f"source must be an existing file or directory, or the id of a Hub data set, but is {str(source)!r}"
    )


def _guess_format_of_directory(directory: Path, split: str) -> str:
    if any((folder / name).is_file() for folder in (directory, directory / split) for name in _METADATA):
        return "imagefolder"
    if jsonl_of_split(directory, split):
        return "jsonl"
    return "webdataset" if any(directory.glob("*.tar")) else "hf"


def _metadata_file(directory: Path, split: str) -> Path:
    for folder in (directory / split, directory):
        for name in _METADATA:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(f"an image folder must hold one of {_METADATA}, but {str(directory)!r} does not")


def _shards(source: str | Path | Iterable[str | Path], split: str) -> list[Path]:
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return expand_shards(source)
    every = sorted(Path(source).glob("*.tar"))
    of_split = [path for path in every if path.name.startswith(split)]
    if not of_split:
        names = [path.name for path in every[:5]]
        raise ValueError(
            f"split must be how the names of some tars begin, but is {split!r} and they are {names}; "
            "or give the tars themselves, as a glob"
        )
    return of_split


def _open_hub_dataset(source: Any, split: str, streaming: bool) -> tuple[Any, str]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError('Parquet and Hub data sets need `datasets`: pip install "beta-clip-hf[train]"') from error
    if isinstance(source, (str, Path)):
        dataset, name = _read_hub_dataset(source, split, streaming), Path(source).name
    else:
        dataset, name = source, "dataset"
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if split not in dataset:
            raise ValueError(f"split must be one of {sorted(dataset)}, but is {split!r}")
        dataset = dataset[split]
    return dataset, name


def _read_hub_dataset(source: str | Path, split: str, streaming: bool) -> Any:
    import datasets

    path = Path(source)
    try:
        if path.is_file():
            return datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=streaming)
        if is_saved_dataset(path):
            saved = datasets.load_from_disk(str(path))
            return saved.to_iterable_dataset() if streaming and isinstance(saved, datasets.Dataset) else saved
        return datasets.load_dataset(str(source), split=split, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"source must be a data set that `datasets` can open, but is {str(source)!r}: {error}"
        ) from error


__all__ = ["FORMATS", "RowDataset", "RowStream", "load_rows"]
