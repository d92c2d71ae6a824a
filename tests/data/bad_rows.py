"""Kinds of rows that cannot be used, and of rows that look odd and are used: lines of JSON, and files of images."""

import io
import json
import os

from PIL import Image


GOOD = {"image": "good.png", "caption": "A red square. It is small."}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def row(**fields):
    return json.dumps({**GOOD, **fields}).encode()


def nested(depth):
    return b'{"image": "good.png", "caption": "a", "extra": ' + b"[" * depth + b"]" * depth + b"}"


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
}


def fill_folder(folder):
    """Makes the files that rows name, but for bad images."""
    Image.new("RGB", (8, 8), "red").save(folder / "good.png")
    Image.new("RGB", (40_000, 1), "red").save(folder / "thin.png")
    (folder / "folder").mkdir()
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
