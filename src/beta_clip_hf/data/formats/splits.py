"""Records of a file that holds several splits: those of one split, as a table of its own."""

from collections import Counter

from ..records import Table
from ..selection import SelectedTable, Selection


# What a split may be called in a file, by what it is called elsewhere. Karpathy's "restval" is trained on.
_OTHER_NAMES = {
    "train": ("train", "restval"),
    "val": ("val", "valid", "validation", "dev"),
    "valid": ("valid", "val", "validation", "dev"),
    "validation": ("validation", "val", "valid", "dev"),
}


def names_of_split(split: str) -> tuple[str, ...]:
    """Returns the names that a split may have.

    >>> names_of_split("train"), names_of_split("test")
    (('train', 'restval'), ('test',))
    """
    return _OTHER_NAMES.get(split, (split,))


def table_of_split(table: Table, split: str) -> Table:
    """Returns the records of a table whose `split` has that name. Records that cannot be read stay among them.

    Raises:
        ValueError: if no record is of that split; the message names those that are there.
    """
    counts: Counter[str] = Counter()
    for _, record in table.scan():
        if not isinstance(record, ValueError):
            counts[str(record.get("split"))] += 1
    names = frozenset(names_of_split(split)) & counts.keys()
    if not names:
        raise ValueError(f"split must be one of {sorted(counts)} in {table.name}, but is {split!r}")
    if names == counts.keys():
        return table
    return SelectedTable(table, Selection(values={"split": names}))


__all__ = ["names_of_split", "table_of_split"]
