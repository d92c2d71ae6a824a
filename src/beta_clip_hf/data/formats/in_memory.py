"""Format "rows": a list of dicts that lies in memory."""

from collections.abc import Sequence
from pathlib import Path

from ..records import ListTable
from .source import OpenedSource, Source, SourceFormat


def _open(source: Source) -> OpenedSource:
    return OpenedSource(ListTable(source.place))


def _recognises(source: Source) -> bool:
    if isinstance(source.place, (str, Path)) or not isinstance(source.place, Sequence):
        return False
    return len(source.place) == 0 or not isinstance(source.place[0], (str, Path))


ROWS = SourceFormat("rows", _open, _recognises)
