"""[`load_benchmark`]: reads a benchmark, and refuses to take a part of it for the whole."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.rows import Row
from .layout import Annotations, Kind, Place, count_rows
from .own import NUM_SCENES, SCENES_SEED, scenes
from .registry import BENCHMARKS, Benchmark, find_benchmark


logger = logging.getLogger(__name__)

NAMED_IN_MESSAGES = 3


@dataclass(frozen=True)
class Part:
    """Rows that are measured together."""

    name: str
    """Empty for the only or the main part."""
    kind: Kind
    rows: Sequence[Row]
    """`image` is the path of a file that exists (of `photos` and `scenes`, anything that a row may have)."""
    counts: Mapping[str, int]
    """Of the rows, see [`count_rows`]."""
    data_hash: str
    """SHA-256 of the annotations: the rows with the names of their images, class names and templates. It does not
    depend on where the files are. The images themselves are hashed when they are read."""
    missing: tuple[str, ...] = ()
    """Files that the benchmark names and that are not there."""
    subset_note: str = ""
    """How much of the part this is, where it is not all: "998 of 1,000 images"."""
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    @property
    def squash(self) -> bool:
        """Whether boxes are scaled per side, so that the whole image must be seen."""
        return self.kind in ("regions", "boxes")


@dataclass(frozen=True)
class Reading:
    """A benchmark as it was found on the disk."""

    benchmark: Benchmark
    parts: tuple[Part, ...]

    @property
    def is_subset(self) -> bool:
        return any(part.subset_note for part in self.parts)

    @property
    def subset_note(self) -> str:
        """Of all parts: "1k: 998 of 1,000 images"."""
        notes = [(part.name, part.subset_note) for part in self.parts if part.subset_note]
        return "; ".join(f"{name}: {note}" if name else note for name, note in notes)

    @property
    def key(self) -> str:
        """SHA-256 over the parts: the same annotations, of the same images, have the same."""
        return hashlib.sha256(json.dumps([(part.name, part.data_hash) for part in self.parts]).encode()).hexdigest()


def load_benchmark(
    name: str, data: str | Path | None = None, *, allow_subset: bool = False, image_size: int = 224
) -> Reading:
    """
    Reads the annotations of a benchmark, looks whether all its images are there, and compares its counts with the
    published ones. No image is opened.

    Args:
        name: Its id, one of `BENCHMARKS`.
        data: The folder of the benchmark, or one that holds a folder of that id; see [`find_benchmark`].
        allow_subset: Whether to go on with what is there, marked as a subset.
        image_size: Of `scenes`, in pixels.

    Raises:
        ValueError: where something is missing, or there is more than the benchmark has, with what to do; with
            `allow_subset`, where annotations cannot be read or no image is there.
    """
    if name in BENCHMARKS and BENCHMARKS[name].read is None:
        return _generated(BENCHMARKS[name], image_size)
    if data is None:
        raise ValueError(f"data must be the folder of {name}, but is not given")
    folder = find_benchmark(name, data)
    benchmark = BENCHMARKS[name]
    if folder is None or benchmark.read is None:
        what = f"one of {_some(benchmark.marks)}" if benchmark.marks else "test.jsonl or tars of rows"
        raise ValueError(
            f"{data} must hold {name}, with {what}, but does not; get it from {benchmark.source}, with the files "
            f"{benchmark.layout}"
        )
    try:
        read = benchmark.read(Place(folder, Path(data)))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"the files of {name} in {folder} must be as published, but a record is not: {type(error).__name__} {error}"
        ) from error
    parts = [_part(benchmark, annotations, allow_subset) for annotations in read]
    return Reading(benchmark, tuple(part for part in parts if part is not None))


def _part(benchmark: Benchmark, annotations: Annotations, allow_subset: bool) -> Part | None:
    """The part with its images; `None` for an optional one that lacks images."""
    names = [row["image"] for row in annotations.rows if isinstance(row["image"], str)]
    paths = {image: annotations.locate(image) for image in names}
    missing = [image for image, path in paths.items() if not os.path.isfile(path)]
    if missing and annotations.is_optional:
        logger.info("%s/%s is left out: %d images are not there", benchmark.id, annotations.name, len(missing))
        return None
    counts = count_rows(annotations.rows) | dict(annotations.counted)
    if annotations.class_names:
        counts["classes"] = len(annotations.class_names)
    if annotations.templates:
        counts["templates"] = len(annotations.templates)
    wrong = {
        what: (counts.get(what, 0), number)
        for what, number in annotations.published.items()
        if counts.get(what, 0) != number
    }
    problems = [f"{what} must be {number:,}, but are {found:,}" for what, (found, number) in wrong.items()]
    if annotations.absent:
        problems.append(f"{len(annotations.absent):,} files are not there ({_some(annotations.absent)})")
    if missing:
        example = paths[missing[0]]
        problems.append(f"{len(missing):,} of {len(paths):,} images are not there ({_some(missing)}, as {example})")
    if problems and not allow_subset:
        title = f"{benchmark.title} ({annotations.name})" if annotations.name else benchmark.title
        raise ValueError(
            f"{title} must be whole, but {'; '.join(problems)}. Get the rest from {benchmark.source}, or measure what "
            "is there with --allow-subset, and the results will say so"
        )
    return _kept(benchmark, annotations, paths, missing, wrong)


def _kept(
    benchmark: Benchmark,
    annotations: Annotations,
    paths: Mapping[str, Path],
    missing: Sequence[str],
    wrong: Mapping[str, tuple[int, int]],
) -> Part:
    """The part without the rows whose images are not there."""
    lost = set(missing)
    rows = [row for row in annotations.rows if not (isinstance(row["image"], str) and row["image"] in lost)]
    if not rows:
        raise ValueError(f"{benchmark.title} must have images, but none of {len(annotations.rows):,} is there")
    notes = [f"{found:,} instead of {number:,} {what}" for what, (found, number) in wrong.items()]
    if annotations.absent:
        notes.append(f"without {_some(annotations.absent)}")
    if missing:
        notes.insert(0, f"{len(rows):,} of {len(annotations.rows):,} images")
    return Part(
        name=annotations.name,
        kind=annotations.kind,
        rows=[{**row, "image": str(paths[row["image"]])} if isinstance(row["image"], str) else row for row in rows],
        counts=count_rows(rows),
        data_hash=_hash(rows, annotations.class_names, annotations.templates),
        missing=(*annotations.absent, *missing),
        subset_note=", ".join(notes),
        class_names=tuple(annotations.class_names),
        templates=tuple(annotations.templates),
    )


def _hash(rows: Sequence[Row], *names: Sequence[str]) -> str:
    """SHA-256; what is no name of an image (bytes of a tar, say) is hashed when it is read."""
    digest = hashlib.sha256(json.dumps(names).encode())
    for row in rows:
        named = row if isinstance(row["image"], str) else {what: row[what] for what in row if what != "image"}
        digest.update(json.dumps(named, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _generated(benchmark: Benchmark, image_size: int) -> Reading:
    recipe = {"images": NUM_SCENES, "seed": SCENES_SEED, "image_size": image_size}
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    rows: Any = scenes(image_size)
    return Reading(benchmark, (Part("", benchmark.kind, rows, {"images": len(rows)}, digest),))


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMED_IN_MESSAGES
    return ", ".join(names[:NAMED_IN_MESSAGES]) + (f" and {rest:,} more" if rest > 0 else "")
