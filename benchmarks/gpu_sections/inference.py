"""Encoding of images and texts, and text-conditioned scores of pairs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from beta_clip_hf import TextConditionedPooler

from .bench import HALF, Bench


_PATCHES, _SHORTLIST = 196, 50


def measure_encoding(bench: Bench) -> dict[str, Any]:
    """Counts images and texts per second without gradients, of the package and of transformers' CLIPModel."""
    model = bench.model.eval()
    plain = CLIPModel(CLIPConfig(**_clip_settings(model.config))).to(bench.device).eval()
    batch = bench.batch().package
    input_ids, packing = batch["input_ids"], batch["plan"].packing
    size = model.config.vision_config.image_size
    pixel_values = torch.randn(bench.sized(256, 2), 3, size, size, device=bench.device)
    calls = {
        "images, CLS": (len(pixel_values), lambda: model.get_image_features(pixel_values)),
        "images, patch features": (len(pixel_values), lambda: model.get_patch_features(pixel_values)),
        "images, CLIPModel": (len(pixel_values), lambda: plain.get_image_features(pixel_values)),
        "texts, packed": (len(input_ids), lambda: model.encode_texts(input_ids, None, packing)),
        "texts, CLIPModel, padded": (len(input_ids), lambda: plain.get_text_features(input_ids)),
    }
    result = bench.open_result()
    for dtype_name, dtype in (("bfloat16", HALF), ("float32", None)):
        for name, (count, call) in calls.items():
            with torch.inference_mode(), bench.autocast(dtype):
                milliseconds = bench.timed(call, rounds=5, warm_up=2)["median"]
            result[f"{name}, {dtype_name}"] = round(1e3 * count / milliseconds)
    model.train()
    return result


def _clip_settings(config: Any) -> dict[str, Any]:
    """Returns the settings of a plain CLIP with the same towers."""
    return {
        "text_config": config.text_config.to_dict(),
        "vision_config": config.vision_config.to_dict(),
        "projection_dim": config.projection_dim,
    }


class Scored(NamedTuple):
    """What is scored: all pairs of B images and T texts, and a shortlist of K texts for each image."""

    pooler: TextConditionedPooler
    patches_BPD: Tensor
    texts_TD: Tensor
    image_index_B1: Tensor
    text_index_BK: Tensor


def measure_pairs(bench: Bench) -> dict[str, Any]:
    """Times `score_pairs` and `score_candidates`: microseconds per pair by precision and by pairs at a time."""
    result = bench.open_result()
    for dtype in (torch.float32, HALF):
        scored = _make_pairs(bench, dtype)
        for chunk_size in bench.sized((8_192, 32_768, 131_072), (1_024,)):
            name = f"{str(dtype).removeprefix('torch.')}, {chunk_size} pairs at a time"
            result[name] = _microseconds_per_pair(bench, scored, chunk_size)
    return result


def _make_pairs(bench: Bench, dtype: torch.dtype) -> Scored:
    count, width, device = bench.sized(1024, 32), bench.model.config.projection_dim, bench.device
    return Scored(
        bench.new_model().pooler.eval().to(dtype),
        torch.randn(count, _PATCHES, width, device=device, dtype=dtype),
        torch.randn(count, width, device=device, dtype=dtype),
        torch.arange(count, device=device)[:, None],
        torch.randint(count, (count, _SHORTLIST), device=device),
    )


def _microseconds_per_pair(bench: Bench, scored: Scored, chunk_size: int) -> dict[str, float]:
    pooler, patches_BPD, texts_TD, image_index_B1, text_index_BK = scored

    def score_all() -> None:
        pooler.score_pairs(patches_BPD, texts_TD, chunk_size=chunk_size)

    def score_shortlists() -> None:
        pooler.score_candidates(patches_BPD, texts_TD, image_index_B1, text_index_BK, chunk_size=chunk_size)

    num_images = len(patches_BPD)
    result = {}
    with torch.inference_mode():
        for name, call, num_texts in (
            ("all_pairs_us", score_all, len(texts_TD)),
            ("shortlists_us", score_shortlists, _SHORTLIST),
        ):
            milliseconds = bench.timed(call, rounds=3, warm_up=1)["median"]
            result[name] = round(1e3 * milliseconds / num_images / num_texts, 4)
    return result
