"""Format "webdataset": tar files of `KEY.jpg` with `KEY.json` and/or `KEY.txt`, read as a stream or by index."""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..grouping import UnreadImage
from ..records import PackedTable, Record, Scan, joined_name
from ..sharded_stream import ShardedStream
from .named_files import named_files
from .source import OpenedSource, Source, SourceFormat
from .tar_samples import Member, Sample, join_members, record_of_sample, split_member_name


TAR_SUFFIXES = (".tar", ".tgz")
# How the names of tars in a directory end.
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")

# A tar file ends with two blocks of zeros, each of 512 bytes.
_END_MARK_BYTES = 1024
# What follows the mark is looked through in pieces of this size.
_READ_BYTES = 2**20
# Where the content of a file begins in its tar, and how long it is.
_Extent = tuple[int, int]
# No image that is read is larger, see `ImageLimits`.
_MOST_MEMBER_BYTES = 440 * 10**6
# Long names and attributes of a file, which `tarfile` reads whole.
_MOST_NAME_BYTES = 2**20
_NAME_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _BoundedInfo(tarfile.TarInfo):
    """The header of a file in a tar. What it says of its size must not fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_BoundedInfo":
        """Reads a header like `TarInfo`."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in _NAME_TYPES and info.size > _MOST_NAME_BYTES:
            raise tarfile.ReadError(f"a name may have {_MOST_NAME_BYTES:,} bytes, but one has {info.size:,}")
        return info


def read_shard(path: Path) -> Scan:
    """Yields the records of one shard, in order. One that is cut or broken ends with a `ValueError` that says so."""
    last_id = "the start"
    try:
        with tarfile.open(path, "r|*", tarinfo=_BoundedInfo) as tar:
            for sample in join_members(_members(tar)):
                yield f"{path.name}:{sample.id}", record_of_sample(sample)
                last_id = sample.id
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield path.name, _broken_shard(last_id, error)


def expand_shards(place: str | Path | Iterable[str | Path]) -> list[Path]:
    """Returns the paths of shards.

    Args:
        place: A path, a glob (`train-*.tar`), a range (`train-{00000..00003}.tar`), or a list of those.

    Raises:
        ValueError: if there is no such file.
    """
    if not isinstance(place, (str, Path)):
        place = list(place)
    return named_files(place, TAR_SUFFIXES, "tar")


