"""
Measures how often a search finds something, for queries with and without a match: the figures of docs/search.md.

    python benchmarks/confidence.py                                               # scenes, the β-CLIP that ships
    python benchmarks/confidence.py --photos photos/test.jsonl --model runs/photos

Half of a collection is indexed. Its captions have a match; those of the other half have none, though they are about the
same kind of things; texts of the other kind of collection have none and are far from all images.
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

from beta_clip_hf import SceneDataset
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.scenes import scene_captions
from beta_clip_hf.scenes import pretrained
from beta_clip_hf.search.index import PhotoIndex, load_embedder


THRESHOLDS = (0.5, 0.8, 0.9, 0.95)
QUERIES = 100
NUM_SCENES = 800
SCENES_SEED, OTHER_SEED = 5, 99
# Of no collection of this repository, and not among the texts of the calibration.
FAR_TEXTS = (
    "a dog runs along a beach",
    "a plate of spaghetti with tomatoes",
    "the Eiffel tower at night",
    "an old man plays the accordion",
    "a red sports car on a race track",
    "a diagram of a jet engine",
    "a cat sleeps on a sofa",
    "a bride throws her flowers",
    "snow on a roof",
    "a football team with a cup",
)


def photo_rows(path: str) -> list[dict[str, Any]]:
    """Returns the photos of a source, each with its first caption."""
    dataset: Any = load_rows(path)
    rows = [dataset[index] for index in range(len(dataset))]
    return [{"image": row["image"], "caption": (row.get("captions") or [row["caption"]])[0]} for row in rows]


def collection(photos: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows of a collection, and texts that are far from all of them."""
    if photos is None:
        scenes = SceneDataset(NUM_SCENES, seed=SCENES_SEED)
        rows = [{"image": scenes[index]["image"], "caption": scenes[index]["caption"]} for index in range(NUM_SCENES)]
        return rows, list(FAR_TEXTS)
    return photo_rows(photos), list(scene_captions(QUERIES, seed=OTHER_SEED, level="easy"))


def best_confidences(index: PhotoIndex, texts: list[str]) -> np.ndarray:
    """Returns the confidence of the best image for each text."""
    return np.array([index.search(text, top=1)[0].confidence for text in texts])


def main() -> None:
    """Prints a table: the share of queries that find something, by threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", metavar="DATA", help="captioned photos (default: generated scenes)")
    parser.add_argument(
        "--model", metavar="MODEL", default=pretrained("beta_clip"), help="default: the β-CLIP that ships"
    )
    parser.add_argument("--splits", metavar="N", type=int, default=4, help="number of random halves to index")
    parser.add_argument("--device", metavar="DEVICE")
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    rows, far_texts = collection(args.photos)
    embedder = load_embedder(args.model, device=args.device)
    found: dict[str, list[list[float]]] = {}
    for split in range(args.splits):
        random.Random(split).shuffle(rows)
        half = len(rows) // 2
        queries = {
            "with a match": [row["caption"] for row in rows[:half][:QUERIES]],
            "no match, same kind": [row["caption"] for row in rows[half:][:QUERIES]],
            "no match, far": far_texts,
        }
        for name in ("captions", "no captions"):
            with tempfile.TemporaryDirectory() as folder:
                index = PhotoIndex.create(Path(folder) / "index", embedder)
                indexed = rows[:half]
                if name == "no captions":
                    indexed = [{"image": row["image"], "id": number} for number, row in enumerate(indexed)]
                index.add(indexed, name="photos")
                for kind, texts in queries.items():
                    best = best_confidences(index, texts)
                    shares = [float(np.mean(best >= threshold)) for threshold in THRESHOLDS]
                    found.setdefault(f"{half} images, {name} | {kind} ({len(texts)})", []).append(shares)
    for title, shares_of_splits in found.items():
        means, spreads = np.mean(shares_of_splits, axis=0), np.std(shares_of_splits, axis=0)
        cells = [f"{mean:.2f} ± {spread:.2f}" for mean, spread in zip(means, spreads, strict=True)]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
