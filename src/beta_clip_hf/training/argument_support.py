"""Which arguments of transformers' Trainer work with a contrastive loss, and why the others are refused."""

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from importlib.util import find_spec
from typing import Any

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.utils.logging import get_log_levels_dict

from ..data.columns import check_columns
from ..data.spelling import did_you_mean
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from ..visualize.log_keys import recall_keys


_NO_LABELS = "a contrastive loss has no labels"
_OWN_EVALUATION = "`evaluate` embeds images and captions, and measures retrieval"

REFUSED: Mapping[str, str] = {
    "auto_find_batch_size": "another batch size has another number of negatives; use per_device_train_batch_size and, "
    "for many negatives in little memory, contrastive_batch_size",
    "average_tokens_across_devices": "the loss is a mean over pairs, not over tokens; gather_across_processes says "
    "what processes share",
    "batch_eval_metrics": f"{_OWN_EVALUATION}, which needs all embeddings at once; per_device_eval_batch_size bounds "
    "the memory",
    "bf16_full_eval": f"{_OWN_EVALUATION} in the precision of the training; use bf16",
    "do_predict": "it is a flag of transformers' example scripts; use beta-clip evaluate",
    "do_train": "it is a flag of transformers' example scripts; `train` trains without it",
    "eval_accumulation_steps": f"{_OWN_EVALUATION}; per_device_eval_batch_size bounds the memory",
    "eval_do_concat_batches": f"{_OWN_EVALUATION} over all batches together",
    "eval_use_gather_object": f"{_OWN_EVALUATION}; all that it gathers are tensors",
    "fp16_full_eval": f"{_OWN_EVALUATION} in the precision of the training; use fp16",
    "include_for_metrics": f"{_OWN_EVALUATION}; use beta-clip evaluate for other metrics",
    "label_names": _NO_LABELS,
    "label_smoothing_factor": f"{_NO_LABELS} to smooth; alignment_loss and beta of the model's configuration say "
    "how texts of one image share their weight",
    "length_column_name": "batches are not grouped by length, because texts of a batch are packed",
    "liger_kernel_config": "there are no Liger kernels for CLIP; use torch_compile",
    "lr_scheduler_kwargs": "the schedule is a cosine; learning_rate_end and pooler_learning_rate_end say where it ends",
    "neftune_noise_alpha": "its noise is scaled by the length of a row, and a row holds several texts; use "
    "data.random_resized_crop or dropout",
    "optim_target_modules": "only optimisers that are refused read it; use optim and optim_args",
    "parallelism_config": "tensor and context parallelism would split flat texts; use DDP or fsdp",
    "prediction_loss_only": f"{_OWN_EVALUATION} instead of a loss",
    "resume_from_checkpoint": "it is a flag of transformers' example scripts; use beta-clip train --resume, or "
    "trainer.train(resume_from_checkpoint=…)",
    "use_cache": "CLIP generates no text, and has nothing to cache",
    "use_liger_kernel": "there are no Liger kernels for CLIP; use torch_compile",
}
"""Fields of `TrainingArguments` that must keep their default, with the reason and the alternative."""

WORKING = frozenset({
    # The run and where it is written.
    "output_dir", "num_train_epochs", "max_steps", "seed", "data_seed", "full_determinism", "debug",
    "skip_memory_metrics", "local_rank", "ignore_data_skip", "restore_callback_states_from_checkpoint",
    "enable_jit_checkpoint",
    # Batches. `train_sampling_strategy` is checked: "random" or "sequential".
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "train_sampling_strategy", "accelerator_config", "remove_unused_columns", "dataloader_drop_last",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order",
    # The optimiser. `optim` and `lr_scheduler_type` are checked.
    "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm",
    # Precision, memory and speed.
    "bf16", "fp16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "torch_empty_cache_steps", "use_cpu",
    # Several processes.
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
    "ddp_timeout", "fsdp", "fsdp_config", "deepspeed",
    # Logs.
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter",
    "include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name",
    "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    # Evaluations and checkpoints. `do_eval` is what `eval_strategy` says, and is checked.
    "do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_only_model", "save_strategy",
    "save_steps", "save_on_each_node", "save_total_limit", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better",
    # The Hub.
    "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision",
})  # fmt: skip
"""Fields of `TrainingArguments` that do what transformers says."""

