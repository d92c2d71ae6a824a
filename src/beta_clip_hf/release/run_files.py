"""The records that training and evaluation leave beside a model, as far as they are there."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import naming_errors
from .measured_results import IMAGES_FILE, is_of_weights, read_json_file, read_measured_results


logger = logging.getLogger(__name__)

RECORDS = "a model directory whose records are as they were written"
"""What a directory must be that a card is made of."""


@dataclass(frozen=True)
class RunFiles:
    """
    Holds the JSON files of a model directory, as far as they are about its weights. A file that is not there, or is
    about other weights, is an empty mapping.

    Args:
        config: `config.json`, the configuration of the model.
        training: `train_config.json`, the recipe.
        trained: `train_results.json`, what the training did.
        results: `results.json`, what evaluations measured on other images than those of the training.
        results_notes: Sentences on what is left out of the results.
        evaluation_shares: Of each evaluation set of the training, the share of its images that were also trained on;
            `None` where it is not known.
    """

    config: Mapping[str, Any]
    training: Mapping[str, Any]
    trained: Mapping[str, Any]
    results: Mapping[str, Any]
    results_notes: Sequence[str] = ()
    evaluation_shares: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """
        Reads a model directory. Results may be in it or in its folder `evaluation`.

        Raises:
            ValueError: if there is no `config.json`, or a record is damaged.
        """
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} must be a model directory with a config.json, but is not")
        with naming_errors(folder, RECORDS):
            return cls._read_records(folder)

    @classmethod
    def _read_records(cls, folder: Path) -> "RunFiles":
        training = read_json_file(folder / "train_config.json")
        trained = read_json_file(folder / "train_results.json")
        if not is_of_weights(trained, folder):
            logger.warning(
                "train_config.json and train_results.json are left out: they are about other weights than those of %s",
                folder,
            )
            training, trained = {}, {}
        measured = read_measured_results(folder)
        return cls(
            config=read_json_file(folder / "config.json"),
            training=training,
            trained=trained,
            results=measured.results,
            results_notes=measured.notes,
            evaluation_shares=read_json_file(folder / IMAGES_FILE).get("evaluation") or {},
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """The Trainer's description of the run, see `describe_run` in `training/record/run_record.py`."""
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
        return self._sources("train")

    @property
    def evaluation_data(self) -> list[str]:
        """The paths and ids of the data of the evaluations during the training."""
        return self._sources("eval")

    def _sources(self, name: str) -> list[str]:
        source = self.recipe_of_data.get(name)
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


__all__ = ["RunFiles"]
