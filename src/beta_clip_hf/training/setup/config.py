"""The configuration of a training run: a YAML or JSON file, values that override it, and a check of all keys."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import CLIPTextConfig, CLIPVisionConfig, Siglip2TextConfig, Siglip2VisionConfig

from ...data.collator import BetaCLIPDataCollator
from ...data.readers import load_rows
from ...data.scenes import SceneDataset
from ...data.spelling import did_you_mean
from ...files import naming_errors
from ...model.configuration_beta_clip import BetaCLIPConfig
from ...model.configuration_beta_siglip2 import BetaSiglip2Config
from ..arguments import BetaCLIPTrainingArguments
from .loading import LOADING_KEYS
from .value_types import check_types


SECTIONS = ("model", "data", "training")
MODEL_KEYS = (
    "from_pretrained",
    "from_scratch",
    "tokenizer",
    "config",
    "squash_images",
    "dynamic_max_patches",
    *LOADING_KEYS,
)


# Longer values are cut in error messages.
_LONGEST_SHOWN = 80
# A recipe has a few thousand bytes. The time of a parser of YAML can grow with the square of its length.
_MOST_BYTES = 2**18


def _parameters(function: Any, *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in signature(function).parameters if name not in left_out)


def _field_names(*classes: Any) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for cls in classes:
        names |= dict.fromkeys(field.name for field in fields(cls))
    return tuple(names)


# The sets of rows. Each is given as the name of its source, or as a mapping of the source and its settings.
ROW_SETS = ("train", "eval")
# The classes and functions that take the values say which keys there are.
COLLATOR_KEYS = _parameters(BetaCLIPDataCollator, "processor", "extractor", "strict", "seed")
DATA_KEYS = ("train", "eval", "eval_fraction", "strict", *COLLATOR_KEYS)
SOURCE_KEYS = _parameters(load_rows, "strict")
SCENE_KEYS = ("scenes", *_parameters(SceneDataset, "num_scenes"))
TRAINING_KEYS = tuple(field.name for field in fields(BetaCLIPTrainingArguments) if field.init)
# The keys of both kinds of models, on towers of CLIP and of SigLIP 2: only the checkpoint tells which kind it is.
CONFIG_KEYS = _field_names(BetaCLIPConfig, BetaSiglip2Config)
TOWER_KEYS = {
    "vision_config": _field_names(CLIPVisionConfig, Siglip2VisionConfig),
    "text_config": _field_names(CLIPTextConfig, Siglip2TextConfig),
}
# A model from scratch names its towers: "beta_siglip2", or those of CLIP.
SCRATCH_KEYS = ("model_type", *CONFIG_KEYS)
# The types of the values. Three arguments are read by functions of their own, which take more than their annotations.
TRAINING_TYPES = get_type_hints(BetaCLIPTrainingArguments)
for _name in ("freeze", "fsdp", "lora"):
    del TRAINING_TYPES[_name]
DATA_TYPES = {**get_type_hints(BetaCLIPDataCollator), "eval_fraction": float | None, "strict": bool}
SOURCE_TYPES = get_type_hints(load_rows)
SCENE_TYPES = {**get_type_hints(SceneDataset.__init__), "scenes": int}
MODEL_TYPES = {
    "from_pretrained": str | None,
    "tokenizer": str | dict | None,
    "squash_images": bool | None,
    "dynamic_max_patches": bool | None,
}
CONFIG_TYPES = {field.name: field.type for field in (*fields(BetaSiglip2Config), *fields(BetaCLIPConfig))}


def read_config(
    path: str | Path | None, overrides: Iterable[tuple[str, Any]] = (), *, is_parsed: bool = False
) -> dict[str, Any]:
    """
    Reads the three sections of a configuration file and overrides single values.

    Args:
        path: A YAML or JSON file. `None` starts from empty sections.
        overrides: Pairs of a dotted key and its value, such as `("training.max_steps", 100)`. A later pair overrides
            an earlier one. A string is parsed as YAML. The name of a source for `data.train` or `data.eval` replaces
            another source with all its settings, but joins settings that have no source: with `skip: 1000` in the file,
            the first 1,000 records are held out of whichever source is named.
        is_parsed: Whether the strings among the values are meant as they are, as the name of a file is.

    Returns:
        `{"model": {…}, "data": {…}, "training": {…}}`. No defaults are filled in.

    Raises:
        ValueError: if the file cannot be read or is not a mapping, or if a key does not exist. The message names the
            keys that look like it.

    >>> read_config(None, [("training.learning_rate", "1e-5"), ("data.train", "photos.jsonl")])
    {'model': {}, 'data': {'train': 'photos.jsonl'}, 'training': {'learning_rate': 1e-05}}
    >>> read_config(None, [("data.train.skip", 1000), ("data.train", "photos.jsonl")])["data"]
    {'train': {'skip': 1000, 'source': 'photos.jsonl'}}
    """
    config: dict[str, Any] = {section: {} for section in SECTIONS}
    if path is not None:
        with naming_errors(path, "a configuration in YAML or JSON"):
            stored = _read_file(Path(path))
            check_keys(stored, SECTIONS, str(path))
            for section, values in stored.items():
                if not isinstance(values, Mapping | None):
                    raise ValueError(f"{section} of {path} must be a mapping, but is {str(values)[:_LONGEST_SHOWN]!r}")
                config[section] = dict(values or {})
    for key, value in overrides:
        if isinstance(value, str) and not is_parsed:
            value = parse_value(value)
        _override(config, key, value)
    check_config(config)
    return config


def _override(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value of a dotted key. Sections that are missing on the way are created."""
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        value_of_parent = section.setdefault(parent, {})
        if section is config.get("data") and parent in ROW_SETS and not isinstance(value_of_parent, dict):
            # So far the source is only a name. It becomes a mapping, which can hold the setting as well.
            section[parent] = value_of_parent = {"source": value_of_parent}
        section = value_of_parent
        if not isinstance(section, dict):
            raise ValueError(f"{key} must lie in a section, but {parent!r} holds the value {section!r}")
    is_row_set = section is config.get("data") and last in ROW_SETS
    is_source = value is not None and not isinstance(value, Mapping)
    if is_row_set and is_source and _lacks_source(section.get(last)):
        value = {**section[last], "source": value}
    section[last] = value


