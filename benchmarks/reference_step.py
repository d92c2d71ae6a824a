"""The training step of β-CLIP as it is usually written: every text padded, every attention whole, every matrix dense.

A plain re-statement, on the weights of a `BetaCLIPModel`, of what the authors' release does in a step: caption and
sentences of all images are padded to the longest of them, phrases to the longest phrase; attention is eager; the text
tower is recomputed in the backward pass; the last vision block attends with all queries; β-CAL is made of full T × T
matrices. It gives the same loss as the package, which the benchmark asserts, and is what its speed is measured against.

Letters: B images, K texts of an image, T = B · K, L tokens, P patches, D projection width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def attention(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention with the whole matrix of weights."""
    module = layer.self_attn
    query, key, value = (
        projection(hidden).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    weights = (logits if mask is None else logits + mask).softmax(dim=-1)
    return module.out_proj((weights @ value).transpose(1, 2).flatten(-2))


def block(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    hidden = hidden + attention(layer, layer.layer_norm1(hidden), mask)
    return hidden + layer.mlp(layer.layer_norm2(hidden))


def encode_texts(model: Any, ids_NL: Tensor) -> Tensor:
    """Projected features `(N, D)` of texts padded to one length; each block is recomputed in the backward pass."""
    text, length = model.text_model, ids_NL.shape[1]
    hidden = text.embeddings(ids_NL)
    mask = torch.full((length, length), -torch.inf, device=ids_NL.device, dtype=hidden.dtype).triu(1)
    for layer in text.encoder.layers:
        hidden = checkpoint(block, layer, hidden, mask, use_reentrant=False)
    hidden = text.final_layer_norm(hidden)
    end_N = (ids_NL == text.eos_token_id).int().argmax(dim=-1)
    return model.text_projection(hidden[torch.arange(len(ids_NL), device=ids_NL.device), end_N])


def encode_images(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    vision = model.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixel_values))
    for layer in vision.encoder.layers[:-1]:
        hidden = block(layer, hidden, None)
    hidden = last_vision_block(vision.encoder.layers[-1], hidden)
    features = model.visual_projection(vision.post_layernorm(hidden))
    return features[:, 0], features[:, 1:]


def last_vision_block(layer: Any, hidden: Tensor) -> Tensor:
    """CLS attends, patches keep their own values; attention has all queries."""
    normed = layer.layer_norm1(hidden)
    values = layer.self_attn.out_proj(layer.self_attn.v_proj(normed))
    attended = attention(layer, normed, None)
    mixed = hidden + torch.cat([attended[:, :1], values[:, 1:]], dim=1)
    return mixed + layer.mlp(layer.layer_norm2(mixed))


def pool(pooler: Any, queries_BKD: Tensor, patches_BPD: Tensor) -> Tensor:
    heads = pooler.num_heads
    query, key, value = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2)
        for x in (pooler.q_proj(queries_BKD), pooler.k_proj(patches_BPD), pooler.v_proj(patches_BPD))
    )
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    attended = pooler.out_proj((weights @ value).transpose(1, 2).flatten(-2))
    return attended + pooler.fc2(pooler.activation(pooler.fc1(pooler.layer_norm(attended))))


def beta_cal(v_TD: Tensor, u_TD: Tensor, image_T: Tensor, scale: Tensor, beta: float) -> Tensor:
    """β-CAL (CE) out of full matrices: logits, masks, weights and log-probabilities of both directions."""
    same_TT = (image_T[:, None] == image_T[None, :]).float()
    own_TT = torch.eye(len(v_TD), device=v_TD.device)
    weights_TT = own_TT + beta * (same_TT - own_TT)
    weights_TT = weights_TT / weights_TT.sum(dim=1, keepdim=True)
    logits_TT = scale * v_TD @ u_TD.T
    of_images = -(weights_TT * logits_TT.log_softmax(dim=1)).sum(dim=1).mean()
    of_texts = -(weights_TT * logits_TT.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (of_images + of_texts) / 2


def reference_loss(model: Any, pixel_values: Tensor, long_ids_BKL: Tensor, phrase_ids_BKL: Tensor) -> Tensor:
    """
    The loss of a batch whose images all have the same number of texts.

    Args:
        pixel_values: `(B, 3, S, S)`.
        long_ids_BKL: caption, then sentences, padded to the longest of the batch.
        phrase_ids_BKL: phrases, padded to the longest of the batch.
    """
    images, patches = encode_images(model, pixel_values)
    padded = (long_ids_BKL, phrase_ids_BKL)
    texts = [encode_texts(model, ids.flatten(0, 1)).unflatten(0, ids.shape[:2]) for ids in padded]
    u_BKD = F.normalize(torch.cat(texts, dim=1).float(), dim=-1)
    image_BD = F.normalize(images.float(), dim=-1)
    v_BKD = F.normalize(pool(model.pooler, u_BKD, F.normalize(patches.float(), dim=-1)).float(), dim=-1)
    target = torch.arange(len(images), device=images.device)
    logits = model.logit_scale.exp() * image_BD @ u_BKD[:, 0].T
    contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    image_T = target.repeat_interleave(u_BKD.shape[1])
    scale = model.pooler.logit_scale.exp()
    return contrast + beta_cal(v_BKD.flatten(0, 1), u_BKD.flatten(0, 1), image_T, scale, model.config.beta)
