"""[`load_benchmark`]: reads a benchmark, and does not take a part of it for the whole."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...data.fields import missing_file_error
from ...data.row_counts import SkippedRow, lost_row, report_skip
from ...data.rows import Row, with_image
from .layout import Annotations, Kind, Place, count_rows
from .photos_and_scenes import NUM_SCENES, SCENES_SEED, scenes
from .registry import BENCHMARKS, Benchmark, find_benchmark


logger = logging.getLogger(__name__)

NAMED_IN_MESSAGES = 3


@dataclass(frozen=True)
class Part:
    """Rows that are measured together."""

    name: str
    """The name of the part; empty for the only or the main one."""
    kind: Kind
    rows: Sequence[Row]
    """The rows. `image` is the path of an existing file; rows of `photos` and `scenes` may also hold images."""
    counts: Mapping[str, int]
    """The counts of the rows, see [`count_rows`]."""
    data_hash: str
    """SHA-256 of the annotations: the rows with the names of their images, class names and templates. It does not
    depend on where the files are. The images are hashed when they are read."""
    missing: tuple[str, ...] = ()
    """Files that the benchmark names and that do not exist."""
    subset_note: str = ""
    """How much of the part there is, for example "998 of 1,000 images"; empty for the whole part."""
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    skipped: tuple[SkippedRow, ...] = ()
    """Rows of the user's own that cannot be used. They are not among `rows`."""

    @property
    def squash(self) -> bool:
        """Whether images are squashed to a square, so that every box of the whole image is seen."""
        return self.kind in ("regions", "boxes")


@dataclass(frozen=True)
class Reading:
    """A benchmark as it is on the disk."""

    benchmark: Benchmark
    parts: tuple[Part, ...]

    @property
    def is_subset(self) -> bool:
        """Whether something is missing in any part."""
        return any(part.subset_note for part in self.parts)

    @property
    def subset_note(self) -> str:
        """The notes of all parts, for example "1k: 998 of 1,000 images"."""
        notes = []
        for part in self.parts:
            if part.subset_note:
                note = part.subset_note
                if part.name:
                    note = f"{part.name}: {note}"
                notes.append(note)
        return "; ".join(notes)

    @property
    def key(self) -> str:
        """SHA-256 over the parts. It is equal for equal annotations of the same images."""
        hashes = [(part.name, part.data_hash) for part in self.parts]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def load_benchmark(
    name: str,
    data: str | Path | None = None,
    *,
    allow_subset: bool = False,
    image_size: int = 224,
    reading: Mapping[str, Any] | None = None,
) -> Reading:
    """
    Reads the annotations of a benchmark, checks that all its images exist, and compares its counts with the published
    ones. No image is opened.

    Args:
        name: The id of the benchmark, one of `BENCHMARKS`.
        data: The folder of the benchmark, or one that holds a folder of that id; see [`find_benchmark`].
        allow_subset: Whether to accept an incomplete benchmark, which is then marked as a subset.
        image_size: The size of the images of `scenes`, in pixels.
        reading: How [`load_rows`] is to read your own `photos`: its arguments, such as `columns` and `split`. Other
            benchmarks are read as they are published.

    Raises:
        ValueError: if something is missing, or there is more than the benchmark has; the message says what to do. With
            `allow_subset`, if annotations cannot be read or no image exists.
    """
    if name in BENCHMARKS and BENCHMARKS[name].read is None:
        return _generate(BENCHMARKS[name], image_size)
    if data is None:
        raise ValueError(f"data must be the folder of {name}, but is not given")
    folder = find_benchmark(name, data)
    benchmark = BENCHMARKS[name]
    if folder is None or benchmark.read is None:
        expected = "test.jsonl or tars of rows"
        if benchmark.marks:
            expected = f"one of {_first_names(benchmark.marks)}"
        raise ValueError(
            f"{data} must hold {name}, with {expected}, but does not; get it from {benchmark.source}, with the files "
            f"{benchmark.layout}"
        )
    try:
        all_annotations = benchmark.read(Place(folder, Path(data), reading or {}))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"the files of {name} in {folder} must be as published, but a record is not: {type(error).__name__} {error}"
        ) from error
    parts = []
    for annotations in all_annotations:
        part = _check_part(benchmark, annotations, allow_subset)
        if part is not None:
            parts.append(part)
    return Reading(benchmark, tuple(parts))


class _WrongCount(NamedTuple):
    """A count that is not the published one."""

    name: str
    actual: int
    published: int


def _check_part(benchmark: Benchmark, annotations: Annotations, allow_subset: bool) -> Part | None:
    """Returns the part with its images; `None` for an optional part without all its images."""
    # Rows of tars hold their images, which have no names.
    names = [row["image"] for row in annotations.rows if isinstance(row["image"], str)]
    paths = {name: annotations.locate(name) for name in names}
    missing = [name for name, path in paths.items() if not os.path.isfile(path)]
    if missing and annotations.is_optional:
        logger.info("%s/%s is left out: %d images are not there", benchmark.id, annotations.name, len(missing))
        return None
    wrong_counts = _wrong_counts(annotations)
    problems = _describe_problems(annotations, wrong_counts, () if annotations.are_own else missing, paths)
    if problems and not allow_subset:
        title = benchmark.title
        if annotations.name:
            title = f"{title} ({annotations.name})"
        raise ValueError(
            f"{title} must be whole, but {'; '.join(problems)}. Get the rest from {benchmark.source}, or measure what "
            "is there with --allow-subset, and the results will say so"
        )
    return _make_part(benchmark, annotations, wrong_counts, missing, paths)


