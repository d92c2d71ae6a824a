"""Measures the cost of a row until it is in a batch, step by step, on one core; and the rows per second of the readers.

    python benchmarks/data_speed.py                           # generated pictures and captions, a small tokenizer
    python benchmarks/data_speed.py --shared DATA             # captions, tokenizer and photos of a folder

Pictures are noise with a photo's spectrum, as JPEG files of three sizes. Times are CPU times of one process with one
thread. All steps run in turn; the table has medians of `--rounds` with their spread. The processor resizes and
normalises by torchvision if it is installed, else by PIL: the title says which.
"""

import argparse
import json
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from report import OUTPUT, format_spread, markdown_table, spread, write_report

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor
from beta_clip_hf.data.crop import crop_box, resized_part
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.row_texts import hierarchy_of
from beta_clip_hf.data.rows import check_row
from beta_clip_hf.data.scenes import scene_captions
from beta_clip_hf.data.tokenizers import clip_tokenizer_from_bpe, train_clip_tokenizer


SIZES = ((299, 224), (640, 480), (1500, 1000))
ROWS, SIDE, CROP = 16, 224, (0.5, 1.0)
CROP_STEP = "crop and resize"
PIL_CROP_STEP = "crop and resize by PIL (not used)"
REDUCED_STEP = "decode at reduced scale, crop by PIL (not used)"

Part = tuple[int, int, int, int]
"""A part of an image: left, top, width, height in pixels."""


def make_picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Draws noise that is as detailed as a photo: the amplitude falls with the frequency, and channels are alike."""
    width, height = size
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])

    def draw_field() -> np.ndarray:
        spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / np.maximum(frequency, 1 / max(size))
        values = np.fft.irfft2(spectrum, s=(height, width))
        return values / values.std()

    grey = draw_field()
    channels = np.stack([grey + 0.3 * draw_field() for _ in range(3)], axis=-1)
    return Image.fromarray(np.clip(50 * channels + 120, 0, 255).astype(np.uint8))


def crop_by_pil(image: Image.Image, part: Part, scale: int = 1) -> Image.Image:
    """Crops and resizes an image that was decoded at `1 / scale` of its size."""
    left, top, width, height = (number / scale for number in part)
    box = (left, top, left + width, top + height)
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)


def crop_at_reduced_scale(path: str, part: Part) -> Image.Image:
    """Crops an image that is decoded at half, a quarter or an eighth of its size, if the part stays large enough."""
    usable_scales = [scale for scale in (1, 2, 4, 8) if scale == 1 or min(part[2:]) >= SIDE * scale]
    scale = max(usable_scales)
    with Image.open(path) as image:
        # The JPEG decoder can skip the finest frequencies.
        image.draft("RGB", (image.width // scale, image.height // scale))
        return crop_by_pil(image, part, scale)


def make_steps(
    files: Sequence[str], captions: Sequence[str], processor: BetaCLIPProcessor
) -> dict[str, Callable[[], Any]]:
    """Returns the steps by name. Each does its work for all rows."""
    rows = []
    rows_with_phrases = []
    for file, caption in zip(files, captions, strict=True):
        row = {"id": file, "image": file, "caption": caption}
        rows.append(row)
        rows_with_phrases.append({**row, **hierarchy_of(row).columns()})
    images = [load_image(file) for file in files]
    rng = random.Random(0)
    parts = [crop_box(image.size, CROP, rng) for image in images]

    def crop(image: Image.Image, part: Part) -> Image.Image:
        return resized_part(image, part, (SIDE, SIDE))

    crops = [crop(image, part) for image, part in zip(images, parts, strict=True)]
    cropping = BetaCLIPDataCollator(processor, random_resized_crop=CROP)
    as_bytes = BetaCLIPDataCollator(processor, random_resized_crop=CROP, uint8_pixels=True)
    whole = BetaCLIPDataCollator(processor)
    texts = [cropping.sample_texts(check_row(row)) for row in rows]

    def sample_texts(row: dict[str, Any]) -> Any:
        return cropping.sample_texts(check_row(row))

    def for_each(function: Callable[..., Any], *columns: Sequence[Any]) -> Callable[[], Any]:
        return lambda: [function(*values) for values in zip(*columns, strict=True)]

    return {
        "decode": for_each(load_image, files),
        CROP_STEP: for_each(crop, images, parts),
        PIL_CROP_STEP: for_each(crop_by_pil, images, parts),
        REDUCED_STEP: for_each(crop_at_reduced_scale, files, parts),
        "processor: normalise a crop": lambda: processor.image_processor(crops, return_tensors="pt"),
        "processor: resize and normalise a whole image": lambda: processor.image_processor(images, return_tensors="pt"),
        "sample texts, phrases given": for_each(sample_texts, rows_with_phrases),
        "sample texts, phrases extracted": for_each(sample_texts, rows),
        "tokenise": lambda: processor(hierarchies=texts),
        "whole batch, cropped, phrases given": lambda: cropping(rows_with_phrases),
        "whole batch, cropped, phrases given, bytes": lambda: as_bytes(rows_with_phrases),
        "whole batch, cropped, phrases extracted": lambda: cropping(rows),
        "whole batch, not cropped, phrases given": lambda: whole(rows_with_phrases),
    }


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Returns the CPU time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass
class SizeResult:
    """What was measured on pictures of one size."""

    kilobytes: float
    """The mean size of a file."""
    change: float
    """The mean difference in levels (of 255) between our crops and PIL's."""
    reduced_change: float
    """The mean difference after a decode at reduced scale."""
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    """The times per row of each step, one for each round."""