REFUSED_OF_TRAINER: Mapping[str, str] = {
    "compute_loss_func": "the model computes its loss; the weights of its parts are in the model's configuration",
    "compute_metrics": f"{_OWN_EVALUATION}; use beta-clip evaluate for other metrics",
    "preprocess_logits_for_metrics": f"{_OWN_EVALUATION} without logits",
}
"""Arguments of the `Trainer` that must be `None`, with the reason and the alternative."""

# The packages of optimisers that torch and transformers do not have themselves: the module, and what pip calls it.
_BITSANDBYTES = ("bitsandbytes", "bitsandbytes")
_TORCHAO = ("torchao", "torchao")
OPTIMIZER_PACKAGES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_32bit", "lion_8bit",
            "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit",
            "paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit",
        ),
        _BITSANDBYTES,
    ),
    "adamw_torch_4bit": _TORCHAO,
    "adamw_torch_8bit": _TORCHAO,
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "adamw_torch_npu_fused": ("torch_npu", "torch-npu"),
    "adamw_torch_xla": ("torch_xla", "torch-xla"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
}  # fmt: skip
PLAIN_OPTIMIZERS = ("adafactor", "adagrad", "adamw_torch", "adamw_torch_fused", "rmsprop", "sgd")
# The settings that transformers reads from `optim_args`, where the optimiser reads any. Weight decay is not among them,
# because each group has its own.
_ADEMAMIX = ("alpha", "beta1", "beta2", "beta3", "eps", "t_alpha", "t_beta3")
_RMSPROP_BNB = ("alpha", "eps", "momentum", "centered")
_LOW_BIT = ("bf16_stochastic_round", "block_size")
OPTIMIZER_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "adagrad": ("eps", "lr_decay"),
    "adamw_anyprecision": (
        "compensation_buffer_dtype", "momentum_dtype", "use_kahan_summation", "variance_dtype",
    ),
    "adamw_torch_4bit": _LOW_BIT,
    "adamw_torch_8bit": _LOW_BIT,
    **dict.fromkeys(("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"), _ADEMAMIX),
    "grokadamw": ("alpha_init", "gamma", "gradient_clipping", "grokking_signal_decay_rate", "lamb"),
    "rmsprop": ("alpha", "centered", "eps", "momentum"),
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit"), _RMSPROP_BNB),
    "sgd": ("dampening", "momentum", "nesterov"),
    "stable_adamw": ("decouple_lr", "kahan_sum", "max_lr"),
}  # fmt: skip
# Beginnings of the names of optimisers that cannot keep the groups or the schedules of this Trainer.
REFUSED_OPTIMIZERS: Mapping[str, str] = {
    "adalomo": "it steps inside the backward pass and has only one learning rate",
    "apollo": "it makes its own parameter groups, without the learning rate of the pooler",
    "galore": "it makes its own parameter groups, without the learning rate of the pooler",
    "lomo": "it steps inside the backward pass and has only one learning rate",
    "schedule_free": "it has no schedule, but the towers and the pooler need a cosine each",
}

# The smallest allowed values. transformers and torch accept smaller ones, or refuse them in words of their own.
LEAST: Mapping[str, float] = {
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon", "data_seed", "dataloader_num_workers"), 0),
    **dict.fromkeys(("eval_delay", "max_grad_norm", "seed", "warmup_steps", "weight_decay"), 0),
    "dataloader_prefetch_factor": 1,
}
# Numbers of steps, or shares of all steps, between two things. 0 would mean all the time, or never.
ABOVE_ZERO = ("eval_steps", "logging_steps", "save_steps")
BELOW_ONE = ("adam_beta1", "adam_beta2")
# What NumPy takes for a seed.
_LARGEST_SEED = 2**32 - 1
# Targets of reports whose presence does not depend on one package alone.
_OWN_REPORTS = ("none", "all", "azure_ml", "flyte", "kubeflow")


