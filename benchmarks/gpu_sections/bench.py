"""What all sections share: the device, the model, a clock that knows of the device's queue, and the peak of memory."""

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from step_batch import Batch, make_batch
from torch import Tensor
from training_step import build

from beta_clip_hf import BetaCLIPModel


Call = Callable[[], Any]
HALF = torch.bfloat16


class OutOfTime(BaseException):
    """
    Raised where a section has used up its time.

    It is no `Exception`, because compilers wrap these in errors of their own, and sections go on after some of them.
    """


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises [`OutOfTime`] in the block once it has taken so long: between two operators, or while it waits."""

    def stop(signal_number: int, frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    # And again every few seconds, for a section that goes on after the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Bench:
    """
    Holds what the sections share.

    Args:
        device: "cuda" or "cpu".
        preset: Name of a model of training_step.py.
        is_smoke: Whether the sizes are tiny, to see that everything runs.
        seconds: Seconds that all sections may take together.
        batch_size: Images of a step, where a section does not vary them.
    """

    device: str
    preset: str
    is_smoke: bool
    seconds: float
    batch_size: int
    start: float = field(default_factory=time.perf_counter)
    results: dict[str, Any] = field(default_factory=dict)
    """What the sections have returned so far, by their names."""
    partial: dict[str, Any] = field(default_factory=dict)
    """What the present section has measured so far: it stays if the section fails or has no more time."""
    _model: BetaCLIPModel | None = None

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    @property
    def seconds_left(self) -> float:
        """Returns the seconds until the time of all sections is over."""
        return self.seconds - (time.perf_counter() - self.start)

    def open_result(self) -> dict[str, Any]:
        """Returns an empty result for a section to fill, see `partial`."""
        self.partial = {}
        return self.partial

    @property
    def model(self) -> BetaCLIPModel:
        """Returns the model of the preset, in training mode. It is made once."""
        if self._model is None:
            self._model = build(self.preset, self.device)
        return self._model

    def new_model(self) -> BetaCLIPModel:
        """Returns another model with the same weights."""
        return build(self.preset, self.device)

    def batch(self, batch_size: int | None = None) -> Batch:
        """Returns a batch on the device; of `self.batch_size` images if no number is given."""
        return make_batch(batch_size or self.batch_size, self.model.config.vision_config.image_size, self.device)

    def sized(self, full: Any, smoke: Any) -> Any:
        """Returns a size for a whole run, or the one for a try."""
        return smoke if self.is_smoke else full

    def synchronize(self) -> None:
        """Waits until the device has done all that was asked of it."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """Returns the context of mixed precision; `None` stands for float32."""
        return torch.autocast(self.device, dtype or HALF, enabled=dtype is not None)

    def timed(self, call: Call, rounds: int = 10, warm_up: int = 3) -> dict[str, float]:
        """
        Times a call.

        Returns:
            Milliseconds: median, minimum and maximum until the device is done, and `host`, the median until the call
            returns, which is what the host takes to queue the work.
        """
        rounds, warm_up = self.sized((rounds, warm_up), (2, 1))
        for _ in range(warm_up):
            call()
        self.synchronize()
        until_done, until_queued = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            until_queued.append(1e3 * (time.perf_counter() - start))
            self.synchronize()
            until_done.append(1e3 * (time.perf_counter() - start))
        return {
            "median": round(statistics.median(until_done), 3),
            "min": round(min(until_done), 3),
            "max": round(max(until_done), 3),
            "host": round(statistics.median(until_queued), 3),
        }

    def peak_mib(self, call: Call) -> int | None:
        """Returns the peak of memory of a call above what is there before, in MiB. `None` without a GPU."""
        if not self.is_cuda:
            return None
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20)

    def measured(self, call: Call, rounds: int = 10, warm_up: int = 3) -> dict[str, Any]:
        """Returns the times of a call, see [`timed`], with its peak of memory."""
        return {**self.timed(call, rounds, warm_up), "peak_mib": self.peak_mib(call)}

    def step(
        self,
        model: Any,
        compute_loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer | None = None,
        dtype: torch.dtype | None = HALF,
    ) -> Callable[[], Tensor]:
        """Returns a training step: gradients are cleared, loss and gradients computed, and the optimiser steps."""

        def take_step() -> Tensor:
            model.zero_grad(set_to_none=True)
            with self.autocast(dtype):
                loss = compute_loss()
            loss.backward()
            if optimizer is not None:
                optimizer.step()
            return loss.detach()

        return take_step

    def optimizer(self, model: Any, **options: Any) -> torch.optim.Optimizer:
        """Returns AdamW as the Trainer makes it on this device. A learning rate of 0 costs the same, and keeps the
        weights."""
        return torch.optim.AdamW(model.parameters(), lr=0.0, **(options or {"fused": True}))


def short_error(error: Exception) -> str:
    """Returns the kind of an error with the beginning of its message, for a way that a machine does not have."""
    return f"{type(error).__name__}: {str(error)[:200]}"
