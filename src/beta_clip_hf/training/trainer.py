"""The Trainer of β-CLIP: transformers' own, with two learning rates, losses over all processes and retrieval metrics.

Letters: B images of a batch, N images of an evaluation, D projection width.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import Trainer
from transformers.trainer_utils import speed_metrics

from ..data.collator import BetaCLIPDataCollator
from ..data.row_dataset import RowStream
from ..model.configuration_beta_clip import Granularity
from .arguments import BetaCLIPTrainingArguments
from .cached_gradients import CachedContrast
from .callbacks import CheckpointedTowers, NonFiniteGuard, ParameterBounds, SamplingEpoch
from .distributed import ProcessGather
from .recall import recall_of_pairs
from .run_record import RunOrigin, record_run
from .schedule import cosine_schedule
from .streams import EndlessBatches


class BetaCLIPTrainer(Trainer):
    r"""
    [`~transformers.Trainer`] for [`BetaCLIPModel`].

    - The towers and the pooler (parameters that start with `pooler.`) have a cosine each, from their learning rate to
      its end value; see [`BetaCLIPTrainingArguments`]. Whatever has fewer than two axes is not decayed.
    - With several processes the losses run over the texts of all, with the exact gradient of the one large batch.
    - The parts of the loss, both logit scales and both learning rates are logged by name; they are summed on the
      device and read at logging steps only.
    - `evaluate` is retrieval on CLS and EOS, whole captions, each image against all: `eval_i2t_r1`, `_r5`, `_r10` and
      `eval_t2i_…`, in [0, 1]. There is no `eval_loss`: a contrastive loss depends on how the batches were cut.
    - A loss or weight that is not finite stops the run with a `FloatingPointError`, before it reaches a checkpoint.

    Args:
        model, args, train_dataset, eval_dataset, callbacks, …: as for `Trainer`. Data sets yield rows
            (`{"image", "caption", …}`); `eval_dataset` may be a dict of data sets.
        processing_class (`BetaCLIPProcessor`): saved with each checkpoint; also makes the default collators.
        data_collator (*optional*): by default a [`BetaCLIPDataCollator`] of the processor, seeded with `args.seed`.
        eval_data_collator (*optional*): by default one that gives each image its whole caption.

    Raises:
        ValueError: with several GPUs in one process, or without both a collator and a processor.

    Source: arXiv 2512.12678, training details.
    """

    args: BetaCLIPTrainingArguments
    loss_is_scaled_for_ga = False  # a contrast is a mean of its own: under accumulation it is divided by the steps

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
        args = args if args is not None else BetaCLIPTrainingArguments(output_dir="tmp_trainer")
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
        data_collator = data_collator or BetaCLIPDataCollator(processing_class, seed=args.seed)
        super().__init__(model, args, data_collator, processing_class=processing_class, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.eval_data_collator = eval_data_collator or BetaCLIPDataCollator(
            processing_class, caption_mode="caption_only", strict=getattr(data_collator, "strict", False)
        )
        # The configuration that the Trainer was built from; `beta-clip train` sets it.
        self.origin: RunOrigin | None = None
        self._processes = ProcessGather()
        self.gather = self._processes if args.gather_across_processes else None
        self._part_sums: dict[str, Tensor] = {}
        self._parts_seen = 0
        self._contrast: CachedContrast | None = None
        self._contrast_batches: list[dict[str, Any]] = []
        self._micro_batches = itertools.count()
        self._guard = NonFiniteGuard()
        for callback in (ParameterBounds(), CheckpointedTowers(), SamplingEpoch(data_collator), self._guard):
            self.add_callback(callback)

    # How parameters move

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices and tables. Decay would pull a bias, a norm's weight or a logit scale to a 0 that means nothing."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Parameter groups: (towers, pooler) × (decayed, not decayed), empty ones left out."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self._parameter_groups(model), **settings)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        members: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                part = "pooler" if name.removeprefix("module.").startswith("pooler.") else "towers"
                members.setdefault((part, name in decayed), []).append(parameter)
        rates = {"towers": self.args.learning_rate, "pooler": self.args.pooler_learning_rate}
        return [
            {
                "name": part,
                "params": members[part, decays],
                "lr": rates[part],
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for part in rates
            for decays in (True, False)
            if (part, decays) in members
        ]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """A cosine per parameter group, from its rate to its end value; only the towers warm up, the pooler is new."""
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            args, warmup_steps = self.args, self.args.get_warmup_steps(num_training_steps)
            schedules = {
                "towers": cosine_schedule(
                    args.learning_rate,
                    args.learning_rate_end,
                    total_steps=num_training_steps,
                    warmup_steps=warmup_steps,
                ),
                "pooler": cosine_schedule(
                    args.pooler_learning_rate, args.pooler_learning_rate_end, total_steps=num_training_steps
                ),
            }
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer, [schedules[group.get("name", "towers")] for group in optimizer.param_groups]
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # The loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Computes the loss in one call of the model that encodes everything, as DDP needs it."""
        if self._contrast is not None and model.training:
            with self._contrast.micro_batch(next(self._micro_batches)):
                outputs = model(**inputs)
            # The Trainer divides by the number of micro-batches: right for the value, each of which is the whole loss,
            # and not for the gradients, which add up.
            others = self.current_gradient_accumulation_steps - 1
            outputs.loss = outputs.loss + others * (outputs.loss - outputs.loss.detach())
        else:
            with self.model.loss_context(gather=self.gather):
                outputs = model(**inputs)
        if model.training:
            self._guard.watch(outputs.loss)
            self._parts_seen += 1
            for name, part in outputs.losses.items():
                total = self._part_sums.get(name)
                self._part_sums[name] = part.detach().float() if total is None else total + part.detach()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To the device, the plan of the batch too, and from pinned memory without a wait."""
        from accelerate.utils import send_to_device

        non_blocking = self.args.dataloader_pin_memory
        return super()._prepare_inputs(send_to_device(inputs, self.args.device, non_blocking=non_blocking))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As in `Trainer`; with `contrastive_batch_size` the batches of a step will be one contrast."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.contrastive_batch_size:
            self._contrast_batches = batches
        return batches, num_items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As in `Trainer`; the first micro-batch of a contrast begins with the first pass over all of them."""
        # Not where they are read: a resumed run gets its random state only after that.
        if self._contrast_batches:
            model.train()
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
        """As `Trainer.log`; a record of training steps also gets the parts of the loss, the scales and both rates."""
        if "loss" in logs and self._parts_seen:
            logs.update(self._read_parts())
            names = [group.get("name") for group in self.optimizer.param_groups]
            if "pooler" in names:
                schedule, group = self.lr_scheduler, names.index("pooler")
                # As `learning_rate` in the same record: of the step just done, and the scheduler is one step ahead.
                rate = schedule.base_lrs[group] * schedule.lr_lambdas[group](schedule.last_epoch - 1)
                logs["pooler_learning_rate"] = float(rate)
        super().log(logs, start_time)

    @torch.no_grad()
    def _read_parts(self) -> dict[str, float]:
        """Means of the parts since the last record, over micro-batches and processes; and exp of the logit scales."""
        names = list(self._part_sums)
        means = torch.stack([self._part_sums[name] for name in names]) / self._parts_seen
        if self.args.world_size > 1:
            dist.all_reduce(means)
            means /= self.args.world_size
        self._part_sums, self._parts_seen = {}, 0
        scales = {
            name.replace(".", "_"): parameter.exp()
            for name, parameter in self.model.named_parameters()
            if name.endswith("logit_scale")
        }
        values = torch.cat([means, torch.stack([scale.to(means) for scale in scales.values()])]) if scales else means
        return dict(zip([*names, *scales], values.tolist(), strict=True))

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`; a stream of [`load_rows`] gives batches without end.

        Raises:
            ValueError: if the data set does not fill one batch or one contrast.
        """
        if isinstance(self.train_dataset, RowStream):
            # It splits itself over processes and workers: accelerate, which would split it again, is left out.
            batches = self._loader(self.train_dataset, self.args.train_batch_size, self.data_collator, drop_last=True)
            return DataLoader(EndlessBatches(batches), batch_size=None)
        loader = super().get_train_dataloader()
        if not isinstance(self.train_dataset, IterableDataset):
            self.args.check_epoch(len(self.train_dataset))
        if self.args.contrastive_batch_size:
            # Accelerate's loader would have all images of a contrast on the device at once; `_prepare_inputs` moves
            # those of one micro-batch.
            loader.device = None
        return loader

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Each process reads its own share of the rows, none of them twice; shares may differ by one row."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        if rows is None:
            raise ValueError("eval_dataset must be given for an evaluation, but is None")
        if not isinstance(rows, RowStream):  # which has only the rows of its process in any case
            rows = Subset(rows, range(self.args.process_index, len(rows), self.args.world_size))
        return self._loader(rows, self.args.per_device_eval_batch_size, self.eval_data_collator)

    def _loader(self, dataset: Dataset, batch_size: int, collator: Any, drop_last: bool = False) -> DataLoader:
        """A loader of this process alone, whose workers are seeded by a random state of its own."""
        return DataLoader(
            dataset,
            batch_size=batch_size,
            collate_fn=collator,
            drop_last=drop_last,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),
        )

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
        Saves the model to the output directory and uploads it as `beta-clip push` does, with the code and a card of
        this run, to `args.hub_model_id` or a repository named like the output directory. Returns the commit's address.

        Args:
            blocking: not used; the call returns when everything has arrived.
            commit_message, token, revision, private: as in `Trainer`.
            kwargs: for the card: `license`, `language`, `tags`, `model_name`, … of [`~release.model_card.CardFields`].
        """
        from ..release.hub import push

        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        record_run(self)
        settings: dict[str, Any] = {
            "private": self.args.hub_private_repo if private is None else private,
            "revision": revision or self.args.hub_revision,
            "commit_message": commit_message,
        }
        repo_id = self.args.hub_model_id or Path(self.args.output_dir).name
        return push(self.args.output_dir, repo_id, token=token or self.args.hub_token, **settings, **kwargs)

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        r"""
        Retrieval on CLS and EOS with whole captions, each image against all captions and the other way round.

        Args:
            eval_dataset (*optional*): rows, or a dict of data sets; by default `eval_dataset` of the Trainer.
            ignore_keys: not used.
            metric_key_prefix (`str`): of the keys; a dict adds the name of the data set.

        Returns:
            `{prefix}_i2t_r1`, `_r5`, `_r10`, `{prefix}_t2i_r1`, …, in [0, 1], a tie as 1/(number tied), and
            `{prefix}_images`, `{prefix}_runtime`, `{prefix}_samples_per_second`. All processes get the same.

        Raises:
            ValueError: without rows.
        """
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(given, dict):
            return {
                key: value
                for name, rows in given.items()
                for key, value in self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}").items()
            }
        start = time.time()
        image_embeds_ND, text_embeds_ND = self._embed_pairs(self.get_eval_dataloader(given))
        num_images = len(image_embeds_ND)
        metrics = {
            f"{metric_key_prefix}_{direction}_r{k}": value
            for direction, queries, candidates in (
                ("i2t", image_embeds_ND, text_embeds_ND),
                ("t2i", text_embeds_ND, image_embeds_ND),
            )
            for k, value in recall_of_pairs(queries, candidates).items()
        }
        metrics[f"{metric_key_prefix}_images"] = num_images
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=num_images))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, tuple[Tensor, Tensor], None]:
        """The normalised image and caption embeddings of a batch, each `(B, D)` float32; no loss and no labels."""
        inputs = self._prepare_inputs(inputs)
        caption_B = inputs["granularity"] == Granularity.CAPTION if "granularity" in inputs else slice(None)
        batch = {"pixel_values": inputs["pixel_values"], "input_ids": inputs["input_ids"][caption_B]}
        if self.model.config.use_long_text_path:  # captions take the long one, which a plain batch does not know
            index = torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device)
            batch |= {"image_index": index, "granularity": torch.full_like(index, Granularity.CAPTION)}
        with torch.no_grad(), self.accelerator.autocast():
            outputs = model(**batch)
        return None, (outputs.image_embeds.float(), outputs.text_embeds.float()), None

    def _embed_pairs(self, loader: DataLoader) -> tuple[Tensor, Tensor]:
        self.model.eval()
        self.callback_handler.eval_dataloader = loader
        batches = []
        for batch in loader:
            batches.append(self.prediction_step(self.model, batch, prediction_loss_only=False)[1])
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        width = self.model.config.projection_dim
        nothing = torch.zeros(0, width, device=self.args.device)
        with torch.no_grad():
            image_embeds_ND, text_embeds_ND = (
                self._processes(torch.cat([nothing, *(batch[side] for batch in batches)])) for side in (0, 1)
            )
        if len(image_embeds_ND) == 0:
            raise ValueError("eval_dataset must hold at least one usable row, but holds none")
        return image_embeds_ND, text_embeds_ND


__all__ = ["BetaCLIPTrainer"]
