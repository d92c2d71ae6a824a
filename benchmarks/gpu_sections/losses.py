"""β-CAL by the number of texts: dense, and tile by tile with tiles of several sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F

from beta_clip_hf.model import logit_tiles_beta_clip, paired_rows_beta_clip
from beta_clip_hf.model.loss_beta_clip import beta_cal_loss

from .bench import Bench, Call


_TEXTS_OF_IMAGE, _WIDTH = 36, 512
# T² logits and their gradients fit into memory up to here.
_LARGEST_DENSE = 40_000
_TILES = (1024, 2048, 4096)


def measure_losses(bench: Bench) -> dict[str, Any]:
    """Times loss and gradients. `T KIND WAY` names a result: WAY is "dense" or the side of a tile."""
    result = bench.open_result()
    for num_texts in bench.sized((1_152, 2_304, 9_216, 36_864, 131_072), (288,)):
        for kind in ("ce", "bce"):
            call = _loss(bench, num_texts, kind)
            if num_texts <= _LARGEST_DENSE:
                with _ways(dense=True):
                    result[f"{num_texts} {kind} dense"] = bench.measured(call, rounds=5, warm_up=2)
            for tile in _TILES:
                with _ways(dense=False, tile=tile):
                    result[f"{num_texts} {kind} {tile}"] = bench.measured(call, rounds=5, warm_up=2)
    return result


def _loss(bench: Bench, num_texts: int, kind: str) -> Call:
    pooled_TD, texts_TD = (
        F.normalize(torch.randn(num_texts, _WIDTH, device=bench.device), dim=-1).requires_grad_() for _ in range(2)
    )
    image_index_T = torch.arange(num_texts, device=bench.device) // _TEXTS_OF_IMAGE
    logit_scale = torch.tensor(50.0, device=bench.device)

    def call() -> None:
        pooled_TD.grad = texts_TD.grad = None
        beta_cal_loss(pooled_TD, texts_TD, image_index_T, logit_scale=logit_scale, kind=kind).backward()

    return call


@contextmanager
def _ways(*, dense: bool, tile: int = 2048) -> Iterator[None]:
    """Computes dense losses whatever their size, or tiled ones with tiles of a size."""
    limit = 1 << 62 if dense else 0
    with (
        patch.object(paired_rows_beta_clip, "DENSE_LIMIT", limit),
        patch.object(logit_tiles_beta_clip, "DEVICE_TILE", tile),
    ):
        yield
