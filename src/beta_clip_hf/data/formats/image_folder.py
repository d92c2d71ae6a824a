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
    file = _metadata_file(directory, source.split)
    if file is None:
        raise ValueError(f"an image folder must hold one of {tuple(_METADATA)}, but {str(directory)!r} does not")
    return _METADATA[file.name].open(replace(source, place=file, is_format_given=True))


def _metadata_file(directory: Path, split: str) -> Path | None:
    """Returns the metadata file of a split, or else of the whole directory."""
    for folder in (directory / split, directory):
        for name in _METADATA:
            if (folder / name).is_file():
                return folder / name
    return None


def _recognises(source: Source) -> bool:
    if source.path is None or not source.path.is_dir():
        return False
    return _metadata_file(source.path, source.split) is not None


IMAGE_FOLDER = SourceFormat("imagefolder", _open, _recognises)