def check_arguments(args: Any) -> None:
    """
    Checks the fields of `TrainingArguments` that cannot work with a contrastive loss.

    Args:
        args: The arguments, before transformers has changed any of them.

    Raises:
        ValueError: if a refused field does not have its default, or the optimiser cannot work.
        ImportError: if the package of the optimiser is not installed.
    """
    for field in fields(args):
        if field.name in REFUSED:
            value = getattr(args, field.name)
            default = _default(field)
            if value != default:
                raise ValueError(f"{field.name} must be left at {default!r}, but is {value!r}: {REFUSED[field.name]}")
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy must be 'random' or 'sequential', but is {args.train_sampling_strategy!r}: texts "
            "of a batch are packed, so that grouping rows by length saves nothing"
        )
    if args.do_eval and _name(args.eval_strategy) == "no":
        raise ValueError("do_eval must be left at False, but is True: eval_strategy says when there is an evaluation")
    check_numbers(args)
    known = [*get_log_levels_dict(), "passive"]
    if args.log_level not in known:
        raise ValueError(
            f"log_level must be one of {', '.join(known)}, but is {args.log_level!r}"
            f"{did_you_mean(args.log_level, known)}"
        )
    if args.load_best_model_at_end and _name(args.eval_strategy) == "no":
        raise ValueError(
            "eval_strategy must be 'steps' or 'epoch' for load_best_model_at_end, but is 'no': without evaluations "
            "there is no best model"
        )
    check_packages(args)
    check_optimizer(_name(args.optim), args.optim_args)


def check_numbers(args: Any) -> None:
    """Raises `ValueError` for a number that is out of its range or not finite."""
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} must be a number of at least {least:g}, but is {value!r}")
    for name in ABOVE_ZERO:
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0 of steps, or a share of all steps, but is {value!r}")
    for name in BELOW_ONE:
        if getattr(args, name) >= 1:
            raise ValueError(f"{name} must be below 1, but is {getattr(args, name)!r}")
    for name in ("seed", "data_seed"):
        if (getattr(args, name) or 0) > _LARGEST_SEED:
            raise ValueError(f"{name} must be at most {_LARGEST_SEED}, but is {getattr(args, name)!r}")


def check_packages(args: Any) -> None:
    """Raises `ImportError` for a package that is needed but missing, and `ValueError` for an unknown `report_to`."""
    names = args.report_to if isinstance(args.report_to, list | tuple) else [args.report_to or "none"]
    known = sorted({*_OWN_REPORTS, *INTEGRATION_TO_CALLBACK})
    for name in names:
        if name not in known:
            raise ValueError(f"report_to must be one of {', '.join(known)}, but is {name!r}{did_you_mean(name, known)}")
        if name not in _OWN_REPORTS and name not in get_available_reporting_integrations():
            package = name.replace("_", "-")
            raise ImportError(f"report_to={name!r} needs {package}: pip install {package}, or leave report_to out")
    if args.deepspeed and find_spec("deepspeed") is None:
        raise ImportError("deepspeed is not installed: pip install deepspeed, or leave deepspeed out")


def check_evaluation(args: Any, eval_dataset: Any) -> None:
    """
    Checks that there is something to evaluate on, and that a best checkpoint is chosen by what is measured.

    Args:
        args: The training arguments.
        eval_dataset: The evaluation rows, a dict of several, or `None`.

    Raises:
        ValueError: if rows are missing, or `metric_for_best_model` is none of the metrics.
    """
    if eval_dataset is None and _name(args.eval_strategy) != "no":
        raise ValueError(
            f"eval_dataset must be given for eval_strategy={_name(args.eval_strategy)!r}, but is None: name rows to "
            "evaluate on (--eval-data), hold some of the photos out (--eval-fraction 0.1), or set "
            "training.eval_strategy=no"
        )
    metric = args.metric_for_best_model
    if metric is None or eval_dataset is None:
        return
    data_names = list(eval_dataset) if isinstance(eval_dataset, Mapping) else []
    known = [key.name for key in recall_keys(data_names) if not data_names or key.data]
    # The name of a data set comes before what is measured, and that of the average before or after it.
    if metric.removeprefix("eval_").replace("ema_", "", 1) not in known:
        raise ValueError(
            f"metric_for_best_model must be one of {', '.join(known)}, but is {metric!r}{did_you_mean(metric, known)}"
        )


