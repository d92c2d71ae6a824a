"""Builds the sentences and phrases of all captions of a source once, and keeps them with the rows."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging as transformers_logging

from ..files import file_sha256, replacing, write_json
from ..text.map import rules_digest
from ..text.phrases import PhraseExtractor
from .formats.split_files import Shard, find_shards
from .grouping import join_rows
from .inner_images import IMAGE_FOLDER, image_file, name_of_inner_image, store_inner_image
from .photo_table import PhotoTable, photos_of_table
from .readers import open_table
from .records import Table
from .row_counts import RowCounts
from .row_reader import RECORDS_WITH_ALL_COLUMNS, RowReader
from .row_texts import hierarchy_of
from .rows import Row


logger = logging.getLogger(__name__)

# Photos that a worker reads before it sends its results.
BLOCK_ROWS = 256
# Fewer rows are digested by one process: more processes take longer to start than to read them.
_ROWS_FOR_ONE_PROCESS = 50_000


@dataclass(frozen=True)
class BuiltShard:
    """A file of rows with their sentences and phrases."""

    path: Path
    rows: int
    """Number of rows in it: a photo with several captions is one."""
    read: int
    """Number of rows of the source that are in it."""
    skipped: int
    """Number of records that could not be used."""
    bytes: int
    """Size of the file."""
    settings: dict[str, Any]
    """Text rules, tagger and kinds that the phrases were made with."""


def build_hierarchies(
    source: Any,
    output: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
    num_proc: int | None = None,
    extractor: PhraseExtractor | None = None,
    strict: bool = False,
    split: str = "train",
    group: bool = True,
    **reading: Any,
) -> BuiltShard:
    """Writes the rows of a source with `sentences`, `phrases`, `phrase_sentences` and `phrase_kinds` as JSON Lines.

    `load_rows(output)` reads them, and training takes them as they are. Rows keep their order, columns and ids, so
    training draws the same texts of them as of the source. Sentences and phrases that a row brings along are kept.
    Image paths become relative to `output`. Images that lie inside of the source are copied to `output/images`.

    What a shard was built from is written beside it, last of all (`SHARD.info.json`). If that names the same rows and
    settings, nothing is built. An unfinished shard has a name of its own that nothing reads; an interrupted one is
    built from its start.

    Args:
        source: What [`load_rows`] takes, except streams and compressed tars. Images that are files are not looked at.
        output: Directory of the shards.
        shard: Pair `(i, n)` for the i-th of n parts, counted from 0. Parts are consecutive records; together they are
            all of them.
        num_proc: Number of processes; by default one per core.
        extractor: Finds the phrases; `PhraseExtractor()` by default. If its tagger is a function of your own, a later
            process cannot tell that it is the same one, and builds everything again.
        strict: Whether a row that cannot be used is an error. By default it is skipped, logged and counted.
        split, group: See `load_rows`.
        reading: More arguments of `load_rows`: `format`, `image_root`, `columns`, `skip`, `take`, `delimiter` and
            `encoding`.

    Returns:
        The shard, built now or before.

    Raises:
        ValueError: as `load_rows`; if the shard is out of range, or if `output` has rows of that split that do not
            belong to these shards.
    """
    place = Shard(*shard)
    if not 0 <= place.part < place.parts:
        raise ValueError(f"shard must be i/n with 0 <= i < n, but is {place.part}/{place.parts}")
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, but is {num_proc}")
    output = Path(output)
    extractor = extractor or PhraseExtractor()
    _check_neighbours(output, split, place.parts)
    table, reader = open_table(source, split=split, **reading)
    reader.check_columns((record for _, record in islice(table.scan(), RECORDS_WITH_ALL_COLUMNS)), table.name)
    photos = photos_of_table(table, reader, group=group)
    blocks = _Blocks(table, reader, photos, _photos_of(place, len(photos)), output, extractor)
    path = output / place.file_name(split)
    processes = num_proc or os.cpu_count() or 1
    settings = {"rules": rules_digest(), "tagger": str(extractor.tagger), "kinds": list(extractor.kinds)}
    built = _read_built(path, settings, blocks, processes)
    if built is not None:
        logger.info("%s is there already, from the same rows and settings", path)
        return built
    return _write(path, settings, blocks, processes, strict)


class _Block(NamedTuple):
    """Holds the results of a worker for a block of records."""

    content: bytes
    """Digest of the rows."""
    lines: bytes = b""
    rows: int = 0
    read: int = 0
    """Number of records that the rows were made of."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Where each skipped record is, and why it was skipped."""


