"""The Trainer of β-CLIP: transformers' Trainer with two learning rates, losses over all processes and retrieval."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..data.collator import BetaCLIPDataCollator
from ..data.row_dataset import RowStream
from .argument_support import check_evaluation, check_rows_and_processor, check_trainer_arguments
from .arguments import BetaCLIPTrainingArguments
from .cached_gradients import CachedContrast
from .callbacks.finite_guard import NonFiniteGuard
from .callbacks.gallery import AttentionGallery
from .callbacks.loss_log import LossLog
from .callbacks.standard import CheckpointedTowers, ParameterBounds, SamplingEpoch
from .distributed import ProcessGather
from .parameters.freezing import frozen_modules, parts_to_freeze
from .parameters.groups import POOLER, TOWERS, decayed_names, last_rates, parameter_groups
from .parameters.tuning import check_tuning, tuned_model
from .parameters.weight_average import Averaging, AveragingTrainer
from .record.counted_rows import BatchCounts, CountedRows
from .record.run_record import RunOrigin, record_run
from .retrieval_evaluation import RetrievalEvaluation
from .saving.resumable_trainer import ResumableTrainer
from .schedule import cosine_schedule
from .streams import EndlessBatches


class BetaCLIPTrainer(AveragingTrainer, ResumableTrainer, RetrievalEvaluation):
    r"""
    Trains a [`BetaCLIPModel`] like [`~transformers.Trainer`], with these differences:

    - The towers and the pooler have a cosine schedule each, from their learning rate to its end value; see
      [`BetaCLIPTrainingArguments`]. Parameters with fewer than two axes have no weight decay.
    - With several processes the losses are computed over the texts of all, with the exact gradient of the one large
      batch.
    - The parts of the loss, all logit scales and all learning rates are logged by name. They are summed on the
      device and read at logging steps only.
    - `evaluate` measures retrieval with the pooled embeddings of images and whole captions, each image against all:
      `eval_i2t_r1`, `_r5`, `_r10` and `eval_t2i_…`, in [0, 1]. There is no `eval_loss`, because a contrastive loss
      depends on how the rows are divided into batches.
    - A loss or a weight that is not finite stops the run with a `FloatingPointError` before it reaches a checkpoint.
    - A checkpoint is whole or absent, and a resumed run is one run, see [`ResumableTrainer`].

    Args:
        model, args, train_dataset, eval_dataset, callbacks, …: See `Trainer`. Data sets yield rows
            (`{"image", "caption", …}`). `eval_dataset` may be a dict of data sets.
        processing_class (`BetaCLIPProcessor`): The processor. It is saved with each checkpoint and makes the default
            collators.
        data_collator (*optional*): Makes the training batches. By default a [`BetaCLIPDataCollator`] of the processor
            with the seed `args.seed`.
        eval_data_collator (*optional*): Makes the batches of evaluations. By default it gives each image its whole
            caption.

    Raises:
        ValueError: with several GPUs in one process, without both a collator and a processor, with one of the
            arguments that a contrastive loss has no use for (see `REFUSED_OF_TRAINER`), or if `args.freeze` leaves
            nothing to train.

    Source: arXiv 2512.12678, training details.
    """

    # A contrastive loss is a mean over its own batch, so the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module | None = None,
        args: BetaCLIPTrainingArguments | None = None,
        data_collator: Any = None,
        *,
        processing_class: Any = None,
        eval_data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = BetaCLIPTrainingArguments(output_dir="tmp_trainer")
        if args.n_gpu > 1:
            raise ValueError(
                f"the number of GPUs in one process must be 1, but is {args.n_gpu}: torch.nn.DataParallel cannot split "
                "flat texts. Start one process per GPU with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU"
            )
        if processing_class is None and (data_collator is None or eval_data_collator is None):
            raise ValueError(
                "processing_class must be a BetaCLIPProcessor unless data_collator and eval_data_collator are given, "
                "but is None"
            )
        check_trainer_arguments(kwargs)
        check_rows_and_processor(kwargs, processing_class, data_collator)
        check_evaluation(args, kwargs.get("eval_dataset"))
        check_tuning(args, kwargs)
        data_collator = data_collator or BetaCLIPDataCollator(processing_class, seed=args.seed)
        if model is not None:
            model = tuned_model(model, args)
        super().__init__(model, args, data_collator, processing_class=processing_class, **kwargs)
        # The Trainer sees the **kwargs of `forward` and concludes that the model divides its loss by the number of
        # items. It does not.
        self.model_accepts_loss_kwargs = False
        self.eval_data_collator = eval_data_collator or BetaCLIPDataCollator(
            processing_class, caption_mode="caption_only", strict=getattr(data_collator, "strict", False)
        )
        # The configuration that the Trainer was built from; `beta-clip train` sets it.
        self.origin: RunOrigin | None = None
        self.evaluated_sets = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
        self.row_gather = ProcessGather()
        self.gather = self.row_gather if args.gather_across_processes else None
        self._loss_log = LossLog()
        self.state_parts["loss_log"] = self._loss_log
        self._contrast: CachedContrast | None = None
        self._contrast_batches: list[dict[str, Any]] = []
        self._micro_batches = itertools.count()
        self._num_parameters: int | None = None
        self._counts_of_batches: Iterator[BatchCounts] = iter(())
        self._guard = NonFiniteGuard(lambda: self.last_checkpoint, self._fp16_scale)
        self.state_parts["guard"] = self._guard
        self._frozen = frozen_modules(self.model, parts_to_freeze(args.freeze))
        for callback in (ParameterBounds(), CheckpointedTowers(), SamplingEpoch(data_collator), self._guard):
            self.add_callback(callback)
        if args.ema_decay:
            # After the bounds on parameters, so that averages are within them.
            self.add_callback(Averaging(self))
        if args.attention_gallery:
            self.add_callback(AttentionGallery(self))

    # Parameters and their optimiser

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Makes the model of a trial with `model_init`, and freezes and adapts it as the arguments say."""
        return tuned_model(super().call_model_init(trial), self.args)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Returns the names of the parameters that weight decay acts on, see [`decayed_names`]."""
        return decayed_names(model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Creates the optimiser with the groups (towers, pooler) × (decayed, not decayed)."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, settings = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            groups = parameter_groups(model, self.args, self.get_decay_parameter_names(model))
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Creates a cosine for each parameter group. Only the towers warm up, because the pooler is new."""
        if self.lr_scheduler is None:
            args = self.args
            schedules = {
                TOWERS: cosine_schedule(
                    args.learning_rate,
                    args.learning_rate_end,
                    total_steps=num_training_steps,
                    warmup_steps=args.get_warmup_steps(num_training_steps),
                ),
                POOLER: cosine_schedule(
                    args.pooler_learning_rate, args.pooler_learning_rate_end, total_steps=num_training_steps
                ),
            }
            optimizer = self.optimizer if optimizer is None else optimizer
            # The groups of an optimiser that the caller made have no names.
            schedule_of_groups = [schedules[group.get("name", TOWERS)] for group in optimizer.param_groups]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule_of_groups)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # The loss

    def _set_training_mode(self, model: nn.Module) -> None:
        """Sets the training mode. Frozen modules have no dropout, as in the model that they come from."""
        model.train()
        self._set_frozen_mode()

    def _set_frozen_mode(self) -> None:
        for module in self._frozen:
            module.eval()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Estimates the operations of a batch like `Trainer`, but counts the parameters only once."""
        name = getattr(self.model, "main_input_name", "input_ids")
        if name not in inputs or not hasattr(self.model, "num_parameters"):
            return 0
        if self._num_parameters is None:
            self._num_parameters = self.model.num_parameters(exclude_embeddings=True)
        return 6 * inputs[name].numel() * self._num_parameters

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Computes the loss in one call of the model that encodes everything, as DDP needs it."""
        if model.training:
            # The Trainer has just set the mode of all modules, which takes milliseconds.
            self._set_frozen_mode()
        if self._contrast is not None and model.training:
            with self._contrast.micro_batch(next(self._micro_batches)):
                outputs = model(**inputs)
            # The Trainer divides the loss of each micro-batch by their number. That is right for the value, because
            # each is the whole loss, but not for the gradients, which add up: each must be that many times as large.
            # The added term is 0 and has the gradient of the missing multiples.
            others = self.current_gradient_accumulation_steps - 1
            outputs.loss = outputs.loss + others * (outputs.loss - outputs.loss.detach())
        else:
            with self.model.loss_context(gather=self.gather):
                outputs = model(**inputs)
        if model.training:
            weight = self._weight_of_batch(outputs.loss)
            if weight is not None:
                outputs.loss = outputs.loss * weight
            self._guard.watch(outputs.loss)
            losses = outputs.losses
            if self.args.max_bad_steps:
                # Steps that are passed over do not count in the means.
                losses = {name: value.nan_to_num(0, 0, 0) for name, value in losses.items()}
            self._loss_log.add(losses)
        if return_outputs:
            return outputs.loss, outputs
        return outputs.loss

    def _fp16_scale(self) -> float | None:
        scaler = self.accelerator.scaler
        return None if scaler is None else float(scaler.get_scale())

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Returns the norm of the gradient for the log, like `Trainer`, which also multiplies each gradient by 1."""
        from accelerate.utils import DistributedType

        whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if grad_norm is not None or self.accelerator.distributed_type not in whole:
            return super()._get_grad_norm(model, grad_norm=grad_norm)
        self.accelerator.unscale_gradients()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _weight_of_batch(self, loss: Tensor) -> Tensor | float | None:
        """
        Returns 0 for a micro-batch that lost all of its rows in any process, else 1 or, in one process, `None`.

        A process without rows computes a blank image, because the others wait for its rows. The loss of such a
        micro-batch changes no weight.
        """
        counts = next(self._counts_of_batches, None)
        is_blank = counts is not None and counts.is_blank
        if self.args.world_size == 1:
            return 0.0 if is_blank else None
        num_blank = torch.full((), float(is_blank), device=loss.device)
        dist.all_reduce(num_blank)
        return (num_blank == 0).to(loss.dtype)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Moves a batch and its plan to the device, from pinned memory without waiting."""
        from accelerate.utils import send_to_device

        non_blocking = self.args.dataloader_pin_memory
        return super()._prepare_inputs(send_to_device(inputs, self.args.device, non_blocking=non_blocking))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Reads the micro-batches of a step like `Trainer`. With `contrastive_batch_size` they form one contrast."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._counts_of_batches = iter(self.batch_counts)
        if self.args.contrastive_batch_size:
            self._contrast_batches = batches
        return batches, num_items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Trains on one micro-batch like `Trainer`. Before the first of a contrast, a first pass runs over all."""
        # The first pass cannot run where the batches are read: a resumed run gets its random state only after that.
        if self._contrast_batches:
            self._set_training_mode(model)
            self._micro_batches = itertools.count()
            self._contrast = CachedContrast(
                self.model,
                self._contrast_batches,
                gather=self.gather,
                prepare=self._prepare_inputs,
                autocast=self.compute_loss_context_manager,
            )
            self._contrast_batches = []
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs like `Trainer`. Records of training steps also get the parts of the loss, the scales and all rates."""
        if "loss" in logs and self._loss_log.micro_batches:
            logs.update(self._loss_log.read(self.model, self.args.world_size))
            if self.args.max_bad_steps:
                logs["bad_steps"] = self._guard.bad_steps
            if self._created_lr_scheduler:
                # The Trainer has logged the rate of the first group, whatever that is.
                logs.pop("learning_rate", None)
                logs.update(last_rates(self.optimizer, self.lr_scheduler))
        super().log(logs, start_time)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """
        Returns a loader of the training batches like `Trainer`. A stream of [`load_rows`] gives batches without end.

        Raises:
            ValueError: if the data set does not fill one batch or one contrast, or if a stream is to be sequential.
        """
        if isinstance(self.train_dataset, RowStream):
            if self.args.train_sampling_strategy != "random":
                raise ValueError(
                    "train_sampling_strategy must be left at 'random' for a stream, but is "
                    f"{self.args.train_sampling_strategy!r}: the order of a stream is that of its shuffle_buffer"
                )
            # A stream splits itself over processes and workers. Accelerate would split it again, so it is left out.
            collator = CountedRows(self.data_collator)
            batches = self._loader(self.train_dataset, self.args.train_batch_size, collator, drop_last=True)
            return DataLoader(EndlessBatches(batches), batch_size=None)
        loader = super().get_train_dataloader()
        if not isinstance(self.train_dataset, IterableDataset):
            self.args.check_epoch(len(self.train_dataset))
        if self.args.contrastive_batch_size:
            # Accelerate's loader would hold all images of a contrast on the device at once. `_prepare_inputs` moves
            # one micro-batch at a time.
            loader.device = None
        return loader

    # To the Hub

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Saves the model to the output directory and uploads it like `beta-clip push`, with its code and a model card.

        The repository is `args.hub_model_id`, or one named like the output directory.

        Args:
            blocking: Not used. The call returns when everything has arrived.
            commit_message, token, revision, private: See `Trainer`.
            kwargs: Fields of the card: `license`, `language`, `tags`, `model_name`, … of
                [`~release.model_card.CardFields`].

        Returns:
            The address of the commit; `None` in all processes but the first.
        """
        from ..release.hub import push

        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        record_run(self)
        return push(
            self.args.output_dir,
            self.args.hub_model_id or Path(self.args.output_dir).name,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
            commit_message=commit_message,
            # A run may be pushed many times, and one commit for each time is enough.
            names_commit=False,
            **kwargs,
        )


__all__ = ["BetaCLIPTrainer"]
