"""Format "webdataset": tar files of `KEY.jpg` with `KEY.json` and/or `KEY.txt`, read as a stream."""

import glob
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from ..records import Record, Scan
from ..sharded_stream import ShardedStream
from .json_files import JSON_SUFFIXES
from .source import OpenedSource, Source, SourceFormat


IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TAR_SUFFIXES = (".tar", ".tgz", ".gz")

# A tar file ends with two blocks of zeros, each of 512 bytes.
_END_MARK_BYTES = 1024


class _Member(NamedTuple):
    """One file of a tar."""

    key: str
    """Its name up to the first dot, with its folder: the same for all files of a record."""
    suffix: str
    content: bytes


def read_shard(path: Path) -> Scan:
    """Yields the records of one shard, in order. One that is cut or broken ends with a `ValueError` that says so."""
    last_key = "the start"
    try:
        with tarfile.open(path, "r|*") as tar:
            for key, members in groupby(_members(tar), key=lambda member: member.key):
                yield f"{path.name}:{key}", _record(key, {member.suffix: member.content for member in members})
                last_key = key
        # `tarfile` takes a file that was cut between two members for a whole one.
        if path.suffix == ".tar" and not _has_end_mark(path):
            raise tarfile.ReadError("no end-of-archive mark, so it was cut")
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = f"a shard must be a whole tar file, but cannot be read after {last_key}: {error}"
        yield path.name, ValueError(reason)


def expand_shards(place: str | Path | Iterable[str | Path]) -> list[Path]:
    """Returns the paths of shards.

    Args:
        place: A path, a glob (`train-*.tar`), a range (`train-{00000..00003}.tar`), or a list of those.

    Raises:
        ValueError: if there is no such file.
    """
    if isinstance(place, (str, Path)):
        place = [place]
    shards: list[Path] = []
    for pattern in chain.from_iterable(_expand_range(str(path)) for path in place):
        names = sorted(glob.glob(pattern))
        # A file may have the letters of a glob in its name.
        if Path(pattern).is_file():
            names = [pattern]
        if not names:
            raise ValueError(f"source must name existing tar files, but is {pattern!r}")
        shards += map(Path, names)
    return shards


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    """Yields the files of a tar that may belong to a record.

    By the webdataset convention the suffix begins at the first dot of the file's name.
    """
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        suffix = suffix.lower()
        if member.isfile() and stem and suffix in (*IMAGE_SUFFIXES, "json", "txt"):
            content = tar.extractfile(member)
            assert content is not None  # only for members that are not files
            yield _Member(folder + slash + stem, suffix, content.read())


def _record(key: str, files: dict[str, bytes]) -> Record | ValueError:
    """Joins the files of a key, by their suffixes, into a record."""
    record: dict[str, Any] = {}
    if "json" in files:
        try:
            record = json.loads(files["json"])
        except ValueError as error:
            return ValueError(f"{key}.json must be JSON, but is not: {error}")
        if not isinstance(record, dict):
            return ValueError(f"{key}.json must be a JSON object, but is a {type(record).__name__}")
    if "txt" in files and record.get("caption") is None:
        record["caption"] = files["txt"].decode("utf-8", "replace").strip()
    image = next((files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files), None)
    return {**record, "id": key, "image": image}


def _has_end_mark(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _END_MARK_BYTES))
        return not any(file.read())


def _expand_range(pattern: str) -> Iterator[str]:
    """Yields a pattern with every number of its ranges: `{00..02}` gives 00, 01 and 02."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    before, after = pattern[: match.start()], pattern[match.end() :]
    for number in range(int(first), int(last) + 1):
        padded = f"{number:0{len(first)}d}"
        yield from _expand_range(before + padded + after)


def _open(source: Source) -> OpenedSource:
    shards = _shards(source)
    folder = None
    if source.path is not None and source.path.is_file():
        folder = source.path.parent
    name = f"{shards[0].name} … {shards[-1].name}"
    if len(shards) == 1:
        name = shards[0].name
    stream = ShardedStream(
        name,
        shards,
        read_shard,
        shuffle_buffer=source.shuffle_buffer,
        seed=source.seed,
        selection=source.selection,
    )
    return OpenedSource(stream, folder)


def _shards(source: Source) -> list[Path]:
    if source.path is None or not source.path.is_dir():
        return expand_shards(source.place)
    tars = sorted(source.path.glob("*.tar"))
    shards = [path for path in tars if path.name.startswith(source.split)]
    if not shards:
        names = [path.name for path in tars[:5]]
        raise ValueError(
            f"split must be how the names of some tars begin, but is {source.split!r} and they are {names}; "
            "or give the tars themselves, as a glob"
        )
    return shards


def _recognises(source: Source) -> bool:
    if source.paths is not None:
        return source.paths[0].suffix not in JSON_SUFFIXES
    if source.path is not None and source.path.is_dir():
        return any(source.path.glob("*.tar"))
    return source.has_suffix(*TAR_SUFFIXES)


WEBDATASET = SourceFormat("webdataset", _open, _recognises, can_stream=True)
