"""`beta-clip hierarchy`: the sentences and phrases of all captions of a source, built once and kept with the rows."""

import argparse
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging as transformers_logging

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..files import replacing, write_json
from ..text.hierarchy import rules_digest
from ..text.phrases import KINDS, PhraseExtractor
from .json_files import found_shards, shard_name
from .readers import FORMATS, open_table
from .records import Table
from .row_dataset import COLUMNS_FROM, RowReader, report_skip, report_total
from .rows import Row, hierarchy_of


logger = logging.getLogger(__name__)

_BLOCK = 256  # records that a worker reads, and answers for, at once
_READ_ALONE = 50_000  # rows: processes take longer to start than these to be read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip hierarchy`."""
    parser.add_argument(
        "data", metavar="DATA", nargs="+", help="rows whose images are files: a file, glob, directory or Hub id"
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="for SPLIT-00000-of-00001.jsonl")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="build one part only: 0/N, 1/N … N-1/N")
    parser.add_argument("--num-proc", metavar="N", type=int, help="number of processes (default: one per core)")
    parser.add_argument("--format", choices=FORMATS, help="of the source, where it cannot be found out")
    parser.add_argument("--split", metavar="NAME", default="train", help="of a directory or a Hub data set")
    parser.add_argument("--image-root", metavar="DIR", help="where relative paths start (default: beside their file)")
    parser.add_argument("--columns", nargs="+", default=[], metavar="THEIRS=OURS", help="rename, as in text=caption")
    parser.add_argument("--tagger", default="rules", choices=("rules", "nltk", "textblob"), help="of parts of speech")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="kinds of phrases")
    parser.add_argument("--strict", action="store_true", help="a row that cannot be used is an error, and not skipped")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """
    Builds one shard, unless it is there already; the report is what it holds.

    Raises:
        ValueError: for values that cannot be.
    """
    part, _, parts = args.shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise ValueError(f"--shard must be I/N, as in 0/4, but is {args.shard!r}")
    columns = dict(word.split("=", 1) for word in args.columns if "=" in word)
    if len(columns) < len(args.columns):
        raise ValueError(f"--columns must be THEIRS=OURS, each once, but is {args.columns}")
    path = build_hierarchies(
        args.data[0] if len(args.data) == 1 else args.data,
        args.output,
        shard=(int(part), int(parts)),
        num_proc=args.num_proc,
        extractor=PhraseExtractor(args.tagger, kinds=args.kinds),
        strict=args.strict,
        format=args.format,
        image_root=args.image_root,
        columns=columns,
        split=args.split,
    )
    info = json.loads(_info(path).read_text(encoding="utf-8"))
    if info["skipped"] and not info["rows"]:
        raise ValueError(f"{args.data[0]} must have a row that can be used, but all {info['skipped']} were skipped")
    return Report({"output": str(path), **{name: info[name] for name in ("rows", "skipped", "bytes", "settings")}})


