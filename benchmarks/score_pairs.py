"""Text-conditioned scores of all pairs, and of a shortlist, at the shapes of ViT-B/16, against one call for each pair.

    python benchmarks/score_pairs.py                                            # 40 images x 256 texts, seconds
    python benchmarks/score_pairs.py --images 1000 --texts 1000 --turns 50      # minutes

All ways compute in turn in one process, a part of the images each turn, and so does the measure of what the machine can
do: the matrix products of the pooler's MLP alone, which are four fifths of the work. A sample of pairs stands for the
loop over pairs, one call of the pooler each. Operations are counted: those of all matrix products, without softmax,
norms and activations. Memory is what torch holds above weights, features and scores.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, shown, spread, write_report
from torch import Tensor
from torch.nn import functional as F

from beta_clip_hf import BetaCLIPConfig, TextConditionedPooler


WIDTH, MLP_WIDTH, PATCHES = 512, 2048, 196
CHUNK_SIZES = (256, 1024, 8192)
MATMUL_ROWS = 1024


def inputs(images: int, texts: int) -> tuple[TextConditionedPooler, Tensor, Tensor]:
    torch.manual_seed(0)
    pooler = TextConditionedPooler(BetaCLIPConfig(projection_dim=WIDTH)).eval().requires_grad_(False)
    return pooler, torch.randn(images, PATCHES, WIDTH), torch.randn(texts, WIDTH)


def operations(*, images: int, queries: int, pairs: int) -> int:
    """Multiplications and additions: keys and values of images, queries, and of pairs attention, projection, MLP."""
    of_pair = 4 * PATCHES * WIDTH + 2 * WIDTH**2 + 4 * WIDTH * MLP_WIDTH
    return images * 4 * PATCHES * WIDTH**2 + queries * 2 * WIDTH**2 + pairs * of_pair


def matmul(pooler: TextConditionedPooler, rows_ND: Tensor, repeats: int) -> None:
    for _ in range(repeats):
        F.linear(F.linear(rows_ND, pooler.fc1.weight), pooler.fc2.weight)


def loop_over_pairs(pooler: TextConditionedPooler, patches_PD: Tensor, texts_TD: Tensor) -> Tensor:
    """One image with some texts."""
    image_index = torch.tensor([0])
    pooled = [pooler(text[None], patches_PD[None], image_index)[0][0] for text in texts_TD]
    return F.cosine_similarity(torch.stack(pooled), texts_TD, dim=-1)


def clocked(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def one_turn(pooler: TextConditionedPooler, patches_BPD: Tensor, texts_TD: Tensor, k: int) -> dict[str, Any]:
    """Pairs, operations and seconds of each way, all of which must agree."""
    images, texts = len(patches_BPD), len(texts_TD)
    image_index, text_index = torch.randint(images, (images * k,)), torch.randint(texts, (images * k,))
    repeats = max(1, images * texts // MATMUL_ROWS // 4)
    of_matmul, _ = clocked(matmul, pooler, torch.randn(MATMUL_ROWS, WIDTH), repeats)
    of_all, scores = clocked(pooler.score_pairs, patches_BPD, texts_TD)
    of_some, some = clocked(pooler.score_candidates, patches_BPD, texts_TD, image_index, text_index)
    in_loop = min(texts, max(8, images * texts // 400))
    of_loop, looped = clocked(loop_over_pairs, pooler, patches_BPD[0], texts_TD[:in_loop])
    assert (scores[image_index, text_index] - some).abs().max() <= 1e-5
    assert (scores[0, :in_loop] - looped).abs().max() <= 1e-5
    asked, pairs = len(image_index.unique()), images * k
    return {
        "matmul": (0, repeats * MATMUL_ROWS * 4 * WIDTH * MLP_WIDTH, of_matmul),
        "score_pairs": (images * texts, operations(images=images, queries=texts, pairs=images * texts), of_all),
        "score_candidates": (pairs, operations(images=asked, queries=pairs, pairs=pairs), of_some),
        "loop over pairs": (in_loop, operations(images=in_loop, queries=in_loop, pairs=in_loop), of_loop),
    }


def measure(images: int, texts: int, turns: int, k: int) -> dict[str, dict[str, Any]]:
    pooler, patches_BPD, texts_TD = inputs(images, texts)
    one_turn(pooler, patches_BPD[:1], texts_TD, k)  # the libraries get ready
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for part_BPD in patches_BPD.chunk(turns):
        turn = one_turn(pooler, part_BPD, texts_TD, k)
        rates = {name: count / seconds for name, (_, count, seconds) in turn.items()}
        looped, _, of_loop = turn["loop over pairs"]
        for name, (pairs, _, seconds) in turn.items():
            figures[name]["gigaflops_per_second"].append(rates[name] / 1e9)
            if pairs:
                figures[name]["microseconds_per_pair"].append(1e6 * seconds / pairs)
                figures[name]["share_of_matmul_rate"].append(rates[name] / rates["matmul"])
                figures[name]["times_the_loop"].append((of_loop / looped) / (seconds / pairs))
    return {name: {what: spread(values) for what, values in of_way.items()} for name, of_way in figures.items()}


def half_precision() -> dict[str, dict[str, float]]:
    """Weights and features in half precision against float32: the largest error of a score, and the time, in turn."""
    pooler, *features = inputs(2, 256)
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        half_pooler, *half_features = deepcopy(pooler).to(dtype), *(tensor.to(dtype) for tensor in features)
        ratios, error = [], 0.0
        for _ in range(3):
            seconds, exact = clocked(pooler.score_pairs, *features)
            half_seconds, scores = clocked(half_pooler.score_pairs, *half_features)
            ratios.append(half_seconds / seconds)
            error = (scores - exact).abs().max().item()
        found[str(dtype).removeprefix("torch.")] = {"largest_error": error, "time": statistics.median(ratios)}
    return found


def peak_bytes(chunk_size: int) -> int:
    """The most that torch holds at a time while it scores all pairs of 16 images and 1,000 texts, less the scores."""
    pooler, *features = inputs(16, 1000)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        scores = pooler.score_pairs(*features, chunk_size=chunk_size)
    events = sorted(profile.events(), key=lambda event: event.time_range.end)
    return max(accumulate(event.self_cpu_memory_usage for event in events)) - scores.nbytes


def markdown(results: dict[str, Any]) -> str:
    columns = {"microseconds_per_pair": 0, "gigaflops_per_second": 0, "share_of_matmul_rate": 2, "times_the_loop": 1}
    lines = [f"| | {' | '.join(name.replace('_', ' ') for name in columns)} |", "|---" * 5 + "|"]
    for name, of_way in results["ways"].items():
        cells = [shown(of_way[what], digits) if what in of_way else "" for what, digits in columns.items()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    lines += ["", "| chunk_size | peak memory | numbers for each pair of a chunk, in widths |", "|---|---|---|"]
    for chunk_size, peak in results["peak_bytes"].items():
        lines.append(f"| {chunk_size:,} | {peak / 2**20:.0f} MiB | {peak / 4 / chunk_size / WIDTH:.0f} |")
    lines += ["", "| | largest error of a score | time, float32 = 1 |", "|---|---|---|"]
    for name, found in results["half_precision"].items():
        lines.append(f"| {name} | {found['largest_error']:.0e} | {found['time']:.1f} |")
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--texts", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--turns", type=int, default=10, help="parts of the images, one each turn (%(default)s)")
    parser.add_argument("--k", type=int, default=50, help="pairs on the shortlist for each image (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    args = parser.parse_args()
    results = {
        "ways": measure(args.images, args.texts, args.turns, args.k),
        "peak_bytes": {chunk_size: peak_bytes(chunk_size) for chunk_size in CHUNK_SIZES},
        "half_precision": half_precision(),
    }
    title = f"score_pairs, {args.images} images and {args.texts} texts, median of {args.turns} turns"
    path = args.output / f"score_pairs_{args.images}x{args.texts}"
    write_report(path, title, markdown(results), results, settings=vars(args))


if __name__ == "__main__":
    main()
