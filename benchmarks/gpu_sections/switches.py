"""The training step with one thing changed: checkpointing, precision, optimiser, attention, compilation."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from step_variants import RECOMPUTED, recomputed
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from beta_clip_hf.model.attention_beta_clip import VARLEN_MODULE, varlen_attention

from .bench import HALF, Bench, Call, short_error
from .steps import kernels_of


_BACKENDS = {
    "math": [SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION],
    "flash or efficient": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
    "cuDNN or efficient": [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
}
_SECONDS_TO_COMPILE = 90


def measure_switches(bench: Bench) -> dict[str, Any]:
    """Times the step with one switch changed. `time_ratio` is relative to the plain step."""
    model, batch = bench.model, bench.batch().package
    optimizer = bench.optimizer(model)

    def within(
        context: Callable[[], AbstractContextManager[Any]], dtype: Any = HALF, optimizer: Any = optimizer
    ) -> Call:
        step = bench.step(model, lambda: model(**batch).loss, optimizer, dtype)

        def take_step() -> None:
            with context():
                step()

        return take_step

    ways = {"plain": within(nullcontext)}
    for name, towers in RECOMPUTED.items():
        if towers:
            ways[f"checkpointing: {name}"] = within(recomputed(model, towers))
    ways["float32"] = within(nullcontext, dtype=None)
    ways["float32 with tf32"] = within(_tf32, dtype=None)
    ways["no optimiser"] = within(nullcontext, optimizer=None)
    ways["AdamW, foreach"] = within(nullcontext, optimizer=bench.optimizer(model, foreach=True))
    for name, backends in _BACKENDS.items():
        ways[f"attention: {name}"] = within(lambda backends=backends: sdpa_kernel(backends))
    result = bench.open_result()
    for name, call in ways.items():
        try:
            result[name] = bench.measured(call, rounds=7, warm_up=2)
        except RuntimeError as error:
            # Not every machine has every backend.
            result[name] = short_error(error)
    result["all weights in bfloat16"] = _all_in_half_precision(bench)
    plain = result["plain"]["median"]
    for measured in result.values():
        if isinstance(measured, dict):
            measured["time_ratio"] = round(measured["median"] / plain, 3)
    return result


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _all_in_half_precision(bench: Bench) -> dict[str, Any]:
    model = bench.new_model().to(HALF)
    batch = bench.batch().package
    batch = batch | {"pixel_values": batch["pixel_values"].to(HALF)}
    step = bench.step(model, lambda: model(**batch).loss, bench.optimizer(model), dtype=None)
    return bench.measured(step, rounds=7, warm_up=2)


def measure_compiled(bench: Bench) -> dict[str, Any]:
    """Times the compiled step, with and without CUDA graphs, at the size of other sections and at a small one."""
    result = bench.open_result()
    for size in bench.sized((bench.batch_size, 8), (2,)):
        for mode in ("default", "reduce-overhead"):
            name = f"{mode}, {size} images"
            if bench.seconds_left < _SECONDS_TO_COMPILE and not bench.is_smoke:
                result[name] = "no time left"
                continue
            try:
                result[name] = _compiled_step(bench, size, mode)
            except Exception as error:
                # A compiler has many ways to fail, and the other modes are wanted all the same.
                result[name] = short_error(error)
    return result


def _compiled_step(bench: Bench, size: int, mode: str) -> dict[str, Any]:
    torch._dynamo.reset()
    model = bench.new_model()
    batch = bench.batch(size).package
    plain = bench.timed(bench.step(model, lambda: model(**batch).loss))
    compiled = torch.compile(model, mode=mode)
    step = bench.step(model, lambda: compiled(**batch).loss)
    start = time.perf_counter()
    step()
    bench.synchronize()
    seconds = time.perf_counter() - start
    measured = bench.measured(step)
    return {
        "seconds_to_compile": round(seconds, 1),
        **measured,
        "time_ratio": round(measured["median"] / plain["median"], 3),
        "kernels": kernels_of(bench, step, top=12),
    }


def measure_varlen(bench: Bench) -> dict[str, Any] | str:
    """Compares attention within packed texts, by a mask and by torch's kernel for variable lengths, both passes."""
    if find_spec(VARLEN_MODULE) is None:
        return f"not measured: this torch has no {VARLEN_MODULE}"
    if not bench.is_cuda:
        return "not measured: the kernel needs a GPU"
    packing = bench.batch().package["plan"].packing
    text_FC = packing.text_FC
    num_rows, num_columns = text_FC.shape
    heads, width = 8, 64
    starts = packing.start_V.to(torch.int32)
    module = bench.model.text_model.encoder.layers[0].self_attn
    is_earlier_CC = torch.ones(num_columns, num_columns, dtype=torch.bool, device=text_FC.device).tril()
    mask_F1CC = ((text_FC[:, :, None] == text_FC[:, None, :]) & is_earlier_CC)[:, None]
    # One row of all places, as transformers' interface passes it.
    packed = [_rows(bench, 1, heads, num_rows * num_columns, width) for _ in range(3)]
    padded = [_rows(bench, num_rows, heads, num_columns, width) for _ in range(3)]

    def by_varlen() -> None:
        attended, _ = varlen_attention(module, *packed, None, cu_seq_lens_q=starts, max_length_q=num_columns)
        attended.sum().backward()

    def by_mask() -> None:
        F.scaled_dot_product_attention(*padded, attn_mask=mask_F1CC).sum().backward()

    return {"places": num_rows * num_columns, "varlen": bench.measured(by_varlen), "mask": bench.measured(by_mask)}


def _rows(bench: Bench, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=bench.device, dtype=HALF, requires_grad=True)
