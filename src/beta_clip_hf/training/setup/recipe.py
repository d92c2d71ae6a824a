"""The recipe that `beta-clip train PHOTOS` takes: batches, steps and learning rates by the number of photos."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from ...model.checkpoints_beta_siglip2 import is_on_siglip2
from ...model.configuration_beta_siglip2 import BetaSiglip2Config


logger = logging.getLogger(__name__)


class Size(NamedTuple):
    """Says how a collection of some size is trained on."""

    below: float
    """The number of photos from which on the next size counts."""
    batch_size: int
    accumulation: int
    steps: int
    """Steps of the optimiser; 0 counts in epochs."""
    epochs: float
    best_metric: str
    """What chooses the best checkpoint. Of few photos, R@1 is decided by one or two."""


SIZES = (
    Size(128, 16, 1, 200, 0, "t2i_r5"),
    Size(1_000, 32, 1, 400, 0, "t2i_r5"),
    Size(10_000, 64, 1, 1_000, 0, "t2i_r1"),
    Size(100_000, 64, 1, 0, 5, "t2i_r1"),
    # The recipe of the paper.
    Size(float("inf"), 64, 8, 0, 10, "t2i_r1"),
)
EVAL_FRACTION = 0.1
# More photos are not held out: an evaluation compares each with each.
MOST_HELD_OUT = 1_000
# Vision towers that are narrower, or wider, than those of ViT-B.
NARROW, WIDE = 512, 1_024
# (initial, last) learning rates of the towers. A narrow model was trained little, or on other pictures.
RATES, NARROW_RATES, ADAPTER_RATES = (1e-5, 1e-7), (3e-4, 3e-6), (1e-4, 1e-6)


def choose_recipe(photos: int, *, width: int = 768, evaluates: bool = True) -> dict[str, dict[str, Any]]:
    """
    Returns the configuration for a collection.

    Args:
        photos: Number of its photos.
        width: Width of the vision tower of the model: 768 in ViT-B, 1,024 in ViT-L.
        evaluates: Whether there are photos to evaluate on, so that the best checkpoint is kept.

    Returns:
        The sections `model`, `data` and `training`, without the model, the photos and the output directory. The data
        have `eval_fraction`.
    """
    size = next(size for size in SIZES if photos < size.below)
    # A batch is at most a quarter of what is trained on: each photo needs others to be told from.
    batch_size = min(size.batch_size, max(2, photos // 4))
    # Adapters forget less, and need a quarter of the memory; a large model on few photos needs both.
    adapts = width >= WIDE and photos < SIZES[1].below
    rate, last_rate = RATES
    if width < NARROW:
        rate, last_rate = NARROW_RATES
    elif adapts:
        rate, last_rate = ADAPTER_RATES
    length = {"max_steps": size.steps} if size.steps else {"num_train_epochs": size.epochs}
    training: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": size.accumulation,
        **length,
        "learning_rate": rate,
        "learning_rate_end": last_rate,
        "pooler_learning_rate": 1e-3,
        "pooler_learning_rate_end": 1e-5,
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "freeze_text_positions": True,
        "logging_steps": 0.025,
        "save_strategy": "steps",
        "save_steps": 0.125,
        "save_total_limit": 1,
        "report_to": "none",
    }
    if adapts:
        training["lora"] = 16
    data: dict[str, Any] = {
        "caption_mode": "full",
        "num_phrases": 6,
        "short_caption_probability": 0.1,
        "random_resized_crop": [0.5, 1.0],
    }
    if evaluates:
        data["eval_fraction"] = min(EVAL_FRACTION, MOST_HELD_OUT / max(photos, 1))
        training |= {
            "eval_strategy": "steps",
            "eval_steps": 0.125,
            "load_best_model_at_end": True,
            "metric_for_best_model": size.best_metric,
        }
    # β-CAL has no part without a pooler, which FG-CLIP and SigLIP 2 lack unless it is asked for.
    model_config = {"use_pooler": True, "alignment_loss": "ce", "beta": 0.5}
    return {"model": {"config": model_config}, "data": data, "training": training}


def with_recipe(config: Mapping[str, Any], photos: int) -> dict[str, Any]:
    """
    Fills a configuration with the recipe for its photos. What it says already stays.

    Args:
        config: The sections `model`, `data` and `training`.
        photos: Number of photos.

    Raises:
        OSError: if the model is not there.
    """
    data = config["data"]
    evaluates = bool(data.get("eval")) or data.get("eval_fraction") != 0
    stored = BetaSiglip2Config.get_config_dict(config["model"]["from_pretrained"])[0]
    recipe = choose_recipe(photos, width=_width(stored), evaluates=evaluates)
    if "lora" in recipe["training"] and find_spec("peft") is None:
        logger.info("all weights are trained; adapters would forget less and need less memory: pip install peft")
        recipe = choose_recipe(photos, evaluates=evaluates)
    if is_on_siglip2(stored):
        # SigLIP's own scale is above the usual bound.
        recipe["training"]["logit_scale_max"] = 0
    if data.get("eval"):
        del recipe["data"]["eval_fraction"]
    filled = {section: {**values, **config[section]} for section, values in recipe.items()}
    filled["model"]["config"] = {**recipe["model"]["config"], **(config["model"].get("config") or {})}
    return filled


def _width(stored: Mapping[str, Any]) -> int:
    """Returns the width of the vision tower of a model, by the content of its config.json."""
    return int((stored.get("vision_config") or {}).get("hidden_size", 768))


__all__ = ["SIZES", "Size", "choose_recipe", "with_recipe"]
