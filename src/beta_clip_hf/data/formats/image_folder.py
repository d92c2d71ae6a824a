"""Format "imagefolder": a directory of images with a file of rows, in itself or in a directory per split."""

from dataclasses import replace
from pathlib import Path

from .compression import is_compressed, row_suffix
from .csv_files import CSV
from .hub import HUB, is_saved_dataset
from .json_files import JSON_SUFFIXES, LINES_SUFFIXES
from .json_rows import JSON, JSONL
from .source import OpenedSource, Source, SourceFormat


# In the order in which they are looked for.
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_TABLE_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv")
# Files about a data set, not of it.
_NO_TABLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
# Captions of Flickr8k and Flickr30k. Any other text file need not be a table.
_ENDS_OF_LISTS = (".token.txt", ".token")
_TABLE_NAMES = ("captions.txt", "captions.token", "token.txt", "results.csv", "results.token")
_OTHER_SPLITS = ("train", "val", "valid", "validation", "test", "dev")


def _open(source: Source) -> OpenedSource:
    directory = Path(source.place)
    file = _metadata_file(directory, source.split) or _table_file(directory, source.split)
    if file is None:
        raise ValueError(
            f"an image folder must hold one of {_METADATA}, or a single file of rows, but {str(directory)!r} does not"
        )
    return _open_file(source, file)


def _open_file(source: Source, file: Path) -> OpenedSource:
    suffix = row_suffix(file)
    file_format = CSV
    if suffix == ".parquet":
        file_format = HUB
    elif suffix in LINES_SUFFIXES:
        file_format = JSONL
    elif suffix in JSON_SUFFIXES:
        file_format = JSON
    is_metadata = file.name in _METADATA
    return file_format.open(replace(source, place=file, is_format_given=is_metadata))


def _metadata_file(directory: Path, split: str) -> Path | None:
    """Returns the metadata file of a split, or else of the whole directory."""
    for folder in (directory / split, directory):
        for name in _METADATA:
            if (folder / name).is_file():
                return folder / name
    return None


def _table_file(directory: Path, split: str) -> Path | None:
    """Returns the file of rows that is named like the split, or else the only one.

    Raises:
        ValueError: if there are several, so that only the user can tell them apart.
    """
    tables = sorted(path for path in directory.iterdir() if _is_table(path))
    coco_files = _coco_files(directory, split)
    if not tables and len(coco_files) == 1:
        return coco_files[0]
    for path in tables:
        if _stem(path) == split:
            return path
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ValueError(
            f"source must be one file of rows, or split one of {sorted(map(_stem, tables))}, but "
            f"{str(directory)!r} has {names} and split is {split!r}: name the file"
        )
    if tables and _stem(tables[0]) in _OTHER_SPLITS:
        raise ValueError(f"split must be {_stem(tables[0])!r}, as {str(directory)!r} has no other, but is {split!r}")
    return next(iter(tables), None)


def _coco_files(directory: Path, split: str) -> list[Path]:
    """Returns the files of captions of a split in a folder that is laid out as that of COCO."""
    files = (directory / "annotations").glob("captions_*.json")
    return sorted(file for file in files if file.name.startswith(f"captions_{split}"))


def _is_table(path: Path) -> bool:
    if not path.is_file() or path.name.startswith(".") or path.name in _NO_TABLES:
        return False
    # "Flickr8k.token.txt", but not the same captions reduced to their lemmas.
    is_list = path.name.endswith(_ENDS_OF_LISTS) and ".lemma." not in path.name
    return row_suffix(path) in _TABLE_SUFFIXES or path.name in _TABLE_NAMES or is_list


def _stem(path: Path) -> str:
    """Returns the name of a file without its suffix and that of its compression."""
    if is_compressed(path):
        path = path.with_suffix("")
    return path.stem


def _recognises(source: Source) -> bool:
    return source.directory is not None and _metadata_file(source.directory, source.split) is not None


def _recognises_table(source: Source) -> bool:
    """Tells whether a directory that no other format knows has files of rows. Parquet files are those of `datasets`."""
    directory = source.directory
    if directory is None or is_saved_dataset(directory):
        return False
    has_parquet = any(directory.glob("*.parquet")) or any(directory.glob("data/*.parquet"))
    if has_parquet:
        return False
    return any(map(_is_table, directory.iterdir())) or len(_coco_files(directory, source.split)) == 1


IMAGE_FOLDER = SourceFormat("imagefolder", _open, _recognises)
TABLE_FOLDER = SourceFormat("imagefolder", _open, _recognises_table)

__all__ = ["IMAGE_FOLDER", "TABLE_FOLDER"]