def _lacks_source(rows: Any) -> bool:
    """Tells whether a set of rows is a mapping of settings alone."""
    return isinstance(rows, Mapping) and not {"source", "scenes"} & rows.keys()


def check_config(config: Mapping[str, Any]) -> None:
    """Checks the keys of all sections. Raises `ValueError` for a key that its section does not have."""
    check_keys(config, SECTIONS, "the configuration")
    _check_model_keys(config["model"])
    _check_data_keys(config["data"])
    check_keys(config["training"], TRAINING_KEYS, "training")


def _check_model_keys(model: Mapping[str, Any]) -> None:
    check_keys(model, MODEL_KEYS, "model")
    check_keys(model.get("config") or {}, CONFIG_KEYS, "model.config")
    sizes = model.get("from_scratch") or {}
    check_keys(sizes, SCRATCH_KEYS, "model.from_scratch")
    for tower, keys in TOWER_KEYS.items():
        check_keys(sizes.get(tower) or {}, keys, f"model.from_scratch.{tower}")


def _check_data_keys(data: Mapping[str, Any]) -> None:
    check_keys(data, DATA_KEYS, "data")
    for name in ROW_SETS:
        source = data.get(name)
        if isinstance(source, Mapping):
            keys = SCENE_KEYS if "scenes" in source else SOURCE_KEYS
            check_keys(source, keys, f"data.{name}")


