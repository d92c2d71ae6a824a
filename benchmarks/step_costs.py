"""The costs of a training step that a clock does not show: floating-point operations and memory."""

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from step_variants import Step
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from beta_clip_hf import BetaCLIPModel


BACKWARD = "backward pass"


class TensorBytes(NamedTuple):
    """Bytes of tensors above the weights."""

    kept: int
    """Those alive before the backward pass."""
    peak: int
    """The most alive at any time, gradients included."""


def count_flops(step: Step) -> tuple[float, int]:
    """Returns the loss of a step, and the operations of its matrix products and attention in both passes."""

    def forward_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward_flops(
        gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
    ) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    # torch counts the attention kernels of a GPU only.
    cpu_kernels = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=cpu_kernels) as counter:
        loss = step(lambda: None)
    return loss.item(), counter.get_total_flops()


def tensor_bytes(model: BetaCLIPModel, step: Step) -> TensorBytes:
    """Measures the tensors of a step."""
    model.zero_grad()
    if model.device.type == "cuda":
        return _cuda_tensor_bytes(step)
    return _cpu_tensor_bytes(step)


def _cuda_tensor_bytes(step: Step) -> TensorBytes:
    before = torch.cuda.memory_allocated()
    alive: list[int] = []
    torch.cuda.reset_peak_memory_stats()
    step(lambda: alive.append(torch.cuda.memory_allocated()))
    return TensorBytes(max(alive) - before, torch.cuda.max_memory_allocated() - before)


def _cpu_tensor_bytes(step: Step) -> TensorBytes:
    def mark() -> None:
        with record_function(BACKWARD):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(mark)
    # Only the trace has the allocations and the mark in the order of their time.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = sorted(json.loads(path.read_text())["traceEvents"], key=lambda event: event.get("ts", 0))
    alive, kept, peak = 0, 0, 0
    for event in events:
        if event.get("name") == "[memory]":
            alive += event["args"]["Bytes"]
            peak = max(peak, alive)
        elif event.get("name") == BACKWARD:
            kept = max(kept, alive)
    return TensorBytes(kept, peak)


def reset_peak_of_process() -> None:
    """Makes the present memory of this process its peak. A new process begins with the peak of its parent."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_of_process(field: str) -> int:
    """Returns bytes of this process: "VmRSS" for the present ones, "VmHWM" for the peak."""
    status = Path("/proc/self/status").read_text()
    kibibytes = status.split(f"{field}:")[1].split()[0]
    return int(kibibytes) * 1024
