"""Draws the pictures of docs/scenes.md, and prints its table of statistics.

python benchmarks/scenes_gallery.py --output docs/images
"""

import argparse
import re
import statistics
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from beta_clip_hf import SceneDataset


LEVELS = ("easy", "medium", "hard")
ZOOM = 6


def contact_sheet(level: str, columns: int = 8, lines: int = 3, side: int = 128, gap: int = 6) -> Image.Image:
    """The first scenes of a level, drawn at twice the size that models see."""
    sheet = Image.new("RGB", (columns * (side + gap) + gap, lines * (side + gap) + gap), "white")
    dataset = SceneDataset(columns * lines, level=level, image_size=side)
    for index, row in enumerate(dataset):
        line, column = divmod(index, columns)
        sheet.paste(row["image"], (gap + column * (side + gap), gap + line * (side + gap)))
    return sheet


def annotated_scene(level: str, index: int, side: int = 64, width: int = 980) -> Image.Image:
    """One scene with the boxes of its objects; beside it its captions, two hard negatives and the region texts."""
    row = SceneDataset(index + 1, level=level, image_size=side)[index]
    texts = [f"caption: {row['caption']}", f"short caption: {row['short_caption']}"]
    pairs = zip(row["hard_negative_kinds"], row["hard_negatives"], strict=True)
    texts += [f"hard negative ({kind}): {caption}" for kind, caption in list(pairs)[:2]]
    for number, region in enumerate(row["regions"], start=1):
        texts.append(f"region {number}: {region['text']}; not: {', '.join(region['negatives'][:4])} ...")
    lines = [line for text in texts for line in [*_wrapped(text, 82), ""]]
    sheet = Image.new("RGB", (width, max(side * ZOOM, 17 * len(lines)) + 20), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    sheet.paste(row["image"].resize((side * ZOOM, side * ZOOM), Image.Resampling.NEAREST), (10, 10))
    for number, region in enumerate(row["regions"], start=1):
        left, top, right, bottom = (10 + ZOOM * edge for edge in region["box"])
        draw.rectangle((left, top, right - 1, bottom - 1), outline="magenta", width=2)
        draw.text((left + 5, top + 3), str(number), fill="black", font=font, stroke_width=2, stroke_fill="white")
    for number, line in enumerate(lines):
        draw.text((side * ZOOM + 30, 10 + 17 * number), line, fill="black", font=font)
    return sheet


def statistics_row(level: str, count: int = 1000) -> str:
    """Means over `count` scenes, as a line of a Markdown table."""
    rows = list(SceneDataset(count, level=level))
    words = [len(re.findall(r"\w+", row["caption"])) for row in rows]
    vocabulary = {word for row in rows for word in re.findall(r"\w+", _all_texts(row).lower())}
    means = [statistics.mean(len(row[column]) for row in rows) for column in ("regions", "sentences", "phrases")]
    short = statistics.mean(len(re.findall(r"\w+", row["short_caption"])) for row in rows)
    same = statistics.mean(
        _words(row["caption"]) == _words(negative) for row in rows for negative in row["hard_negatives"]
    )
    return (
        f"| {level} | {means[0]:.1f} | {statistics.mean(words):.0f} ({min(words)} to {max(words)}) | {means[1]:.1f} "
        f"| {means[2]:.1f} | {short:.0f} | {len(vocabulary)} | {same:.0%} |"
    )


def _all_texts(row: dict) -> str:
    regions = [text for region in row["regions"] for text in [region["text"], *region["negatives"]]]
    return " ".join([row["caption"], row["short_caption"], *row["hard_negatives"], *regions])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - {"a", "an"}


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > width:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1].strip() else word
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for level in LEVELS:
        contact_sheet(level).save(output / f"scenes_{level}.png", optimize=True)
    annotated_scene("medium", 5).save(output / "scenes_annotated.png", optimize=True)
    print("| level | objects | words per caption | sentences | phrases | words, short | vocabulary | same words |")
    print("|---|---|---|---|---|---|---|---|")
    for level in LEVELS:
        print(statistics_row(level))


if __name__ == "__main__":
    main()
