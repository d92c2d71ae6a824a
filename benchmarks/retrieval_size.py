"""Retrieval both ways at the size of a whole Flickr30k-31K: time, and the peak of memory of the whole process.

    python benchmarks/retrieval_size.py                     # 31,014 images with 5 captions each, width 512
    python benchmarks/retrieval_size.py --images 5000       # COCO-5k
    python benchmarks/retrieval_size.py --images 5000 --precision

The embeddings are planted: a caption is its image with noise. `--precision` ranks the same scores in float32 and
rounded to bfloat16 and float16, and counts the queries whose best match is tied.
"""

import argparse
import json
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
from beta_clip_hf.inference.identity import environment


CAPTIONS, WIDTH = 5, 512
SPREAD = 0.5  # half of each image is what all images share: scores then lie as close together as a CLIP's do


def planted(num_images: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of images and captions, and the image of each caption."""
    generator = torch.Generator().manual_seed(0)
    common_D = normalize(torch.randn(WIDTH, generator=generator), dim=0)
    images_BD = normalize(torch.randn(num_images, WIDTH, generator=generator), dim=-1).mul_(SPREAD).add_(common_D)
    image_index_T = torch.arange(num_images).repeat_interleave(CAPTIONS)
    texts_TD = torch.randn(len(image_index_T), WIDTH, generator=generator).mul_(noise * SPREAD / WIDTH**0.5)
    texts_TD += images_BD[image_index_T]
    return normalize(images_BD, dim=-1), normalize(texts_TD, dim=-1), image_index_T


def report(name: str, ranks: RetrievalRanks, image_index_T: Tensor) -> dict[str, float]:
    images_B = torch.arange(int(image_index_T.max()) + 1)
    found: dict[str, float] = {}
    ways = {"image to text": (ranks.image_to_text, images_B), "text to image": (ranks.text_to_image, image_index_T)}
    for way, (of_way, image_Q) in ways.items():
        figures = []
        for k in DEFAULT_KS:
            hits_Q = hits_at_k(of_way, k)
            low, high = bootstrap_interval(hits_Q, image_Q)
            found[f"{way} R@{k}"] = float(hits_Q.mean())
            figures.append(f"R@{k} {100 * found[f'{way} R@{k}']:.2f} ({100 * low:.2f} – {100 * high:.2f})")
        found[f"{way} tied"] = float((of_way.tied_Q > 1).double().mean())
        sys.stdout.write(f"{name}, {way}: {', '.join(figures)}; {100 * found[f'{way} tied']:.2f} % tied\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=31_014, help="(%(default)s)")
    parser.add_argument("--noise", type=float, default=4.0, help="of a caption, in units of its image (%(default)s)")
    parser.add_argument("--precision", action="store_true", help="rounded scores beside the exact ones")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="for the JSON (%(default)s)")
    args = parser.parse_args()
    images_BD, texts_TD, image_index_T = planted(args.images, args.noise)
    start, start_of_cpu = time.perf_counter(), time.process_time()
    score = embedding_scores(images_BD, texts_TD)
    ranks = retrieval_ranks(score, image_index_T, args.images)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_of_cpu
    results = {"float32": report("float32", ranks, image_index_T)}
    with_intervals = time.perf_counter() - start
    if args.precision:
        for dtype in (torch.bfloat16, torch.float16):
            rounded = retrieval_ranks(lambda *piece, to=dtype: score(*piece).to(to), image_index_T, args.images)
            results[str(dtype)] = report(str(dtype), rounded, image_index_T)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(
        f"{args.images:,} images x {len(image_index_T):,} captions, {torch.get_num_threads()} threads: "
        f"{seconds:.0f} s ({cpu_seconds:.0f} s of CPU), {with_intervals:.0f} s with intervals; peak {peak:.2f} GiB\n"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    settings = {
        "images": args.images,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    record = {"environment": environment(torch.device("cpu")), **settings, "peak_gib": peak, "results": results}
    (args.output / f"retrieval_size_{args.images}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
