"""How the parameters move: transformers' `TrainingArguments` with β-CLIP's recipe as defaults."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_accelerate_available


logger = logging.getLogger(__name__)

BEST_METRIC = "t2i_r1"
CHECKPOINTING = ("none", "selective", "full")


def _knob(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class BetaCLIPTrainingArguments(TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`] plus what β-CLIP's recipe needs; all of its fields may be given as usual.

    New fields:

    - `learning_rate_end`: where the cosine of the towers ends (they start at `learning_rate`).
    - `pooler_learning_rate`, `pooler_learning_rate_end`: the same for the pooler, which is new and has no warm-up.
    - `freeze_text_positions`: keep the first 20 text positions bit for bit, as the paper does after the stretch. Leave
      it off for a model from scratch, whose positions are still random.
    - `logit_scale_max`: after each optimiser step both logit scales are clamped, so that their exp is in [1, this];
      0 is off.
    - `contrastive_batch_size`: images of one contrast over all processes; 0 takes those of one forward pass. A larger
      contrast is computed in micro-batches of `per_device_train_batch_size` images, twice each, with the gradient of
      the one large batch (see [`CachedContrast`]). It is the batch of one optimiser step, whatever
      `gradient_accumulation_steps` says.
    - `vision_checkpointing`, `text_checkpointing`: what the backward pass computes again of the blocks of a tower,
      instead of keeping it: "none"; "selective", all but the linear layers (see [`keep_linear_outputs`]); or "full".
      The `gradient_checkpointing` of `TrainingArguments` is "full" for both.
    - `gather_across_processes`: whether the losses see the texts of all processes (with the exact gradient of the one
      large batch) or only those of their own.

    Defaults that differ from `TrainingArguments`, for the recipe: AdamW betas (0.9, 0.98), weight decay 0.01, rates
    1e-5 → 1e-7 and 1e-3 → 1e-4, 10 epochs, `warmup_steps=0.001` (a share of all steps: 0.01 epoch of 10), 64 images
    per device, no gradient clipping; bf16 where a GPU has it. And for flat texts: `remove_unused_columns=False`,
    `ddp_find_unused_parameters=True` (not every batch has all parts of the loss) unless checkpointing is reentrant,
    `dataloader_drop_last=True` (equal batches on all processes), `logging_nan_inf_filter=False` (the filter waits for
    the device at every step; the Trainer here has a guard of its own), `dispatch_batches=False` (a dispatcher would cut
    the flat texts as if they were images).

    Raises:
        ValueError: if a rate is negative, `logit_scale_max` is below 1, the schedule is not a cosine, a kind of
            checkpointing is unknown, `contrastive_batch_size` is no multiple of the images of one forward pass, or
            `remove_unused_columns` or `dispatch_batches` is switched on.

    Source: arXiv 2512.12678, training details, and the authors' release.
    """

    learning_rate: float = _knob(1e-5, "Initial learning rate of the two towers.")
    learning_rate_end: float = _knob(1e-7, "Learning rate of the towers after the last step.")
    pooler_learning_rate: float = _knob(1e-3, "Initial learning rate of the pooler.")
    pooler_learning_rate_end: float = _knob(1e-4, "Learning rate of the pooler after the last step.")
    freeze_text_positions: bool = _knob(False, "Keep the first 20 text positions exactly as they are.")
    logit_scale_max: float = _knob(100.0, "Upper bound of both exp(logit_scale), after each step; 0 switches it off.")
    gather_across_processes: bool = _knob(True, "Losses over the texts of all processes instead of each its own.")

    contrastive_batch_size: int = _knob(0, "Images of one contrast over all processes; 0: of one forward pass.")
    vision_checkpointing: str = _knob("none", "What the backward pass recomputes: 'none', 'selective' or 'full'.")
    text_checkpointing: str = _knob("none", "The same for the text tower.")

    lr_scheduler_type: str = _knob("cosine", "Always the cosine; equal initial and end rates make it a constant.")
    warmup_steps: float = _knob(0.001, "Warm-up of the towers: a number of steps or, below 1, a share of all.")
    weight_decay: float = _knob(0.01, "Weight decay of matrices; biases, norms and scalars have none.")
    adam_beta2: float = _knob(0.98, "Second beta of AdamW.")
    max_grad_norm: float = _knob(0.0, "Clip the gradient to this norm; 0 does not clip, as the recipe.")
    num_train_epochs: float = _knob(10.0, "Number of epochs.")
    per_device_train_batch_size: int = _knob(64, "Images per device and forward pass.")
    per_device_eval_batch_size: int = _knob(64, "Images per device and forward pass in an evaluation.")
    bf16: bool | None = _knob(None, "bfloat16 autocast; by default where a GPU has it.")
    logging_steps: float = _knob(10, "Log every so many steps.")
    logging_nan_inf_filter: bool = _knob(False, "Must stay off: it waits for the device at each step.")
    dataloader_drop_last: bool = _knob(True, "Drop the last batch of an epoch where it is not full.")
    remove_unused_columns: bool = _knob(False, "Must stay off: rows hold images and texts, not model inputs.")

    def __post_init__(self) -> None:
        if not is_accelerate_available():
            raise ImportError('Training needs accelerate: pip install "beta-clip-hf[train]"')
        for name in ("learning_rate", "learning_rate_end", "pooler_learning_rate", "pooler_learning_rate_end"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.logit_scale_max != 0 and self.logit_scale_max < 1:
            raise ValueError(f"logit_scale_max must be at least 1, or 0 for none, but is {self.logit_scale_max}")
        if str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) != "cosine":
            raise ValueError(
                f"lr_scheduler_type must be 'cosine', but is {self.lr_scheduler_type!r}; "
                "for a constant rate set learning_rate_end to learning_rate (and the same for the pooler)"
            )
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False (the collator needs the rows whole), but is True")
        size: Any = self.contrastive_batch_size
        if type(size) is not int or size < 0:
            raise ValueError(f"contrastive_batch_size must be an integer of at least 0, but is {size!r}")
        for name in ("vision_checkpointing", "text_checkpointing"):
            if getattr(self, name) not in CHECKPOINTING:
                raise ValueError(f"{name} must be one of {CHECKPOINTING}, but is {getattr(self, name)!r}")
        if self.bf16 is None:
            gpu_has_it = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            self.bf16 = gpu_has_it and not (self.use_cpu or self.fp16)
        # Without this TrainingArguments takes it that a GPU has to do it.
        self.use_cpu = self.use_cpu or bool(self.bf16 and not torch.accelerator.is_available())
        if self.metric_for_best_model is None and (self.load_best_model_at_end or self.save_strategy == "best"):
            self.metric_for_best_model = BEST_METRIC
        # Pinning serves copies to a device; without one it only warns.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        super().__post_init__()
        if self.accelerator_config.dispatch_batches:
            raise ValueError("dispatch_batches must not be True (it would cut flat texts as if images), but is")
        self.accelerator_config.dispatch_batches = False
        self.accelerator_config.non_blocking |= self.dataloader_pin_memory
        # Left out, transformers would take False with any checkpointing; only the reentrant one, no longer its default,
        # cannot bear it.
        is_reentrant = (self.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
        if self.ddp_find_unused_parameters is None and not is_reentrant:
            self.ddp_find_unused_parameters = True
        if self.contrastive_batch_size:
            self._accumulate_one_contrast()

    def _accumulate_one_contrast(self) -> None:
        """The micro-batches of one contrast are those that the Trainer accumulates for one optimiser step."""
        images = self.per_device_train_batch_size * self.world_size
        if self.contrastive_batch_size % images:
            raise ValueError(
                f"contrastive_batch_size must be a multiple of the {images} images of one forward pass "
                f"({self.per_device_train_batch_size} on each of {self.world_size} processes), "
                f"but is {self.contrastive_batch_size}"
            )
        micro_batches = self.contrastive_batch_size // images
        if self.gradient_accumulation_steps not in (1, micro_batches) and self.process_index == 0:
            logger.warning(
                "gradient_accumulation_steps is now %d, the micro-batches of one contrast, and no longer %d",
                micro_batches,
                self.gradient_accumulation_steps,
            )
        self.gradient_accumulation_steps = micro_batches

    def check_epoch(self, num_rows: int) -> None:
        """
        Whether an epoch of so many rows, over all processes, fills a batch and a contrast; an incomplete last contrast
        is a warning.

        Raises:
            ValueError: if it does not.
        """
        images = self.train_batch_size * self.world_size
        if num_rows < (images if self.dataloader_drop_last else 1):
            raise ValueError(
                f"train_dataset must fill one batch of {images} rows over all processes, but has {num_rows}; "
                "use a smaller per_device_train_batch_size"
            )
        if not self.contrastive_batch_size:
            return
        usable = num_rows - num_rows % images if self.dataloader_drop_last else num_rows
        if usable < self.contrastive_batch_size:
            raise ValueError(
                f"train_dataset must fill one contrast of {self.contrastive_batch_size} rows, but has {num_rows}; "
                "use a smaller contrastive_batch_size"
            )
        rest = usable % self.contrastive_batch_size
        if rest and self.process_index == 0:
            logger.warning(
                "the last contrast of each epoch has %d images instead of contrastive_batch_size=%d, as train_dataset "
                "has %d rows",
                rest,
                self.contrastive_batch_size,
                num_rows,
            )


__all__ = ["BetaCLIPTrainingArguments"]