class TarTable:
    """The rows of tars, read by index. Tars that are not compressed stay on the disk.

    Args:
        shards: Paths of the tars. All are looked through once, without their content.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.name = joined_name([path.name for path in shards])
        self._shards = list(shards)
        # Shards that cannot be read to their end, and why.
        self._broken: list[tuple[str, str]] = []
        self._packed = PackedTable(self.name, self._find_samples())

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> Record:
        record = record_of_sample(self._sample(index, ("image", "text", "metadata")))
        if isinstance(record, ValueError):
            raise record
        return record

    def location(self, index: int) -> str:
        """Names the shard and the key: "train-0.tar:000017"."""
        packed = self._packed[index]
        return f"{self._shards[packed['shard']].name}:{packed['id']}"

    def scan(self) -> Scan:
        """Reads all records without their images, and then says which shards are broken."""
        for index in range(len(self)):
            record = record_of_sample(self._sample(index, ("text", "metadata")))
            if not isinstance(record, ValueError) and self._packed[index]["image"] is not None:
                record = {**record, "image": self._unread_image(index)}
            yield self.location(index), record
        for location, reason in self._broken:
            yield location, ValueError(reason)

    def _unread_image(self, index: int) -> UnreadImage:
        return UnreadImage(lambda: self._sample(index, ("image",)).image)

    def _sample(self, index: int, parts: Sequence[str]) -> Sample[bytes | ValueError]:
        """Reads some of the files of a sample."""
        packed = self._packed[index]
        files: dict[str, bytes | ValueError | None] = {}
        with open(self._shards[packed["shard"]], "rb") as shard:
            for part in parts:
                extent = packed[part]
                files[part] = None
                if extent is not None:
                    shard.seek(extent[0])
                    files[part] = _too_large(extent[1]) or shard.read(extent[1])
        return Sample(packed["id"], **files, error=packed["error"])

    def _find_samples(self) -> Iterator[dict[str, Any]]:
        for number, path in enumerate(self._shards):
            last_id = "the start"
            try:
                # Only a tar that is not compressed can be read at any place.
                with tarfile.open(path, "r:", tarinfo=_BoundedInfo) as tar:
                    for sample in join_members(_extents(tar)):
                        yield {"shard": number, **sample._asdict()}
                        last_id = sample.id
                    _check_end(path, tar.offset)
            except (tarfile.TarError, OSError, EOFError) as error:
                self._broken.append((path.name, str(_broken_shard(last_id, error))))


def _broken_shard(last_id: str, error: Exception) -> ValueError:
    return ValueError(f"a shard must be a whole tar file, but cannot be read after {last_id}: {error}")


def _too_large(size: int) -> ValueError | None:
    """Says that a file of a tar is too large to be read, if it is."""
    if size <= _MOST_MEMBER_BYTES:
        return None
    return ValueError(f"a file of a sample must have at most {_MOST_MEMBER_BYTES:,} bytes, but one has {size:,}")


def _members(tar: tarfile.TarFile) -> Iterator[Member[bytes | ValueError]]:
    """Yields the files of a tar with their content."""
    for info in tar:
        name = split_member_name(info.name)
        if info.isfile() and name is not None:
            content = tar.extractfile(info)
            assert content is not None  # only for members that are not files
            yield Member(*name, _too_large(info.size) or content.read())


def _extents(tar: tarfile.TarFile) -> Iterator[Member[_Extent]]:
    """Yields the files of a tar with the place of their content."""
    for info in tar:
        name = split_member_name(info.name)
        if info.isfile() and name is not None:
            yield Member(*name, (info.offset_data, info.size))


def _check_end(path: Path, end: int) -> None:
    """Raises `ReadError` if a tar that is not compressed goes on where `tarfile` ended, or has no end: it does not say.

    Args:
        path: The tar.
        end: Where `tarfile` found no further file.
    """
    if path.suffix.lower() != ".tar":
        return
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _END_MARK_BYTES))
        if any(file.read()):
            raise tarfile.ReadError("no end-of-archive mark, so it was cut")
        file.seek(end)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"the header at byte {end:,} is damaged")
        while content := file.read(_READ_BYTES):
            if content.count(0) < len(content):
                raise tarfile.ReadError("there is another archive after its end-of-archive mark")


def _open(source: Source) -> OpenedSource:
    shards = _shards(source)
    folder = None
    if source.path is not None and source.path.is_file():
        folder = source.path.parent
    if source.by_index:
        compressed = [path.name for path in shards if path.suffix.lower() != ".tar"]
        if compressed:
            raise ValueError(
                f"tars must not be compressed where rows are read by index, but {compressed[0]} is: unpack it (gunzip)"
            )
        return OpenedSource(TarTable(shards), folder)
    stream = ShardedStream(
        joined_name([path.name for path in shards]),
        shards,
        read_shard,
        shuffle_buffer=source.shuffle_buffer,
        seed=source.seed,
        selection=source.selection,
    )
    return OpenedSource(stream, folder)


def _shards(source: Source) -> list[Path]:
    if source.directory is None:
        return expand_shards(source.place)
    tars = sorted(path for path in source.directory.iterdir() if path.name.endswith(_TAR_ENDINGS))
    shards = [path for path in tars if path.name.startswith(source.split)]
    if not shards and all(path.name.partition(".")[0].isdecimal() for path in tars):
        # img2dataset numbers its tars, which are all of one split.
        return tars
    if not shards:
        names = [path.name for path in tars[:5]]
        raise ValueError(
            f"split must be how the names of some tars begin, but is {source.split!r} and they are {names}; "
            "or give the tars themselves, as a glob"
        )
    return shards


def _recognises(source: Source) -> bool:
    if source.directory is not None:
        return any(path.name.endswith(_TAR_ENDINGS) for path in source.directory.iterdir())
    return source.has_suffix(*TAR_SUFFIXES)


WEBDATASET = SourceFormat("webdataset", _open, _recognises, can_stream=True)
