"""The configuration of `beta-clip train`: a YAML or JSON file and what the command line overrides, keys checked."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from transformers import CLIPTextConfig, CLIPVisionConfig

from ..data.collator import BetaCLIPDataCollator
from ..data.readers import load_rows
from ..data.scenes import SceneDataset
from ..model.configuration_beta_clip import BetaCLIPConfig
from .arguments import BetaCLIPTrainingArguments


SECTIONS = ("model", "data", "training")
MODEL_KEYS = ("from_pretrained", "from_scratch", "tokenizer", "config", "squash_images")


def _parameters(function: Any, *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in signature(function).parameters if name not in left_out)


COLLATOR_KEYS = _parameters(BetaCLIPDataCollator, "processor", "extractor", "strict", "seed")
DATA_KEYS = ("train", "eval", "strict", *COLLATOR_KEYS)
SOURCE_KEYS = _parameters(load_rows, "strict")
SCENE_KEYS = ("scenes", *_parameters(SceneDataset, "num_scenes"))
TRAINING_KEYS = tuple(field.name for field in fields(BetaCLIPTrainingArguments) if field.init)
CONFIG_KEYS = tuple(field.name for field in fields(BetaCLIPConfig))
TOWER_KEYS = {
    "vision_config": tuple(field.name for field in fields(CLIPVisionConfig)),
    "text_config": tuple(field.name for field in fields(CLIPTextConfig)),
}


def read_config(path: str | Path | None, overrides: Iterable[tuple[str, Any]] = ()) -> dict[str, Any]:
    """
    The three sections of a configuration file, with single values overridden.

    Args:
        path: a YAML or JSON file; `None` begins with nothing.
        overrides: `("training.max_steps", 100)`, …; a value given as a string is read as YAML would.

    Returns:
        `{"model": {…}, "data": {…}, "training": {…}}`, nothing filled in.

    Raises:
        ValueError: for a file that cannot be read or is no mapping, and for each key that does not exist, with the
            keys that look like it.

    >>> read_config(None, [("training.learning_rate", "1e-5"), ("data.train", "photos.jsonl")])
    {'model': {}, 'data': {'train': 'photos.jsonl'}, 'training': {'learning_rate': 1e-05}}
    """
    config: dict[str, Any] = {section: {} for section in SECTIONS}
    if path is not None:
        stored = _read_file(Path(path))
        check_keys(stored, SECTIONS, str(path))
        config.update({section: dict(values or {}) for section, values in stored.items()})
    for key, value in overrides:
        *parents, last = key.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key} must lie in a section, but {parent!r} holds the value {place!r}")
        place[last] = parse_value(value) if isinstance(value, str) else value
    check_config(config)
    return config


def check_config(config: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a key that no section knows."""
    check_keys(config, SECTIONS, "the configuration")
    model, data = config["model"], config["data"]
    check_keys(model, MODEL_KEYS, "model")
    for name in ("config", "from_scratch"):
        check_keys(model.get(name) or {}, CONFIG_KEYS, f"model.{name}")
    for name, keys in TOWER_KEYS.items():
        check_keys((model.get("from_scratch") or {}).get(name) or {}, keys, f"model.from_scratch.{name}")
    check_keys(data, DATA_KEYS, "data")
    for name in ("train", "eval"):
        if isinstance(data.get(name), Mapping):
            check_keys(data[name], SCENE_KEYS if "scenes" in data[name] else SOURCE_KEYS, f"data.{name}")
    check_keys(config["training"], TRAINING_KEYS, "training")


def check_keys(given: Any, known: Iterable[str], where: str) -> None:
    """Raises `ValueError` unless `given` is a mapping whose keys are all known; names the ones that look alike."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} must be a mapping of names to values, but is {given!r}")
    known = tuple(known)
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=3) or sorted(known)
            raise ValueError(f"{where} must have known keys only, but has {key!r}; there is {', '.join(near)}")


def parse_value(text: str) -> Any:
    """
    A word of the command line as the value that YAML makes of it.

    >>> [parse_value(text) for text in ("3", "1e-5", "true", "null", "[0.5, 1.0]", "runs/photos")]
    [3, 1e-05, True, None, [0.5, 1.0], 'runs/photos']
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"a value must be YAML, but is {text!r}: {error}") from error


def _read_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the configuration must be YAML or JSON, but {path} cannot be read: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML as one writes it: `1e-5`, which lacks the point of YAML 1.1, is a number, and `no` is a word."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


__all__ = ["check_config", "parse_value", "read_config"]