def check_optimizer(optim: str, settings: str | None = None) -> None:
    """
    Checks that an optimiser can work here.

    Args:
        optim: Its name.
        settings: The value of `optim_args`, such as "momentum=0.9,nesterov=true".

    Raises:
        ValueError: if it cannot keep the learning rates of towers and pooler, or would ignore one of the settings.
        ImportError: if its package is not installed.
    """
    for beginning, reason in REFUSED_OPTIMIZERS.items():
        if optim.startswith(beginning):
            raise ValueError(f"optim must be an optimiser with groups and schedules, but is {optim!r}: {reason}")
    known = OPTIMIZER_SETTINGS.get(optim, ())
    names = [setting.partition("=")[0].strip() for setting in (settings or "").split(",")]
    ignored = sorted(set(names) - {"", *known})
    if ignored:
        readable = ", ".join(known) or "none"
        raise ValueError(f"optim_args must name settings that {optim} reads ({readable}), but has {', '.join(ignored)}")
    if optim not in OPTIMIZER_PACKAGES:
        return
    module, package = OPTIMIZER_PACKAGES[optim]
    if find_spec(module) is None:
        raise ImportError(f"optim={optim!r} needs {package}: pip install {package}, or leave optim out")


def check_trainer_arguments(arguments: Mapping[str, Any]) -> None:
    """
    Checks the arguments of the Trainer that cannot work with a contrastive loss.

    Raises:
        ValueError: if a refused argument is not `None`.
    """
    for name, reason in REFUSED_OF_TRAINER.items():
        if arguments.get(name) is not None:
            raise ValueError(f"{name} must be None, but is {arguments[name]!r}: {reason}")


def check_rows_and_processor(arguments: Mapping[str, Any], processor: Any, data_collator: Any) -> None:
    """
    Checks the rows that a Trainer gets and, if it has to make the collator itself, the processor.

    Args:
        arguments: The arguments of the Trainer, by name.
        processor: Its processing_class.
        data_collator: Its collator of training batches, or `None` for the default one.

    Raises:
        ValueError: if rows are the name of a file or lack columns, or the processor is of another class.
    """
    for name in ("train_dataset", "eval_dataset"):
        rows = arguments.get(name)
        if isinstance(rows, str | os.PathLike):
            raise ValueError(f"{name} must hold rows, but is {str(rows)!r}: open it with load_rows({str(rows)!r})")
    if data_collator is not None:
        return
    if not isinstance(processor, BetaCLIPProcessor | BetaSiglip2Processor):
        raise ValueError(
            f"processing_class must be a BetaCLIPProcessor, but is a {type(processor).__name__}: make one of the same "
            "files with BetaCLIPProcessor.from_pretrained"
        )
    columns = getattr(arguments.get("train_dataset"), "column_names", None)
    if isinstance(columns, list):
        # A data set of the Hub. `load_rows` checks and renames columns by itself.
        check_columns(columns, "train_dataset")


def _default(field: Field) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _name(member: Any) -> str:
    """Returns the name of a member of one of transformers' enumerations, which may be given as such or by its name."""
    return str(getattr(member, "value", member))


__all__ = [
    "OPTIMIZER_PACKAGES",
    "OPTIMIZER_SETTINGS",
    "PLAIN_OPTIMIZERS",
    "REFUSED",
    "REFUSED_OF_TRAINER",
    "REFUSED_OPTIMIZERS",
    "WORKING",
    "check_arguments",
    "check_evaluation",
    "check_optimizer",
    "check_rows_and_processor",
    "check_trainer_arguments",
]
