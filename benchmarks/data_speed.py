"""Rows per second of the readers and the collator, on one core: `python benchmarks/data_speed.py ../shared/data`.

The directory holds `photos/train.jsonl`, `photos_small/` (tars) and `clip_bpe/`. CPU time, best of three.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.rows import check_row, load_image
from beta_clip_hf.data.scenes import scene_captions
from beta_clip_hf.data.tokenizers import clip_tokenizer_from_bpe, train_clip_tokenizer


BATCH = 32


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of the fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    torch.set_num_threads(1)

    def report(what: str, count: int, work: Callable[[], Any]) -> None:
        sys.stdout.write(f"{what:45} {count / seconds(work):10,.0f} per second\n")

    jsonl = data / "photos" / "train.jsonl"
    rows = load_rows(jsonl)
    report("open JSONL, all rows checked", len(rows), lambda: load_rows(jsonl))
    report("read rows", len(rows), lambda: [rows[index] for index in range(len(rows))])
    tars = data / "photos_small"
    report("stream tars", sum(1 for _ in load_rows(tars, split="val")), lambda: list(load_rows(tars, split="val")))
    some = [rows[index] for index in range(8 * BATCH)]
    bare = [{name: value for name, value in row.items() if name != "phrases"} for row in some]
    report("decode photos", len(some), lambda: [load_image(row["image"]) for row in some])
    tokenizer = clip_tokenizer_from_bpe(data / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")
    collator = BetaCLIPDataCollator(BetaCLIPProcessor.from_image_size(tokenizer, 64))
    report("sample texts, phrases given", len(some), lambda: [collator.sample_texts(check_row(row)) for row in some])
    report(
        "sample texts, phrases extracted", len(bare), lambda: [collator.sample_texts(check_row(row)) for row in bare]
    )
    for size in (64, 224):
        processor = BetaCLIPProcessor.from_image_size(tokenizer, size)
        for name, settings in {
            "CLIP": {"caption_mode": "caption_only"},
            "β-CLIP": {},
            "β-CLIP, cropped": {"random_resized_crop": (0.5, 1.0)},
        }.items():
            make = BetaCLIPDataCollator(processor, **settings)
            parts = [some[first : first + BATCH] for first in range(0, len(some), BATCH)]
            report(f"batches at {size} pixels, {name}", len(some), lambda m=make, p=parts: [m(part) for part in p])
    captions = list(scene_captions(5000))
    report("captions a tokenizer learns from", len(captions), lambda: train_clip_tokenizer(captions, vocab_size=2048))


if __name__ == "__main__":
    main()
