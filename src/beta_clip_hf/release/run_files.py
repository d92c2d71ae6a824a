"""The records that training and evaluation leave beside a model, as far as they are there."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """
    Holds the JSON files of a model directory. A file that is not there is an empty mapping.

    Args:
        config: `config.json`, the configuration of the model.
        training: `train_config.json`, the recipe.
        trained: `train_results.json`, what the training did.
        results: `results.json`, what evaluations measured.
    """

    config: Mapping[str, Any]
    training: Mapping[str, Any]
    trained: Mapping[str, Any]
    results: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """
        Reads a model directory. Results may be in it or in its folder `evaluation`.

        Raises:
            ValueError: if there is no `config.json`.
        """
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} must be a model directory with a config.json, but is not")
        results = folder / "results.json"
        if not results.exists():
            results = folder / "evaluation" / "results.json"
        return cls(
            config=_read_json(folder / "config.json"),
            training=_read_json(folder / "train_config.json"),
            trained=_read_json(folder / "train_results.json"),
            results=_read_results(results),
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """The Trainer's description of the run, see `describe_run` in `training/run_record.py`."""
        return self.trained.get("run") or {}

    @property
    def recipe_of_model(self) -> Mapping[str, Any]:
        """The section `model` of the recipe."""
        return self.training.get("model") or {}

    @property
    def recipe_of_data(self) -> Mapping[str, Any]:
        """The section `data` of the recipe."""
        return self.training.get("data") or {}

    @property
    def base(self) -> str | None:
        """The path or the id of the model that the training started from."""
        return self.recipe_of_model.get("from_pretrained")

    @property
    def train_data(self) -> list[str]:
        """The paths and ids of the training data."""
        source = self.recipe_of_data.get("train")
        if isinstance(source, Mapping):
            source = source.get("source")
        if isinstance(source, str):
            return [source]
        return list(source or ())

    def hub_ids(self, *names: str | None) -> list[str]:
        """Returns the names that were ids of the Hub when the run began. A name that was not recorded is not one."""
        recorded = self.record.get("hub_ids", ())
        return [name for name in names if name and name in recorded]

    def public(self, value: Any) -> Any:
        """
        Returns the part of a value that may leave this machine.

        Of a path only the last part stays, and tokens of the Hub are left out.

        Args:
            value: A part of these files: mappings, lists and strings are looked into.
        """
        if isinstance(value, Mapping):
            return {name: self.public(member) for name, member in value.items() if not name.endswith("_token")}
        if isinstance(value, list):
            return [self.public(member) for member in value]
        if isinstance(value, str) and self._is_path(value):
            return Path(value).name
        return value

    def _is_path(self, text: str) -> bool:
        has_separator = "/" in text or os.sep in text
        if not has_separator or text.startswith(("http://", "https://")):
            return False
        # Names of protocols ("photos/v1") and ids of the Hub have a slash, too.
        protocols = {task["protocol"] for task in self.results.get("tasks", {}).values()}
        return text not in protocols and not self.hub_ids(text)


def _read_results(path: Path) -> dict[str, Any]:
    """Reads what `evaluate` has measured. A file of this name that another program wrote is passed over."""
    results = _read_json(path)
    if results and not (isinstance(results, dict) and isinstance(results.get("tasks"), dict)):
        logger.warning("%s is left out of the card: it is no results.json of `beta-clip evaluate`", path)
        return {}
    return results


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


__all__ = ["RunFiles"]
