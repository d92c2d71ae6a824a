"""Format "sidecar": a folder of images, each with its captions beside it in a file of the same name."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...model.image_files_beta_clip import regular_file
from ..records import Record, ScannedByIndex, parse_record
from .caption_lines import captions_of_text
from .source import OpenedSource, Source, SourceFormat
from .tar_samples import IMAGE_SUFFIXES, TEXT_SUFFIXES


_IMAGES = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
_TEXTS = tuple(f".{suffix}" for suffix in TEXT_SUFFIXES)
_METADATA = ".json"
# img2dataset writes what it has done beside the folders of its images.
_STATISTICS = "_stats.json"
# Far more than the captions of an image may have together.
_MOST_BYTES = 2**26


class SidecarTable(ScannedByIndex):
    """Images below a folder with their text files: `KEY.txt` has captions, one per line, `KEY.json` columns of a row.

    A record is a name without its suffix that an image, a text or both have. Hidden files and folders are left out.
    Memory holds the names.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.name = Path(folder).name or str(folder)
        self._folder = str(folder)
        self._files: list[tuple[str, tuple[str, ...]]] = []
        for subfolder, names in _files_below(self._folder):
            for stem, suffixes in _suffixes_by_stem(names).items():
                self._files.append((os.path.join(subfolder, stem), tuple(suffixes)))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        key, suffixes = self._files[index]
        images = [suffix for suffix in suffixes if suffix.lower() in ("", *_IMAGES)]
        if len(images) != 1:
            names = ", ".join(os.path.basename(key) + suffix for suffix in suffixes)
            raise ValueError(f"one image must be beside a text, but there is {names}")
        record = self._columns(key, suffixes)
        record.setdefault("id", key)
        return {**record, "image": key + images[0]}

    def location(self, index: int) -> str:
        """Names the files without their suffix: "photos/2020/cat"."""
        return f"{self.name}/{self._files[index][0]}"

    def _columns(self, key: str, suffixes: tuple[str, ...]) -> dict[str, Any]:
        """Reads the text files of an image. What the JSON file says of the caption comes before the text."""
        columns: dict[str, Any] = {}
        texts = []
        for suffix in suffixes:
            name = os.path.basename(key) + suffix
            if suffix.lower() == _METADATA:
                columns = _read_columns(os.path.join(self._folder, key + suffix), name)
            elif suffix.lower() in _TEXTS:
                texts.append(suffix)
        if columns.get("caption") is not None or columns.get("captions") is not None:
            return columns
        if len(texts) != 1:
            raise ValueError(f"one text must be beside {os.path.basename(key)}, but there are {len(texts)}")
        content = _read(os.path.join(self._folder, key + texts[0]))
        return {**columns, **captions_of_text(content, os.path.basename(key) + texts[0])}


def has_sidecars(folder: Path) -> bool:
    """Tells whether a folder holds an image with a text beside it. It stops at the first."""
    for _, names in _files_below(str(folder)):
        for suffixes in _suffixes_by_stem(names).values():
            kinds = {suffix.lower() for suffix in suffixes}
            if kinds & {"", *_IMAGES} and kinds & {*_TEXTS, _METADATA}:
                return True
    return False


def _read_columns(path: str, name: str) -> dict[str, Any]:
    return dict(parse_record(_read(path), name))


def _read(path: str) -> bytes:
    """Reads a text file. Whatever is called so may be a device, or a film."""
    with regular_file(path) as file:
        content: bytes = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{os.path.basename(path)} must have at most {_MOST_BYTES:,} bytes, but has more")
    return content


def _files_below(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder, by its path from the top, with the names of its files in order."""
    for subfolder, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        from_top = os.path.relpath(subfolder, folder)
        yield ("" if from_top == "." else from_top), sorted(names)


def _suffixes_by_stem(names: list[str]) -> dict[str, list[str]]:
    """Groups images, texts and JSON files by their names without suffix.

    The text of "cat.jpg" may also be "cat.jpg.txt". Then the whole name of the image is the name of both, and the image
    has the suffix "".
    """
    suffixes: dict[str, list[str]] = {}
    present = set(names)
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in _IMAGES and any(name + ending in present for ending in (*_TEXTS, _METADATA)):
            suffixes.setdefault(name, []).append("")
            continue
        is_known = suffix.lower() in (*_IMAGES, *_TEXTS, _METADATA)
        if is_known and not name.startswith(".") and not name.endswith(_STATISTICS):
            suffixes.setdefault(stem, []).append(suffix)
    return suffixes


def _open(source: Source) -> OpenedSource:
    folder = source.directory
    if folder is None:
        raise ValueError(f"source must be a folder of images with their texts, but is {str(source.place)!r}")
    # A folder per split, as `train/` and `test/`.
    if (folder / source.split).is_dir():
        folder = folder / source.split
    return OpenedSource(SidecarTable(folder), folder)


def _recognises(source: Source) -> bool:
    return source.directory is not None and has_sidecars(source.directory)


SIDECAR = SourceFormat("sidecar", _open, _recognises)
