"""Evaluations of the Trainer: retrieval among the rows of all processes, instead of a loss."""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers.trainer_utils import speed_metrics

from ..data.row_dataset import RowStream
from ..model.configuration_beta_clip import Granularity
from .arguments import BetaCLIPTrainingArguments
from .distributed import ProcessGather
from .recall import retrieval_metrics
from .record.counted_rows import CountedRows, take_counts
from .saving.sharded_trainer import ShardedTrainer


# The inputs of a batch that describe its images.
IMAGE_INPUTS = ("pixel_values", "pixel_scale", "pixel_attention_mask", "spatial_shapes")


class RetrievalEvaluation(ShardedTrainer):
    """
    Evaluates by retrieval, see [`RetrievalEvaluation.evaluate`].

    Attributes:
        eval_data_collator: Makes the batches of evaluations.
        evaluated_sets: Names of the evaluation sets. The log has them only as parts of keys.
        row_gather: Joins the embeddings of all processes.
    """

    args: BetaCLIPTrainingArguments
    eval_data_collator: Any
    evaluated_sets: list[str]
    row_gather: ProcessGather

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """
        Returns a loader of the evaluation rows of this process.

        Each process reads its own share, and no row is read twice. The shares may differ by one row.

        Raises:
            ValueError: if there is no data set.
        """
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, str):
            rows = self.eval_dataset[rows]
        if rows is None:
            raise ValueError("eval_dataset must be given for an evaluation, but is None")
        # A stream has the rows of its own process only.
        if not isinstance(rows, RowStream):
            rows = Subset(rows, range(self.args.process_index, len(rows), self.args.world_size))
        return self._loader(rows, self.args.per_device_eval_batch_size, CountedRows(self.eval_data_collator))

    def _loader(self, dataset: Dataset, batch_size: int, collator: Any, drop_last: bool = False) -> DataLoader:
        """Returns a loader for this process alone."""
        return DataLoader(
            dataset,
            batch_size=batch_size,
            collate_fn=collator,
            drop_last=drop_last,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self._worker_context(),
            in_order=self.args.dataloader_in_order,
            pin_memory=self.args.dataloader_pin_memory,
            # The loader draws the seed of its workers from here, and not from the random state of the training.
            generator=torch.Generator(),
        )

    def _worker_context(self) -> str | None:
        # torch refuses a way to start workers where there are none.
        return self.args.dataloader_multiprocessing_context if self.args.dataloader_num_workers else None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        r"""
        Measures retrieval with pooled embeddings and whole captions, each image against all captions and vice versa.

        Args:
            eval_dataset (*optional*): Rows, or a dict of data sets. By default the `eval_dataset` of the Trainer.
            ignore_keys: Not used.
            metric_key_prefix (`str`): Prefix of the keys. For a dict, the name of the data set follows it.

        Returns:
            `{prefix}_i2t_r1`, `_r5`, `_r10`, `{prefix}_t2i_r1`, …, in [0, 1], where a tie counts 1/(number tied), and
            `{prefix}_images`, `{prefix}_runtime`, `{prefix}_samples_per_second`. All processes get the same values.

        Raises:
            ValueError: without rows.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics: dict[str, float] = {}
        if isinstance(rows, dict):
            for name, rows_of_name in rows.items():
                if name not in self.evaluated_sets:
                    self.evaluated_sets.append(name)
                metrics.update(self.evaluate(rows_of_name, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        # It measures nothing unless `skip_memory_metrics` is off.
        self._memory_tracker.start()
        start = time.time()
        image_embeds_ID, text_embeds_ID = self._embed_pairs(self.get_eval_dataloader(rows))
        metrics.update(retrieval_metrics(image_embeds_ID, text_embeds_ID, metric_key_prefix))
        num_images = len(image_embeds_ID)
        metrics[f"{metric_key_prefix}_images"] = num_images
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=num_images))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, tuple[Tensor, Tensor], None]:
        """Returns the normalised image and caption embeddings of a batch, each `(B, D)` float32; no loss, no labels."""
        inputs = self._prepare_inputs(inputs)
        input_ids = inputs["input_ids"]
        if "granularity" in inputs:
            input_ids = input_ids[inputs["granularity"] == Granularity.CAPTION]
        batch = {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}
        batch["input_ids"] = input_ids
        # SigLIP 2 always has more than one path.
        if getattr(self.model.config, "use_long_text_path", True):
            # Captions take a path of their own. A batch without granularities would take the short one.
            batch["image_index"] = torch.arange(len(input_ids), device=input_ids.device)
            batch["granularity"] = torch.full_like(batch["image_index"], Granularity.CAPTION)
        with torch.no_grad(), self.accelerator.autocast():
            outputs = model(**batch)
        return None, (outputs.image_embeds.float(), outputs.text_embeds.float()), None

    def _embed_pairs(self, loader: DataLoader) -> tuple[Tensor, Tensor]:
        """Embeds the images and captions of all processes, each (I, D)."""
        self.model.eval()
        if not self.shards_weights:
            # Before a training under FSDP2 the model is still where it was loaded.
            self.model.to(self.args.device)
        self.callback_handler.eval_dataloader = loader
        # A process without rows takes part in the gathering with none.
        nothing_ID = torch.zeros(0, self.model.config.projection_dim, device=self.args.device)
        image_parts, text_parts = [nothing_ID], [nothing_ID]
        for batch in self.batches_in_step(loader, self.row_gather):
            is_blank = take_counts(batch).is_blank or batch.pop("is_blank", False)
            _, embeds, _ = self.prediction_step(self.model, batch, prediction_loss_only=False)
            if is_blank:
                continue
            image_embeds_BD, text_embeds_BD = embeds
            image_parts.append(image_embeds_BD)
            text_parts.append(text_embeds_BD)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        with torch.no_grad():
            image_embeds_ID = self.row_gather(torch.cat(image_parts))
            text_embeds_ID = self.row_gather(torch.cat(text_parts))
        if len(image_embeds_ID) == 0:
            raise ValueError("eval_dataset must hold at least one usable row, but holds none")
        return image_embeds_ID, text_embeds_ID


__all__ = ["RetrievalEvaluation"]
