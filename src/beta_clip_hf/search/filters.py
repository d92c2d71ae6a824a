"""Conditions in SQL that choose images of an index."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


@contextmanager
def explained_filter_errors(where: str | None, columns: Mapping[str, str]) -> Iterator[None]:
    """Adds the condition and the columns that it may name to an error of LanceDB."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if where is None:
            raise
        raise ValueError(
            f"where must be a condition in SQL over {', '.join(columns)}, but is {where!r}: {error}"
        ) from None


def key_filter(keys: Sequence[str]) -> str:
    """Returns the condition that an image is one of some keys."""
    return f"image IN ({', '.join(map(quoted, keys))})"


def quoted(text: str) -> str:
    """Returns a text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
