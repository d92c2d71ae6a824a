"""
Records of a training run beside its model: `train_config.json` and `train_results.json`, which its model card reads.

`beta-clip train` writes both while it runs. `push_to_hub` writes them for a Trainer that somebody built in Python.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ...data.collator import BetaCLIPDataCollator
from ...data.scenes import SceneDataset
from ...files import write_json
from ...inference.identity import environment, weights_hash
from ...model.objective_beta_clip import LOSS_PARTS
from ...visualize.log_keys import RecallKey
from .image_record import IMAGES_FILE, record_images


CONFIG_FILE = "train_config.json"
RESULTS_FILE = "train_results.json"
# The licence of this package, and so of the scenes that it draws.
OWN_LICENCE = "apache-2.0"
# Beginnings of the names of arguments that say where a run is written and watched, but not what was trained.
NOT_OF_THE_RECIPE = (
    "output_dir", "run_name", "report_to", "hub_", "push_to_hub", "logging_dir", "disable_tqdm", "log_level", "ddp_",
    "accelerator_config", "dataloader_pin_memory", "use_cpu", "debug",
)  # fmt: skip
NOT_OF_THE_SAMPLING = ("processor", "extractor", "strict", "seed")


@dataclass(frozen=True)
class RunOrigin:
    """
    Holds the configuration from which a Trainer was built.

    Args:
        config: The sections `model`, `data` and `training`.
        hub_ids: The names in it that are ids of the Hub.
    """

    config: Mapping[str, Any]
    hub_ids: list[str]


def describe_origin(config: Mapping[str, Any]) -> RunOrigin:
    """
    Describes what a Trainer is built from.

    It must run when the model and the rows have just been opened: a name that is no path at that moment is an id of
    the Hub. Later a path may be gone, and nothing would tell it from an id.
    """
    return RunOrigin(config, hub_ids(config))


def write_config(trainer: Any) -> None:
    """Writes `train_config.json` of a Trainer that was built from a configuration. A token is left out."""
    if trainer.is_world_process_zero():
        config = {section: dict(values) for section, values in trainer.origin.config.items()}
        config["training"].pop("hub_token", None)
        write_json(config, Path(trainer.args.output_dir) / CONFIG_FILE)


def record_run(trainer: Any) -> None:
    """
    Writes `train_config.json` and `train_results.json` of a Trainer that has trained.

    Files that `beta-clip train` has written for the same run stay. Only the first process may call it.
    """
    if not trainer.state.global_step:
        return
    folder = Path(trainer.args.output_dir)
    if trainer.origin is None:
        write_json(config_of(trainer), folder / CONFIG_FILE)
    if not (folder / IMAGES_FILE).exists():
        record_images(trainer)
    metrics = _training_metrics(trainer.state.log_history)
    if _is_recorded(metrics, folder / RESULTS_FILE):
        return
    results = {
        "before": None,
        "after": last_evaluation(trainer),
        "train": metrics,
        "run": describe_run(trainer),
    }
    write_json(results, folder / RESULTS_FILE)


def _training_metrics(log_history: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the last record that the Trainer logs at the end of a training; empty without one."""
    for record in reversed(log_history):
        if "train_runtime" in record:
            return record
    return {}


def _is_recorded(metrics: Mapping[str, Any], path: Path) -> bool:
    """Returns whether a results file describes the run with these metrics. No two runs take exactly the same time."""
    if not metrics or not path.exists():
        return False
    stored = json.loads(path.read_text(encoding="utf-8")).get("train") or {}
    return stored.get("train_runtime") == metrics["train_runtime"]


def last_evaluation(trainer: Any) -> dict[str, Any] | None:
    """
    Returns the metrics of the evaluation after the last step.

    Each of several evaluation sets logs a record of its own; their metrics come together in one dict.

    Returns:
        The metrics, or `None` if there was no such evaluation, or if a better checkpoint may have replaced the weights
        that it measured.
    """
    if trainer.args.load_best_model_at_end:
        return None
    metrics: dict[str, Any] = {}
    recalls = {RecallKey(data, "t2i", 1).key for data in ("", *trainer.evaluated_sets)}
    for record in trainer.state.log_history:
        is_evaluation = not recalls.isdisjoint(record)
        if is_evaluation and record["step"] == trainer.state.global_step:
            metrics.update(record)
    return metrics or None