class _Blocks(Dataset[_Block]):
    """Reads the photos of a shard block by block. Without an extractor it computes only their digests."""

    def __init__(
        self,
        table: Table,
        reader: RowReader,
        photos: PhotoTable,
        numbers: range,
        output: Path,
        extractor: PhraseExtractor | None,
    ) -> None:
        self.table = table
        self.numbers = numbers
        self._photos = photos
        self._reader = reader
        self._output = output
        self._extractor = extractor

    @property
    def lost(self) -> Sequence[tuple[str, str]]:
        """Places that belong to no record of the source, and what is wrong there. The last shard reports them."""
        return self._photos.lost if self.numbers.stop == len(self._photos) else ()

    def __len__(self) -> int:
        # Rounded up.
        return -(-len(self.numbers) // BLOCK_ROWS)

    def __getitem__(self, number: int) -> _Block:
        content = hashlib.sha256()
        lines: list[bytes] = []
        skipped: list[tuple[str, str]] = []
        read = 0
        for photo in self.numbers[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS]:
            records = self._photos[photo]
            try:
                row = self._row(records)
                content.update(_line(row))
                if self._extractor is not None:
                    lines.append(_line(_with_hierarchy(row, self._extractor)))
                    read += len(records)
            except ValueError as error:
                for index in records:
                    skipped.append((self.table.location(index), str(error)))
                    content.update(repr(skipped[-1]).encode())
        return _Block(content.digest(), b"".join(lines), len(lines), read, tuple(skipped))

    def digest(self, processes: int) -> str:
        """Digests all rows of the shard, and what is wrong with those that cannot be used."""
        without_extractor = _Blocks(self.table, self._reader, self._photos, self.numbers, self._output, None)
        if len(self.numbers) <= _ROWS_FOR_ONE_PROCESS:
            processes = 1
        return _joined_digest(block.content for block in without_extractor.read(processes))

    def read(self, processes: int) -> Iterator[_Block]:
        """Yields all blocks in order, made by so many processes."""
        workers = 0
        if processes > 1:
            workers = min(processes, len(self))
        yield from DataLoader(self, batch_size=None, num_workers=workers, collate_fn=_unchanged)

    def _row(self, records: Sequence[int]) -> Row:
        rows = [self._reader(self.table[index], self.table.location(index)) for index in records]
        row = join_rows(rows, as_list=self._photos.as_list)
        name = name_of_inner_image(row["image"])
        if name is None:
            folder, file = os.path.split(image_file(row["image"]))
            relative_folder = _relative_path(str(self._output), folder)
            return {**row, "image": os.path.normpath(os.path.join(relative_folder, file))}
        # For a digest the name is enough: it is a hash of the content.
        if self._extractor is not None:
            store_inner_image(row["image"], self._output / IMAGE_FOLDER / name)
        return {**row, "image": f"{IMAGE_FOLDER}/{name}"}


def _photos_of(shard: Shard, count: int) -> range:
    """Returns the numbers of a shard's photos among `count` photos."""
    return range(shard.part * count // shard.parts, (shard.part + 1) * count // shard.parts)


def _check_neighbours(output: Path, split: str, parts: int) -> None:
    """Makes sure that `load_rows(output)` will read all shards and nothing else."""
    if (output / f"{split}.jsonl").is_file():
        raise ValueError(f"output must have no {split}.jsonl, which is read in the shards' place, but {output} has")
    other_numbers = {shard.parts for shard in find_shards(output, split)} - {parts}
    if other_numbers:
        raise ValueError(f"output must have shards of one number only, but {output} has some of {min(other_numbers)}")


def _read_built(path: Path, settings: dict[str, Any], blocks: _Blocks, processes: int) -> BuiltShard | None:
    """Returns the shard if it is there, whole, and built from these rows with these settings; else `None`."""
    try:
        info = json.loads(_info_path(path).read_text(encoding="utf-8"))
        content, lines_sha256 = info.pop("content"), info.pop("sha256")
        built = BuiltShard(path, **info)
        is_whole = file_sha256(path) == lines_sha256
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    # The digest comes last: it reads all rows.
    is_same = built.settings == settings and is_whole and content == blocks.digest(processes)
    return built if is_same else None


def _write(path: Path, settings: dict[str, Any], blocks: _Blocks, processes: int, strict: bool) -> BuiltShard:
    path.parent.mkdir(parents=True, exist_ok=True)
    # From here on the old shard, if there is one, proves nothing.
    _info_path(path).unlink(missing_ok=True)
    interrupted = list(path.parent.glob(f".{path.name}.*"))
    if interrupted:
        logger.warning("%s was interrupted before and is built from its start", path)
    start = time.perf_counter()
    counts = RowCounts(blocks.table.name, strict=strict)
    digests: list[bytes] = []
    rows = 0
    with (
        replacing(path) as unfinished,
        open(unfinished, "wb") as file,
        transformers_logging.tqdm(total=len(blocks.numbers), desc=path.name, unit=" rows") as progress,
    ):
        for block in blocks.read(processes):
            for location, reason in block.skipped:
                counts.skip(location, ValueError(reason))
            counts.add(block.read)
            rows += block.rows
            digests.append(block.content)
            file.write(block.lines)
            progress.update(block.rows + len(block.skipped))
        for location, reason in blocks.lost:
            counts.skip(location, ValueError(reason))
    built = BuiltShard(path, rows, counts.used, counts.skipped, path.stat().st_size, settings)
    info = {name: value for name, value in asdict(built).items() if name != "path"}
    write_json({**info, "content": _joined_digest(digests), "sha256": file_sha256(path)}, _info_path(path))
    for leftover in interrupted:
        leftover.unlink(missing_ok=True)
    counts.report(rows if rows < counts.used else None)
    logger.info("%s is built: %.1f s", path, time.perf_counter() - start)
    return built


def _info_path(path: Path) -> Path:
    return path.with_suffix(".info.json")


def _with_hierarchy(row: Row, extractor: PhraseExtractor) -> Row:
    hierarchy = hierarchy_of(row, extractor)
    texts = {"caption": hierarchy.caption, **hierarchy.columns()}
    if hierarchy.short_caption is not None:
        texts["short_caption"] = hierarchy.short_caption
    # The row's own phrases may have boxes.
    if "phrases" in row:
        texts["phrases"] = row["phrases"]
    return {**row, **texts}


def _line(row: Row) -> bytes:
    # Half of a surrogate pair is legal in JSON, but has no UTF-8.
    return (json.dumps(row, ensure_ascii=False, default=_refuse) + "\n").encode("utf-8", "surrogatepass")


def _refuse(value: Any) -> None:
    raise ValueError(f"a column must hold what JSON can hold, but has a {type(value).__name__}")


@lru_cache(maxsize=1024)
def _relative_path(output: str, folder: str) -> str:
    """Returns the path from `output` to a folder. Links are followed, because `..` after a link leads elsewhere."""
    return os.path.relpath(os.path.realpath(folder), os.path.realpath(output))


def _joined_digest(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _unchanged(block: Any) -> Any:
    return block


__all__ = ["BuiltShard", "build_hierarchies"]
