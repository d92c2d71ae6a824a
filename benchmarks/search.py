"""Search of photo collections: build rate, disk, time of a query with and without re-ranking, recall of the index.

    python benchmarks/search.py                       # 1,000 images, embedded; 10,000 and 100,000, synthetic
    python benchmarks/search.py --images 1000         # one size

Up to 1,000 images are generated scenes in JPEG files, embedded by a small model with random weights (two layers of
width 128, 49 patches, D = 512): time and disk are real, what is found means nothing. Of larger collections the
embeddings are synthetic: vectors in clusters with a falling spectrum and a common direction, as CLIP's have; a query is
one of them with noise. Patch features are stored up to 10,000 images (random numbers above 1,000).
"""

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.search import table as table_module
from beta_clip_hf.search.index import PhotoIndex, load_embedder


WIDTH, PATCHES, TOP, RERANK = 512, (7, 7), 20, 200
EMBEDDED, WITH_PATCHES = 1000, 10_000


def small_model(folder: Path) -> Path:
    """A model with CLIP's interface and random weights, on the disk."""
    tokenizer = train_clip_tokenizer([], vocab_size=514)
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ids, "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    text |= {"max_position_embeddings": 248}
    vision = {**tower, "image_size": 224, "patch_size": 32}
    torch.manual_seed(0)
    BetaCLIPModel(BetaCLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(folder)
    BetaCLIPProcessor.from_image_size(tokenizer, image_size=224).save_pretrained(folder)
    return folder


def draw_photos(folder: Path, count: int) -> Path:
    """Generated scenes as JPEG files."""
    folder.mkdir()
    scenes = SceneDataset(count, image_size=224, seed=0)
    for number in range(count):
        scenes[number]["image"].save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def synthetic(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) embeddings and (100, D) queries, normalised."""
    random = np.random.default_rng(seed)
    scale = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    centres = random.standard_normal((max(50, count // 100), WIDTH), dtype=np.float32) * scale
    vectors = centres[random.integers(0, len(centres), count)]
    vectors += 0.7 * scale * random.standard_normal((count, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    common = random.standard_normal(WIDTH, dtype=np.float32)
    vectors = 0.85 * vectors + 0.5 * common / np.linalg.norm(common)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = random.standard_normal((100, WIDTH), dtype=np.float32) * scale
    queries = vectors[random.integers(0, count, 100)] + 0.6 * noise / np.linalg.norm(scale)
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def fill(index: PhotoIndex, vectors_ND: np.ndarray) -> None:
    """Appends synthetic embeddings in fragments, with random patch features where the index keeps them."""
    random = np.random.default_rng(1)
    at_once = 1000 if index.table.stores_patches else 5000
    for first in range(0, len(vectors_ND), at_once):
        some = vectors_ND[first : first + at_once]
        records = [
            {"image": f"synthetic/{first + n}.jpg", "width": 224, "height": 224, "file_sha256": f"{first + n}"}
            for n in range(len(some))
        ]
        patches = []
        if index.table.stores_patches:
            numbers = random.standard_normal((len(some), PATCHES[0] * PATCHES[1], WIDTH), dtype=np.float32)
            patches = [{"patches": one.astype(np.float16).tobytes(), "patch_rows": PATCHES[0]} for one in numbers]
        index.table.append(records, some, patches)
    index.table.finish()


def times(call: Callable[[int], object], count: int) -> str:
    """Median and 95th percentile in milliseconds of a call with 0, 1, …; after one that is not counted."""
    call(0)
    taken = []
    for number in range(count):
        start = time.perf_counter()
        call(number)
        taken.append(1000 * (time.perf_counter() - start))
    return f"{np.median(taken):.0f} / {np.percentile(taken, 95):.0f}"


def size_of(folder: Path, inside: str = "") -> float:
    """Megabytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and inside in str(path)) / 1e6


def measure(count: int, folder: Path, model: Path, queries: int) -> dict[str, str]:
    """One size: a row of the table."""
    embedder = load_embedder(model, device="cpu")
    path = folder / f"{count}.index"
    index = PhotoIndex.create(path, embedder, model_name=str(model), store_patches=count <= WITH_PATCHES)
    if count <= EMBEDDED:
        photos = draw_photos(folder / f"{count}", count)
        start = time.perf_counter()
        index.add(photos)
    vectors, planted = synthetic(count)
    if count > EMBEDDED:
        start = time.perf_counter()
        fill(index, vectors)
    seconds = time.perf_counter() - start
    texts = [f"a red square beside circle number {number}" for number in range(queries)]
    row = {
        "images": f"{count:,}",
        "images/s": f"{count / seconds:,.0f}",
        "disk, MB": f"{size_of(path / 'images.lance') - size_of(path / 'images.lance', '_indices'):.0f}",
        "index, MB": f"{size_of(path, '_indices'):.0f}",
        "patches, MB": f"{size_of(path / 'patches.lance'):.0f}" if index.table.stores_patches else "–",
        "exact, ms": times(lambda n: index.table.nearest(planted[n], TOP, exact=True), queries),
    }
    has_index = index.table.has_vector_index
    row["index, ms"] = times(lambda n: index.table.nearest(planted[n], TOP), queries) if has_index else "–"
    row[f"recall@{TOP}"] = f"{index.table.recall(planted[:queries], TOP):.3f}" if has_index else "1 (exact)"
    row["text, ms"] = times(lambda n: index.search(texts[n], top=TOP), queries)
    few = max(2, queries // 5)
    with_stored = index.table.stores_patches
    row["re-ranked, stored, ms"] = times(lambda n: index.search(texts[n], rerank=RERANK), few) if with_stored else "–"
    row["re-ranked, recomputed, ms"] = "–"
    if count <= EMBEDDED:
        index.table._patches = None  # as if they had not been kept
        row["re-ranked, recomputed, ms"] = times(lambda n: index.search(texts[n], rerank=RERANK), few)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=100, help="a fifth of them for re-ranking (%(default)s)")
    args = parser.parse_args()
    table_module.KEPT = timedelta(0)  # the disk as it is when earlier versions are gone
    warnings.filterwarnings("ignore", message="optimize")
    rows = []
    for count in args.images:
        folder = Path(tempfile.mkdtemp(prefix="search_benchmark_"))
        try:
            rows.append(measure(count, folder, small_model(folder / "model"), min(100, args.queries)))
        finally:
            shutil.rmtree(folder)
        sys.stderr.write(f"{rows[-1]}\n")
    names = list(rows[0])
    table = [names, ["---"] * len(names), *(list(row.values()) for row in rows)]
    sys.stdout.write("\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n")
    sys.stdout.write(f"times are median / 95th percentile; {environment(torch.device('cpu'))}\n")


if __name__ == "__main__":
    main()