def build_hierarchies(
    source: Any,
    output: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
    num_proc: int | None = None,
    extractor: PhraseExtractor | None = None,
    strict: bool = False,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
) -> Path:
    """Writes the rows of a source with `sentences`, `phrases`, `phrase_sentences` and `phrase_kinds` as JSON Lines.
    `load_rows(output)` reads them, and training takes them as they are.

    Rows keep their order, columns and ids, so that the same texts are drawn of them as of the source. Sentences and
    phrases that a row brings along are kept. Image paths become relative to `output`.

    What a shard was built from is written beside it, last of all (`SHARD.info.json`). Where that says the same rows and
    settings, nothing is built. An unfinished shard has a name of its own that nothing reads; what was interrupted is
    built from its start.

    Args:
        source: As `format`, `image_root`, `columns` and `split` one of [`load_rows`]. Its rows can be read by index,
            and their images are files, which are not looked at.
        output: Directory.
        shard: `(i, n)`: the i-th of n parts, counted from 0, of consecutive records; together they are the whole.
        num_proc: Number of processes; by default one per core.
        extractor: `PhraseExtractor()` by default. What a function as its tagger does is not known: then all is built.
        strict: Whether a row that cannot be used is an error; else it is skipped, logged and counted.

    Returns:
        The path of the shard.

    Raises:
        ValueError: as `load_rows`; for a shard out of range; where images are not files, or `output` has rows of that
            split that are not of these shards.
    """
    part, parts = shard
    if not 0 <= part < parts:
        raise ValueError(f"shard must be i/n with 0 <= i < n, but is {part}/{parts}")
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, but is {num_proc}")
    output, extractor = Path(output), extractor or PhraseExtractor()
    _check_neighbours(output, split, parts)
    table, reader = open_table(source, format=format, image_root=image_root, columns=columns, split=split)
    reader.check_columns((record for _, record in islice(table.scan(), COLUMNS_FROM)), table.name)
    records = range(part * len(table) // parts, (part + 1) * len(table) // parts)
    blocks = _Blocks(table, reader, records, output, extractor)
    blocks.check_image()
    path = output / shard_name(split, part, parts)
    processes = num_proc or os.cpu_count() or 1
    settings = {"rules": rules_digest(), "tagger": str(extractor.tagger), "kinds": list(extractor.kinds)}
    if _is_built(path, settings, blocks, processes):
        logger.info("%s is there already, from the same rows and settings", path)
    else:
        _write(path, settings, blocks, processes, strict)
    return path


class _NoFileError(ValueError):
    """The image is no file."""


class _Block(NamedTuple):
    """What a worker makes of some records."""

    content: bytes  # digest of the rows
    lines: bytes = b""
    rows: int = 0
    skipped: tuple[tuple[str, str], ...] = ()


class _Blocks(Dataset[_Block]):
    """The records of a shard, block by block; without an extractor only their digests are made."""

    def __init__(
        self, table: Table, reader: RowReader, records: range, output: Path, extractor: PhraseExtractor | None
    ) -> None:
        self.table, self.records = table, records
        self._reader, self._output, self._extractor = reader, str(output), extractor

    def __len__(self) -> int:
        return -(-len(self.records) // _BLOCK)

    def __getitem__(self, number: int) -> _Block:
        content = hashlib.sha256()
        lines: list[bytes] = []
        skipped = []
        for index in self.records[number * _BLOCK : (number + 1) * _BLOCK]:
            location = self.table.location(index)
            try:
                row = self._row(index, location)
                content.update(_line(row))
                if self._extractor is not None:
                    lines.append(_line(_with_hierarchy(row, self._extractor)))
            except ValueError as error:
                skipped.append((location, str(error)))
                content.update(repr(skipped[-1]).encode())
        return _Block(content.digest(), b"".join(lines), len(lines), tuple(skipped))

    def digest(self, processes: int) -> str:
        """Of all rows of the shard, and of what is wrong with those that cannot be used."""
        unread = _Blocks(self.table, self._reader, self.records, Path(self._output), None)
        alone = len(self.records) <= _READ_ALONE
        return _joined_digest(block.content for block in unread.read(1 if alone else processes))

    def read(self, processes: int) -> Iterator[_Block]:
        """All blocks in order, made by so many processes."""
        workers = min(processes, len(self)) if processes > 1 else 0
        yield from DataLoader(self, batch_size=None, num_workers=workers, collate_fn=_as_it_is)

    def _row(self, index: int, location: str) -> Row:
        row = self._reader(self.table[index], location)
        image = row["image"]
        if isinstance(image, Mapping) and not image.get("bytes"):  # as `datasets` has it
            image = image.get("path")
        if not isinstance(image, (str, Path)):
            raise _NoFileError(
                "image must be the path of a file, but is inside of the source: `map_text_hierarchy` adds the columns "
                "to a `datasets.Dataset`"
            )
        folder, name = os.path.split(image)
        return {**row, "image": os.path.normpath(os.path.join(_way(self._output, folder), name))}

    def check_image(self) -> None:
        """Raises `ValueError` where the first image is inside of the source: then all are."""
        try:
            for index in self.records[:1]:
                self._row(index, self.table.location(index))
        except _NoFileError:
            raise
        except ValueError:  # of that row alone: it is skipped
            pass


def _check_neighbours(output: Path, split: str, parts: int) -> None:
    if (output / f"{split}.jsonl").is_file():
        raise ValueError(f"output must have no {split}.jsonl, which is read in the shards' place, but {output} has")
    others = sorted({number for number, _ in found_shards(output, split)} - {parts})
    if others:
        raise ValueError(f"output must have shards of one number only, but {output} has some of {others[0]}")


def _is_built(path: Path, settings: dict[str, Any], blocks: _Blocks, processes: int) -> bool:
    """Whether the shard is whole and was built from these rows with these settings."""
    try:
        info = json.loads(_info(path).read_text(encoding="utf-8"))
        same = info["settings"] == settings and info["bytes"] == path.stat().st_size
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return same and info["content"] == blocks.digest(processes)


def _write(path: Path, settings: dict[str, Any], blocks: _Blocks, processes: int, strict: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _info(path).unlink(missing_ok=True)
    interrupted = list(path.parent.glob(f".{path.name}.*"))
    if interrupted:
        logger.warning("%s was interrupted before and is built from its start", path)
    contents, rows, skipped, start = [], 0, 0, time.perf_counter()
    with (
        replacing(path) as unfinished,
        open(unfinished, "wb") as file,
        transformers_logging.tqdm(total=len(blocks.records), desc=path.name, unit=" rows") as progress,
    ):
        for block in blocks.read(processes):
            for location, reason in block.skipped:
                report_skip(location, ValueError(reason), strict)
            file.write(block.lines)
            contents.append(block.content)
            rows, skipped = rows + block.rows, skipped + len(block.skipped)
            progress.update(block.rows + len(block.skipped))
    info = {"rows": rows, "skipped": skipped, "bytes": path.stat().st_size, "settings": settings}
    info["content"] = _joined_digest(contents)
    write_json(info, _info(path))
    for left in interrupted:
        left.unlink(missing_ok=True)
    report_total(blocks.table.name, rows, skipped)
    logger.info("%s is built: %.1f s", path, time.perf_counter() - start)


def _info(path: Path) -> Path:
    return path.with_suffix(".info.json")


def _with_hierarchy(row: Row, extractor: PhraseExtractor) -> Row:
    hierarchy = hierarchy_of(row, extractor)
    texts = {"caption": hierarchy.caption, "short_caption": hierarchy.short_caption, **hierarchy.columns()}
    if "phrases" in row:  # they may have boxes
        texts["phrases"] = row["phrases"]
    return {**row, **{name: text for name, text in texts.items() if text is not None}}


def _line(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False, default=_unwritable) + "\n").encode("utf-8", "surrogatepass")


def _unwritable(value: Any) -> None:
    raise ValueError(f"a column must hold what JSON can hold, but has a {type(value).__name__}")


@lru_cache(maxsize=1024)
def _way(output: str, folder: str) -> str:
    """The way from `output` to a folder; links are followed, because `..` after a link leads elsewhere."""
    return os.path.relpath(os.path.realpath(folder), os.path.realpath(output))


def _joined_digest(digests: Iterator[bytes] | list[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _as_it_is(block: Any) -> Any:
    return block


__all__ = ["build_hierarchies"]
