"""Format "csv": tables of text with a header, and the caption files of Flickr8k and Flickr30k."""

import codecs
import io
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..columns import check_columns, rename_columns
from ..records import JoinedTables, PackedTable, Record, Table
from ..row_reader import RecordFormat
from .compression import is_compressed, read_content, row_suffix
from .csv_text import DELIMITERS, read_csv_records
from .named_files import common_folder, named_files, names_in_messages
from .source import OpenedSource, Source, SourceFormat


CSV_SUFFIXES = (".csv", ".tsv", ".tab", ".psv", ".txt", ".token")
# A shell and YAML without double quotes pass the two characters on.
_NAMES_OF_TAB = ("\\t", "tab", "TAB")
_DELIMITER_OF_SUFFIX = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # The mark of UTF-32 begins with that of UTF-16, so it comes first.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The usual encodings of files that are not UTF-8. The last two, of old systems of Apple and of DOS, decode every byte.
_USUAL_ENCODINGS = ("cp1252", "mac-roman", "cp437")
# A line of Flickr8k's `token.txt`: "1000268201_693b08cb0e.jpg#0", a tab, the caption.
_TOKEN_LINE = re.compile(r"(?P<image>[^\t]+\.\w{3,4})#\d+\t(?P<caption>.*)")
_FLICKR30K_NAMES = {"image_name": "image", "comment": "caption"}


def csv_table(
    path: Path, name: str | None = None, delimiter: str | None = None, encoding: str | None = None
) -> PackedTable:
    """Reads the records of a table of text, or of a list of Flickr8k (`token.txt`).

    Args:
        path: Path of the file.
        name: Name of the file in messages; without its folder by default.
        delimiter: What separates cells; by default the suffix or the header tells. "tab" and a written "\\t" are a
            tab.
        encoding: Encoding of the text; by default UTF-8, or what a byte order mark says.

    Raises:
        ValueError: if the text has another encoding, or the header is wrong.
    """
    name = name or path.name
    if delimiter is None:
        delimiter = _DELIMITER_OF_SUFFIX.get(row_suffix(path))
    elif delimiter in _NAMES_OF_TAB:
        delimiter = "\t"
    elif len(delimiter) != 1:
        raise ValueError(f"delimiter must be one character, for example one of {DELIMITERS}, but is {delimiter!r}")
    damage: list[ValueError] = []
    if is_compressed(path):
        decompressed = read_content(path)
        content: io.BytesIO | io.BufferedReader = io.BytesIO(decompressed.data)
        if decompressed.damage is not None:
            damage.append(decompressed.damage)
    else:
        content = io.BufferedReader(io.FileIO(path))
    with content:
        encoding = _encoding(content, name, encoding)
        with io.TextIOWrapper(content, encoding=encoding, newline="") as text:
            try:
                return PackedTable(name, chain(_records(text, name, delimiter), damage))
            except UnicodeError as error:
                raise _wrong_encoding(name, encoding, error) from error


def _records(text: Iterable[str], name: str, delimiter: str | None) -> Iterator[Record | ValueError]:
    lines = iter(text)
    beginning = list(islice(lines, 10))
    first_line = next((line for line in beginning if line.strip()), "")
    everything = chain(beginning, lines)
    if _TOKEN_LINE.match(first_line):
        return _token_records(everything)
    return read_csv_records(everything, name, delimiter)


def _token_records(lines: Iterable[str]) -> Iterator[Record | ValueError]:
    for line in lines:
        if not line.strip():
            continue
        match = _TOKEN_LINE.match(line)
        if match is None:
            yield ValueError(f"a line must be NAME#NUMBER, a tab and a caption, but is {line.strip()[:80]!r}")
        else:
            yield {"image": match["image"], "caption": match["caption"].strip()}


def _encoding(content: io.BytesIO | io.BufferedReader, name: str, encoding: str | None) -> str:
    beginning = content.read(4096)
    content.seek(0)
    if encoding is not None:
        try:
            # Unlike a look-up, this refuses codecs that are not of text, such as "hex".
            "".encode(encoding)
        except LookupError as error:
            raise ValueError(
                f'encoding must be the name of one, for example "utf-16" or "cp1252", but is {encoding!r}'
            ) from error
        return encoding
    for mark, marked_encoding in _BYTE_ORDER_MARKS.items():
        if beginning.startswith(mark):
            return marked_encoding
    if beginning.count(0) > len(beginning) // 4:
        # Plain letters of UTF-16 have a zero byte before or after each.
        guess = "utf-16-be" if beginning[:1] == b"\0" else "utf-16-le"
        raise ValueError(_encoding_message(name, f"looks like {guess} without a byte order mark", guess))
    return "utf-8"


def _wrong_encoding(name: str, encoding: str, error: UnicodeError) -> ValueError:
    if not isinstance(error, UnicodeDecodeError):
        return ValueError(_encoding_message(name, f"is not {encoding} ({error})", f"{encoding}-le"))
    byte = error.object[error.start : error.start + 1]
    guesses = [guess for guess in _USUAL_ENCODINGS if guess != encoding and _decodes(byte, guess)]
    return ValueError(_encoding_message(name, f"has the byte 0x{byte.hex()}, which is none of {encoding}", guesses[0]))


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _encoding_message(name: str, finding: str, guess: str) -> str:
    return (
        f"{name} must be text in utf-8, or in utf-16 with a byte order mark, but {finding}; if it is {guess} or "
        f'another, say so with encoding="{guess}" (--encoding {guess})'
    )


def _flickr_row(record: Record) -> dict[str, Any]:
    """Gives a record of Flickr30k's `results.csv` the names of a row. Any other record stays as it is."""
    if "comment_number" not in record:
        return dict(record)
    row = rename_columns(record, _FLICKR30K_NAMES)
    del row["comment_number"]
    if isinstance(row.get("caption"), str):
        row["caption"] = row["caption"].strip()
    return row


def _check_flickr_columns(columns: Collection[str], source: str) -> None:
    if "comment_number" in columns:
        columns = rename_columns(dict.fromkeys(columns), _FLICKR30K_NAMES)
    check_columns(columns, source)


def _open(source: Source) -> OpenedSource:
    files = named_files(source.place, CSV_SUFFIXES, "CSV")
    tables: list[Table] = []
    for file, name in zip(files, names_in_messages(files), strict=True):
        tables.append(csv_table(file, name, source.delimiter, source.encoding))
    table = tables[0]
    if len(tables) > 1:
        table = JoinedTables(tables)
    return OpenedSource(table, common_folder(files), CSV_RECORDS)


def _recognises(source: Source) -> bool:
    return source.has_suffix(*CSV_SUFFIXES)


CSV_RECORDS = RecordFormat(to_row=_flickr_row, check_columns=_check_flickr_columns)
CSV = SourceFormat("csv", _open, _recognises)
