"""Made-up results of the study: their metrics are drawn at random around a level for each arm."""

import itertools
import random
import re

import torch

from beta_clip_hf.files import write_json


SCORES = ("cls", "all_pairs", "rerank@16", "sum")
RETRIEVAL = [f"{texts}/{score}/text_to_image/R@1" for texts, score in itertools.product(("long", "short"), SCORES)]
REGIONS = [f"region_negatives/{score}/accuracy" for score in ("cls", "conditioned", "region")]
NEGATIVES = [f"hard_negatives[{kind}]/cls/accuracy" for kind in ("colour", "relation")]
NEGATIVES.append("hard_negatives[relation]/conditioned/accuracy")
POINTING = [f"phrases[noun]/{score}/pointing" for score in ("attention", "region_similarity")]
METRICS = [*RETRIEVAL, *REGIONS, *NEGATIVES, *POINTING, "phrases[noun]/attention/mass_inside"]
# What a model without a pooler has.
PLAIN_METRICS = [name for name in METRICS if re.search("cls|region/|region_similarity", name)]


def made_up_record(study, arm, seed, level, *, images=40, points=(3200, 6400, 12800), start="finetune"):
    """Makes the record of a run whose metrics lie around `level`, a share."""
    rng = random.Random(f"{arm.name} {seed}")
    metrics, values = {}, {}
    items_per_image = 2
    counts = torch.full((images,), items_per_image)
    for name in METRICS if arm.config["use_pooler"] else PLAIN_METRICS:
        # Each item has a difficulty of its own, the same for all arms and seeds.
        difficulty = random.Random(name)
        hits = torch.tensor(
            [float(rng.gauss(level, 0.1) > difficulty.random()) for _ in range(images * items_per_image)]
        )
        curve = [round(float(hits.mean()) * share, 4) for share in (0.5, 0.8, 1.0)]
        metrics[name] = {"chance": 0.1, "count": len(hits), "value": curve, "low": curve, "high": curve}
        values[name] = {"clusters": "0", "items": study.records.packed(hits)}
    if not arm.is_trained:
        points = (0,)
        for entry in metrics.values():
            entry.update({end: entry[end][-1:] for end in ("value", "low", "high")})
    cost = {"training_seconds": 10.0, "training_cpu_seconds": 9.0, "peak_mib": 700, "tokens": 10**6, "texts": 10**5}
    return {
        "schema": 1,
        "arm": arm.name,
        "seed": seed,
        "start": start,
        "level": "easy",
        "test": {"seed": 4242, "scenes": images},
        "commit": "0123456789ab",
        "environment": {"hardware": "a machine", "torch": "2.11.0", "transformers": "5.17.0"},
        "cost": cost if arm.is_trained else {},
        "steps": [scenes // 32 for scenes in points],
        "scenes": list(points),
        "metrics": metrics,
        "clusters": {"0": study.records.packed_counts(counts)},
        "values": values,
    }


def write_made_up_results(study, folder, levels, seeds=(0, 1, 2)):
    """Writes results of some arms, by name with the level of each, below a folder of results."""
    for name, level in levels.items():
        arm = study.arms.ARMS[name]
        for seed in seeds if arm.is_trained else seeds[:1]:
            record = made_up_record(study, arm, seed, level)
            write_json(record, folder / "finetune_easy" / f"{name}_{seed}.json")
