"""Rows per second from JPEG files to batches, by the number of workers."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from data_speed import make_picture
from torch.utils.data import ConcatDataset, DataLoader

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.scenes import scene_captions
from beta_clip_hf.data.tokenizers import train_clip_tokenizer

from .bench import Bench


_PICTURE_SIZE, _IMAGE_SIZE = (640, 480), 224
_SECONDS = 8


def measure_loader(bench: Bench) -> dict[str, int]:
    """Counts rows per second of the collator, with 0, 1, 8 and 15 workers."""
    num_files, repeats, batch_size = bench.sized((256, 60, 64), (4, 2, 2))
    captions = list(scene_captions(num_files, seed=0, level="hard"))
    processor = BetaCLIPProcessor.from_image_size(train_clip_tokenizer(captions, vocab_size=600), _IMAGE_SIZE)
    collator = BetaCLIPDataCollator(processor, random_resized_crop=(0.5, 1.0))
    result = bench.open_result()
    with tempfile.TemporaryDirectory() as name:
        rows = load_rows(str(_write_rows(Path(name), captions)))
        many = ConcatDataset([rows] * repeats)
        for num_workers in bench.sized((0, 1, 8, 15), (0, 1)):
            loader: Any = DataLoader(
                many, batch_size, collate_fn=collator, num_workers=num_workers, pin_memory=bench.is_cuda
            )
            result[f"{num_workers} workers"] = _rows_per_second(loader)
    return result


def _write_rows(folder: Path, captions: list[str]) -> Path:
    lines = []
    for number, caption in enumerate(captions):
        make_picture(_PICTURE_SIZE, number).save(folder / f"{number}.jpg", quality=90)
        lines.append(json.dumps({"image": f"{number}.jpg", "caption": caption}))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _rows_per_second(loader: Any) -> int:
    batches = iter(loader)
    # The first batch waits for the workers to start.
    next(batches)
    start = time.perf_counter()
    count = 0
    for batch in batches:
        count += len(batch["pixel_values"])
        if time.perf_counter() - start > _SECONDS:
            break
    return round(count / (time.perf_counter() - start))
