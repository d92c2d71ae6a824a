"""Text hierarchies of a whole `datasets.Dataset`, cached by that library."""

import hashlib
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hierarchy import HIERARCHY_COLUMNS, build_text_hierarchy
from .phrases import PhraseExtractor


if TYPE_CHECKING:
    import datasets


def map_text_hierarchy(
    dataset: "datasets.Dataset",
    *,
    caption_column: str = "caption",
    num_proc: int | None = None,
    extractor: PhraseExtractor | None = None,
) -> "datasets.Dataset":
    """Adds the columns `sentences`, `phrases`, `phrase_sentences` and `phrase_kinds` with a cached `datasets.map`.

    A later process finds the cache as long as the data set, the column, the extractor and this package's text rules are
    the same. A data set in memory (`Dataset.from_list`) has no cache; one that was loaded from files has.

    Args:
        dataset: Data set with a column of captions.
        caption_column: Name of that column. It holds strings, or lists of strings (each is then one sentence).
        num_proc: Number of processes.
        extractor: Extracts the phrases; `PhraseExtractor()` by default.

    Raises:
        ValueError: if the column is missing, or the caption of a row is blank; the message names the row.
    """
    from datasets import Features, List, Value
    from datasets.fingerprint import Hasher

    if caption_column not in dataset.column_names:
        raise ValueError(f"caption_column must be one of {dataset.column_names}, but is {caption_column!r}")
    extractor = extractor or PhraseExtractor()
    # By default `datasets` hashes the function. It would miss the cache after any change of code, and find it after a
    # change of the rules.
    extractor_digest = Hasher.hash((extractor.tagger, extractor.kinds))
    # The part of a process may have no phrase at all, which says nothing of the type of its columns.
    strings = List(Value("string"))
    types = {**dict.fromkeys(HIERARCHY_COLUMNS, strings), "phrase_sentences": List(Value("int64"))}
    key = (dataset._fingerprint, caption_column, rules_digest(), extractor_digest)
    return dataset.map(
        partial(_add_hierarchy, caption_column=caption_column, extractor=extractor),
        with_indices=True,
        num_proc=num_proc,
        features=Features({**dataset.features, **types}),
        new_fingerprint=hashlib.sha256("/".join(key).encode()).hexdigest()[:32],
        desc="Sentences and phrases",
    )


def _add_hierarchy(
    row: dict[str, Any], index: int, *, caption_column: str, extractor: PhraseExtractor
) -> dict[str, list[Any]]:
    try:
        return build_text_hierarchy(row[caption_column], extractor=extractor).columns()
    except ValueError as error:
        raise ValueError(f"row {index}, column {caption_column!r}: {error}") from error


@lru_cache(maxsize=1)
def rules_digest() -> str:
    """Digests the source of this folder, so that the cache of an older release is not mistaken for ours."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
