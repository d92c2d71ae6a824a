"""Times a report of retrieval by CLS, all pairs, their sum and shortlists, relative to the ranks by CLS alone.

    OMP_NUM_THREADS=1 python benchmarks/retrieval_report.py                     # 5,000 images with 5 captions each
    OMP_NUM_THREADS=1 python benchmarks/retrieval_report.py --images 1000 --rounds 5

The embeddings are planted, as in `retrieval_size.py`; the scores of all pairs are those of CLS with noise. Everything
runs in turn, round by round, in CPU time. Chunked topk finds the ten best of each query both ways, without regard to
ties. Bytes are those that operators make above the embeddings, at most at a time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from retrieval_size import plant_embeddings
from step_bytes import ByteCounter

from beta_clip_hf.evaluation.metrics import SCORES_AT_A_TIME, retrieval_ranks, row_slices
from beta_clip_hf.evaluation.retrieval import RetrievalProbe
from beta_clip_hf.evaluation.scores import embedding_scores


NOISE = 4.0


class PlantedEmbedder:
    """Gives texts their planted embeddings."""

    has_pooler = True

    def __init__(self, texts_TD: torch.Tensor) -> None:
        self.texts_TD = texts_TD

    def texts(self, texts: Any, kind: str = "") -> torch.Tensor:
        """Returns the embeddings of all texts."""
        return self.texts_TD


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="number of images (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (%(default)s)")
    args = parser.parse_args()
    images_BD, texts_TD, image_index_T = plant_embeddings(args.images, NOISE)
    num_images, num_texts = len(images_BD), len(texts_TD)
    captions = [["planted"] * int(count) for count in torch.bincount(image_index_T)]
    probe = RetrievalProbe("planted", PlantedEmbedder(texts_TD), captions)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    pairs_BT = images_BD @ texts_TD.T
    pairs_BT += torch.randn(num_images, num_texts, generator=generator) * pairs_BT.std() * 0.3
    digests = torch.zeros(num_images, 32, dtype=torch.uint8)
    digests[:, 0], digests[:, 1] = torch.arange(num_images) % 256, torch.arange(num_images) // 256

    def chunked_topk() -> None:
        """Finds the ten best of each query by the embeddings, in pieces of the same size."""
        for texts in row_slices(num_texts, num_images, SCORES_AT_A_TIME["cpu"]):
            (texts_TD[texts] @ images_BD.T).topk(10, dim=1)
        for images in row_slices(num_images, num_texts, SCORES_AT_A_TIME["cpu"]):
            (images_BD[images] @ texts_TD.T).topk(10, dim=1)

    def cls_ranks() -> None:
        """Ranks by CLS alone, ties exact."""
        retrieval_ranks(embedding_scores(images_BD, texts_TD), image_index_T, num_images)

    def whole_report() -> None:
        """Computes all metrics with their intervals, and the report."""
        # A new dict, so that nothing is taken from the round before.
        kept = {"image_embeds": images_BD, "digests": digests, "pair_scores": pairs_BT}
        probe.metrics(kept)
        probe.report(kept)

    works: dict[str, Callable[[], None]] = {
        "chunked topk": chunked_topk,
        "CLS ranks": cls_ranks,
        "whole report": whole_report,
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    for name, divisor in (("CLS ranks", "chunked topk"), ("whole report", "CLS ranks")):
        ratios = [a / b for a, b in zip(seconds[name], seconds[divisor], strict=True)]
        spread = f"{min(ratios):.2f} – {max(ratios):.2f}"
        sys.stdout.write(f"{name} / {divisor}: {statistics.median(ratios):.2f} ({spread})\n")
    for name in ("chunked topk", "CLS ranks"):
        with ByteCounter() as counter:
            works[name]()
        sys.stdout.write(f"{name}: {counter.peak / 2**20:.0f} MiB at most\n")


if __name__ == "__main__":
    main()
