"""The cards of the two small models that ship: what was measured, as a table, and how they were made."""

import json
from pathlib import Path
from typing import Any

from beta_clip_hf.files import write_text
from beta_clip_hf.visualize.tables import format_markdown_table


LEVELS = ("easy", "medium")
TEST_SEED, TEST_SCENES = 1, 500
METRICS = (
    ("long captions, text to image R@1", "long/cls/text_to_image/R@1"),
    ("long captions, image to text R@1", "long/cls/image_to_text/R@1"),
    ("short captions, text to image R@1", "short/cls/text_to_image/R@1"),
    ("true text of a region among 11: CLS", "region_negatives/cls/accuracy"),
    ("… region feature", "region_negatives/region/accuracy"),
    ("… text-conditioned", "region_negatives/conditioned/accuracy"),
    ("two colours exchanged: CLS", "hard_negatives[colour]/cls/accuracy"),
    ("… text-conditioned", "hard_negatives[colour]/conditioned/accuracy"),
    ("two shapes exchanged: CLS", "hard_negatives[shape]/cls/accuracy"),
    ("… text-conditioned", "hard_negatives[shape]/conditioned/accuracy"),
    ("relation exchanged: CLS", "hard_negatives[relation]/cls/accuracy"),
    ("… text-conditioned", "hard_negatives[relation]/conditioned/accuracy"),
    ("noun phrases point at their object: region similarity", "phrases[noun]/region_similarity/pointing"),
    ("… attention", "phrases[noun]/attention/pointing"),
)
"""The lines of the table: label, and key of the metric."""
LICENCE = """SPDX-License-Identifier: Apache-2.0

The weights, the tokenizer and the settings in this directory are published under the Apache License 2.0, as the package
beta-clip-hf is: https://www.apache.org/licenses/LICENSE-2.0. They hold no work of others. The weights start from random
numbers, and they and the tokenizer have learnt from pictures and captions that the package generates.
"""
# For each model its title and its description.
WHAT = {
    "clip": (
        "A plain CLIP",
        "A CLIP of {parameters:.1f} million parameters, trained from random weights on generated pictures of coloured "
        "shapes with their captions. `CLIPModel` of transformers loads it as well. It is there to be fine-tuned and "
        "compared with, in minutes and without a download: `make demo` does that.",
    ),
    "beta_clip": (
        "A small β-CLIP",
        "A β-CLIP of {parameters:.1f} million parameters: the plain CLIP beside it, fine-tuned on generated pictures "
        "of coloured shapes with captions, sentences and phrases (β-CAL), regions and hard negatives. "
        "`beta-clip show`, `index` and `demo` take it if no model is named.",
    ),
}
CARD = """---
language: en
library_name: transformers
license: apache-2.0
pipeline_tag: zero-shot-image-classification
tags:
- clip
- generated-scenes
---

# {title}

{description} **It knows coloured shapes and nothing else.**

## How to use it

```python
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, scenes

model = BetaCLIPModel.from_pretrained(scenes.pretrained("{name}")).eval()
processor = BetaCLIPProcessor.from_pretrained(scenes.pretrained("{name}"))
```

The weights are stored in float16. `from_pretrained` makes float32 of them.

## How it was made

```
{command}
```

{steps}, {seconds:.0f} s on {threads} thread(s) of a CPU ({hardware}, torch {torch}, transformers {transformers}). All
settings:

```json
{recipe}
```

## What it can do

On {count} scenes of each level that it was not trained on (seed {seed}), in per cent with 95 % intervals. Chance is
what a constant score gets. `results.json` holds the same numbers.

{table}

## Limits

It has never seen a photo. Other shapes, colours and words than those of the generated scenes mean nothing to it.
The levels are those of `SceneDataset`; the level hard was not trained on, and relations are a weak point.

## Licence

Apache-2.0. It holds no work of others: the weights start from random numbers, and the scenes and captions are
generated.
"""


def format_results(results: dict[str, dict[str, Any]]) -> str:
    """
    Formats the metrics of some models as Markdown, in per cent with 95 % intervals.

    Args:
        results: For the title of each model, its metrics by level.
    """
    header = [""]
    for level in LEVELS:
        header += [f"{level}: chance", *(f"{level}: {title}" for title in results)]
    lines = []
    for label, key in METRICS:
        cells = []
        for level in LEVELS:
            records = [result[level]["figures"].get(key) for result in results.values()]
            chances = [f"{100 * record['chance']:.1f}" for record in records if record is not None]
            cells += [chances[0] if chances else "–", *map(cell, records)]
        if any(text != "–" for text in cells):
            lines.append([label, *cells])
    return format_markdown_table(header, lines, is_padded=False)


def cell(record: dict[str, Any] | None) -> str:
    """Formats a metric with its interval; a dash for a score that the model does not have."""
    if record is None:
        return "–"
    return f"{100 * record['value']:.1f} ({100 * record['low']:.1f} – {100 * record['high']:.1f})"


def write_card(name: str, output: Path, results: dict[str, Any], clip: dict[str, Any] | None) -> None:
    """
    Writes the card of a model.

    Args:
        name: Name of the model.
        output: Its directory.
        results: Its results.json.
        clip: For a fine-tuned model, the results.json of the CLIP that it started from.
    """
    title, description = WHAT[name]
    columns = {title: results["levels"]}
    if clip is not None:
        columns = {WHAT["clip"][0]: clip["levels"], **columns}
    stages = results["stages"]
    steps = [
        f"{stage['training']['max_steps']:,} × {stage['training']['per_device_train_batch_size']}" for stage in stages
    ]
    card = CARD.format(
        name=name,
        title=title,
        description=description.format(parameters=results["parameters"] / 1e6),
        command=f"python benchmarks/shipped_models.py {name}",
        steps=f"{' and '.join(steps)} scenes",
        seconds=results["seconds"],
        threads=results["threads"],
        recipe=json.dumps({"model": results["model"], "stages": stages}, indent=1, ensure_ascii=False),
        count=TEST_SCENES,
        seed=TEST_SEED,
        table=format_results(columns),
        **{key: results["environment"][key] for key in ("hardware", "torch", "transformers")},
    )
    write_text(output / "README.md", card)
