"""Kinds of rows that cannot be used, and of rows that look odd and are used: lines of JSON, and files of images."""

import gzip
import io
import json
import os
import struct
import zlib

from PIL import Image


GOOD = {"image": "good.png", "caption": "A red square. It is small."}
NAN = float("nan")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def row(**fields):
    return json.dumps({**GOOD, **fields}).encode()


def nested(depth):
    return b'{"image": "good.png", "caption": "a", "extra": ' + b"[" * depth + b"]" * depth + b"}"


def hierarchy(**columns):
    """A row with a stored hierarchy, of which some columns are wrong."""
    return row(**{"sentences": ["a"], "phrases": ["a"], "phrase_sentences": [0], "phrase_kinds": ["noun"], **columns})


def conversation(speaker_key, value_key, value, name="conversations", speaker="assistant"):
    return json.dumps({"image": "good.png", name: [{speaker_key: speaker, value_key: value}]}).encode()


def png(*chunks):
    """A PNG of some chunks, each with its checksum."""
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


def header(width, height):
    """The first chunk of a PNG in RGB."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def saved(format, mode="RGB", **options):
    """A file of 60 × 60 pixels of noise."""
    buffer = io.BytesIO()
    noise = Image.effect_noise((60, 60), 90)
    # Pillow converts grey alone to 16 bits.
    image = noise.convert(mode) if mode == "I;16" else noise.convert("RGB").convert(mode)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff_of_nan():
    buffer = io.BytesIO()
    Image.new("F", (8, 8), NAN).save(buffer, "TIFF")
    return buffer.getvalue()


PIXELS, END = (b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")
# A hundred megabytes, in a tenth of one.
BOMB = b"x\0\0" + zlib.compress(bytes(10**8))
NOISY_EXIF = b"\xff\xe1" + struct.pack(">H", 300) + b"Exif\0\0" + b"\xff" * 292
BOX = {"box": [0, 0, 4, 4], "text": "a corner"}
# Lines that no reader takes for a row.
BAD_LINES = {
    "no JSON": b"a red square",
    "half an object": b'{"image": "good.png", "caption": "a',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "an empty object": b"{}",
    "no UTF-8": b'{"image": "good.png", "caption": "\xff\xfe"}',
    "zero bytes": b"\0" * 40,
    "nested 100,000 deep": nested(100_000),
    "a list nested 100,000 deep": b"[" * 100_000,
    "no image": b'{"caption": "A red square."}',
    "image null": row(image=None),
    "image of no file": row(image="missing.png"),
    "image with a zero byte": row(image="go\0od.png"),
    "image with a long name": row(image="a" * 5000),
    "image is a folder": row(image="folder"),
    "image is a pipe": row(image="pipe"),
    "image is a device": row(image="/dev/zero"),
    "image is an empty string": row(image=""),
    "no caption": b'{"image": "good.png"}',
    "caption null": row(caption=None),
    "caption empty": row(caption=""),
    "caption of white space": row(caption=" \t\n\u3000\u00a0"),
    "caption of zero width": row(caption="\u200b\u200d\ufeff\u2060"),
    "caption of Hangul fillers": row(caption="\u3164\u115f"),
    "caption of control characters": row(caption="\x00\x1b\x07"),
    "caption of direction marks": row(caption="\u202e\u202d\u2066"),
    "caption of variation selectors": row(caption="\ufe0f\ufe0e"),
    "caption of markers": row(caption="<|startoftext|> <|endoftext|>"),
    "caption of escaped markers": row(caption="&lt;|endoftext|&gt;"),
    "caption of &nbsp;": row(caption="&nbsp;&amp;nbsp;"),
    "caption with half an emoji": row(caption="A dog \ud83d."),
    "caption of 3 MB": row(caption="a dog " * 500_000),
    "caption a number": row(caption=5),
    "caption a list": row(caption=["a", "b"]),
    "caption an object": row(caption={"text": "a"}),
    "caption true": row(caption=True),
    "captions empty": b'{"image": "good.png", "captions": []}',
    "captions all blank": b'{"image": "good.png", "captions": ["", " "]}',
    "captions a string": b'{"image": "good.png", "captions": "a"}',
    "captions with a number": b'{"image": "good.png", "captions": ["a", 3]}',
    "captions of 20,000": b'{"image": "good.png", "captions": [' + b'"a",' * 19_999 + b'"a"]}',
    "sentences a string": row(sentences="a"),
    "sentences with a number": row(sentences=["a", 4]),
    "sentences all blank": row(sentences=["", "\u200b"]),
    "sentences with a list": row(sentences=[["a"]]),
    "phrases a string": row(phrases="a"),
    "phrases with a number": row(phrases=[1]),
    "phrases without a text": row(phrases=[{"boxes": []}]),
    "phrases of a list": row(phrases=[{"text": "a", "kind": ["noun"]}]),
    "phrases with a kind that is an object": row(phrases=[{"text": "a", "kind": {"a": 1}}]),
    "phrases of a sentence -1": row(phrases=[{"text": "a", "sentence": -1}]),
    "phrases of a sentence that is a list": row(phrases=[{"text": "a", "sentence": [0]}]),
    "phrases with boxes of words": row(phrases=[{"text": "a", "boxes": [["a", "b", "c", "d"]]}]),
    "phrases with boxes NaN": row(phrases=[{"text": "a", "boxes": [[0, 0, float("nan"), 1]]}]),
    "phrases with negatives a number": row(phrases=[{"text": "a", "negatives": 3}]),
    "phrases of 20,000": row(phrases=["a"] * 20_000),
    "phrase_sentences alone": row(phrase_sentences=[0]),
    "phrase_sentences of words": row(sentences=["a"], phrases=["a"], phrase_sentences=["x"], phrase_kinds=["noun"]),
    "short_caption a list": row(short_caption=["a"]),
    "short_caption of zero width": row(short_caption="\u200b"),
    "regions an object": row(regions={"box": [0, 0, 1, 1]}),
    "regions of numbers": row(regions=[3]),
    "regions without a box": row(regions=[{"text": "a"}]),
    "regions without a text": row(regions=[{"box": [0, 0, 1, 1]}]),
    "regions with three numbers": row(regions=[{"box": [0, 0, 1], "text": "a"}]),
    "regions with a box infinite": row(regions=[{"box": [0, 0, float("inf"), 1], "text": "a"}]),
    "regions turned around": row(regions=[{"box": [4, 4, 0, 0], "text": "a"}]),
    "regions with long_text a number": row(regions=[{**BOX, "long_text": 3}]),
    "regions with negatives of numbers": row(regions=[{**BOX, "negatives": [1]}]),
    "regions outside of the image": row(regions=[{"box": [0, 0, 99, 99], "text": "a"}], width=8, height=8),
    "box_format unknown": row(regions=[BOX], box_format="xywh"),
    "box_format a list": row(regions=[BOX], box_format=["xyxy"]),
    "conversations a number": b'{"image": "good.png", "conversations": 4}',
    "conversations without an answer": b'{"image": "good.png", "conversations": [{"from": "human", "value": "?"}]}',
    "conversations of lists": b'{"image": "good.png", "conversations": [["gpt", "a"]]}',
    "messages with a content of numbers": b'{"image": "good.png", "messages": [{"role": "assistant", "content": [3]}]}',
    "caption NaN": row(caption=NAN),
    "caption of 5,000 digits": b'{"image": "good.png", "caption": ' + b"9" * 5000 + b"}",
    "caption an object of objects": row(caption={"a": {"b": {"c": "d"}}}),
    "caption a list of lists": row(caption=[["a"]]),
    "caption 0": row(caption=0),
    "caption of a million characters and one": row(caption="a" * 1_000_001),
    "caption of no characters of Unicode": row(caption="\uffff\ufdd0"),
    "caption of language tags": row(caption="\U000e0001\U000e0061"),
    "caption of a soft hyphen": row(caption="\u00ad"),
    "caption of a blank in Braille": row(caption="\u2800"),
    "caption of marks on nothing": row(caption="\u0301\u0301"),
    "caption of marks of notes": row(caption="\U0001d173\U0001d174"),
    "caption of ends of lines": row(caption="\u2028\u2029\x85"),
    "caption under a name with a blank": b'{"image": "good.png", "caption ": "a"}',
    "image dangling": row(image="dangling.png"),
    "image a link to itself": row(image="loop.png"),
    "image a link to a device": row(image="zero.png"),
    "image a folder with a name of a file": row(image="folder.jpg"),
    "image of an address": row(image="http://example.org/a.jpg"),
    "image of data": row(image="data:image/png;base64,AAAA"),
    "image of a pattern": row(image="*.png"),
    "image with half of a pair": b'{"image": "\\udcff.png", "caption": "a"}',
    "image with a turned name": row(image="\u202egood.png"),
    "captions of lists": b'{"image": "good.png", "captions": [["a"]]}',
    "captions of null": b'{"image": "good.png", "captions": [null]}',
    "captions an object": b'{"image": "good.png", "captions": {"a": "b"}}',
    "captions true": b'{"image": "good.png", "captions": true}',
    "captions too long together": json.dumps({"image": "good.png", "captions": ["a b" * 200_000] * 3}).encode(),
    "sentences an object": row(sentences={"a": "b"}),
    "sentences NaN": row(sentences=NAN),
    "sentences with null": row(sentences=[None, "a"]),
    "phrases an object": row(phrases={"text": "a"}),
    "phrases true": row(phrases=True),
    "phrases of lists": row(phrases=[["a"]]),
    "phrases with a text that is a list": row(phrases=[{"text": ["a"]}]),
    "phrases with boxes of lists": row(phrases=[{"text": "a", "boxes": [[[0, 0, 1, 1]]]}]),
    "phrases with boxes true": row(phrases=[{"text": "a", "boxes": True}]),
    "phrases of a sentence true": row(phrases=[{"text": "a", "sentence": True}]),
    "phrases of a sentence 1.5": row(phrases=[{"text": "a", "sentence": 1.5}]),
    "phrases with a negative of null": row(phrases=[{"text": "a", "negatives": [None]}]),
    "phrases with negatives an object": row(phrases=[{"text": "a", "negatives": {"a": "b"}}]),
    "phrase_sentences beyond the phrases": hierarchy(phrase_sentences=[0, 0, 0]),
    "phrase_sentences beyond the sentences": hierarchy(phrase_sentences=[7]),
    "phrase_sentences of 30 digits": hierarchy(phrase_sentences=[10**30]),
    "phrase_sentences below 0": hierarchy(phrase_sentences=[-1]),
    "phrase_sentences true": hierarchy(phrase_sentences=[True]),
    "phrase_sentences NaN": hierarchy(phrase_sentences=[NAN]),
    "phrase_kinds beyond the phrases": hierarchy(phrase_kinds=["noun", "noun"]),
    "phrase_kinds a string": hierarchy(phrase_kinds="noun"),
    "short_caption NaN": row(short_caption=NAN),
    "short_caption with half of a pair": row(short_caption="\ud800"),
    "regions NaN": row(regions=NAN),
    "regions of lists": row(regions=[[BOX]]),
    "regions with a box of digits": row(regions=[{"box": ["0", "0", "4", "4"], "text": "a"}]),
    "regions with a box of five": row(regions=[{"box": [0, 0, 1, 1, 1], "text": "a"}]),
    "regions with a text of zero width": row(regions=[{**BOX, "text": "\u200b"}]),
    "regions of shares above 1": row(regions=[BOX], box_format="xyxy_normalized"),
    "width of 400 digits": row(regions=[BOX], width=10**400, height=8),
    "box_format an object": row(box_format={"a": 1}),
    "NaN": b"NaN",
    "a string": b'"text"',
    "two objects": row() + row(),
    "a zero byte within": row()[:20] + b"\0" + row()[20:],
    "Latin 1": '{"image": "good.png", "caption": "é"}'.encode("latin-1"),
    "a comma too many": b'{"image": "good.png", "caption": "a",}',
    "single quotes": b"{'image': 'good.png', 'caption': 'a'}",
    "conversations of a value that is a list": conversation("from", "value", ["a"]),
    "conversations of a speaker that is a list": conversation("role", "content", "a", speaker=["assistant"]),
    "messages with a content that is an object": conversation("role", "content", {"text": "a"}, name="messages"),
}
# Rows whose image cannot be used, which is found where it is decoded.
BAD_IMAGES = {
    "an empty file": b"",
    "text": b"a red square",
    "EPS": EPS,
    "half a PNG": None,
    "a PDF": b"%PDF-1.4\n%%EOF",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "13,000 × 13,000 of one bit": None,
    "zeros": b"\0" * 1000,
    "the header of a PNG": png(header(8, 8)),
    "a PNG without width": png(header(0, 8), (b"IDAT", zlib.compress(b"")), END),
    "a PNG of 2**31 pixels a side": png(header(2**31 - 1, 2**31 - 1), (b"IDAT", b"")),
    "a PNG with a profile of 100 MB": png(header(8, 8), (b"iCCP", BOMB), PIXELS, END),
    "a PNG with a text of 100 MB": png(header(8, 8), (b"zTXt", BOMB), PIXELS, END),
    "a PNG with noise for pixels": png(header(8, 8), (b"IDAT", b"noise"), END),
    "a PNG with too few pixels": png(header(8, 8), (b"IDAT", zlib.compress(bytes(10))), END),
    "half a JPEG": saved("JPEG")[:700],
    "the start of a JPEG": b"\xff\xd8",
    "a JPEG of 65,535 pixels a side": saved("JPEG").replace(struct.pack(">HH", 60, 60), b"\xff" * 4, 1),
    "half a GIF": saved("GIF")[:900],
    "a GIF without pixels": b"GIF89a" + bytes(20),
    "half a WebP": saved("WEBP")[:500],
    "half a BMP": saved("BMP")[:700],
    "a BMP of 2**31 pixels a side": saved("BMP")[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + saved("BMP")[26:],
    "half a JPEG 2000": saved("JPEG2000")[:600],
    "a TIFF whose tags begin where they end": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "a TIFF of NaN": tiff_of_nan(),
    "a PPM of words": b"P3\n2 2\n255\na b c d",
    "a PPM of 10**8 pixels a side": b"P6\n99999999 99999999\n255\n",
    "HEIC without its codec": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100),
    "an icon": saved("ICO"),
    "a page of HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
    "a packed PNG": gzip.compress(saved("PNG")),
}
# Files that look odd, and are used.
ODD_IMAGES = {
    "a moving GIF": saved("GIF", save_all=True, append_images=[Image.new("RGB", (60, 60), "red")]),
    "a moving WebP": saved("WEBP", save_all=True, append_images=[Image.new("RGB", (60, 60), "red")]),
    "a moving PNG": saved("PNG", save_all=True, append_images=[Image.new("RGB", (60, 60), "red")]),
    "a JPEG in CMYK": saved("JPEG", mode="CMYK"),
    "a JPEG with noise for EXIF": saved("JPEG")[:2] + NOISY_EXIF + saved("JPEG")[2:],
    "a PNG with noise for EXIF": png(header(8, 8), (b"eXIf", b"\xff" * 500), PIXELS, END),
    "a JPEG with noise for a profile": saved("JPEG", icc_profile=b"\xff" * 100_000),
    "a PNG of 16 bits": saved("PNG", mode="I;16"),
    "a PNG of a pixel": png(header(1, 1), (b"IDAT", zlib.compress(bytes(4))), END),
    "a PNG with too many pixels": png(header(8, 8), (b"IDAT", zlib.compress(bytes(10**7))), END),
}
# What may look odd, and is used.
ODD_LINES = {
    "sentence of &nbsp;": row(sentences=["A red square.", "&nbsp;"]),
    "sentence of zero width": row(sentences=["\u200b", "A red square."]),
    "an empty sentence": row(sentences=["", "A red square."]),
    "an empty phrase": row(phrases=["", "red square"]),
    "a phrase of markers": row(phrases=["<|endoftext|>", {"text": "red square", "boxes": None}]),
    "a blank one of captions": b'{"image": "good.png", "captions": ["A red square.", " ", "Red."]}',
    "caption of an emoji": row(caption="🙂"),
    "caption of a question mark": row(caption="?"),
    "caption of 10,000 words": row(caption="word " * 10_000),
    "caption with terminal escapes": row(caption="\x1b[31mred\x1b[0m square"),
    "width a word": row(regions=[BOX], width="wide", height=8),
    "width a list": row(regions=[BOX], width=[8], height=8),
    "nested columns": nested(50),
    "a thin image": row(image="thin.png"),
    "no phrases": row(phrases=[]),
    "null everywhere": row(sentences=None, phrases=None, regions=None, short_caption=None),
    "caption in Arabic": row(caption="كلب أحمر يركض"),
    "caption of one letter under 500 accents": row(caption="d" + "\u0301" * 500 + "og"),
    "caption of a family in one sign": row(caption="👩‍👩‍👧‍👦"),
    "caption between direction marks": row(caption="\u202ea red square\u202c"),
    "caption of tags": row(caption="<script>alert(1)</script>"),
    "an id that is a list": row(id=[1, 2]),
    "an id that is NaN": row(id=NAN),
    "an id that steers the terminal": row(id="a\n\x1b[2J"),
    "an id of another folder": row(id="../../passwd"),
    "ids that are the same": row(id="same"),
    "a column whose name steers the terminal": b'{"\\u001b[2J": 1, "image": "good.png", "caption": "a"}',
    "columns of the package": row(location="x", bytes="x", record="x", error="x"),
    "a region of a point": row(regions=[{"box": [1, 1, 1, 1], "text": "a"}]),
    "width NaN": row(regions=[BOX], width=NAN, height=8),
    "UTF-16": row().decode().encode("utf-16-le").replace(b"\n", b""),
    **{name: row(image=f"odd {number}.jpg") for number, name in enumerate(ODD_IMAGES)},
}


def fill_folder(folder):
    """Makes the files that rows name, but for bad images."""
    Image.new("RGB", (8, 8), "red").save(folder / "good.png")
    Image.new("RGB", (40_000, 1), "red").save(folder / "thin.png")
    (folder / "folder").mkdir()
    (folder / "folder.jpg").mkdir()
    for link, target in {"dangling.png": "nowhere", "loop.png": "loop.png", "zero.png": "/dev/zero"}.items():
        (folder / link).symlink_to(target)
    for number, content in enumerate(ODD_IMAGES.values()):
        (folder / f"odd {number}.jpg").write_bytes(content)
    os.mkfifo(folder / "pipe")


def bad_image(name):
    data = BAD_IMAGES[name]
    buffer = io.BytesIO()
    if name == "half a PNG":
        Image.effect_noise((80, 80), 90).save(buffer, "PNG")
        data = buffer.getvalue()[:1000]
    elif data is None:
        Image.new("1", (13_000, 13_000)).save(buffer, "PNG")
        data = buffer.getvalue()
    return data
