"""Codes of 8 bits or of one bit by which an index finds candidates, which are then compared with their floats."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..inference.quantization import quantize


# So many candidates are fetched for each image that is asked for. Signs alone tell neighbours from one another less
# well. `benchmarks/search.py` measures the recall of both numbers.
CANDIDATES = {"int8": 4, "binary": 20}
# Codes become floats block by block, as all of them may not fit into memory.
_BLOCK = 4096


def code_type(precision: str, width: int) -> Any:
    """Returns the Arrow type of the code of an embedding of a width; `None` for float32, which has no codes."""
    # pyarrow comes with LanceDB.
    import pyarrow as pa

    if precision == "int8":
        return pa.list_(pa.int8(), width)
    if precision == "binary":
        # LanceDB compares bits of bytes without a sign.
        return pa.list_(pa.uint8(), -(-width // 8))
    return None


def codes_of(embeds_GD: np.ndarray, precision: str) -> np.ndarray:
    """
    Rounds embeddings to codes.

    Args:
        embeds_GD: (G, D) float32, normalised.
        precision: "int8": the largest number of each embedding becomes 127 or -127, and the others are in proportion.
            This needs no calibration, so that a collection may grow, and keeps cosines. "binary": the signs, as
            [`quantize`] packs them.

    Returns:
        (G, D) int8, or (G, ⌈D / 8⌉) uint8.
    """
    if precision == "binary":
        # An int8 of `quantize` is its byte minus 128: the same bits but for the highest.
        return quantize(torch.from_numpy(np.ascontiguousarray(embeds_GD)), precision).numpy().view(np.uint8) ^ 128
    largest_G1 = np.abs(embeds_GD).max(axis=1, keepdims=True)
    return np.round(127 * embeds_GD / np.maximum(largest_G1, 1e-12)).astype(np.int8)


def best_by_int8(batches: Iterable[Any], query_D: np.ndarray, count: int) -> list[str]:
    """
    Returns the keys of the images whose codes of 8 bits have the highest cosines with a query, in any order.

    Args:
        batches: Arrow batches with the columns `image` and `codes`.
        query_D: (D,) float32, of any length except 0.
        count: The largest number of keys.
    """
    keys: list[str] = []
    scores: list[np.ndarray] = []
    for batch in batches:
        codes_GD = batch["codes"].flatten().to_numpy().reshape(-1, len(query_D))
        for start in range(0, len(codes_GD), _BLOCK):
            block_GD = codes_GD[start : start + _BLOCK].astype(np.float32)
            scores.append(block_GD @ query_D / np.linalg.norm(block_GD, axis=1))
        keys += batch["image"].to_pylist()
    if not keys:
        return []
    scores_G = np.concatenate(scores)
    best = np.argsort(-scores_G, kind="stable")[:count]
    return [keys[place] for place in best]


__all__ = ["CANDIDATES", "best_by_int8", "code_type", "codes_of"]
