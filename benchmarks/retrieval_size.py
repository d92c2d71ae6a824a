"""Measures retrieval both ways at the size of a whole Flickr30k-31K: time, and the peak of memory of the process.

    python benchmarks/retrieval_size.py                     # 31,014 images with 5 captions each, width 512
    python benchmarks/retrieval_size.py --images 5000       # COCO-5k
    python benchmarks/retrieval_size.py --images 5000 --precision

The embeddings are planted: a caption is its image with noise. `--precision` also ranks the same scores rounded to
bfloat16 and float16, and counts the queries whose best match is tied.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from beta_clip_hf.evaluation.intervals import bootstrap_interval
from beta_clip_hf.evaluation.metrics import DEFAULT_KS, RetrievalRanks, hits_at_k, retrieval_ranks
from beta_clip_hf.evaluation.scores import embedding_scores
from beta_clip_hf.files import write_json
from beta_clip_hf.inference.identity import environment


CAPTIONS, WIDTH = 5, 512
# Half of each image is what all images share: scores then lie as close together as those of a CLIP.
SPREAD = 0.5


def plant_embeddings(num_images: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns embeddings of images (B, D) and captions (T, D), and the image of each caption (T,)."""
    generator = torch.Generator().manual_seed(0)
    common_D = normalize(torch.randn(WIDTH, generator=generator), dim=0)
    # In place: at full size each tensor takes hundreds of megabytes.
    images_BD = normalize(torch.randn(num_images, WIDTH, generator=generator), dim=-1).mul_(SPREAD).add_(common_D)
    image_index_T = torch.arange(num_images).repeat_interleave(CAPTIONS)
    texts_TD = torch.randn(len(image_index_T), WIDTH, generator=generator).mul_(noise * SPREAD / WIDTH**0.5)
    texts_TD += images_BD[image_index_T]
    return normalize(images_BD, dim=-1), normalize(texts_TD, dim=-1), image_index_T


def report(name: str, ranks: RetrievalRanks, image_index_T: Tensor) -> dict[str, float]:
    """Prints recall with its intervals and the share of ties, both ways, and returns them."""
    image_index_B = torch.arange(int(image_index_T.max()) + 1)
    directions = {
        "image to text": (ranks.image_to_text, image_index_B),
        "text to image": (ranks.text_to_image, image_index_T),
    }
    results: dict[str, float] = {}
    for direction, (direction_ranks, image_index_Q) in directions.items():
        words = []
        for k in DEFAULT_KS:
            hits_Q = hits_at_k(direction_ranks, k)
            # Queries of the same image are not independent: the bootstrap draws images.
            low, high = bootstrap_interval(hits_Q, image_index_Q)
            recall = float(hits_Q.mean())
            results[f"{direction} R@{k}"] = recall
            words.append(f"R@{k} {100 * recall:.2f} ({100 * low:.2f} – {100 * high:.2f})")
        tied = float((direction_ranks.tied_Q > 1).double().mean())
        results[f"{direction} tied"] = tied
        sys.stdout.write(f"{name}, {direction}: {', '.join(words)}; {100 * tied:.2f} % tied\n")
    return results


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=31_014, help="number of images (%(default)s)")
    parser.add_argument("--noise", type=float, default=4.0, help="noise of a caption, image = 1 (%(default)s)")
    parser.add_argument("--precision", action="store_true", help="rank rounded scores as well")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for the JSON (%(default)s)")
    args = parser.parse_args()
    images_BD, texts_TD, image_index_T = plant_embeddings(args.images, args.noise)
    start, cpu_start = time.perf_counter(), time.process_time()
    score = embedding_scores(images_BD, texts_TD)
    ranks = retrieval_ranks(score, image_index_T, args.images)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    results = {"float32": report("float32", ranks, image_index_T)}
    seconds_with_intervals = time.perf_counter() - start
    if args.precision:
        for dtype in (torch.bfloat16, torch.float16):
            rounded = retrieval_ranks(lambda *piece, to=dtype: score(*piece).to(to), image_index_T, args.images)
            results[str(dtype)] = report(str(dtype), rounded, image_index_T)
    # The unit is KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(
        f"{args.images:,} images x {len(image_index_T):,} captions, {torch.get_num_threads()} threads: {seconds:.0f} s "
        f"({cpu_seconds:.0f} s of CPU), {seconds_with_intervals:.0f} s with intervals; peak {peak:.2f} GiB\n"
    )
    document = {
        "environment": environment(torch.device("cpu")),
        "images": args.images,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_gib": peak,
        "results": results,
    }
    write_json(document, args.output / f"retrieval_size_{args.images}.json")


if __name__ == "__main__":
    main()
