"""Tables as text, from a header and rows of cells that are already formatted: for a terminal, or as Markdown."""

from collections.abc import Iterable, Sequence


LEFT, RIGHT = "l", "r"
# Some readers of Markdown take a rule of fewer dashes for text.
_LEAST_RULE = 3


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "") -> str:
    """
    Formats a table for a terminal: its columns are aligned and two spaces apart.

    Args:
        header: Title of each column. If all are empty, the line of titles is left out.
        rows: One cell per column in each row.
        align: One letter per column, "l" for left or "r" for right. By default the first column is aligned to the
            left and all others to the right.

    Returns:
        The lines of the table, without spaces at their ends. A table without rows is its header.

    Raises:
        ValueError: if a row or `align` does not have one entry per column, or `align` has another letter.

    >>> print(format_table(["", "value", "n"], [["long/R@1", "61.3", "1000"], ["short/R@1", "7.0", "5000"]]))
               value     n
    long/R@1    61.3  1000
    short/R@1    7.0  5000
    """
    header, body, align = _checked(header, rows, align)
    lines = [header, *body] if any(header) else body
    widths = _widths(lines, len(header))
    return "\n".join("  ".join(_padded(cells, widths, align)).rstrip() for cells in lines)


def format_markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "", is_padded: bool = True
) -> str:
    """
    Formats a table as Markdown. A "|" in a cell is escaped, and a line break becomes a space.

    Args:
        header: Title of each column; any of them may be empty.
        rows: One cell per column in each row.
        align: One letter per column, "l" for left or "r" for right. By default the first column is aligned to the
            left and all others to the right.
        is_padded: Whether cells are padded to the width of their column, so that the text is a table for the eye too.
            Without it a long cell does not widen every line.

    Returns:
        The lines of the table: header, rule and rows.

    Raises:
        ValueError: if a row or `align` does not have one entry per column, or `align` has another letter.

    >>> print(format_markdown_table(["task", "R@1"], [["photos", "61.3"], ["scenes", "7.0"]]))
    | task   |  R@1 |
    | ------ | ---: |
    | photos | 61.3 |
    | scenes |  7.0 |
    """
    header, body, align = _checked(header, rows, align)
    lines = [_escaped(cells) for cells in (header, *body)]
    if is_padded:
        widths = [max(width, _LEAST_RULE) for width in _widths(lines, len(header))]
        lines = [_padded(cells, widths, align) for cells in lines]
    else:
        widths = [_LEAST_RULE] * len(header)
    lines.insert(1, [_rule(width, side) for width, side in zip(widths, align, strict=True)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _checked(
    header: Sequence[str], rows: Iterable[Sequence[str]], align: str
) -> tuple[list[str], list[list[str]], str]:
    """Checks the arguments of a table. Returns them as lists, with the alignment of every column."""
    columns = len(header)
    align = align or LEFT + RIGHT * (columns - 1)
    if len(align) != columns or not set(align) <= {LEFT, RIGHT}:
        raise ValueError(f"align must be {columns} letters, each {LEFT!r} or {RIGHT!r}, but is {align!r}")
    body = [list(cells) for cells in rows]
    for cells in body:
        if len(cells) != columns:
            raise ValueError(f"each row must have {columns} cells, but one has {len(cells)}: {cells}")
    return list(header), body, align


def _widths(lines: Sequence[Sequence[str]], columns: int) -> list[int]:
    """Counts the letters of the widest cell of each column."""
    widths = [0] * columns
    for cells in lines:
        for column, cell in enumerate(cells):
            widths[column] = max(widths[column], len(cell))
    return widths


def _padded(cells: Sequence[str], widths: Sequence[int], align: str) -> list[str]:
    """Fills cells up with spaces to the width of their column."""
    padded = []
    for cell, width, side in zip(cells, widths, align, strict=True):
        if side == LEFT:
            padded.append(cell.ljust(width))
        else:
            padded.append(cell.rjust(width))
    return padded


def _rule(width: int, side: str) -> str:
    """Returns the line below a title, which tells a reader of Markdown the alignment of the column."""
    if side == LEFT:
        return "-" * width
    return "-" * (width - 1) + ":"


def _escaped(cells: Sequence[str]) -> list[str]:
    """Escapes what would end a cell's column or row."""
    return [" ".join(cell.splitlines()).replace("|", r"\|") for cell in cells]
