"""Training arguments: transformers' `TrainingArguments` with β-CLIP's recipe as defaults."""

import logging
import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_accelerate_available

from ..visualize.log_keys import RecallKey
from .argument_support import check_arguments
from .parameters.freezing import parts_to_freeze
from .parameters.lora import LoraSettings


logger = logging.getLogger(__name__)

AVERAGE_DIR = "ema"
"""The directory beside a saved model that holds the averaged one."""
BEST_METRIC = RecallKey("", "t2i", 1).name
CHECKPOINTING = ("none", "selective", "full")
LEARNING_RATES = ("learning_rate", "learning_rate_end", "pooler_learning_rate", "pooler_learning_rate_end")


def _option(default: Any, help_text: str) -> Any:
    """Declares a field with the help text that transformers' argument parser shows."""
    return field(default=default, metadata={"help": help_text})


@dataclass
class BetaCLIPTrainingArguments(TrainingArguments):
    r"""
    Holds the arguments of a training run: those of [`~transformers.TrainingArguments`] and those of β-CLIP's recipe.

    New fields:

    - `learning_rate_end`: the learning rate of the towers after the last step. They start at `learning_rate` and
      follow a cosine.
    - `pooler_learning_rate`, `pooler_learning_rate_end`: both rates of the pooler. It is new and has no warm-up.
    - `freeze_text_positions`: keeps the first 20 text positions bit for bit, as the paper does after it stretches the
      table. Leave it off for a model from scratch, whose positions are still random.
    - `logit_scale_max`: after each optimiser step all logit scales (those of CLIP, of the pooler, of regions and of
      hard negatives) are clamped, so that their exp lies in [1, `logit_scale_max`]. 0 switches the clamp off.
    - `contrastive_batch_size`: the number of images that are contrasted with each other, over all processes. 0 takes
      the images of one forward pass. A larger contrast is computed in micro-batches of `per_device_train_batch_size`
      images, twice each, with the gradient of the one large batch (see [`CachedContrast`]). It is the batch of one
      optimiser step, whatever `gradient_accumulation_steps` says.
    - `vision_checkpointing`, `text_checkpointing`: which activations of a tower the backward pass computes again
      instead of keeping them. "none" keeps all of them, "selective" keeps the outputs of linear layers (see
      [`keep_linear_outputs`]), "full" keeps the inputs of blocks only. The `gradient_checkpointing` of
      `TrainingArguments` means "full" for both towers.
    - `half_blocks`: whether blocks keep half of the memory that their modules would, see [`HalfBlocks`]. False sets
      `half_blocks` of the model.
    - `freeze`: names of parts that are not trained, such as "vision" or ["text_embeddings", "vision_but_last_2"]. See
      [`freeze_parts`] for all names.
    - `layer_decay`: the learning rate of each block of a tower is that of the next block times this number, see
      [`parameter_groups`]. 1 gives all blocks the same rate.
    - `lora`: trains low-rank adapters instead of the towers: a rank, or the settings of [`LoraSettings`]. It needs
      peft.
    - `ema_decay`: keeps an exponential moving average of the weights with this decay, see [`WeightAverage`]. It is
      saved in the directory `ema` beside the model. 0 keeps none.
    - `evaluate_ema`: whether each evaluation measures the averaged weights too, as `eval_ema_t2i_r1`, ….
    - `attention_gallery`: the number of evaluation images of which each evaluation draws where their phrases look, see
      [`AttentionGallery`].
    - `max_bad_fraction`: the run stops when more than this share of the rows, of the data or of the batches so far, had
      to be skipped. With 1 it stops only if no row can be used.
    - `max_bad_steps`: so many steps whose loss or gradient is not finite are passed over: they change no weight, and
      are counted in the log as `bad_steps`. The next one stops the run. 0 stops at the first.
    - `gather_across_processes`: whether the losses see the texts of all processes, with the exact gradient of the one
      large batch, or only the texts of their own process.

    Defaults of the recipe that differ from `TrainingArguments`: AdamW betas (0.9, 0.98), weight decay 0.01, learning
    rates 1e-5 → 1e-7 and 1e-3 → 1e-4, 10 epochs, `warmup_steps=0.001` (a share of all steps: 0.01 epoch of 10),
    64 images per device, no gradient clipping, and bf16 where a GPU has it.

    Defaults that flat texts need:

    - `remove_unused_columns=False`: the collator needs whole rows.
    - `ddp_find_unused_parameters=True`, unless checkpointing is reentrant: not every batch has all parts of the loss.
    - `dataloader_drop_last=True`: all processes get batches of the same size.
    - `logging_nan_inf_filter=False`: the filter waits for the device at every step, and [`BetaCLIPTrainer`] has a
      guard of its own.
    - `dispatch_batches=False`: a dispatcher would split the flat texts as if they were images.

    Raises:
        ImportError: if accelerate, or the package of the optimiser, is not installed.
        ValueError: if a field that cannot work with a contrastive loss does not have its default (see `REFUSED` of
            `argument_support`), a rate is negative, `logit_scale_max` is below 1, the schedule is not a cosine, a kind
            of checkpointing is unknown, `contrastive_batch_size` is not a multiple of the images of one forward pass,
            or `remove_unused_columns`, `dispatch_batches` or `split_batches` is switched on.

    Source: arXiv 2512.12678, training details, and the authors' release.
    """

    learning_rate: float = _option(1e-5, "Initial learning rate of the two towers.")
    learning_rate_end: float = _option(1e-7, "Learning rate of the towers after the last step.")
    pooler_learning_rate: float = _option(1e-3, "Initial learning rate of the pooler.")
    pooler_learning_rate_end: float = _option(1e-4, "Learning rate of the pooler after the last step.")
    freeze_text_positions: bool = _option(False, "Keep the first 20 text positions exactly as they are.")
    logit_scale_max: float = _option(100.0, "Upper bound of exp of all logit scales, after each step; 0: no bound.")
    gather_across_processes: bool = _option(True, "Compute the losses over the texts of all processes.")

    contrastive_batch_size: int = _option(
        0, "Number of images that are contrasted with each other, over all processes; 0: those of one forward pass."
    )
    vision_checkpointing: str = _option(
        "none", "What the backward pass recomputes in the vision tower: 'none', 'selective' or 'full'."
    )
    text_checkpointing: str = _option(
        "none", "What the backward pass recomputes in the text tower: 'none', 'selective' or 'full'."
    )
    half_blocks: bool = _option(True, "Let blocks keep their inputs, and compute norms and activations again.")

    freeze: str | list[str] | None = field(
        default=None, metadata={"help": "Names of parts that are not trained, such as 'vision'."}
    )
    layer_decay: float = _option(1.0, "Factor from the learning rate of a block to that of the block before it.")

    lora: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Train low-rank adapters of this rank, or with these settings (JSON)."}
    )

    ema_decay: float = _option(0.0, "Decay of the exponential moving average of the weights; 0: no average.")
    evaluate_ema: bool = _option(False, "Evaluate the averaged weights too.")

    attention_gallery: int = _option(0, "Number of evaluation images to draw the attention of at each evaluation.")

    max_bad_fraction: float = _option(1.0, "Largest share of the rows that may be skipped before the run stops.")
    max_bad_steps: int = _option(0, "Number of steps with a loss or gradient that is not finite that are passed over.")

    lr_scheduler_type: str = _option("cosine", "Always the cosine; equal initial and end rates make it a constant.")
    warmup_steps: float = _option(0.001, "Warm-up of the towers: a number of steps or, below 1, a share of all steps.")
    weight_decay: float = _option(0.01, "Weight decay of matrices; biases, norms and scalars have none.")
    adam_beta2: float = _option(0.98, "Second beta of AdamW.")
    max_grad_norm: float = _option(0.0, "Clip the gradient to this norm; 0 does not clip, as in the recipe.")
    num_train_epochs: float = _option(10.0, "Number of epochs.")
    per_device_train_batch_size: int = _option(64, "Images per device and forward pass.")
    per_device_eval_batch_size: int = _option(64, "Images per device and forward pass in an evaluation.")
    bf16: bool | None = _option(None, "bfloat16 autocast; by default where a GPU has it.")
    logging_steps: float = _option(10, "Number of steps between two log records.")
    logging_nan_inf_filter: bool = _option(False, "Must stay off: it waits for the device at each step.")
    dataloader_drop_last: bool = _option(True, "Drop the last batch of an epoch if it is not full.")
    remove_unused_columns: bool = _option(False, "Must stay off: rows hold images and texts, not model inputs.")

    def __post_init__(self) -> None:
        if not is_accelerate_available():
            raise ImportError("training needs accelerate: pip install accelerate")
        check_arguments(self)
        self._check_length()
        self._check_rates()
        self._check_schedule()
        self._check_columns()
        self._check_checkpointing()
        self._check_average()
        self._check_counts()
        parts_to_freeze(self.freeze)
        LoraSettings.from_value(self.lora)
        self._choose_device()
        self._choose_precision()
        self._choose_best_metric()
        # Pinned memory speeds up copies to a device. Without a device it only causes a warning.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        super().__post_init__()
        self._set_up_loading()
        self._set_up_ddp()
        if self.contrastive_batch_size:
            self._accumulate_one_contrast()

    @property
    def trains_nothing(self) -> bool:
        """Whether the run has no step: `max_steps` is 0 or, if it is not given, `num_train_epochs` is."""
        return self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0)

    def _check_length(self) -> None:
        # transformers means "not given" by -1.
        if self.max_steps < -1:
            raise ValueError(f"max_steps must be at least 0, but is {self.max_steps}")
        # Comparisons with NaN are false.
        if not self.num_train_epochs >= 0:
            raise ValueError(f"num_train_epochs must be at least 0, but is {self.num_train_epochs}")

    def _check_rates(self) -> None:
        for name in LEARNING_RATES:
            rate = getattr(self, name)
            if not math.isfinite(rate):
                raise ValueError(f"{name} must be a finite number, but is {rate}")
            if rate < 0:
                raise ValueError(f"{name} must not be negative, but is {rate}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, but is {self.layer_decay}")
        if self.logit_scale_max != 0 and not self.logit_scale_max >= 1:
            raise ValueError(f"logit_scale_max must be at least 1, or 0 for no limit, but is {self.logit_scale_max}")

    def _check_counts(self) -> None:
        for name in ("attention_gallery", "contrastive_batch_size", "max_bad_steps"):
            count: Any = getattr(self, name)
            # A bool is an int to Python, but not a number of images or steps.
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} must be an integer of at least 0, but is {count!r}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must be in [0, 1], but is {self.max_bad_fraction}")

    def _check_average(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 (no average) and below 1, but is {self.ema_decay}")
        if self.evaluate_ema and not self.ema_decay:
            raise ValueError("ema_decay must be above 0 for evaluate_ema, but is 0")
        best = self.metric_for_best_model or ""
        is_of_average = best.removeprefix("eval_").startswith(f"{AVERAGE_DIR}_")
        if is_of_average and not self.evaluate_ema:
            raise ValueError(f"evaluate_ema must be true for metric_for_best_model={best!r}, but is false")

    def _check_schedule(self) -> None:
        # transformers also takes a member of its enumeration, whose value is the name.
        name = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        if str(name) != "cosine":
            raise ValueError(
                f"lr_scheduler_type must be 'cosine', but is {self.lr_scheduler_type!r}; "
                "for a constant rate set learning_rate_end to learning_rate (and the same for the pooler)"
            )

    def _check_columns(self) -> None:
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False (the collator needs whole rows), but is True")

    def _check_checkpointing(self) -> None:
        for name in ("vision_checkpointing", "text_checkpointing"):
            kind = getattr(self, name)
            if kind not in CHECKPOINTING:
                raise ValueError(f"{name} must be one of {CHECKPOINTING}, but is {kind!r}")

    def _choose_device(self) -> None:
        # Without an accelerator transformers would not join the processes of a launcher: each would train alone.
        if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
            self.use_cpu = True

    def _choose_precision(self) -> None:
        if self.bf16 is None:
            has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            self.bf16 = has_bf16 and not (self.use_cpu or self.fp16)
        # TrainingArguments refuses bf16 without a GPU unless it is told that the CPU does the work.
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True

    def _choose_best_metric(self) -> None:
        needs_metric = self.load_best_model_at_end or self.save_strategy == "best"
        if needs_metric and self.metric_for_best_model is None:
            self.metric_for_best_model = BEST_METRIC

    def _set_up_loading(self) -> None:
        if self.accelerator_config.split_batches:
            raise ValueError(
                "split_batches must not be True, but is True: per_device_train_batch_size is that of each process"
            )
        if self.accelerator_config.dispatch_batches:
            raise ValueError("dispatch_batches must not be True (it would split flat texts like images), but is True")
        self.accelerator_config.dispatch_batches = False
        self.accelerator_config.non_blocking |= self.dataloader_pin_memory

    def _set_up_ddp(self) -> None:
        # Without a value, transformers switches the search off under any kind of checkpointing. Only the reentrant
        # kind, which is no longer its default, cannot work with the search.
        checkpointing = self.gradient_checkpointing_kwargs or {}
        is_reentrant = checkpointing.get("use_reentrant", False)
        if self.ddp_find_unused_parameters is None and not is_reentrant:
            self.ddp_find_unused_parameters = True

    def _accumulate_one_contrast(self) -> None:
        """Makes the Trainer accumulate the micro-batches of one contrast into one optimiser step."""
        images = self.per_device_train_batch_size * self.world_size
        if self.contrastive_batch_size % images:
            raise ValueError(
                f"contrastive_batch_size must be a multiple of the {images} images of one forward pass "
                f"({self.per_device_train_batch_size} on each of {self.world_size} processes), "
                f"but is {self.contrastive_batch_size}"
            )
        micro_batches = self.contrastive_batch_size // images
        is_overridden = self.gradient_accumulation_steps not in (1, micro_batches)
        if is_overridden and self.process_index == 0:
            logger.warning(
                "gradient_accumulation_steps is now %d, the micro-batches of one contrast, and no longer %d",
                micro_batches,
                self.gradient_accumulation_steps,
            )
        self.gradient_accumulation_steps = micro_batches

    def check_epoch(self, num_rows: int) -> None:
        """
        Checks that an epoch fills at least one batch and one contrast. An incomplete last contrast is a warning.

        Args:
            num_rows: The number of training rows of all processes.

        Raises:
            ValueError: if the rows fill no batch or no contrast.
        """
        images = self.train_batch_size * self.world_size
        least = images if self.dataloader_drop_last else 1
        if num_rows < least:
            raise ValueError(
                f"train_dataset must fill one batch of {images} rows over all processes, but has {num_rows}; "
                "use a smaller per_device_train_batch_size"
            )
        if self.contrastive_batch_size:
            dropped = num_rows % images if self.dataloader_drop_last else 0
            self._check_contrasts_of_epoch(num_rows, usable_rows=num_rows - dropped)

    def _check_contrasts_of_epoch(self, num_rows: int, usable_rows: int) -> None:
        if usable_rows < self.contrastive_batch_size:
            raise ValueError(
                f"train_dataset must fill one contrast of {self.contrastive_batch_size} rows, but has {num_rows}; "
                "use a smaller contrastive_batch_size"
            )
        rest = usable_rows % self.contrastive_batch_size
        if rest and self.process_index == 0:
            logger.warning(
                "the last contrast of each epoch has %d images instead of contrastive_batch_size=%d, because "
                "train_dataset has %d rows",
                rest,
                self.contrastive_batch_size,
                num_rows,
            )


__all__ = ["BetaCLIPTrainingArguments"]
