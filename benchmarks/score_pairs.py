"""Measures text-conditioned scores of all pairs, and of a shortlist, against one call of the pooler for each pair.

    python benchmarks/score_pairs.py                                            # 40 images x 256 texts, seconds
    python benchmarks/score_pairs.py --images 1000 --texts 1000 --turns 50      # minutes

The shapes are those of ViT-B/16. All ways compute in turn in one process, on some of the images each turn. The matrix
products of the pooler's MLP alone, four fifths of the work, run beside them: they tell what the machine can do. A
sample of pairs stands for the loop over pairs. Operations are those of all matrix products, without softmax, norms and
activations. Memory is what torch holds above weights, features and scores.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from report import OUTPUT, format_spread, markdown_table, spread, write_report
from torch import Tensor
from torch.nn import functional as F

from beta_clip_hf import BetaCLIPConfig, TextConditionedPooler


WIDTH, MLP_WIDTH, PATCHES = 512, 2048, 196
CHUNK_SIZES = (256, 1024, 8192)
MATMUL_ROWS = 1024
# The columns of the first table, with the digits that they show.
COLUMNS = {"microseconds_per_pair": 0, "gigaflops_per_second": 0, "share_of_matmul_rate": 2, "times_the_loop": 1}


class Work(NamedTuple):
    """What a way has done in a turn."""

    pairs: int
    operations: int
    seconds: float


def make_inputs(num_images: int, num_texts: int) -> tuple[TextConditionedPooler, Tensor, Tensor]:
    """Returns a pooler, patch features (B, P, D) and embeddings of texts (T, D)."""
    torch.manual_seed(0)
    pooler = TextConditionedPooler(BetaCLIPConfig(projection_dim=WIDTH)).eval().requires_grad_(False)
    return pooler, torch.randn(num_images, PATCHES, WIDTH), torch.randn(num_texts, WIDTH)


def count_operations(*, images: int, queries: int, pairs: int) -> int:
    """Counts multiplications and additions: keys and values of images, queries, and attention, projection and MLP of
    pairs."""
    per_pair = 4 * PATCHES * WIDTH + 2 * WIDTH**2 + 4 * WIDTH * MLP_WIDTH
    return images * 4 * PATCHES * WIDTH**2 + queries * 2 * WIDTH**2 + pairs * per_pair


def multiply(pooler: TextConditionedPooler, rows_MD: Tensor, repeats: int) -> None:
    """Multiplies rows by the weights of the pooler's MLP."""
    for _ in range(repeats):
        F.linear(F.linear(rows_MD, pooler.fc1.weight), pooler.fc2.weight)


