"""
Writes the model cards: what cards.yaml says, the recipes of examples/configs, and figures of the demo's model.

    python model_cards/build.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from beta_clip_hf.release.model_card import PAPERS, SOFTWARE, eval_results, result_rows, results_note
from beta_clip_hf.training.config import parse_value, read_config


HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "examples" / "configs"
BASE = "openai/clip-vit-base-patch16"
NO_WEIGHTS = (
    "There are no weights here. Weights that you train with this recipe may be bound by the licences of the data and "
    "of the model that they started from. The code is Apache-2.0 ([LICENSE](../LICENSE))."
)


def cards() -> dict[str, dict[str, Any]]:
    """What cards.yaml says of each, by its name."""
    return yaml.safe_load((HERE / "cards.yaml").read_text(encoding="utf-8"))


def recipe_of(name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """All values that the recipe of a card sets, by key (`training.learning_rate`)."""
    return dict(_flat(card.get("recipe") or read_config(CONFIGS / f"{name}.yaml")))


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", parse_value(value) if isinstance(value, str) else value


def render(name: str, card: Mapping[str, Any]) -> str:
    """The text of a card."""
    results = json.loads((HERE / card["results"]).read_text(encoding="utf-8")) if "results" in card else {}
    data = ModelCardData(
        language="en",
        library_name="transformers",
        license=card.get("licence", "unknown"),
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "image-text-retrieval", "long-captions", *card["tags"]],
        base_model=None if results else BASE,
        datasets=card.get("datasets"),
        model_name=name if results else None,
        eval_results=list(eval_results(results)) or None,
    )
    settings = {key: json.dumps(value) for key, value in recipe_of(name, card).items()}
    rendered = ModelCard.from_template(
        data,
        template_path=str(HERE / "template.md"),
        **{"reported": {}, "licence_text": NO_WEIGHTS, **card},
        name=name,
        run=f"runs/{name}/model" if results else f"runs/{name}",
        settings=settings,
        rows=list(result_rows(results)),
        note=results_note(results),
        long_path=', path="long"' if "model.config.use_long_text_path" in settings else "",
        entries=[SOFTWARE, *(PAPERS[paper] for paper in card["citations"])],
    )
    return str(rendered).rstrip() + "\n"


def main() -> None:
    for name, card in cards().items():
        (HERE / f"{name}.md").write_text(render(name, card), encoding="utf-8")


if __name__ == "__main__":
    main()