def _wrong_counts(annotations: Annotations) -> list[_WrongCount]:
    counts = count_rows(annotations.rows) | dict(annotations.counted)
    if annotations.class_names:
        counts["classes"] = len(annotations.class_names)
    if annotations.templates:
        counts["templates"] = len(annotations.templates)
    wrong_counts = []
    for name, published in annotations.published.items():
        actual = counts.get(name, 0)
        if actual != published:
            wrong_counts.append(_WrongCount(name, actual, published))
    return wrong_counts


def _describe_problems(
    annotations: Annotations, wrong_counts: Sequence[_WrongCount], missing: Sequence[str], paths: Mapping[str, Path]
) -> list[str]:
    """Returns a phrase for each reason why the part is not whole."""
    problems = [f"{name} must be {published:,}, but are {actual:,}" for name, actual, published in wrong_counts]
    if annotations.absent:
        problems.append(f"{len(annotations.absent):,} files are not there ({_first_names(annotations.absent)})")
    if missing:
        example = paths[missing[0]]
        problems.append(
            f"{len(missing):,} of {len(paths):,} images are not there ({_first_names(missing)}, as {example})"
        )
    return problems


def _make_part(
    benchmark: Benchmark,
    annotations: Annotations,
    wrong_counts: Sequence[_WrongCount],
    missing: Sequence[str],
    paths: Mapping[str, Path],
) -> Part:
    """Returns the part without the rows whose images are missing."""
    missing_names = set(missing)
    named_rows = []
    rows = []
    skipped = list(annotations.skipped)
    for row in annotations.rows:
        image = row["image"]
        if not isinstance(image, str):
            named_rows.append(row)
            rows.append(row)
        elif image not in missing_names:
            named_rows.append(row)
            rows.append(with_image(row, str(paths[image])))
        elif annotations.are_own:
            skipped.append(lost_row(row, missing_file_error(paths[image])))
    if not rows:
        raise ValueError(_no_row(benchmark, annotations, skipped))
    for skipped_row in skipped:
        report_skip(skipped_row, strict=False)
    notes = []
    if skipped:
        notes.append(f"{len(skipped):,} {'row' if len(skipped) == 1 else 'rows'} skipped")
    elif missing:
        notes.append(f"{len(rows):,} of {len(annotations.rows):,} images")
    notes += [f"{actual:,} instead of {published:,} {name}" for name, actual, published in wrong_counts]
    if annotations.absent:
        notes.append(f"without {_first_names(annotations.absent)}")
    return Part(
        name=annotations.name,
        kind=annotations.kind,
        rows=rows,
        counts=count_rows(rows),
        # The names of the images are hashed, not their paths.
        data_hash=_hash(named_rows, annotations.class_names, annotations.templates),
        missing=(*annotations.absent, *missing),
        subset_note=", ".join(notes),
        class_names=tuple(annotations.class_names),
        templates=tuple(annotations.templates),
        skipped=tuple(skipped),
    )


def _no_row(benchmark: Benchmark, annotations: Annotations, skipped: Sequence[SkippedRow]) -> str:
    """Says that a part has nothing to measure."""
    if not skipped:
        return f"{benchmark.title} must have images, but none of {len(annotations.rows):,} is there"
    return (
        f"{benchmark.title} must have a row that can be used, but all {len(skipped):,} were skipped, the first one "
        f"because {skipped[0].location}: {skipped[0].reason}"
    )


def _hash(rows: Sequence[Row], class_names: Sequence[str], templates: Sequence[str]) -> str:
    """Returns the SHA-256 of annotations."""
    digest = hashlib.sha256(json.dumps([class_names, templates]).encode())
    for row in rows:
        if not isinstance(row["image"], str):
            # An image without a name, for example the bytes of a tar's member, is hashed when it is read.
            row = {column: value for column, value in row.items() if column != "image"}
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _generate(benchmark: Benchmark, image_size: int) -> Reading:
    """Returns the reading of generated scenes, whose recipe is hashed instead of annotations."""
    recipe = {"images": NUM_SCENES, "seed": SCENES_SEED, "image_size": image_size}
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    rows: Any = scenes(image_size)
    return Reading(benchmark, (Part("", benchmark.kind, rows, {"images": len(rows)}, digest),))


def _first_names(names: Sequence[str]) -> str:
    """Formats the first names of a list, and how many more there are."""
    words = ", ".join(names[:NAMED_IN_MESSAGES])
    num_more = len(names) - NAMED_IN_MESSAGES
    if num_more > 0:
        words += f" and {num_more:,} more"
    return words
