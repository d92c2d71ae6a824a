"""Tables of text, as Python's csv and pandas read them: nothing is cut, moved or lost."""

import csv
import itertools
import json
import logging

import pytest

from beta_clip_hf.data.formats.csv_text import likely_delimiter
from beta_clip_hf.data.readers import load_rows
from data.source_files import write_photos


@pytest.fixture
def folder(tmp_path):
    write_photos(tmp_path)
    return tmp_path


def read(folder, text, name="captions.csv", **options):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_rows(path, **options)


def captions(rows) -> list[str]:
    return [row["caption"] for row in rows]


@pytest.mark.parametrize(
    ("lines", "wanted", "reason"),
    [
        (["0.png,A dog, a cat, and a bird.", "1.png,Fine."], ["Fine."], "a row must have at most 2 cells"),
        (['0.png,"A 5 inch nail', "1.png,a cat", "2.png,a dog"], ["a cat", "a dog"], "quotes must be in pairs"),
        (['0.png,"A 5" nail, rusty"', "1.png,a cat"], ["a cat"], "quotes must be in pairs"),
        (["0.png,a cat", '1.png,"the last line is open'], ["a cat"], "quotes must be in pairs"),
        (
            ['0.png,"open', '1.png,"a cat, closed"', "2.png,a dog"],
            ["a cat, closed", "a dog"],
            "quotes must be in pairs",
        ),
        ([r'0.png,"A \"big\" dog"', "1.png,a cat"], ["a cat"], "quotes must be in pairs"),
        (["0.png", "1.png,a cat"], ["a cat"], "caption must be a string that is not empty, but is missing"),
        (["0.png,", "1.png,a cat"], ["a cat"], "caption must be a string that is not empty, but is missing"),
        ([",a dog", "1.png,a cat"], ["a cat"], "image must be there"),
    ],
)
def test_a_broken_row_is_one_bad_row(folder, caplog, lines, wanted, reason):
    text = "\n".join(["image,caption", *lines]) + "\n"
    with caplog.at_level(logging.INFO):
        rows = read(folder, text)
    assert captions(rows) == wanted
    [(location, why)] = rows.skipped
    assert location.startswith("captions.csv:")
    assert reason in why
    assert f"captions.csv: {len(wanted)} rows read + 1 skipped = {len(wanted) + 1} in the source" in caplog.messages
    with pytest.raises(ValueError, match=r"captions\.csv:\d: "):
        read(folder, text, strict=True)


def test_cells_in_quotes_may_hold_anything(folder):
    wanted = ['A "big" dog, brown', "Two\nlines", "Two\r\nlines", " spaces ", "a;b|c\td", "x" * 300_000]
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([["0.png", caption] for caption in wanted])
    limit = csv.field_size_limit()
    assert captions(load_rows(folder / "captions.csv", group=False)) == wanted
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_and_blank_lines(folder, line_end):
    rows = read(folder, line_end.join(["", "image,caption", "0.png,a cat", "", "1.png,a dog", "", ""]))
    assert captions(rows) == ["a cat", "a dog"]
    assert [row["id"] for row in rows] == ["captions.csv:1", "captions.csv:2"]


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("image,caption", ","),
        ("image;caption", ";"),
        ("image\tcaption", "\t"),
        ("image|caption", "|"),
        ("file_name;caption;notes, long and short, of it", ";"),
        ('"image","caption"', ","),
        ("caption", ","),
        ("image_name| comment_number| comment", "|"),
    ],
)
def test_the_header_tells_the_delimiter(header, delimiter):
    assert likely_delimiter(header) == delimiter


def test_the_delimiter_can_be_named(folder):
    text = "image:caption\n0.png:a cat, a dog\n"
    assert captions(read(folder, text, delimiter=":")) == ["a cat, a dog"]
    # The suffix says what a `.tsv` is, whatever else is in its header.
    assert captions(read(folder, "image\tcaption\ta,b,c,d\n0.png\ta cat\t\n", name="a.tsv")) == ["a cat"]
    with pytest.raises(ValueError, match="delimiter must be one character"):
        read(folder, text, delimiter="::")


@pytest.mark.parametrize("name", ["\\t", "tab", "\t"])
def test_a_tab_has_names(folder, name):
    # A shell, and YAML without double quotes, cannot write a tab itself.
    text = "image\tcaption, in words; or not\n0.png\ta cat, a dog\n"
    columns = {"caption, in words; or not": "caption"}
    assert captions(read(folder, text, delimiter=name, columns=columns)) == ["a cat, a dog"]


