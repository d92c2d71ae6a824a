"""An exponential moving average (EMA) of the weights: kept while training, evaluated, saved and resumed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ..arguments import AVERAGE_DIR, BetaCLIPTrainingArguments


_HALF = (torch.float16, torch.bfloat16)


class WeightAverage:
    r"""
    Averages the weights that are trained: ema ← d · ema + (1 − d) · weight after each step, from their first values.

    Args:
        model: The model. Weights that are frozen are their own average, and are not copied.
        decay: d.

    Raises:
        ValueError: if weights have half precision, where 1 − d would be rounded away.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        half = {str(weight.dtype).removeprefix("torch.") for weight in trained if weight.dtype in _HALF}
        if half:
            raise ValueError(
                f"ema_decay needs weights in float32, but the model has {', '.join(sorted(half))}: load it with "
                "dtype=float32 (bf16 and fp16 of the training still compute in half precision)"
            )
        # The list holds the parameters of the model themselves.
        self.weights = nn.ParameterList(trained)
        self.averaged = AveragedModel(self.weights, multi_avg_fn=get_ema_multi_avg_fn(decay))
        # The first update copies the present values.
        self.update()

    def update(self) -> None:
        """Takes the present weights into the average. Processes with equal weights keep equal averages."""
        self.averaged.update_parameters(self.weights)

    @torch.no_grad()
    def take(self) -> None:
        """Sets the average to the present weights."""
        for averaged, weight in zip(self.averaged.module.parameters(), self.weights, strict=True):
            averaged.copy_(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards its own, bit for bit."""
        with self.restored():
            with torch.no_grad():
                for averaged, weight in zip(self.averaged.module.parameters(), self.weights, strict=True):
                    weight.copy_(averaged)
            yield

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Within it the weights of the model may change; afterwards they are what they were, bit for bit."""
        kept = [weight.detach().clone() for weight in self.weights]
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, kept, strict=True):
                    weight.copy_(value)


class AveragingTrainer(Trainer):
    """
    Keeps an average of the weights if `args.ema_decay` is above 0.

    Attributes:
        average: The [`WeightAverage`] since the training began; `None` without one.

    Raises:
        ValueError: if there is to be an average with FSDP or DeepSpeed.
    """

    args: BetaCLIPTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.ema_decay and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("ema_decay must be 0 with FSDP and DeepSpeed, which divide the weights; use DDP")
        self.average: WeightAverage | None = None
        self._has_averaged_weights = False

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """
        Within it the model has the averaged weights: `evaluate`, `save_model` and all else work with them.

        Raises:
            ValueError: if there is no average.
        """
        if self.average is None:
            raise ValueError("ema_decay must be above 0, and the training must have begun, for averaged weights")
        with self.average.applied():
            self._has_averaged_weights = True
            try:
                yield
            finally:
                self._has_averaged_weights = False

    def start_average(self, checkpoint: str | None) -> None:
        """
        Starts the average from the present weights, or continues that of a checkpoint.

        Raises:
            ValueError: if the checkpoint holds no average.
        """
        self.average = WeightAverage(self.model, self.args.ema_decay)
        if checkpoint is not None:
            self._load_average(Path(checkpoint))

    def _load_average(self, checkpoint: Path) -> None:
        assert self.average is not None
        folder = checkpoint / AVERAGE_DIR
        if not folder.is_dir():
            raise ValueError(
                f"{checkpoint} must hold averaged weights ({AVERAGE_DIR}/) for ema_decay, but does not: continue "
                "without ema_decay, or begin anew"
            )
        # The model reads the average as it reads its own weights, so that adapters work alike.
        with self.average.restored():
            self._load_from_checkpoint(str(folder))
            self.average.take()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the weights of a checkpoint like `Trainer`."""
        adapted: Any = self.model if model is None else model
        has_average = (Path(resume_from_checkpoint) / AVERAGE_DIR).is_dir()
        if has_average and hasattr(adapted, "peft_config"):
            # transformers would take the directory of the average for that of a second adapter.
            adapted.load_adapter(resume_from_checkpoint, adapted.active_adapter, is_trainable=True)
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """Loads the best checkpoint like `Trainer`, and its average."""
        super()._load_best_model()
        if self.average is not None:
            self._load_average(Path(str(self.state.best_model_checkpoint)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model like `Trainer`, and the averaged one in the directory `ema` beside it."""
        if self.average is not None and not self._has_averaged_weights:
            with self.averaged_weights():
                super().save_model(str(Path(output_dir or self.args.output_dir) / AVERAGE_DIR), _internal_call=True)
        # The model comes last, because it may be pushed to the Hub.
        super().save_model(output_dir, _internal_call)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates. With `args.evaluate_ema` the averaged weights are evaluated too: `{prefix}_ema_t2i_r1`, …."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        is_due = self.args.evaluate_ema and self.average is not None and not self._has_averaged_weights
        # Each of several data sets comes here by itself.
        if is_due and not isinstance(rows, dict):
            with self.averaged_weights():
                metrics.update(super().evaluate(eval_dataset, ignore_keys, f"{metric_key_prefix}_{AVERAGE_DIR}"))
        return metrics


class Averaging(TrainerCallback):
    """Starts the average of the weights when the training begins, and updates it after each optimiser step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts from the weights, or from the average of the checkpoint that is resumed."""
        checkpoint = self.trainer.last_checkpoint if state.global_step > 0 else None
        self.trainer.start_average(checkpoint)

    def on_optimizer_step(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Updates the average."""
        self.trainer.average.update()


__all__ = ["Averaging", "AveragingTrainer", "WeightAverage"]
