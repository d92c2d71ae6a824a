"""Recall of pairs: the retrieval metric of evaluations during training."""

import torch
from torch import Tensor

from ..evaluation.metrics import concatenate_ranks, hits_at_k, match_ranks
from ..visualize.log_keys import RECALL_KS, RecallKey


# Queries that are ranked together. With this many, the scores of 50,000 images need 200 MB instead of 10 GB.
RANKED_AT_A_TIME = 1024


def retrieval_metrics(image_embeds_ID: Tensor, text_embeds_ID: Tensor, prefix: str) -> dict[str, float]:
    """
    Computes the retrieval metrics of pairs of images and texts, in both directions.

    Args:
        image_embeds_ID: Normalised embeddings of the images, (I, D).
        text_embeds_ID: Normalised embeddings of their texts, (I, D).
        prefix: Prefix of the keys.

    Returns:
        `{prefix}_i2t_r1`, `_r5`, `_r10`, `{prefix}_t2i_r1`, … in [0, 1].
    """
    metrics = {}
    for k, recall in recall_of_pairs(image_embeds_ID, text_embeds_ID).items():
        metrics[RecallKey("", "i2t", k, prefix).key] = recall
    for k, recall in recall_of_pairs(text_embeds_ID, image_embeds_ID).items():
        metrics[RecallKey("", "t2i", k, prefix).key] = recall
    return metrics


def recall_of_pairs(queries_ID: Tensor, gallery_ID: Tensor) -> dict[int, float]:
    """
    Computes recall at 1, 5 and 10 of pairs: query i belongs to gallery item i.

    The whole score matrix is never in memory at once.

    Args:
        queries_ID: Normalised embeddings of the queries, (I, D).
        gallery_ID: Normalised embeddings of the gallery items, (I, D).

    Returns:
        The recall in [0, 1] by k.
    """
    target_I = torch.arange(len(queries_ID), device=queries_ID.device)
    query_blocks = queries_ID.split(RANKED_AT_A_TIME)
    target_blocks = target_I.split(RANKED_AT_A_TIME)
    parts = []
    for block_QD, target_Q in zip(query_blocks, target_blocks, strict=True):
        scores_QG = block_QD @ gallery_ID.T
        parts.append(match_ranks(scores_QG, target_Q))
    ranks = concatenate_ranks(parts).to("cpu")
    return {k: hits_at_k(ranks, k).mean().item() for k in RECALL_KS}


__all__ = ["recall_of_pairs", "retrieval_metrics"]
