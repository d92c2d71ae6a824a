"""What a row costs until it is in a batch, step by step, on one core; and the readers' rows per second.

    python benchmarks/data_speed.py                           # generated pictures and captions, a small tokenizer
    python benchmarks/data_speed.py --shared ../shared/data   # IIW captions, OpenAI's tokenizer, and the readers

Pictures are noise with a photo's spectrum, as JPEG files of three sizes. CPU time of one process with one thread; all
steps are run in turn; figures are medians of `--rounds` with their spread. The processor resizes and normalises by
torchvision where it is installed, else by PIL: the first line says which.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import OUTPUT, markdown_table, shown, spread, write_report

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


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Noise whose amplitude falls with its frequency, mostly the same in the three channels: as detailed as a photo."""
    width, height = size
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])

    def field() -> np.ndarray:
        spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / np.maximum(frequency, 1 / max(size))
        values = np.fft.irfft2(spectrum, s=(height, width))
        return values / values.std()

    grey = field()
    channels = np.stack([grey + 0.3 * field() for _ in range(3)], axis=-1)
    return Image.fromarray(np.clip(50 * channels + 120, 0, 255).astype(np.uint8))


def reduced(path: str, part: tuple[int, int, int, int]) -> Image.Image:
    """The cropped image, decoded at half, a quarter or an eighth of its size where the part stays large enough."""
    with Image.open(path) as opened:
        scale = max(scale for scale in (1, 2, 4, 8) if scale == 1 or min(part[2:]) >= SIDE * scale)
        opened.draft("RGB", (opened.width // scale, opened.height // scale))
        return opened.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=_scaled(part, scale))


def _scaled(part: tuple[int, int, int, int], scale: int) -> tuple[float, ...]:
    left, top, width, height = (number / scale for number in part)
    return left, top, left + width, top + height


def steps_of(files: Sequence[str], captions: Sequence[str], processor: BetaCLIPProcessor) -> dict[str, Callable]:
    """The steps, by name, each for all rows."""
    rows = [{"id": file, "image": file, "caption": caption} for file, caption in zip(files, captions, strict=True)]
    given = [{**row, **hierarchy_of(row).columns()} for row in rows]
    images = [load_image(file) for file in files]
    rng = random.Random(0)
    parts = [crop_box(image.size, CROP, rng) for image in images]
    crops = [resized_part(image, part, (SIDE, SIDE)) for image, part in zip(images, parts, strict=True)]
    collator, whole = BetaCLIPDataCollator(processor, random_resized_crop=CROP), BetaCLIPDataCollator(processor)
    texts = [collator.sample_texts(row) for row in rows]

    def pil_crop(image: Image.Image, part: tuple[int, int, int, int]) -> Image.Image:
        return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=_scaled(part, 1))

    def each(function: Callable, *columns: Sequence[Any]) -> Callable[[], Any]:
        return lambda: [function(*values) for values in zip(*columns, strict=True)]

    return {
        "decode": each(load_image, files),
        "crop and resize": each(lambda image, part: resized_part(image, part, (SIDE, SIDE)), images, parts),
        "crop and resize by PIL (not used)": each(pil_crop, images, parts),
        "decode at reduced scale, crop by PIL (not used)": each(reduced, files, parts),
        "processor: normalise a crop": lambda: processor.image_processor(crops, return_tensors="pt"),
        "processor: resize and normalise a whole image": lambda: processor.image_processor(images, return_tensors="pt"),
        "sample texts, phrases given": each(lambda row: collator.sample_texts(check_row(row)), given),
        "sample texts, phrases extracted": each(lambda row: collator.sample_texts(check_row(row)), rows),
        "tokenise": lambda: processor(hierarchies=texts),
        "whole batch, cropped, phrases given": lambda: collator(given),
        "whole batch, cropped, phrases extracted": lambda: collator(rows),
        "whole batch, not cropped, phrases given": lambda: whole(given),
    }


def cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_steps(processor: BetaCLIPProcessor, captions: Sequence[str], rounds: int) -> tuple[dict[str, Any], str]:
    """Milliseconds per row of each step and size, and the table of them."""
    table: dict[str, list[str]] = {}
    results: dict[str, Any] = {}
    kilobytes, changes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            files = [str(Path(folder, f"{size[0]}-{number}.jpg")) for number in range(ROWS)]
            for number, file in enumerate(files):
                picture(size, number).save(file, quality=90)
            kilobytes.append(statistics.mean(Path(file).stat().st_size for file in files) / 1000)
            steps = steps_of(files, captions, processor)
            torch_crops, pil_crops, reduced_crops = (list(steps[name]()) for name in list(steps)[1:4])
            for others in (torch_crops, reduced_crops):
                pairs = zip(others, pil_crops, strict=True)
                changes.append(np.mean([np.abs(np.subtract(one, other, dtype=float)).mean() for one, other in pairs]))
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(rounds):
                for name, step in steps.items():
                    times[name].append(1000 * cpu_seconds(step) / ROWS)
            for name, found in times.items():
                one = results.setdefault(name, {})[f"{size[0]} x {size[1]}"] = spread(found)
                rate = f"; {1000 / one['median']:.0f}/s" if "batch" in name else ""
                table.setdefault(name, []).append(f"{shown(one)}{rate}")
    header = ("ms per row", *(f"{width} × {height}" for width, height in SIZES))
    rows = [
        ("size of the file", *(f"{size:.0f} kB" for size in kilobytes)),
        *((name, *of) for name, of in table.items()),
    ]
    levels = [f"{change:.2f}" for change in changes]
    note = (
        f"Levels (of 255) between our crops and PIL's: {', '.join(levels[::2])}; after a reduced decode: "
        f"{', '.join(levels[1::2])}."
    )
    return results, f"{markdown_table(header, rows)}\n\n{note}"


def measure_readers(shared: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Rows per second of each reader."""
    jsonl, tars = shared / "photos" / "train.jsonl", shared / "photos_small"
    rows = load_rows(jsonl)
    captions = list(scene_captions(5000))
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "open JSONL, all rows checked": (len(rows), lambda: load_rows(jsonl)),
        "read rows": (len(rows), lambda: [rows[index] for index in range(len(rows))]),
        "stream tars": (sum(1 for _ in load_rows(tars, split="val")), lambda: list(load_rows(tars, split="val"))),
        "captions a tokenizer learns from": (5000, lambda: train_clip_tokenizer(captions, vocab_size=2048)),
    }
    return {name: spread([count / cpu_seconds(work) for _ in range(rounds)]) for name, (count, work) in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="directory with text/, clip_bpe/, photos/ and photos_small/")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.shared:
        lines = (arguments.shared / "text" / "iiw_IIW-400.jsonl").read_text(encoding="utf-8").splitlines()
        captions = [json.loads(line)["IIW"] for line in lines[:ROWS]]
        tokenizer = clip_tokenizer_from_bpe(arguments.shared / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")
    else:
        captions = list(scene_captions(ROWS, level="hard"))
        tokenizer = train_clip_tokenizer(captions)
    processor = BetaCLIPProcessor.from_image_size(tokenizer, SIDE)
    words = statistics.mean(len(caption.split()) for caption in captions)
    steps, table = measure_steps(processor, captions, arguments.rounds)
    readers = measure_readers(arguments.shared, arguments.rounds) if arguments.shared else {}
    if readers:
        rates = markdown_table(("", "per second"), [(name, shown(one, 0)) for name, one in readers.items()])
        table = f"{table}\n\n{rates}"
    kind = type(processor.image_processor).__name__
    title = f"{kind}, captions of {words:.0f} words, {SIDE} pixels, median of {arguments.rounds} rounds"
    results = {"milliseconds": steps, "per_second": readers}
    write_report(arguments.output / "data_speed", title, table, results, settings=vars(arguments))


if __name__ == "__main__":
    main()
