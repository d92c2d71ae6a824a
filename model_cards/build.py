"""
Writes the model cards from cards.yaml, the recipes of examples/configs, and the results of the demo's model.

    python model_cards/build.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from beta_clip_hf.release.citations import PAPERS, SOFTWARE
from beta_clip_hf.release.results_table import eval_results, result_rows, results_note
from beta_clip_hf.training.setup.config import parse_value, read_config


HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "examples" / "configs"
BASE = "openai/clip-vit-base-patch16"
SIGLIP2_BASE = "google/siglip2-base-patch16-naflex"
NO_WEIGHTS = (
    "There are no weights here. Weights that you train with this recipe may be bound by the licences of the data and "
    "of the model that they started from. The code is Apache-2.0 ([LICENSE](../LICENSE))."
)


def cards() -> dict[str, dict[str, Any]]:
    """Reads cards.yaml: the values of each card by its name."""
    return yaml.safe_load((HERE / "cards.yaml").read_text(encoding="utf-8"))


def recipe_of(name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all values that the recipe of a card sets, by their keys (`training.learning_rate`)."""
    recipe = card.get("recipe") or read_config(CONFIGS / f"{name}.yaml")
    return dict(_flat(recipe))


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested sections with their dotted keys."""
    for name, value in recipe.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, str):
            # PyYAML reads 1e-05 as a word.
            yield key, parse_value(value)
        else:
            yield key, value


def render(name: str, card: Mapping[str, Any]) -> str:
    """Renders the text of a card."""
    results = {}
    if "results" in card:
        results = json.loads((HERE / card["results"]).read_text(encoding="utf-8"))
    settings = {key: json.dumps(value) for key, value in recipe_of(name, card).items()}
    is_siglip2 = _is_siglip2(name, card)
    # On SigLIP 2 towers every model has a path for long texts, and one for the texts of boxes.
    has_long_path = is_siglip2 or "model.config.use_long_text_path" in settings
    values = {"reported": {}, "licence_text": NO_WEIGHTS, **card}
    rendered = ModelCard.from_template(
        _card_head(name, card, results),
        template_path=str(HERE / "template.md"),
        **values,
        name=name,
        run=f"runs/{name}/model" if results else f"runs/{name}",
        settings=settings,
        rows=list(result_rows(results)),
        note=results_note(results),
        long_path=', path="long"' if has_long_path else "",
        family="BetaSiglip2" if is_siglip2 else "BetaCLIP",
        box_path="box" if is_siglip2 else "short",
        base_name="SigLIP 2" if is_siglip2 else "CLIP",
        entries=[SOFTWARE, *(PAPERS[paper] for paper in card["citations"])],
    )
    return str(rendered).rstrip() + "\n"


def _is_siglip2(name: str, card: Mapping[str, Any]) -> bool:
    """Tells whether the recipe of a card starts from SigLIP 2."""
    return recipe_of(name, card).get("model.from_pretrained") == SIGLIP2_BASE


def _card_head(name: str, card: Mapping[str, Any], results: Mapping[str, Any]) -> ModelCardData:
    """Returns the metadata at the head of a card, which the Hub reads. A card without results is that of a recipe."""
    is_siglip2 = _is_siglip2(name, card)
    base = SIGLIP2_BASE if is_siglip2 else BASE
    return ModelCardData(
        language="en",
        library_name="transformers",
        license=card.get("licence", "unknown"),
        pipeline_tag="zero-shot-image-classification",
        tags=["siglip2" if is_siglip2 else "clip", "image-text-retrieval", "long-captions", *card["tags"]],
        base_model=None if results else base,
        datasets=card.get("datasets"),
        model_name=name if results else None,
        eval_results=list(eval_results(results)) or None,
    )


def main() -> None:
    """Writes all cards."""
    for name, card in cards().items():
        (HERE / f"{name}.md").write_text(render(name, card), encoding="utf-8")


if __name__ == "__main__":
    main()
