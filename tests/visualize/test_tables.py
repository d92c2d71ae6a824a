"""Tables as text: aligned for a terminal, and as Markdown that a reader of Markdown takes for a table."""

import pytest

from beta_clip_hf.visualize.tables import format_markdown_table, format_table


HEADER = ["", "value", "n"]
ROWS = [["long/text_to_image/R@1", "61.3", "1000"], ["β", "7.0", "5"]]


def test_columns_of_a_plain_table_are_aligned() -> None:
    assert format_table(HEADER, ROWS).splitlines() == [
        "                        value     n",
        "long/text_to_image/R@1   61.3  1000",
        "β                         7.0     5",
    ]


def test_lines_of_a_plain_table_have_no_spaces_at_their_ends() -> None:
    table = format_table(["rank", "image"], [["1", "a/long/name.jpg"], ["20", ""], ["3", "b.jpg"]], align="rl")
    assert table.splitlines() == ["rank  image", "   1  a/long/name.jpg", "  20", "   3  b.jpg"]


def test_a_header_of_empty_titles_is_left_out() -> None:
    assert format_table(["", ""], [["a", "1"], ["b", "10"]]) == "a   1\nb  10"
    assert format_table(["", ""], []) == ""


def test_a_table_without_rows_is_its_header() -> None:
    assert format_table(HEADER, []) == "  value  n"
    assert format_markdown_table(["task", "n"], []) == "| task |   n |\n| ---- | --: |"


def test_columns_of_a_markdown_table_are_aligned_in_its_text_too() -> None:
    assert format_markdown_table(HEADER, ROWS).splitlines() == [
        "|                        | value |    n |",
        "| ---------------------- | ----: | ---: |",
        "| long/text_to_image/R@1 |  61.3 | 1000 |",
        "| β                      |   7.0 |    5 |",
    ]


def test_a_long_cell_widens_no_other_line_without_padding() -> None:
    table = format_markdown_table(["task", "files"], [["dci", "x" * 100], ["iiw", "y"]], align="ll", is_padded=False)
    assert table.splitlines() == ["| task | files |", "| --- | --- |", f"| dci | {'x' * 100} |", "| iiw | y |"]


def test_a_cell_of_markdown_ends_neither_its_column_nor_its_row() -> None:
    table = format_markdown_table(["text"], [["a | b\nc"]])
    assert table.splitlines()[-1] == r"| a \| b c |"


@pytest.mark.parametrize("table", [format_table, format_markdown_table])
def test_what_does_not_fit_the_header_is_an_error(table) -> None:
    with pytest.raises(ValueError, match="each row must have 3 cells, but one has 2"):
        table(HEADER, [["a", "b"]])
    with pytest.raises(ValueError, match="align must be 3 letters, each 'l' or 'r', but is 'lc'"):
        table(HEADER, ROWS, align="lc")
    with pytest.raises(ValueError, match="but is 'lcr'"):
        table(HEADER, ROWS, align="lcr")
