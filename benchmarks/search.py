"""Measures search of photo collections: build rate, disk, time of a query and of re-ranking, recall of the index.

    python benchmarks/search.py                       # 1,000 images, embedded; 10,000 and 100,000, synthetic
    python benchmarks/search.py --images 1000         # one size
    python benchmarks/search.py --images 100000 --precision int8 binary   # indexes that keep codes

Up to 1,000 images are generated scenes in JPEG files, embedded by a small model with random weights (two layers of
width 128, 49 patches, D = 512): time and disk are real, the results mean nothing. The embeddings of larger collections
are synthetic: vectors in clusters with a falling spectrum and a common direction, as those of CLIP; a query is one of
them with noise. Patch features are stored up to 10,000 images (random numbers above 1,000).
"""

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path

import numpy as np
import torch
from report import markdown_table

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.inference.quantization import PRECISIONS
from beta_clip_hf.search import table as table_module
from beta_clip_hf.search.index import PhotoIndex, load_embedder


WIDTH, GRID, TOP, RERANK = 512, (7, 7), 20, 200
# The largest collections that are embedded, and whose patch features are stored.
EMBEDDED, WITH_PATCHES = 1000, 10_000


def small_model(folder: Path) -> Path:
    """Saves a model with CLIP's interface and random weights."""
    tokenizer = train_clip_tokenizer([], vocab_size=514)
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        **tower,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 248,
    }
    vision = {**tower, "image_size": 224, "patch_size": 32}
    torch.manual_seed(0)
    BetaCLIPModel(BetaCLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(folder)
    BetaCLIPProcessor.from_image_size(tokenizer, image_size=224).save_pretrained(folder)
    return folder


def draw_photos(folder: Path, count: int) -> Path:
    """Draws generated scenes into JPEG files."""
    folder.mkdir()
    scenes = SceneDataset(count, image_size=224, seed=0)
    for number in range(count):
        scenes[number]["image"].save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def synthetic_embeddings(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings (G, D) and queries (100, D), normalised."""
    random = np.random.default_rng(seed)
    # The spectrum of real embeddings falls about so.
    scale = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    centres = random.standard_normal((max(50, count // 100), WIDTH), dtype=np.float32) * scale
    vectors = centres[random.integers(0, len(centres), count)]
    vectors += 0.7 * scale * random.standard_normal((count, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # All embeddings of CLIP lie in a narrow cone.
    common = random.standard_normal(WIDTH, dtype=np.float32)
    vectors = 0.85 * vectors + 0.5 * common / np.linalg.norm(common)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = random.standard_normal((100, WIDTH), dtype=np.float32) * scale
    queries = vectors[random.integers(0, count, 100)] + 0.6 * noise / np.linalg.norm(scale)
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def fill(index: PhotoIndex, vectors_GD: np.ndarray) -> None:
    """Appends synthetic embeddings in fragments, with random patch features if the index keeps them."""
    random = np.random.default_rng(1)
    fragment_size = 1000 if index.table.stores_patches else 5000
    for first in range(0, len(vectors_GD), fragment_size):
        fragment_GD = vectors_GD[first : first + fragment_size]
        records = []
        for number in range(first, first + len(fragment_GD)):
            name = f"synthetic/{number}.jpg"
            records.append({"image": name, "width": 224, "height": 224, "file_sha256": f"{number}"})
        patches = []
        if index.table.stores_patches:
            shape = (len(fragment_GD), GRID[0] * GRID[1], WIDTH)
            for features_PD in random.standard_normal(shape, dtype=np.float32):
                patches.append({"patches": features_PD.astype(np.float16).tobytes(), "patch_rows": GRID[0]})
        index.table.append(records, fragment_GD, patches)
    index.table.finish()


def times(call: Callable[[int], object], count: int) -> str:
    """Formats median and 95th percentile in milliseconds of calls with 0, 1, …"""
    # The first call opens files and fills caches.
    call(0)
    milliseconds = []
    for number in range(count):
        start = time.perf_counter()
        call(number)
        milliseconds.append(1000 * (time.perf_counter() - start))
    return f"{np.median(milliseconds):.0f} / {np.percentile(milliseconds, 95):.0f}"


def size_of(folder: Path, inside: str = "") -> float:
    """Returns the megabytes of the files below a folder whose path contains a text."""
    files = [path for path in folder.rglob("*") if path.is_file() and inside in str(path)]
    return sum(path.stat().st_size for path in files) / 1e6


def measure(count: int, precision: str, folder: Path, model: Path, queries: int) -> dict[str, str]:
    """Measures a collection of a size, and returns a row of the table."""
    embedder = load_embedder(model, device="cpu")
    path = folder / f"{count}.index"
    # Patches are the same beside codes.
    with_patches = count <= WITH_PATCHES and precision == "float32"
    index = PhotoIndex.create(path, embedder, model_name=str(model), store_patches=with_patches, precision=precision)
    vectors_GD, queries_QD = synthetic_embeddings(count)
    photos = None
    if count <= EMBEDDED:
        photos = draw_photos(folder / f"{count}", count)
    start = time.perf_counter()
    if photos is None:
        fill(index, vectors_GD)
    else:
        index.add(photos)
    seconds = time.perf_counter() - start
    texts = [f"a red square beside circle number {number}" for number in range(queries)]
    table = index.table
    vector_index_size = size_of(path, "_indices")
    row = {
        "images": f"{count:,}",
        "precision": precision,
        "images/s": f"{count / seconds:,.0f}",
        "disk, MB": f"{size_of(path / 'images.lance') - vector_index_size:.0f}",
        "index, MB": f"{vector_index_size:.0f}",
        "patches, MB": "–",
        "exact, ms": times(lambda number: table.nearest(queries_QD[number], TOP, exact=True), queries),
        "index, ms": "–",
        "recall@10": "1 (exact)",
        f"recall@{TOP}": "1 (exact)",
        "text, ms": times(lambda number: index.search(texts[number], top=TOP), queries),
        "re-ranked, stored, ms": "–",
        "re-ranked, recomputed, ms": "–",
    }
    if table.is_approximate:
        row["index, ms"] = times(lambda number: table.nearest(queries_QD[number], TOP), queries)
        for top in (10, TOP):
            row[f"recall@{top}"] = f"{recall(index, vectors_GD, queries_QD[:queries], top, photos is None):.3f}"
    num_reranked = max(2, queries // 5)
    if table.stores_patches:
        row["patches, MB"] = f"{size_of(path / 'patches.lance'):.0f}"
        row["re-ranked, stored, ms"] = times(lambda number: index.search(texts[number], rerank=RERANK), num_reranked)
    if photos is not None:
        # The same collection again, as if its patch features had not been kept.
        plain = PhotoIndex.create(folder / f"{count}.plain.index", embedder, model_name=str(model))
        plain.add(photos)
        row["re-ranked, recomputed, ms"] = times(
            lambda number: plain.search(texts[number], rerank=RERANK), num_reranked
        )
    return row


def recall(index: PhotoIndex, vectors_GD: np.ndarray, queries_QD: np.ndarray, top: int, is_synthetic: bool) -> float:
    """Returns the share of the nearest embeddings, as they are in float32, that a search finds."""
    if not is_synthetic:
        return index.table.recall(queries_QD, top)
    shares = []
    for query_D in queries_QD:
        best = np.argpartition(-(vectors_GD @ query_D), top)[:top]
        found = {row["image"] for row in index.table.nearest(query_D, top)}
        shares.append(len(found & {f"synthetic/{number}.jpg" for number in best}) / top)
    return float(np.mean(shares))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes (three)")
    parser.add_argument("--queries", type=int, default=100, help="queries; a fifth of them are re-ranked (%(default)s)")
    parser.add_argument(
        "--precision", nargs="+", default=["float32"], choices=PRECISIONS, help="kinds of index (%(default)s)"
    )
    args = parser.parse_args()
    # The disk is measured without earlier versions of the tables.
    table_module.KEPT = timedelta(0)
    warnings.filterwarnings("ignore", message="optimize")
    rows = []
    for count, precision in product(args.images, args.precision):
        folder = Path(tempfile.mkdtemp(prefix="search_benchmark_"))
        try:
            model = small_model(folder / "model")
            rows.append(measure(count, precision, folder, model, min(100, args.queries)))
        finally:
            shutil.rmtree(folder)
        sys.stderr.write(f"{rows[-1]}\n")
    table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    sys.stdout.write(f"{table}\ntimes are median / 95th percentile; {environment(torch.device('cpu'))}\n")


if __name__ == "__main__":
    main()
