"""The part of the Trainer that makes a resumed run one run: what it is, what it has done, and how it goes on."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import TrainOutput

from ..record.counted_rows import BatchCounts, CountedRows, check_bad_fraction, take_counts
from ..record.progress import RunProgress
from ..record.run_identity import describe_identity, find_changes, refuse_changes
from .checkpoints import read_manifest, set_aside_newer
from .choice import choose_checkpoint
from .completeness import STATE_FILE
from .durable_trainer import DurableTrainer


logger = logging.getLogger(__name__)


class ResumableTrainer(DurableTrainer):
    r"""
    Extends [`DurableTrainer`] so that a run over several legs is one run.

    - `train(resume_from_checkpoint=True)` continues from the newest whole checkpoint, which the first process chooses
      for all. One that is named must be whole.
    - A resumed run must have the settings, data, number of processes and versions of its checkpoint. What differs is
      an error that names it, unless `allowed_changes` has its key or section.
    - Log records, loss, time and skipped rows of a resumed run are those of the whole run.

    Attributes:
        allowed_changes: Settings or sections in which a resumed run may differ, as "training.max_steps".
        progress: What the run has done, over all of its legs.
        is_leg_begun: Whether [`begin_leg`] was called for the next training.
        state_parts: Small state that goes along in the manifest: objects with `state(processes)` and `restore(state)`,
            by name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allowed_changes: Sequence[str] = ()
        self.progress = RunProgress()
        self.state_parts: dict[str, Any] = {}
        self._identity: dict[str, Any] = {}
        # The unfinished log record that the checkpoint holds.
        self._open_record: dict[str, Any] = {}
        self._leg_loss: Tensor | None = None
        self.is_leg_begun = False
        self._rows_in_training = 0
        self._skipped_in_training = 0
        # Those of the micro-batches of the present step.
        self.batch_counts: list[BatchCounts] = []
        self.add_callback(_LegStart(self))

    def describe_checkpoint(self) -> dict[str, Any]:
        """Returns what the manifest says of the run: its identity, its legs, and the log record that is begun."""
        self.measure_leg()
        return {
            "identity": self.identity,
            "progress": self.progress.to_json(self.state.global_step),
            "open_record": self._describe_open_record(),
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What the run is, see [`describe_identity`]."""
        if not self._identity:
            self._identity = describe_identity(self)
        return self._identity

    def measure_leg(self) -> None:
        """Adds up what all processes have done in the present leg. All must call it."""
        loss_sum = 0.0 if self._leg_loss is None else float(self._leg_loss)
        skipped_in_evaluation = getattr(getattr(self, "eval_data_collator", None), "skipped", 0)
        counts = [
            loss_sum,
            float(self._rows_in_training),
            float(self._skipped_in_training),
            float(skipped_in_evaluation),
        ]
        total_loss, rows, skipped_in_training, skipped_in_evaluation = self.processes.total(counts)
        self.progress.loss_sum = total_loss / self.processes.count
        self.progress.images = int(rows)
        self.progress.skipped_in_training = int(skipped_in_training)
        self.progress.skipped_in_evaluation = int(skipped_in_evaluation)

    def _describe_open_record(self) -> dict[str, Any]:
        """Returns the sums of the log record that is not yet due, so that a resumed run writes the same record."""
        (loss_sum,) = self.processes.total([float(self._tr_loss)])
        parts = {name: part.state(self.processes) for name, part in self.state_parts.items()}
        last_logged = self._globalstep_last_logged
        return {"loss_sum": loss_sum / self.processes.count, "last_logged": last_logged, "parts": parts}

    def restore_open_record(self) -> None:
        """Takes up the log record that the checkpoint has begun. It runs after the Trainer has set its sums to zero."""
        stored, self._open_record = self._open_record, {}
        if stored and stored["last_logged"] <= self.state.global_step:
            self._tr_loss += stored["loss_sum"]
            self._globalstep_last_logged = stored["last_logged"]
            for name, part in self.state_parts.items():
                if name in stored["parts"]:
                    part.restore(stored["parts"][name])

    # Resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Trains like `Trainer`.

        Args:
            resume_from_checkpoint: The directory of a checkpoint; `True` takes the newest whole one in the output
                directory.
            args, kwargs: See `Trainer`.

        Raises:
            ValueError: if the checkpoint that is named is damaged, or if there is no whole one.
        """
        checkpoint = None
        if resume_from_checkpoint not in (None, True, False):
            checkpoint = str(resume_from_checkpoint)
        if resume_from_checkpoint and not self.is_leg_begun:
            checkpoint = choose_checkpoint(self.processes, self.args.output_dir, checkpoint)
            if checkpoint is None:
                raise ValueError(f"no checkpoint to resume from was found in {self.args.output_dir}")
        if not self.is_leg_begun:
            self.begin_leg(checkpoint)
        if self.args.trains_nothing and checkpoint is None:
            # transformers reads 0 steps as no number of steps, and would train for 3 epochs or more.
            self.is_leg_begun = False
            return TrainOutput(0, 0.0, {})
        self.is_leg_begun = False
        output = super().train(checkpoint, *args, **kwargs)
        return output._replace(metrics=self._total_metrics(output.metrics))

    def begin_leg(self, checkpoint: str | None) -> None:
        """
        Begins a leg of the run: compares it with its checkpoint, and takes up the record of the legs before.

        `train` does it by itself. Whoever needs the record before the training calls it first. All processes must call
        it.

        Args:
            checkpoint: The checkpoint that is resumed; `None` for a new run.

        Raises:
            ValueError: if a setting differs that `allowed_changes` does not name.
        """
        self.is_leg_begun = True
        self._leg_loss = None
        self._rows_in_training = 0
        self._skipped_in_training = 0
        self._open_record = {}
        self.last_checkpoint, self.last_saved_step = None, 0
        self.progress = RunProgress()
        if checkpoint is not None:
            self._take_up(checkpoint)

    def _take_up(self, checkpoint: str) -> None:
        path = Path(checkpoint)
        own_manifest = read_manifest(path) if self.processes.rank == 0 else None
        manifest = self.processes.broadcast(own_manifest) or {}
        stored = manifest.get("run") or {}
        if not stored.get("identity"):
            logger.warning("%s does not say with which settings it was saved: none are compared", checkpoint)
        changes = find_changes(stored.get("identity") or {}, self.identity)
        refuse_changes(changes, self.allowed_changes, checkpoint)
        step = manifest.get("step") or TrainerState.load_from_json(str(path / STATE_FILE)).global_step
        if 0 <= self.args.max_steps < step:
            raise ValueError(
                f"max_steps must be at least the {step} steps that {checkpoint} has done, but is {self.args.max_steps}"
            )
        self.progress = RunProgress.resumed(stored.get("progress"), step, changes)
        self._open_record = stored.get("open_record") or {}
        # Only now: a run that is refused must leave everything as it is.
        if self.processes.rank == 0:
            set_aside_newer(self.args.output_dir, path)
        self.remember_checkpoint(path.parent, step)

    def _total_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Returns the metrics of the training over all legs, and corrects the record of them in the log."""
        self.measure_leg()
        self.progress.stop_clock()
        totals = self.progress.add_up(metrics, self.state.global_step)
        for record in reversed(self.state.log_history):
            if "train_runtime" in record:
                record.update({name: value for name, value in totals.items() if name in record})
                break
        return totals

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Plans the training like `Trainer`, without an epoch if the checkpoint has all steps of the run."""
        num_epochs, steps_per_epoch, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        done = self.progress.first_step
        if 0 < max_steps <= done:
            # A run was killed between its last checkpoint and its last save. `Trainer` looks at the number of steps
            # after a step only, and would take one too many.
            num_epochs = min(num_epochs, done // steps_per_epoch)
        return num_epochs, steps_per_epoch, *others, max_steps

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Loads like `Trainer`. Learning rates, decays and betas that were changed on purpose stay as they are now."""
        present = [_settings_of(group) for group in self.optimizer.param_groups]
        rates = list(getattr(self.lr_scheduler, "base_lrs", []))
        super()._load_optimizer_and_scheduler(checkpoint)
        if not self.progress.changes or len(present) != len(self.optimizer.param_groups):
            return
        for group, settings in zip(self.optimizer.param_groups, present, strict=True):
            group.update(settings)
        schedule = self.lr_scheduler
        if rates and hasattr(schedule, "lr_lambdas"):
            schedule.base_lrs = rates
            for group, rate, factor in zip(self.optimizer.param_groups, rates, schedule.lr_lambdas, strict=True):
                group["lr"] = rate * factor(schedule.last_epoch)
            # The log takes the rate of a step from here.
            schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Loads like `Trainer`. A process that the checkpoint does not know gets a state from seed, step and rank."""
        if checkpoint is not None:
            name = "rng_state.pth"
            if self.args.world_size > 1:
                name = f"rng_state_{self.args.process_index}.pth"
            if not (Path(checkpoint) / name).exists():
                seed = self.args.seed + 1_000_003 * self.state.global_step + self.args.process_index
                set_seed(seed % 2**32)
                return
        super()._load_rng_state(checkpoint)

    # Counting

    def get_train_dataloader(self) -> DataLoader:
        """Returns a loader like `Trainer`, whose batches say how many rows they have lost."""
        collator = self.data_collator
        counted: Any = CountedRows(collator)
        self.data_collator = counted
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Reads the micro-batches of a step like `Trainer`, and counts their rows: the last of an epoch has fewer."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        # Batches that were read ahead, or again after a resume, do not come here: only rows of steps are counted.
        self.batch_counts = [take_counts(batch) for batch in batches]
        for counts in self.batch_counts:
            self._rows_in_training += counts.rows
            self._skipped_in_training += counts.skipped
        most = self.args.max_bad_fraction
        check_bad_fraction(self._skipped_in_training, self._rows_in_training, most, "the rows of the training batches")
        return batches, num_items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Trains on one micro-batch like `Trainer`, and adds up the loss of the leg."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.max_bad_steps:
            # Steps that are passed over do not count in the mean.
            loss = loss.nan_to_num(0, 0, 0)
        if self._leg_loss is None:
            # float64 where the device has it: the sum may run over millions of steps.
            dtype = torch.float64 if loss.device.type in ("cpu", "cuda") else torch.float32
            self._leg_loss = torch.zeros((), dtype=dtype, device=loss.device)
        self._leg_loss += loss
        return loss


class _LegStart(TrainerCallback):
    """Restores the open log record when the Trainer has set its sums to zero, and starts the clock of the leg."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs before the first step of a leg."""
        self.trainer.restore_open_record()
        self.trainer.progress.restart_clock()


def _settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """Returns the decay, betas, … of a parameter group of an optimizer. The schedule has its learning rate."""
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


__all__ = ["ResumableTrainer"]
