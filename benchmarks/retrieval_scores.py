"""Compares the scores of retrieval of one model: each with CLS, query by query. Makes the tables of conditioning.md.

python benchmarks/retrieval_scores.py                     # the small β-CLIP that ships with the package
python benchmarks/retrieval_scores.py --model MODEL --scenes 1000
"""

import argparse
import itertools
import sys

from beta_clip_hf import SceneDataset
from beta_clip_hf.data.scenes import pretrained
from beta_clip_hf.evaluation.evaluator import measure
from beta_clip_hf.evaluation.intervals import bootstrap_interval
from beta_clip_hf.evaluation.results import Metric
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.inference.processes import own_device


SCORES = ("cls", "all_pairs", "rerank@16", "sum", "hierarchical", "hierarchical@16", "hierarchical_window")
QUERIES = ("long", "short")
DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}
# No model of the package was trained or tuned on these scenes.
TEST_SEED = 4343
IMAGE_SIZE = 64


def cell(metric: Metric, cls_metric: Metric) -> str:
    """Formats R@1 in per cent, and its paired difference to CLS with the 95 % interval over images."""
    value = f"{100 * metric.value:.1f}"
    if metric is cls_metric:
        return value
    assert metric.values_I is not None and cls_metric.values_I is not None
    differences_I = metric.values_I.double() - cls_metric.values_I.double()
    low, high = bootstrap_interval(differences_I, metric.cluster_index_I)
    difference = f"{per_cent(differences_I.mean().item(), '+')} ({per_cent(low)} … {per_cent(high)})"
    # Bold where the interval excludes 0.
    mark = "**" if low > 0 or high < 0 else ""
    return f"{value}: {mark}{difference}{mark}"


def per_cent(share: float, sign: str = "") -> str:
    """Formats a share in per cent, with a true minus; `sign` is that of a format."""
    return f"{100 * share:{sign}.1f}".replace("-", "−")


def table(metrics: dict[str, Metric], level: str) -> str:
    """Formats the table of a level: a row for each score, a column for each kind of query."""
    columns = list(itertools.product(QUERIES, DIRECTIONS))
    titles = [f"{query}, {DIRECTIONS[direction]}" for query, direction in columns]
    lines = [f"| {level} scenes, R@1 | " + " | ".join(titles) + " |", "|---" * (1 + len(columns)) + "|"]
    for score in SCORES:
        cells = []
        for query, direction in columns:
            metric = metrics.get(f"{query}/{score}/{direction}/R@1")
            cells.append("–" if metric is None else cell(metric, metrics[f"{query}/cls/{direction}/R@1"]))
        lines.append(f"| `{score}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures the model on scenes of each level, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=pretrained("beta_clip"), help="directory or Hub id (the small β-CLIP)")
    parser.add_argument("--scenes", type=int, default=500, help="scenes to measure on (%(default)s)")
    parser.add_argument("--levels", nargs="+", default=["easy", "medium"], help="levels of the scenes (easy medium)")
    args = parser.parse_args()
    loaded = load_model(args.model, own_device())
    for level in args.levels:
        rows = SceneDataset(args.scenes, seed=TEST_SEED, level=level, image_size=IMAGE_SIZE)
        measured = measure(Embedder(loaded.model, loaded.processor), rows, ks=(1,))
        metrics = {str(metric.name): metric for metric in measured.metrics}
        sys.stdout.write(f"{table(metrics, level)}\n\n")


if __name__ == "__main__":
    main()
