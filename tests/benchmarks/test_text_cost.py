"""The operations that the benchmark counts are those that torch counts while a text tower runs."""

import importlib

import torch
from torch.utils.flop_counter import FlopCounterMode

from beta_clip_hf.model.batch_beta_clip import BatchTexts
from beta_clip_hf.model.text_rows_beta_siglip2 import plan_batch_rows
from model.siglip2_batches import GRANULARITY, LONG, SHORT, TOWER, flat_batch, tiny_model


@torch.no_grad()
def test_operations_are_counted_as_torch_counts_them():
    text_cost = importlib.import_module("benchmarks.text_cost")
    model = tiny_model()
    model.set_attn_implementation("eager")
    ids = flat_batch()["input_ids"]
    rows = plan_batch_rows(BatchTexts(ids), GRANULARITY, model.config)
    with FlopCounterMode(display=False) as counter:
        model.encode_texts(ids, rows)
    tower = text_cost.Tower(TOWER["hidden_size"], TOWER["intermediate_size"], TOWER["num_hidden_layers"])
    blocks = text_cost.siglip2_cost(len(rows.short_U), SHORT, last_only=True, tower=tower)
    blocks += text_cost.siglip2_cost(len(rows.long_U), LONG, last_only=True, tower=tower)
    num_heads = len(rows.short_head_U) + len(rows.box_head_U) + len(rows.long_U)
    # torch counts a multiplication and an addition as two.
    assert counter.get_total_flops() == 2 * (blocks + num_heads * tower.width**2)

    plain = ids[:3, :SHORT]
    with FlopCounterMode(display=False) as counter:
        model.get_text_features(plain)
    whole = text_cost.siglip2_cost(3, SHORT, last_only=False, tower=tower)
    assert counter.get_total_flops() == 2 * (whole + 3 * tower.width**2)