def measure_size(
    size: tuple[int, int], folder: str, processor: BetaCLIPProcessor, captions: Sequence[str], rounds: int
) -> SizeResult:
    """Measures all steps on pictures of one size."""
    files = [str(Path(folder, f"{size[0]}-{number}.jpg")) for number in range(ROWS)]
    for number, file in enumerate(files):
        make_picture(size, number).save(file, quality=90)
    steps = make_steps(files, captions, processor)
    pil_crops = steps[PIL_CROP_STEP]()
    result = SizeResult(
        kilobytes=statistics.mean(Path(file).stat().st_size for file in files) / 1000,
        change=mean_difference(steps[CROP_STEP](), pil_crops),
        reduced_change=mean_difference(steps[REDUCED_STEP](), pil_crops),
    )
    for _ in range(rounds):
        for name, step in steps.items():
            result.milliseconds.setdefault(name, []).append(1000 * cpu_seconds(step) / ROWS)
    return result


def measure_formats(processor: BetaCLIPProcessor, captions: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """
    Measures rows from the formats of files to batches of bytes.

    Returns:
        By format the rows per second of one core, from reading to the batch, and under "share" the time of decoding,
        cropping and tokenising alone, relative to that of the whole.
    """
    width, height = SIZES[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{number}.jpg" for number in range(ROWS)]
        for number, file in enumerate(files):
            make_picture((width, height), number).save(file, quality=90)
        write_formats(folder, files, captions)
        collator = BetaCLIPDataCollator(processor, random_resized_crop=CROP, uint8_pixels=True)
        steps = make_steps([str(file) for file in files], captions, processor)
        times: dict[str, list[float]] = {}
        shares: list[float] = []
        for _ in range(rounds):
            alone = sum(cpu_seconds(steps[step]) for step in ("decode", CROP_STEP, "tokenise"))
            for source in ("rows.jsonl", "rows.tar", "rows.parquet"):
                seconds = cpu_seconds(lambda source=source: collator(list(load_rows(folder / source))))  # type: ignore[misc]
                times.setdefault(source, []).append(ROWS / seconds)
                if source == "rows.jsonl":
                    shares.append(alone / seconds)
    return {source: spread(rates) for source, rates in times.items()} | {"share": spread(shares)}


def write_formats(folder: Path, files: Sequence[Path], captions: Sequence[str]) -> None:
    """Writes the same rows as JSONL, as a tar of samples, and as Parquet with the bytes of the images."""
    lines = []
    contents = []
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for file, caption in zip(files, captions, strict=True):
            lines.append(json.dumps({"image": file.name, "caption": caption}))
            contents.append(file.read_bytes())
            tar.add(file, file.name)
            text = folder / f"{file.stem}.txt"
            text.write_text(caption, encoding="utf-8")
            tar.add(text, text.name)
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    images = [{"bytes": content, "path": file.name} for content, file in zip(contents, files, strict=True)]
    parquet.write_table(pyarrow.table({"image": images, "caption": list(captions)}), folder / "rows.parquet")


def mean_difference(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Returns the mean difference in levels between pairs of images."""
    differences = []
    for image, other in zip(images, others, strict=True):
        differences.append(np.abs(np.subtract(image, other, dtype=float)).mean())
    return float(np.mean(differences))


def measure_steps(processor: BetaCLIPProcessor, captions: Sequence[str], rounds: int) -> tuple[dict[str, Any], str]:
    """Returns the milliseconds per row of each step and size, and their table."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [measure_size(size, folder, processor, captions, rounds) for size in SIZES]
    results: dict[str, Any] = {}
    rows = [["size of the file", *(f"{result.kilobytes:.0f} kB" for result in sizes)]]
    for name in sizes[0].milliseconds:
        results[name] = {}
        cells = []
        for (width, height), result in zip(SIZES, sizes, strict=True):
            milliseconds = spread(result.milliseconds[name])
            results[name][f"{width} x {height}"] = milliseconds
            rate = f"; {1000 / milliseconds['median']:.0f}/s" if "batch" in name else ""
            cells.append(f"{format_spread(milliseconds)}{rate}")
        rows.append([name, *cells])
    columns = ("ms per row", *(f"{width} × {height}" for width, height in SIZES))
    changes = ", ".join(f"{result.change:.2f}" for result in sizes)
    reduced_changes = ", ".join(f"{result.reduced_change:.2f}" for result in sizes)
    note = f"Levels (of 255) between our crops and PIL's: {changes}; after a reduced decode: {reduced_changes}."
    return results, f"{markdown_table(columns, rows)}\n\n{note}"


def measure_readers(shared: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Returns the rows per second of each reader."""
    jsonl, tars = shared / "photos" / "train.jsonl", shared / "photos_small"
    rows = load_rows(jsonl)
    captions = list(scene_captions(5000))
    num_streamed = sum(1 for _ in load_rows(tars, split="val"))
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "open JSONL, all rows checked": (len(rows), lambda: load_rows(jsonl)),
        "read rows": (len(rows), lambda: [rows[index] for index in range(len(rows))]),
        "stream tars": (num_streamed, lambda: list(load_rows(tars, split="val"))),
        "captions a tokenizer learns from": (5000, lambda: train_clip_tokenizer(captions, vocab_size=2048)),
    }
    results = {}
    for name, (count, work) in works.items():
        rates = [count / cpu_seconds(work) for _ in range(rounds)]
        results[name] = spread(rates)
    return results


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with text/, clip_bpe/, photos/ and photos_small/")
    parser.add_argument("--rounds", type=int, default=7, help="times that all is measured (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.shared:
        lines = (args.shared / "text" / "iiw_IIW-400.jsonl").read_text(encoding="utf-8").splitlines()
        captions = [json.loads(line)["IIW"] for line in lines[:ROWS]]
        tokenizer = clip_tokenizer_from_bpe(args.shared / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")
    else:
        captions = list(scene_captions(ROWS, level="hard"))
        tokenizer = train_clip_tokenizer(captions)
    processor = BetaCLIPProcessor.from_image_size(tokenizer, SIDE)
    steps, table = measure_steps(processor, captions, args.rounds)
    readers = measure_formats(processor, captions, args.rounds)
    share = readers.pop("share")
    if args.shared:
        readers |= measure_readers(args.shared, args.rounds)
    rows = [(name, format_spread(rates, 0)) for name, rates in readers.items()]
    table = f"{table}\n\n{markdown_table(('', 'per second'), rows)}"
    table += f"\n\nDecoding, cropping and tokenising alone, of the whole from JSONL: {format_spread(share, 2)}."
    words = statistics.mean(len(caption.split()) for caption in captions)
    kind = type(processor.image_processor).__name__
    title = f"{kind}, captions of {words:.0f} words, {SIDE} pixels, median of {args.rounds} rounds"
    results = {"milliseconds": steps, "per_second": readers}
    write_report(args.output / "data_speed", title, table, results, settings=vars(args))


if __name__ == "__main__":
    main()
