"""Training steps: equal to a CPU's, by size of the batch, by kernel, and without a wait for the device."""

from typing import Any

import torch
from reference_step import reference_loss
from step_costs import count_flops
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from training_step import build

from .bench import HALF, Bench, Call, short_error


# Groups of kernels by words in their names. The first group that fits counts.
_KERNEL_GROUPS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "matrix products": ("gemm", "cutlass", "nvjet", "mm"),
    "layer norm": ("layer_norm", "LayerNorm"),
    "copies and casts": ("copy", "Memcpy", "Memset", "cast"),
    "sums": ("reduce",),
    "indexing": ("index", "gather", "scatter", "embedding"),
    "optimiser": ("adam", "multi_tensor"),
    "element by element": ("elementwise", "triton"),
}
# A larger batch than this is measured if there is time for it.
_LARGE_BATCH, _SECONDS_FOR_LARGE = 64, 240
# The step of the reference needs several times the memory: above this size it is left out.
_LARGEST_REFERENCE = 64


def measure_parity(bench: Bench) -> dict[str, Any]:
    """Compares loss and gradients on the device, in float32 and bfloat16, with those of a CPU in float32."""
    on_cpu = build(bench.preset, "cpu")
    batch = bench.batch(2).package
    cpu_batch = {}
    for name, value in batch.items():
        cpu_batch[name] = value.to("cpu") if hasattr(value, "to") else value
    on_cpu(**cpu_batch).loss.backward()
    expected = _gradients(on_cpu)
    result = bench.open_result()
    for name, dtype in (("float32", None), ("bfloat16", HALF)):
        loss = bench.step(bench.model, lambda: bench.model(**batch).loss, dtype=dtype)()
        found = _gradients(bench.model)
        difference = sum((found[name] - expected[name]).square().sum() for name in expected)
        size = sum(gradient.square().sum() for gradient in expected.values())
        result[name] = {
            "loss": loss.item(),
            "loss_on_cpu": on_cpu(**cpu_batch).loss.item(),
            "relative_error_of_gradients": float((difference / size).sqrt()),
        }
    return result


def _gradients(model: Any) -> dict[str, Tensor]:
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.double().cpu()
    return gradients


def measure_step_sizes(bench: Bench) -> dict[str, Any]:
    """Times the step of the package (bfloat16, fused AdamW) and of the reference by the number of images."""
    result = bench.open_result()
    for size in bench.sized((64, 8, 16, 32, 128, 256), (2,)):
        if size > _LARGE_BATCH and bench.seconds_left < _SECONDS_FOR_LARGE:
            result[str(size)] = "no time left"
        else:
            try:
                result[str(size)] = _measure_size(bench, size)
            except RuntimeError as error:
                # Most likely the memory is too small for this one.
                result[str(size)] = short_error(error)
    return result


def _measure_size(bench: Bench, size: int) -> dict[str, Any]:
    model, batch = bench.model, bench.batch(size)
    optimizer = bench.optimizer(model)
    step = bench.step(model, lambda: model(**batch.package).loss, optimizer)
    _, flops = count_flops(lambda mark: step())
    measured = bench.measured(step)
    tflops = flops / measured["median"] / 1e9
    measured |= {
        "images_per_second": round(1e3 * size / measured["median"], 3),
        "gflop": round(flops / 1e9, 1),
        "tflops": round(tflops, 3),
        "share_of_matmul_rate": round(tflops / bench.results["machine"]["matmul_bfloat16_tflops"], 3),
        "tokens": batch.tokens,
    }
    if size <= _LARGEST_REFERENCE:
        reference = bench.step(model, lambda: reference_loss(model, **batch.reference), optimizer)
        measured["reference"] = bench.measured(reference, rounds=5, warm_up=2)
        measured["times_as_fast"] = round(measured["reference"]["median"] / measured["median"], 2)
    return measured


def measure_kernels(bench: Bench) -> dict[str, Any]:
    """Lists the kernels of a step of the package by group and by name."""
    batch = bench.batch().package
    return kernels_of(bench, bench.step(bench.model, lambda: bench.model(**batch).loss, bench.optimizer(bench.model)))


def kernels_of(bench: Bench, call: Call, top: int = 30) -> dict[str, Any]:
    """
    Profiles a call.

    Returns:
        The number of kernels, the milliseconds in which one runs, both by group, and the `top` kernels by time.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.is_cuda else [])]
    call()
    bench.synchronize()
    with profile(activities=activities) as profiled:
        call()
        bench.synchronize()
    kernels = []
    for event in profiled.key_averages():
        is_kernel = str(event.device_type).endswith("CUDA") == bench.is_cuda
        microseconds = event.self_device_time_total if bench.is_cuda else event.self_cpu_time_total
        if is_kernel and microseconds:
            kernels.append((event.key, event.count, microseconds / 1e3))
    kernels.sort(key=lambda kernel: -kernel[2])
    groups: dict[str, list[float]] = {}
    for name, count, milliseconds in kernels:
        group = groups.setdefault(_group_of(name), [0, 0.0])
        group[0] += count
        group[1] += milliseconds
    return {
        "kernels": sum(count for _, count, _ in kernels),
        "milliseconds": round(sum(milliseconds for _, _, milliseconds in kernels), 3),
        "groups": {name: [count, round(milliseconds, 3)] for name, (count, milliseconds) in groups.items()},
        "top": [[name[:110], count, round(milliseconds, 3)] for name, count, milliseconds in kernels[:top]],
    }


def _group_of(kernel: str) -> str:
    for group, words in _KERNEL_GROUPS.items():
        if any(word in kernel for word in words):
            return group
    return "other"


def check_waits(bench: Bench) -> str:
    """Takes a step that must not wait for the device. torch raises an error if it does."""
    batch = bench.batch().package
    step = bench.step(bench.model, lambda: bench.model(**batch).loss, bench.optimizer(bench.model))
    step()
    if not bench.is_cuda:
        return "not checked: there is no GPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no wait"
