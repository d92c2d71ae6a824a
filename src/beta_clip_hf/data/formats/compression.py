"""Compressed files of rows (`.gz`, `.zst`, `.bz2`, `.xz`), read as if they were not compressed."""

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


_ZSTANDARD, _XZ = ".zst", ".xz"
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open}
COMPRESSIONS = (*_OPENERS, _XZ, _ZSTANDARD)

_CHUNK_BYTES = 2**20
# A kilobyte of Zstandard may unpack to 32 MB, and there is no limit for a single call.
_PACKED_CHUNK_BYTES = 2**10
# The dictionary of the strongest setting of xz has 64 MB.
_MOST_BYTES_OF_XZ = 2**28
# Captions are packed to a third or a tenth. What unpacks to far more is made to fill the memory.
_LARGEST_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 2**26


class Content(NamedTuple):
    """The content of a file."""

    data: bytes
    """All of it, or what comes before the damage."""
    damage: ValueError | None = None
    """Says where and why a compressed file cannot be read to its end."""


def row_suffix(path: str | Path) -> str:
    """Returns the suffix of a file in lower case; of a compressed file, the one before that of the compression.

    >>> row_suffix("photos.JSONL"), row_suffix("photos.jsonl.gz"), row_suffix("photos.gz")
    ('.jsonl', '.jsonl', '')
    """
    path = Path(path)
    if is_compressed(path):
        path = Path(path.stem)
    return path.suffix.lower()


def is_compressed(path: str | Path) -> bool:
    """Tells by its name whether a file is compressed."""
    return Path(path).suffix.lower() in COMPRESSIONS


def read_content(path: Path, limit: int | None = None) -> Content:
    """Reads a file into memory, decompressed.

    Args:
        path: Path of the file. Its last suffix names the compression.
        limit: Least number of bytes that are read, if the file has so many; all by default.

    Raises:
        ImportError: for `.zst`, if no library can read it.
    """
    if not is_compressed(path):
        with open(path, "rb") as file:
            return Content(file.read(limit))
    data = bytearray()
    most = max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * path.stat().st_size)
    try:
        for chunk in _chunks(path):
            data += chunk
            if len(data) > most:
                raise ValueError(f"it unpacks to more than {_LARGEST_RATIO} times its size")
            if limit is not None and len(data) >= limit:
                break
    # Each library has errors of its own for a broken file.
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, MemoryError) as error:
        return Content(bytes(data), ValueError(f"a compressed file must be whole, but is cut or broken: {error}"))
    return Content(bytes(data))


def _chunks(path: Path) -> Iterator[bytes]:
    """Yields the content of a compressed file; if it is damaged, all that comes before the damage."""
    suffix = path.suffix.lower()
    if suffix == _ZSTANDARD:
        yield from _chunks_of_frames(path, *_zstandard())
        return
    if suffix == _XZ:
        # `lzma.open` has no limit for the memory that a file may ask for.
        yield from _chunks_of_frames(path, lambda: lzma.LZMADecompressor(memlimit=_MOST_BYTES_OF_XZ), lzma.LZMAError)
        return
    open_compressed: Any = _OPENERS[suffix]
    with open_compressed(path, "rb") as file:
        # `read` would drop what it has when the file ends too early; `read1` returns it first.
        while chunk := file.read1(_CHUNK_BYTES):
            yield chunk


def _chunks_of_frames(path: Path, new_decompressor: Callable[[], Any], error_class: type[Exception]) -> Iterator[bytes]:
    """Yields the content of a file of frames, each of which has a decompressor of its own."""
    with open(path, "rb") as file:
        decompressor = new_decompressor()
        has_begun = False
        while compressed := file.read(_PACKED_CHUNK_BYTES):
            while compressed:
                try:
                    yield decompressor.decompress(compressed)
                except error_class as error:
                    raise ValueError(str(error)) from error
                has_begun = True
                compressed = b""
                if decompressor.eof:
                    # A file may have several frames, one after the other.
                    compressed = decompressor.unused_data
                    decompressor = new_decompressor()
                    has_begun = False
        if has_begun:
            raise EOFError("it ends within a frame")


def _zstandard() -> tuple[Any, Any]:
    """Returns what makes a decompressor of one frame, and the class of its errors."""
    try:
        # In the standard library from Python 3.14 on.
        library = importlib.import_module("compression.zstd")
        return library.ZstdDecompressor, library.ZstdError
    except ImportError:
        pass
    try:
        library = importlib.import_module("zstandard")
    except ImportError as error:
        raise ImportError("files that end in .zst need the package zstandard: pip install zstandard") from error
    return (lambda: library.ZstdDecompressor().decompressobj()), library.ZstdError


__all__ = ["COMPRESSIONS", "Content", "is_compressed", "read_content", "row_suffix"]
