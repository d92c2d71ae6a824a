"""What the machine can do at best: matrix products, copies, and the start of a kernel."""

import os
from typing import Any

import torch
from report import machine

from .bench import Bench


def measure_machine(bench: Bench) -> dict[str, Any]:
    """Measures the rate of large matrix products and of copies, and the time that a kernel takes to start."""
    side = bench.sized(8192, 512)
    result = bench.open_result()
    result |= {**machine(bench.device), "cuda": torch.version.cuda, "cpus": len(os.sched_getaffinity(0))}
    for name, dtype, uses_tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
        result[f"matmul_{name}_tflops"] = _matmul_tflops(bench, side, dtype, uses_tf32)
    source = torch.randn(bench.sized(2**29, 2**20), device=bench.device)
    target = torch.empty_like(source)
    milliseconds = bench.timed(lambda: target.copy_(source))["min"]
    # Each number is read once and written once.
    result["copy_tb_per_second"] = round(2 * source.nbytes / milliseconds / 1e9, 2)
    result["kernel_start_us"] = _kernel_start_us(bench)
    if bench.is_cuda:
        pinned = torch.empty(2**27, dtype=torch.uint8).pin_memory()
        milliseconds = bench.timed(lambda: pinned.to(bench.device, non_blocking=True))["min"]
        result["pinned_gb_per_second"] = round(pinned.nbytes / milliseconds / 1e6, 1)
    return result


def _matmul_tflops(bench: Bench, side: int, dtype: torch.dtype, uses_tf32: bool) -> float:
    left, right = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = uses_tf32
    try:
        milliseconds = bench.timed(lambda: left @ right)["min"]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return round(2 * side**3 / milliseconds / 1e9, 4)


def _kernel_start_us(bench: Bench) -> float:
    count = 1000
    number = torch.zeros(1, device=bench.device)

    def many_small_kernels() -> None:
        for _ in range(count):
            number.add_(1)

    return round(1e3 * bench.timed(many_small_kernels)["min"] / count, 2)
