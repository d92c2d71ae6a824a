"""Format "dci": the annotations of DCI (arXiv 2312.08578), a JSON file per photo."""

from pathlib import Path
from typing import Any

from ...text.sampling import join_captions
from ..fields import shown
from ..records import Record, ScannedByIndex
from ..row_reader import RecordFormat
from .json_files import read_json
from .source import OpenedSource, Source, SourceFormat
from .splits import names_of_split


# Where the annotations lie, from the folder that the authors' script makes or from a folder above.
_ANNOTATIONS = ("annotations", "densely_captioned_images/annotations")


class DciTable(ScannedByIndex):
    """One record per file of annotations: its short caption and its long description together are the caption.

    Args:
        files: The files.
        name: Name of the source in messages.
    """

    def __init__(self, files: list[Path], name: str) -> None:
        self.name = name
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        path = self._files[index]
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"annotations must be a JSON object, but are {shown(content)}")
        record: dict[str, Any] = {"image": content.get("image"), "id": path.stem}
        texts = []
        for field in ("short_caption", "extra_caption"):
            text = content.get(field) or ""
            if not isinstance(text, str):
                raise ValueError(f"{field} must be a string, but is {shown(text)}")
            if text.strip():
                texts.append(text.strip())
        record["caption"] = join_captions(texts)
        if texts and content.get("short_caption"):
            record["short_caption"] = texts[0]
        return record

    def location(self, index: int) -> str:
        """Names the file."""
        return self._files[index].name


def _annotations(folder: Path) -> Path | None:
    for name in _ANNOTATIONS:
        annotations = folder / name
        if (annotations.parent / "photos").is_dir() and any(annotations.glob("*.json")):
            return annotations
    if folder.name == "annotations" and (folder.parent / "photos").is_dir() and any(folder.glob("*.json")):
        return folder
    return None


def _open(source: Source) -> OpenedSource:
    annotations = None
    if source.path is not None:
        annotations = _annotations(source.path)
    if annotations is None:
        raise ValueError(
            f"source must be the folder of DCI, with the folders annotations and photos, but is {str(source.place)!r}"
        )
    files = sorted(annotations.glob("*.json"))
    splits_file = annotations.parent / "splits.json"
    name = annotations.name
    if splits_file.is_file():
        files = _files_of_split(files, splits_file, source.split)
        name = f"{name} ({source.split})"
    return OpenedSource(DciTable(files, name), annotations.parent / "photos", RecordFormat())


def _files_of_split(files: list[Path], splits_file: Path, split: str) -> list[Path]:
    splits = read_json(splits_file)
    for split_name in names_of_split(split):
        if isinstance(splits, dict) and split_name in splits:
            names = {Path(name).stem for name in splits[split_name]}
            return [file for file in files if file.stem in names]
    raise ValueError(f"split must be one of {sorted(splits)} in {splits_file.name}, but is {split!r}")


def _recognises(source: Source) -> bool:
    return source.directory is not None and _annotations(source.directory) is not None


DCI = SourceFormat("dci", _open, _recognises)