def test_cells_may_be_padded(folder):
    text = 'image , caption\n0.png , "a cat, a dog"\n1.png,  a bird  \n'
    assert captions(read(folder, text)) == ["a cat, a dog", "a bird"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0.png,a cat\n1.png,a dog\n", "must begin with a line of column names, as image,caption"),
        ("Image,Caption\n0.png,a cat\n", "--columns Image=image Caption=caption"),
        ("IMG,Text\n0.png,a cat\n", "--columns IMG=image Text=caption"),
        ("image,caption\n", "but has no row at all"),
        ("image,caption\nhttps://example.org/a.png,a cat\n", "but is an address"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(folder, text, part):
    with pytest.raises(ValueError) as raised:
        read(folder, text)
    assert part in str(raised.value)


def test_what_pandas_writes(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "image": ["0.png", "1.png", "2.png", "3.png"],
            "captions": [["One.", "Two, more."], ["It's one."], ['A "quote".'], ["A\nline."]],
            "width": [8, 8, 8, 8],
            "regions": [[{"box": [0, 0, 8, 8], "text": "all"}], [], [], []],
            "licence": ["CC0", None, "CC0", "CC0"],
        }
    )
    for index in (True, False):
        frame.to_csv(folder / "captions.csv", index=index)
        rows = load_rows(folder / "captions.csv", strict=True)
        assert [row["captions"] for row in rows] == frame["captions"].tolist()
        assert rows[0]["regions"] == [{"box": [0, 0, 8, 8], "text": "all"}]
        assert (rows[0]["width"], "licence" in rows[1]) == (8, False)
        assert "" not in rows[0]
    # What was read and written once more has a name like this.
    pandas.read_csv(folder / "captions.csv").rename(columns={"licence": "Unnamed: 0"}).to_csv(folder / "captions.csv")
    assert not [name for name in load_rows(folder / "captions.csv")[0] if "Unnamed" in name or name == ""]


def test_a_column_name_twice_is_an_error(folder):
    with pytest.raises(ValueError, match=r"captions\.csv must name each column once, but has 'caption' 2 times"):
        read(folder, "image,caption,caption\n0.png,a,b\n")
    assert captions(read(folder, "image,caption,,\n0.png,a,,\n")) == ["a"]


def test_a_broken_header_is_an_error(folder):
    with pytest.raises(ValueError, match=r"the header of captions\.csv must be a row of column names"):
        read(folder, 'image,"caption\n0.png,a\n')
    with pytest.raises(ValueError, match="must have a row that can be used"):
        read(folder, "")
    with pytest.raises(ValueError, match="must have a row that can be used"):
        read(folder, "image,caption\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_a_file_tells(folder, encoding):
    assert captions(read(folder, "image,caption\n0.png,ein Café\n".encode(encoding))) == ["ein Café"]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "utf-16-be"])
def test_encodings_that_must_be_named(folder, encoding):
    content = "image,caption\n0.png,ein Café\n".encode(encoding)
    with pytest.raises(ValueError) as error:
        read(folder, content)
    message = str(error.value)
    assert message.startswith("captions.csv must be text in utf-8, or in utf-16 with a byte order mark, but ")
    assert "(--encoding " in message
    assert encoding in message or encoding == "latin-1"
    assert captions(read(folder, content, encoding=encoding)) == ["ein Café"]
    with pytest.raises(ValueError, match="encoding must be the name of one"):
        read(folder, content, encoding="klingon")


def test_the_columns_of_a_table_without_header_are_shown(folder):
    with pytest.raises(ValueError, match=r"begins with \['0\.png', 'a cat'\]"):
        read(folder, "0.png,a cat\n1.png,a dog\n")


def test_several_tables(folder):
    for number in range(2):
        (folder / f"part-{number}.csv").write_text(f"image,caption\n{number}.png,Number {number}.\n")
    for place in (folder / "part-*.csv", [folder / "part-0.csv", folder / "part-1.csv"], folder / "part-{0..1}.csv"):
        rows = load_rows(place if isinstance(place, list) else str(place))
        assert [row["id"] for row in rows] == ["part-0.csv:1", "part-1.csv:1"]
        assert captions(rows) == ["Number 0.", "Number 1."]


def test_flickr8k_and_flickr30k(folder):
    pairs = list(itertools.product(range(2), range(5)))
    lines = [f"{number}.png#{k}\tCaption {k} of {number} ." for number, k in pairs]
    rows = read(folder, "\n".join(lines), name="Flickr8k.token.txt")
    assert [len(row["captions"]) for row in rows] == [5, 5]
    assert rows[1]["captions"][3] == "Caption 3 of 1 ."
    lines = [f"{number}.png| {k}| Caption {k} , of {number} ." for number, k in pairs]
    rows = read(folder, "\n".join(["image_name| comment_number| comment", *lines]), name="results.csv")
    assert [len(row["captions"]) for row in rows] == [5, 5]
    assert rows[1]["captions"][3] == "Caption 3 , of 1 ."
    renamed = {"image_name": "image", "comment": "caption"}
    assert len(read(folder, "image_name,comment_number,comment\n0.png,0,a\n", columns=renamed)) == 1


def test_compressed_tables(folder):
    import gzip

    content = gzip.compress(b"image;caption\n0.png;a cat\n1.png;a dog\n")
    rows = read(folder, content, name="captions.csv.gz")
    assert (captions(rows), rows.skipped) == (["a cat", "a dog"], [])
    rows = read(folder, content[:-4], name="captions.csv.gz")
    assert captions(rows) == ["a cat", "a dog"]
    assert "a compressed file must be whole" in rows.skipped[0][1]


def test_lists_in_cells(folder):
    text = "image;captions;phrases\n" + f"0.png;{json.dumps(['One.', 'Two.'])};['one', 'two']\n".replace('"', "'")
    [row] = read(folder, text)
    assert row["captions"] == ["One.", "Two."]
    assert row["phrases"] == ["one", "two"]


@pytest.mark.parametrize("encoding", ["hex", "rot13", "no-such"])
def test_an_encoding_must_be_one_of_text(folder, encoding):
    with pytest.raises(ValueError, match=f"encoding must be the name of one, .* but is '{encoding}'"):
        read(folder, b"image,caption\n0.png,A cat\n", encoding=encoding)


def test_utf_16_without_a_mark_names_the_file(folder):
    content = "image,caption\n0.png,ein Café\n".encode("utf-16-le")
    with pytest.raises(ValueError, match=r"must be text in utf-8.*is not utf-16 .*--encoding utf-16-le"):
        read(folder, content, encoding="utf-16")