def loop_over_pairs(pooler: TextConditionedPooler, patches_PD: Tensor, texts_TD: Tensor) -> Tensor:
    """Scores an image with texts, one call for each."""
    image_index = torch.tensor([0])
    pooled = [pooler(text[None], patches_PD[None], image_index)[0][0] for text in texts_TD]
    return F.cosine_similarity(torch.stack(pooled), texts_TD, dim=-1)


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Returns the seconds of a call, and its result."""
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def run_turn(
    pooler: TextConditionedPooler, patches_BPD: Tensor, texts_TD: Tensor, num_candidates: int
) -> dict[str, Work]:
    """Runs each way once, checks that all give the same scores, and returns their work."""
    images, texts = len(patches_BPD), len(texts_TD)
    pairs = images * num_candidates
    image_index, text_index = torch.randint(images, (pairs,)), torch.randint(texts, (pairs,))
    repeats = max(1, images * texts // MATMUL_ROWS // 4)
    matmul_seconds, _ = timed(multiply, pooler, torch.randn(MATMUL_ROWS, WIDTH), repeats)
    all_seconds, scores = timed(pooler.score_pairs, patches_BPD, texts_TD)
    candidate_seconds, candidate_scores = timed(pooler.score_candidates, patches_BPD, texts_TD, image_index, text_index)
    looped = min(texts, max(8, images * texts // 400))
    loop_seconds, loop_scores = timed(loop_over_pairs, pooler, patches_BPD[0], texts_TD[:looped])
    assert (scores[image_index, text_index] - candidate_scores).abs().max() <= 1e-5
    assert (scores[0, :looped] - loop_scores).abs().max() <= 1e-5
    all_operations = count_operations(images=images, queries=texts, pairs=images * texts)
    candidate_operations = count_operations(images=len(image_index.unique()), queries=pairs, pairs=pairs)
    loop_operations = count_operations(images=looped, queries=looped, pairs=looped)
    return {
        "matmul": Work(0, repeats * MATMUL_ROWS * 4 * WIDTH * MLP_WIDTH, matmul_seconds),
        "score_pairs": Work(images * texts, all_operations, all_seconds),
        "score_candidates": Work(pairs, candidate_operations, candidate_seconds),
        "loop over pairs": Work(looped, loop_operations, loop_seconds),
    }


def measure(num_images: int, num_texts: int, turns: int, num_candidates: int) -> dict[str, dict[str, Any]]:
    """Returns the spread over the turns of each column, by way."""
    pooler, patches_BPD, texts_TD = make_inputs(num_images, num_texts)
    # The first call of a library takes longer.
    run_turn(pooler, patches_BPD[:1], texts_TD, num_candidates)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for part_BPD in patches_BPD.chunk(turns):
        turn = run_turn(pooler, part_BPD, texts_TD, num_candidates)
        rates = {way: work.operations / work.seconds for way, work in turn.items()}
        loop_seconds_per_pair = turn["loop over pairs"].seconds / turn["loop over pairs"].pairs
        for way, work in turn.items():
            values[way]["gigaflops_per_second"].append(rates[way] / 1e9)
            if work.pairs:
                seconds_per_pair = work.seconds / work.pairs
                values[way]["microseconds_per_pair"].append(1e6 * seconds_per_pair)
                values[way]["share_of_matmul_rate"].append(rates[way] / rates["matmul"])
                values[way]["times_the_loop"].append(loop_seconds_per_pair / seconds_per_pair)
    results: dict[str, dict[str, Any]] = {}
    for way, columns in values.items():
        results[way] = {column: spread(numbers) for column, numbers in columns.items()}
    return results


def half_precision() -> dict[str, dict[str, float]]:
    """Compares half precision with float32: the largest error of a score, and the time, measured in turn."""
    pooler, patches_BPD, texts_TD = make_inputs(2, 256)
    results = {}
    for dtype in (torch.bfloat16, torch.float16):
        half_pooler = deepcopy(pooler).to(dtype)
        half_patches_BPD, half_texts_TD = patches_BPD.to(dtype), texts_TD.to(dtype)
        ratios, error = [], 0.0
        for _ in range(3):
            seconds, exact = timed(pooler.score_pairs, patches_BPD, texts_TD)
            half_seconds, scores = timed(half_pooler.score_pairs, half_patches_BPD, half_texts_TD)
            ratios.append(half_seconds / seconds)
            error = (scores - exact).abs().max().item()
        name = str(dtype).removeprefix("torch.")
        results[name] = {"largest_error": error, "time": statistics.median(ratios)}
    return results


def peak_bytes(chunk_size: int) -> int:
    """Returns the most that torch holds while it scores all pairs of 16 images and 1,000 texts, less the scores."""
    pooler, patches_BPD, texts_TD = make_inputs(16, 1000)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        scores = pooler.score_pairs(patches_BPD, texts_TD, chunk_size=chunk_size)
    # Each event allocates or frees memory; their sum so far is what is held.
    events = sorted(profile.events(), key=lambda event: event.time_range.end)
    return max(accumulate(event.self_cpu_memory_usage for event in events)) - scores.nbytes


def markdown(results: dict[str, Any]) -> str:
    """Formats the three tables."""
    way_rows = []
    for way, columns in results["ways"].items():
        cells = []
        for column, digits in COLUMNS.items():
            cells.append(format_spread(columns[column], digits) if column in columns else "")
        way_rows.append([way, *cells])
    memory_rows = []
    for chunk_size, peak in results["peak_bytes"].items():
        memory_rows.append([f"{chunk_size:,}", f"{peak / 2**20:.0f} MiB", f"{peak / 4 / chunk_size / WIDTH:.0f}"])
    precision_rows = []
    for name, errors in results["half_precision"].items():
        precision_rows.append([name, f"{errors['largest_error']:.0e}", f"{errors['time']:.1f}"])
    tables = [
        markdown_table(["", *(column.replace("_", " ") for column in COLUMNS)], way_rows),
        markdown_table(["chunk_size", "peak memory", "numbers for each pair of a chunk, in widths"], memory_rows),
        markdown_table(["", "largest error of a score", "time, float32 = 1"], precision_rows),
    ]
    return "\n\n".join(tables)


@torch.no_grad()
def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="number of images (%(default)s)")
    parser.add_argument("--texts", type=int, default=256, help="number of texts (%(default)s)")
    parser.add_argument("--turns", type=int, default=10, help="parts of the images, one each turn (%(default)s)")
    parser.add_argument("--k", type=int, default=50, help="pairs on the shortlist for each image (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
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
