"""Format "imagefolder": a directory of images with a metadata file, in itself or in a directory per split."""

from dataclasses import replace
from pathlib import Path

from .csv_files import CSV
from .hub import HUB
from .json_rows import JSONL
from .source import OpenedSource, Source, SourceFormat


# In the order in which they are looked for.
_METADATA = {"metadata.jsonl": JSONL, "metadata.csv": CSV, "metadata.parquet": HUB}


def _open(source: Source) -> OpenedSource:
    directory = Path(source.place)
    for folder in (directory / source.split, directory):
        for name, metadata_format in _METADATA.items():
            if (folder / name).is_file():
                return metadata_format.open(replace(source, place=folder / name, is_format_given=True))
    raise ValueError(f"an image folder must hold one of {tuple(_METADATA)}, but {str(directory)!r} does not")


def _recognises(source: Source) -> bool:
    if source.path is None or not source.path.is_dir():
        return False
    folders = (source.path, source.path / source.split)
    return any((folder / name).is_file() for name in _METADATA for folder in folders)


IMAGE_FOLDER = SourceFormat("imagefolder", _open, _recognises)