def check_complete(config: Mapping[str, Any]) -> None:
    """
    Checks that a configuration names everything that a run needs.

    Raises:
        ValueError: without training rows, without an output directory, or unless exactly one of
            `model.from_pretrained` and `model.from_scratch` is given.
    """
    rows = config["data"].get("train")
    if not rows or _lacks_source(rows):
        raise ValueError("data.train must be given (--train-data, or in the file of --config), but is not")
    if _lacks_source(config["data"].get("eval")):
        raise ValueError("data.eval must have a source (--eval-data) where it has settings, but has none")
    if not config["training"].get("output_dir"):
        raise ValueError("training.output_dir must be given (--output, or in the file of --config), but is not")
    if config["data"].get("eval") and config["data"].get("eval_fraction"):
        raise ValueError(
            "one of data.eval (--eval-data) and data.eval_fraction (--eval-fraction) must be given, but both are"
        )
    model = config["model"]
    if bool(model.get("from_pretrained")) == bool(model.get("from_scratch")):
        raise ValueError(
            "one of model.from_pretrained (--model) and model.from_scratch must be given, "
            f"but the model section has {sorted(model)}"
        )
    check_values(config)


def check_values(config: Mapping[str, Any]) -> None:
    """Checks the types of the values of all sections. Raises `ValueError` for a value of another type."""
    model, data = config["model"], config["data"]
    check_types(config["training"], TRAINING_TYPES, "training")
    check_types(model, MODEL_TYPES, "model")
    for name in ("config", "from_scratch"):
        check_types(model.get(name) or {}, CONFIG_TYPES, f"model.{name}")
    check_types(data, DATA_TYPES, "data")
    for name in ROW_SETS:
        source = data.get(name)
        if isinstance(source, Mapping):
            types = SCENE_TYPES if "scenes" in source else SOURCE_TYPES
            check_types(source, types, f"data.{name}")


def check_keys(mapping: Any, known: Iterable[str], where: str) -> None:
    """
    Checks that a section is a mapping of known keys.

    Args:
        mapping: The section.
        known: The keys that it may have.
        where: The name of the section, for the message.

    Raises:
        ValueError: if it is not a mapping, or has an unknown key. The message names the known keys that look like it.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where} must be a mapping of names to values, but is {str(mapping)[:_LONGEST_SHOWN]!r}")
    known = tuple(known)
    for key in mapping:
        if key not in known:
            key = str(key)[:_LONGEST_SHOWN]
            suggestion = did_you_mean(key, known) or f"; there is {', '.join(sorted(known))}"
            raise ValueError(f"{where} must have known keys only, but has {key!r}{suggestion}")


def parse_value(text: str) -> Any:
    """
    Parses a word of the command line as YAML.

    >>> [parse_value(text) for text in ("3", "1e-5", "true", "null", "[0.5, 1.0]", "runs/photos")]
    [3, 1e-05, True, None, [0.5, 1.0], 'runs/photos']
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"a value must be YAML, but is {text!r}: {error}") from error


def _read_file(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"it must have at most {_MOST_BYTES:,} bytes, but has {size:,}")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        return yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"the configuration must be YAML or JSON, but {path} cannot be read: {error}") from error


class _Loader(yaml.SafeLoader):
    """Reads YAML as people write it: `1e-5`, which YAML 1.1 takes for a word, is a number, and `no` is a word."""


_BOOL = "tag:yaml.org,2002:bool"
_FLOAT = "tag:yaml.org,2002:float"
# PyYAML finds the type of a word by its first letter. All resolvers stay but the one that reads `no` as false. They
# are copied, as the lists of the base class belong to all loaders of the process.
_Loader.yaml_implicit_resolvers = {}
for _letter, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_letter] = [(tag, pattern) for tag, pattern in _resolvers if tag != _BOOL]
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


__all__ = ["check_complete", "check_config", "check_keys", "check_values", "parse_value", "read_config"]