def describe_run(trainer: Any, folder: str | Path | None = None) -> dict[str, Any]:
    """
    Describes a run by what only its Trainer knows. It is the value of `run` in `train_results.json`.

    Args:
        trainer: The Trainer, which has trained and saved its model.
        folder: Where the model is saved. `None` is the output directory.

    Returns:
        - `hub_ids`: the names in the configuration that are ids of the Hub
        - `environment`: hardware, versions, `precision` and the number of `processes`
        - `steps`: those of the optimiser
        - `images_per_step`: how many images a step had, counted, on average; `None` if nothing was counted
        - `weights`: the hash of the saved weights, by which a card knows that this is about them; see [`weights_hash`]
        - `data`: the number of `rows` and the `licence`, each `None` if it is not known
        - `evaluated_sets`: names of the evaluation sets, which are parts of keys of `before` and `after`; empty for a
          single set
        - `losses`: the last logged `loss` with its parts, and the `step` of that record
        - `legs`: from which step to which the run went without a stop, how long that took, and what was changed
        - `identity`: what the run is, by which a resumed run is compared with it
        - `finished`: whether the training has come to its end
    """
    args = trainer.args
    ids = trainer.origin.hub_ids if trainer.origin else hub_ids(config_of(trainer))
    return {
        "hub_ids": ids,
        "environment": {
            **environment(args.device),
            "precision": _precision(trainer),
            "processes": args.world_size,
        },
        "steps": trainer.state.global_step,
        "images_per_step": trainer.progress.images_per_step(trainer.state.global_step),
        "weights": weights_hash(folder or args.output_dir) if trainer.is_world_process_zero() else None,
        "data": _describe_rows(trainer.train_dataset),
        "evaluated_sets": list(trainer.evaluated_sets),
        "losses": _last_losses(trainer.state.log_history),
        "legs": trainer.progress.legs(trainer.state.global_step),
        "identity": trainer.identity,
        "finished": trainer.state.global_step >= trainer.state.max_steps,
    }


def _precision(trainer: Any) -> str:
    if trainer.args.bf16:
        return "bfloat16"
    if trainer.args.fp16:
        return "float16"
    return str(trainer.model.dtype).removeprefix("torch.")


def _describe_rows(rows: Any) -> dict[str, Any]:
    # A `datasets.Dataset` may know the licence of its data. An empty string means that it does not.
    licence = getattr(getattr(rows, "info", None), "license", None) or None
    if isinstance(rows, SceneDataset):
        licence = OWN_LICENCE
    # A stream has no length.
    count = len(rows) if hasattr(rows, "__len__") else None
    return {"rows": count, "licence": licence}


def _last_losses(log_history: list[dict[str, Any]]) -> dict[str, Any]:
    losses: dict[str, Any] = {}
    for record in log_history:
        if "loss" not in record:
            continue
        # Not every record has every part: a part is only logged if some batch since the last record had it.
        for name, value in record.items():
            if name in ("step", "loss") or name in LOSS_PARTS:
                losses[name] = value
    return losses


def config_of(trainer: Any) -> dict[str, Any]:
    """Describes a Trainer as a configuration of `beta-clip train`, as far as it has one. Defaults are left out."""
    base = trainer.model.config.name_or_path
    return {
        "model": {"from_pretrained": base} if base else {},
        "data": _data_section(trainer.train_dataset, trainer.data_collator),
        "training": _changed_fields(trainer.args, trainer.args.to_dict(), NOT_OF_THE_RECIPE),
    }


def _data_section(rows: Any, collator: Any) -> dict[str, Any]:
    data: dict[str, Any] = {}
    dataset_name = getattr(getattr(rows, "info", None), "dataset_name", None)
    if isinstance(rows, SceneDataset):
        data["train"] = {
            "scenes": len(rows),
            "seed": rows.seed,
            "image_size": rows.image_size,
            "level": rows.level,
        }
    elif dataset_name:
        data["train"] = dataset_name
    if isinstance(collator, BetaCLIPDataCollator):
        data.update(_changed_fields(collator, vars(collator), NOT_OF_THE_SAMPLING))
    return data


def hub_ids(config: Mapping[str, Any]) -> list[str]:
    """
    Finds the names of models and data in a configuration that are ids of the Hub.

    The configuration must be in use, so that all of its paths exist. Then a name that is no path is an id.
    """
    names = [config["model"].get("from_pretrained"), config["model"].get("tokenizer")]
    for key in ("train", "eval"):
        source = config["data"].get(key)
        names.append(source.get("source") if isinstance(source, Mapping) else source)
    return _only_hub_ids(names)


def _only_hub_ids(names: Iterable[Any]) -> list[str]:
    return sorted({name for name in names if isinstance(name, str) and _is_hub_id(name)})


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def _changed_fields(instance: Any, values: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    """
    Returns the fields of a dataclass that differ from their defaults.

    Args:
        instance: The dataclass.
        values: Its values by name, as JSON can hold them.
        left_out: Beginnings of the names that are left out.
    """
    changed = {}
    for field in fields(instance):
        if not field.init or field.name.startswith(left_out):
            continue
        default = None if field.default is MISSING else field.default
        value = values.get(field.name)
        # Empty values such as `None`, "" and [] count as equal.
        is_empty = not value and not default
        if value != default and not is_empty:
            changed[field.name] = value
    return changed


__all__ = [
    "CONFIG_FILE",
    "RESULTS_FILE",
    "RunOrigin",
    "config_of",
    "describe_origin",
    "describe_run",
    "hub_ids",
    "last_evaluation",
    "record_run",
    "write_config",
]
