"""Which results are those of a model: measured on its own weights, and not on the images that it was trained on."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..files import naming_errors
from ..inference.identity import model_hash, weights_hash
from ..inference.image_sample import ImageSample
from ..inference.models import dtype_of, load_model


logger = logging.getLogger(__name__)

# What a training has written, see `training/record/image_record.py`.
IMAGES_FILE = "train_images.json"
# Two data sets of the web share some images by chance. Above this share, a score is one on the training data.
MAX_TRAINED_SHARE = 0.01


@dataclass(frozen=True)
class MeasuredResults:
    """
    Holds the results of a model directory that may be published.

    Args:
        results: The content of `results.json` without the tasks that were measured on training data; empty without
            results of these weights.
        notes: Sentences for the card: what was left out, and of what it is not known whether it was trained on.
    """

    results: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def read_measured_results(folder: Path) -> MeasuredResults:
    """
    Reads the results of a model directory, from `results.json` in it or in its folder `evaluation`.

    A file whose results were measured on other weights is passed over with a warning, as is one of another program.
    """

    @cache
    def hash_of_weights(dtype: str) -> str | None:
        return _hash_as_evaluated(folder, dtype)

    for path in (folder / "results.json", folder / "evaluation" / "results.json"):
        results = read_results_file(path)
        if not results:
            continue
        measured = (results.get("model") or {}).get("sha256")
        if measured == hash_of_weights(str((results.get("settings") or {}).get("dtype", "float32"))):
            return _without_training_data(results, folder)
        logger.warning(
            "%s is left out: it was measured on other weights (%s) than those of %s. Measure these: "
            "beta-clip evaluate --model %s --output %s",
            path,
            str(measured)[:16],
            folder,
            folder,
            folder / "evaluation",
        )
    return MeasuredResults({})


def read_results_file(path: Path) -> dict[str, Any]:
    """Reads what `evaluate` has measured. A file of this name that another program wrote is passed over."""
    results = read_json_file(path)
    if results and not (isinstance(results, dict) and isinstance(results.get("tasks"), dict)):
        logger.warning("%s is left out of the card: it is no results.json of `beta-clip evaluate`", path)
        return {}
    return results


def read_json_file(path: Path) -> dict[str, Any]:
    """
    Returns the object of a JSON file; empty if there is none.

    Raises:
        ValueError: if the file holds anything else.
    """
    if not path.exists():
        return {}
    with naming_errors(path, "a JSON object"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, but is a {type(content).__name__}")
    return content


def is_of_weights(trained: Mapping[str, Any], folder: Path) -> bool:
    """Tells whether a `train_results.json` is about the weights beside it. Earlier versions did not record them."""
    recorded = (trained.get("run") or {}).get("weights")
    return recorded is None or recorded == weights_hash(folder)


def _hash_as_evaluated(folder: Path, dtype: str) -> str | None:
    """Returns the hash that an evaluation in a precision gives the weights; `None` if they cannot be loaded."""
    try:
        return model_hash(load_model(str(folder), torch.device("cpu"), dtype_of(dtype)).model)
    except (OSError, ValueError, ImportError) as error:
        logger.warning("the weights of %s cannot be compared with those of its results: %s", folder, error)
        return None


def _without_training_data(results: Mapping[str, Any], folder: Path) -> MeasuredResults:
    """Leaves out the tasks whose images the model was trained on."""
    record = read_json_file(folder / IMAGES_FILE)
    trained = ImageSample.from_json(record.get("train"))
    kept, notes, unknown = {}, [], []
    for name, task in results["tasks"].items():
        measured = ImageSample.from_json(task.get("images"))
        share = None
        if measured is not None and trained is not None:
            share = measured.share_in(trained)
        if share is not None and share > MAX_TRAINED_SHARE:
            sentence = f"Scores of `{name}` are no results: {share:.0%} of their images were trained on."
            logger.warning("%s They are left out of the card", sentence)
            notes.append(sentence)
            continue
        if share is None:
            unknown.append(f"`{name}`")
        # The hashes would tell who has a photo that it was measured on.
        kept[name] = {key: value for key, value in task.items() if key != "images"}
    if unknown and (folder / "train_results.json").exists():
        notes.append(f"Whether images of {', '.join(unknown)} were trained on is not recorded.")
    return MeasuredResults({**results, "tasks": kept} if kept else {}, tuple(notes))


__all__ = [
    "IMAGES_FILE",
    "MAX_TRAINED_SHARE",
    "MeasuredResults",
    "is_of_weights",
    "read_json_file",
    "read_measured_results",
]
