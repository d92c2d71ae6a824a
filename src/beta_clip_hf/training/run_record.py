"""What a training run leaves for its model card, beside the model: `train_config.json` and `train_results.json`.

`beta-clip train` writes both as it goes; for a Trainer of one's own, `push_to_hub` does.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data.collator import BetaCLIPDataCollator
from ..data.scenes import SceneDataset
from ..files import write_json
from ..inference.identity import environment


CONFIG_FILE, RESULTS_FILE = "train_config.json", "train_results.json"
OWN_LICENCE = "apache-2.0"  # of this package, and so of what it draws
# Arguments of the Trainer that say where and how one watches, and nothing of what was trained.
NOT_OF_THE_RECIPE = (
    "output_dir", "run_name", "report_to", "hub_", "push_to_hub", "logging_dir", "disable_tqdm", "log_level", "ddp_",
    "accelerator_config", "dataloader_pin_memory", "use_cpu", "debug",
)  # fmt: skip
NOT_OF_THE_SAMPLING = ("processor", "extractor", "strict", "seed")

# By Trainer of `beta-clip train`: the configuration that it was built from, and which names in it are ids of the Hub.
_BUILT_FROM: WeakKeyDictionary[Any, tuple[Mapping[str, Any], list[str]]] = WeakKeyDictionary()


def write_config(trainer: Any, config: Mapping[str, Any]) -> None:
    """
    Writes `train_config.json` into the output directory of a Trainer, once its model and rows are open: a name in it
    that is no path now is an id of the Hub, and no later look could tell the two apart.
    """
    _BUILT_FROM[trainer] = config, hub_ids(config)
    if trainer.is_world_process_zero():
        write_json(config, Path(trainer.args.output_dir) / CONFIG_FILE)


def record_run(trainer: Any) -> None:
    """
    Writes `train_config.json` and `train_results.json` of a Trainer that has trained, as far as `beta-clip train` has
    not written those of the same run. For the first process alone.
    """
    folder, state = Path(trainer.args.output_dir), trainer.state
    if not state.global_step:
        return
    if trainer not in _BUILT_FROM:
        write_json(config_of(trainer), folder / CONFIG_FILE)
    metrics: dict[str, Any] = next((one for one in reversed(state.log_history) if "train_runtime" in one), {})
    stored = json.loads((folder / RESULTS_FILE).read_text("utf-8")) if (folder / RESULTS_FILE).exists() else {}
    if metrics and (stored.get("train") or {}).get("train_runtime") == metrics["train_runtime"]:
        return
    evaluations = (one for one in state.log_history if any(name.endswith("_t2i_r1") for name in one))
    of_the_end = [one for one in evaluations if one["step"] == state.global_step]
    # The best checkpoint may have replaced the weights that were evaluated last.
    after = of_the_end[-1] if of_the_end and not trainer.args.load_best_model_at_end else None
    results = {"before": None, "after": after, "train": metrics, "run": describe_run(trainer)}
    write_json(results, folder / RESULTS_FILE)


def describe_run(trainer: Any) -> dict[str, Any]:
    """
    What `train_results.json` holds as `run`, known to the Trainer alone.

    Returns:
        `hub_ids`: the names in the configuration that are ids of the Hub; `environment`: hardware, versions, precision,
        number of `processes`; `steps`, `images_per_step`: of the optimiser; `data`: number of `rows` and `licence`, or
        `None`; `losses`: the last logged `loss` and its parts, and the `step` of that.
    """
    args, rows = trainer.args, trainer.train_dataset
    losses: dict[str, Any] = {}
    for record in trainer.state.log_history:
        if "loss" in record:
            losses |= {name: value for name, value in record.items() if name == "step" or name.endswith("loss")}
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else str(trainer.model.dtype).split(".")[-1]
    config, ids = _BUILT_FROM.get(trainer) or (config_of(trainer), None)
    is_generated = isinstance(rows, SceneDataset)
    return {
        "hub_ids": hub_ids(config) if ids is None else ids,
        "environment": {**environment(args.device), "precision": precision, "processes": args.world_size},
        "steps": trainer.state.global_step,
        "images_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "data": {
            "rows": len(rows) if hasattr(rows, "__len__") else None,
            # A `datasets.Dataset` may know its own.
            "licence": OWN_LICENCE if is_generated else getattr(getattr(rows, "info", None), "license", None) or None,
        },
        "losses": losses,
    }


def config_of(trainer: Any) -> dict[str, Any]:
    """A Trainer as a configuration of `beta-clip train`, as far as it can be one: what differs from the defaults."""
    base, rows, collator = trainer.model.config.name_or_path, trainer.train_dataset, trainer.data_collator
    data: dict[str, Any] = {}
    if isinstance(rows, SceneDataset):
        own = {name: getattr(rows, name) for name in ("seed", "image_size", "level")}
        data["train"] = {"scenes": len(rows), **own}
    elif name := getattr(getattr(rows, "info", None), "dataset_name", None):
        data["train"] = name
    if isinstance(collator, BetaCLIPDataCollator):
        data |= _changed(collator, vars(collator), NOT_OF_THE_SAMPLING)
    training = _changed(trainer.args, trainer.args.to_dict(), NOT_OF_THE_RECIPE)
    return {"model": {"from_pretrained": base} if base else {}, "data": data, "training": training}


def hub_ids(config: Mapping[str, Any]) -> list[str]:
    """The names of models and data in a configuration that is in use and whose paths exist, which are none of these."""
    data = (config["data"].get(name) for name in ("train", "eval"))
    names = [config["model"].get(name) for name in ("from_pretrained", "tokenizer")]
    names += [one.get("source") if isinstance(one, Mapping) else one for one in data]
    return sorted({name for name in names if isinstance(name, str) and _is_hub_id(name)})


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def _changed(instance: Any, values: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a dataclass that are not as by default; what is empty both times, as `None` and `[]`, is equal."""
    changed = {}
    for one in fields(instance):
        default = None if one.default is MISSING else one.default
        value = values.get(one.name)
        if one.init and not one.name.startswith(left_out) and value != default and (value or default):
            changed[one.name] = value
    return changed


__all__ = ["CONFIG_FILE", "RESULTS_FILE", "config_of", "describe_run", "hub_ids", "record_run", "write_config"]
