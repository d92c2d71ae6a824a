"""Webdataset shards: tar files of `KEY.jpg` with `KEY.json` and/or `KEY.txt`, read as a stream."""

import glob
import json
import random
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from .records import Scan
from .workers import reader_part


IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class TarShards:
    """The records of tar files, split over dataloader workers and processes.

    With as many shards as readers or more, each reader has whole shards. With fewer, every reader goes through all of
    them and keeps each n-th record: slower, but nothing is lost and nobody is idle.

    Args:
        shards: Paths of the tar files.
        shuffle_buffer: Records held for shuffling; from 2 on the order of the shards is shuffled as well.
        seed: Of both.
    """

    def __init__(self, shards: Sequence[Path], *, shuffle_buffer: int = 0, seed: int = 0) -> None:
        self.name = shards[0].name if len(shards) == 1 else f"{shards[0].name} … {shards[-1].name}"
        self._shards = shards
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed

    def __call__(self, epoch: int) -> Scan:
        part, parts = reader_part()
        shards = list(self._shards)
        if self._shuffle_buffer > 1:  # the same order for every reader, so that their parts do not overlap
            random.Random(f"{self._seed}/{epoch}").shuffle(shards)
        scan: Scan
        if len(shards) >= parts:
            scan = chain.from_iterable(map(read_shard, shards[part::parts]))
        else:
            scan = islice(chain.from_iterable(map(read_shard, shards)), part, None, parts)
        return shuffled(scan, self._shuffle_buffer, random.Random(f"{self._seed}/{epoch}/{part}"))


def read_shard(path: Path) -> Scan:
    """The records of one shard, in order. A shard that is cut or broken ends with a `ValueError` that says so."""
    last = "the start"
    try:
        with tarfile.open(path, "r|*") as tar:
            for key, files in groupby(_files(tar), key=lambda file: file[0]):
                yield f"{path.name}:{key}", _record(key, {suffix: data for _, suffix, data in files})
                last = key
        if path.suffix == ".tar" and not _has_end(path):
            raise tarfile.ReadError("no end-of-archive mark, so it was cut")
    except (tarfile.TarError, OSError, EOFError) as error:
        lost = ValueError(f"a shard must be a whole tar file, but cannot be read after {last}: {error}")
        yield path.name, lost


def expand_shards(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """Paths of shards from a path, a glob (`train-*.tar`), a range (`train-{00000..00003}.tar`), or a list of those.

    Raises:
        ValueError: where there is no such file.
    """
    patterns = [str(source)] if isinstance(source, (str, Path)) else [str(one) for one in source]
    shards: list[Path] = []
    for pattern in chain.from_iterable(map(_expand_range, patterns)):
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
        if not found:
            raise ValueError(f"source must name existing tar files, but is {pattern!r}")
        shards += map(Path, found)
    return shards


def shuffled(items: Iterator[Any], buffer_size: int, rng: random.Random) -> Iterator[Any]:
    """The items in an order shuffled within a window: each leaves the buffer at random as the next one comes in."""
    if buffer_size <= 1:
        yield from items
        return
    buffer = list(islice(items, buffer_size))
    for item in items:
        index = rng.randrange(buffer_size)
        yield buffer[index]
        buffer[index] = item
    rng.shuffle(buffer)
    yield from buffer


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """`(key, suffix, content)`: by the webdataset convention the suffix begins at the first dot of the file's name."""
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if member.isfile() and stem and suffix.lower() in (*IMAGE_SUFFIXES, "json", "txt"):
            content = tar.extractfile(member)
            assert content is not None  # it is a file
            yield folder + slash + stem, suffix.lower(), content.read()


def _record(key: str, files: dict[str, bytes]) -> dict[str, Any] | ValueError:
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


def _has_end(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return not any(file.read())


def _expand_range(pattern: str) -> Iterator[str]:
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand_range(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")
