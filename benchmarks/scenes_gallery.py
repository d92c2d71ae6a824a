"""Draws the pictures of docs/scenes.md, and prints its table of statistics.

python benchmarks/scenes_gallery.py --output docs/images
"""

import argparse
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from report import markdown_table

from beta_clip_hf import SceneDataset


LEVELS = ("easy", "medium", "hard")
ZOOM = 6
LINE_HEIGHT = 17  # pixels
COLUMNS = (
    *("level", "objects", "words per caption", "sentences"),
    *("phrases", "words, short", "vocabulary", "same words"),
)


def contact_sheet(level: str, columns: int = 8, lines: int = 3, side: int = 128, gap: int = 6) -> Image.Image:
    """Draws the first scenes of a level, at twice the size that models see."""
    sheet = Image.new("RGB", (columns * (side + gap) + gap, lines * (side + gap) + gap), "white")
    dataset = SceneDataset(columns * lines, level=level, image_size=side)
    for index, row in enumerate(dataset):
        line, column = divmod(index, columns)
        sheet.paste(row["image"], (gap + column * (side + gap), gap + line * (side + gap)))
    return sheet


def annotated_scene(level: str, index: int, side: int = 64, width: int = 980) -> Image.Image:
    """Draws a scene with the boxes of its objects, beside its captions, two hard negatives and the region texts."""
    row = SceneDataset(index + 1, level=level, image_size=side)[index]
    lines = []
    for text in describe(row):
        lines += [*wrap(text, 82), ""]
    sheet = Image.new("RGB", (width, max(side * ZOOM, LINE_HEIGHT * len(lines)) + 20), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    sheet.paste(row["image"].resize((side * ZOOM, side * ZOOM), Image.Resampling.NEAREST), (10, 10))
    for number, region in enumerate(row["regions"], start=1):
        left, top, right, bottom = (10 + ZOOM * edge for edge in region["box"])
        draw.rectangle((left, top, right - 1, bottom - 1), outline="magenta", width=2)
        draw.text((left + 5, top + 3), str(number), fill="black", font=font, stroke_width=2, stroke_fill="white")
    for number, line in enumerate(lines):
        draw.text((side * ZOOM + 30, 10 + LINE_HEIGHT * number), line, fill="black", font=font)
    return sheet


def describe(row: dict[str, Any]) -> list[str]:
    """Returns the texts of a scene, each with what it is."""
    texts = [f"caption: {row['caption']}", f"short caption: {row['short_caption']}"]
    negatives = list(zip(row["hard_negative_kinds"], row["hard_negatives"], strict=True))
    texts += [f"hard negative ({kind}): {caption}" for kind, caption in negatives[:2]]
    for number, region in enumerate(row["regions"], start=1):
        texts.append(f"region {number}: {region['text']}; not: {', '.join(region['negatives'][:4])} ...")
    return texts


def statistics_cells(level: str, count: int = 1000) -> list[str]:
    """Returns the cells of a level in the table: means over `count` scenes."""
    rows = list(SceneDataset(count, level=level))
    caption_lengths = [len(split_words(row["caption"])) for row in rows]
    short_lengths = [len(split_words(row["short_caption"])) for row in rows]
    vocabulary: set[str] = set()
    same_words = []
    for row in rows:
        for text in all_texts(row):
            vocabulary.update(split_words(text.lower()))
        for negative in row["hard_negatives"]:
            same_words.append(content_words(row["caption"]) == content_words(negative))

    def mean_count(column: str) -> str:
        return f"{statistics.mean(len(row[column]) for row in rows):.1f}"

    return [
        level,
        mean_count("regions"),
        f"{statistics.mean(caption_lengths):.0f} ({min(caption_lengths)} to {max(caption_lengths)})",
        mean_count("sentences"),
        mean_count("phrases"),
        f"{statistics.mean(short_lengths):.0f}",
        f"{len(vocabulary)}",
        f"{statistics.mean(same_words):.0%}",
    ]


def all_texts(row: dict[str, Any]) -> list[str]:
    """Returns all captions and region texts of a scene, negatives included."""
    texts = [row["caption"], row["short_caption"], *row["hard_negatives"]]
    for region in row["regions"]:
        texts += [region["text"], *region["negatives"]]
    return texts


def split_words(text: str) -> list[str]:
    """Returns the words of a text."""
    return re.findall(r"\w+", text)


def content_words(text: str) -> set[str]:
    """Returns the words of a text in lower case, without articles."""
    return set(split_words(text.lower())) - {"a", "an"}


def wrap(text: str, width: int) -> list[str]:
    """Splits a text into lines of about that many characters; all but the first are indented."""
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > width:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1].strip() else word
    return lines


def main() -> None:
    """Draws the pictures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder for the PNGs (%(default)s)")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for level in LEVELS:
        contact_sheet(level).save(output / f"scenes_{level}.png", optimize=True)
    annotated_scene("medium", 5).save(output / "scenes_annotated.png", optimize=True)
    rows = [statistics_cells(level) for level in LEVELS]
    sys.stdout.write(f"{markdown_table(COLUMNS, rows)}\n")


if __name__ == "__main__":
    main()
