"""
What a run is: its recipe, data, processes and package versions. A resumed run is compared with it.

What differs changes the result, so it must be asked for: `--allow-changed KEY`.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from ...data.collator import BetaCLIPDataCollator
from ...data.fingerprint import data_fingerprint
from ...data.row_dataset import RowStream
from ...version import __version__


logger = logging.getLogger(__name__)

SECTIONS = ("model", "data", "training", "processes", "versions")
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pillow")
# Beginnings of the names of arguments that change where a run is written, watched, saved or how fast it is, but not
# what is learnt.
_WITHOUT_EFFECT = (
    "output_dir", "run_name", "report_to", "hub_", "push_to_hub", "logging_", "log_", "disable_tqdm", "save_", "debug",
    "ddp_", "accelerator_config", "dataloader_pin_memory", "dataloader_num_workers", "dataloader_prefetch_factor",
    "dataloader_persistent_workers", "project", "trackio", "skip_memory_metrics", "enable_jit_checkpoint",
    "per_device_eval_batch_size", "eval_", "do_", "use_cpu", "local_rank", "deepspeed", "fsdp",
    "restore_callback_states", "gather_", "ignore_data_skip", "resume_from_checkpoint", "overwrite_output_dir",
    "torch_empty_cache_steps", "max_bad_fraction", "evaluate_ema", "attention_gallery",
)  # fmt: skip
_SOURCE_KEYS = ("source", "image_root")
_CONFIG_WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "architectures", "auto_map", "torch_dtype", "dtype")


class Change(NamedTuple):
    """Holds a setting that another leg of the run had differently."""

    key: str
    before: Any
    after: Any

    @property
    def is_of_recipe(self) -> bool:
        """Whether it says what is trained, and not where: a finished run is finished on another machine too."""
        return self.key.split(".")[0] not in ("processes", "versions")

    def __str__(self) -> str:
        return f"{self.key} ({_shown(self.before)} → {_shown(self.after)})"


def _shown(value: Any) -> str:
    text = repr(value)
    # A hash is long and says nothing.
    return text if len(text) <= 40 else f"{text[:16]}…'"


def describe_identity(trainer: Any) -> dict[str, Any]:
    """
    Describes a run by all that changes its result: settings by dotted key, ready for JSON.

    Args:
        trainer: The Trainer, with its model, rows and collator.
    """
    config: Mapping[str, Any] = trainer.origin.config if trainer.origin else {}
    identity: dict[str, Any] = {"processes": trainer.args.world_size}
    _flatten("model", config.get("model") or {}, identity)
    _flatten("model.config", _config_of(trainer.model), identity)
    _flatten("data", _collator_settings(trainer.data_collator), identity)
    for name, rows in (("train", trainer.train_dataset), ("eval", trainer.eval_dataset)):
        source = (config.get("data") or {}).get(name)
        if isinstance(source, Mapping):
            settings = {key: value for key, value in source.items() if key not in _SOURCE_KEYS}
            _flatten(f"data.{name}", settings, identity)
        identity[f"data.{name}.rows"] = data_fingerprint(rows)
    _flatten("training", _training_settings(trainer), identity)
    identity["versions.beta_clip_hf"] = __version__
    for package in PACKAGES:
        identity[f"versions.{package}"] = _version(package)
    return identity


def _config_of(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        return dict(config.to_dict())
    # A wrapper may have a plain mapping, and any other module none.
    return dict(config) if isinstance(config, Mapping) else {}


def _collator_settings(collator: Any) -> dict[str, Any]:
    if not isinstance(collator, BetaCLIPDataCollator):
        return {}
    names = [field.name for field in fields(collator) if field.init]
    return {name: getattr(collator, name) for name in names if name not in ("processor", "extractor", "strict")}


def _training_settings(trainer: Any) -> dict[str, Any]:
    settings = {}
    for name, value in trainer.args.to_dict().items():
        if not name.startswith(_WITHOUT_EFFECT):
            settings[name] = value
    settings["gather_across_processes"] = trainer.args.gather_across_processes
    if isinstance(trainer.train_dataset, RowStream):
        # Workers share a stream, so their number decides which rows come together.
        settings["dataloader_num_workers"] = trainer.args.dataloader_num_workers
    return settings


def _flatten(prefix: str, value: Any, target: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name not in _CONFIG_WITHOUT_EFFECT:
                _flatten(f"{prefix}.{name}", part, target)
    elif isinstance(value, list | tuple):
        target[prefix] = [_as_json(item) for item in value]
    else:
        target[prefix] = _as_json(value)


def _as_json(value: Any) -> str | int | float | bool | None:
    """Returns a plain value as it is, and the text of any other."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_changes(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[Change]:
    """
    Compares two identities. A setting that only one of them knows is left out: the other is of another version.

    Args:
        stored: That of the checkpoint.
        present: That of the run that continues.
    """
    changes = []
    for key in sorted(stored.keys() & present.keys()):
        if stored[key] != present[key]:
            changes.append(Change(key, stored[key], present[key]))
    return changes


def check_allowed_keys(keys: Iterable[str]) -> None:
    """Raises `ValueError` for a key of `--allow-changed` that lies in no section."""
    for key in keys:
        if key.split(".")[0] not in SECTIONS:
            raise ValueError(
                f"--allow-changed must be a setting or a section of the run ({', '.join(SECTIONS)}), but is {key!r}"
            )


def find_impossible(changes: Sequence[Change]) -> list[str]:
    """Returns the keys of changes that no resumed run can make, because the optimiser's state would not fit."""
    keys = []
    for change in changes:
        if change.key == "training.freeze" or change.key.startswith("training.lora"):
            keys.append(change.key)
        elif change.key == "training.layer_decay" and 1 in (change.before, change.after):
            # With 1 the blocks of a tower are one group of parameters, and otherwise a group each.
            keys.append(change.key)
        elif change.key == "training.ema_decay" and not change.before:
            keys.append(change.key)
    return keys


def refuse_changes(changes: Sequence[Change], allowed: Sequence[str], checkpoint: str) -> None:
    """
    Raises unless all changes are allowed. Those that are allowed are logged.

    Args:
        changes: What differs.
        allowed: Keys of settings, or of sections with all of their settings.
        checkpoint: The checkpoint, for the message.

    Raises:
        ValueError: names what differs and is not allowed, and says how to allow it.
    """
    impossible = find_impossible(changes)
    if impossible:
        raise ValueError(
            f"a resumed run must have the {', '.join(impossible)} of its checkpoint {checkpoint}, but differs in "
            f"{', '.join(map(str, changes))}: the optimiser's state does not fit to another value; set it as it was, "
            "or begin a new run from the model, in another directory"
        )
    refused = []
    for change in changes:
        if any(change.key == key or change.key.startswith(f"{key}.") for key in allowed):
            logger.warning("the run goes on with another %s", change)
        else:
            refused.append(change)
    if refused:
        options = " ".join(f"--allow-changed {change.key}" for change in refused)
        raise ValueError(
            f"a resumed run must have the settings of its checkpoint {checkpoint}, but differs in "
            f"{', '.join(map(str, refused))}: set them as they were, or allow it with {options}"
        )


__all__ = ["Change", "check_allowed_keys", "describe_identity", "find_changes", "refuse_changes"]
