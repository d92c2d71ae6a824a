"""The training step of β-CLIP as it is usually written: every text padded, every attention whole, every matrix dense.

It restates the step of the authors' release in plain code, on the weights of a `BetaCLIPModel`. Caption and sentences
of all images are padded to the longest of them, phrases to the longest phrase; attention is eager; the text tower is
recomputed in the backward pass; the last vision block attends with all queries; β-CAL is made of full T × T matrices.
It gives the same loss as the package, which the benchmark asserts, and the package's speed is measured against it.

S is the number of texts of an image, so T = B · S.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """Attends with the whole matrix of weights; queries, keys, values and the result are (batch, length, width)."""
    query, key, value = (rows.unflatten(-1, (num_heads, -1)).transpose(1, 2) for rows in (query, key, value))
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + mask
    return (logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(-2)


def self_attention(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the self-attention of a block."""
    module = layer.self_attn
    query, key, value = module.q_proj(hidden), module.k_proj(hidden), module.v_proj(hidden)
    return module.out_proj(attend(query, key, value, module.num_heads, mask))


def block(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the hidden states after a block of a tower."""
    hidden = hidden + self_attention(layer, layer.layer_norm1(hidden), mask)
    return hidden + mlp(layer.mlp, layer.layer_norm2(hidden))


def mlp(module: Any, hidden: Tensor) -> Tensor:
    """Returns two linear layers with QuickGELU between them: the `fc1` and `fc2` of a module."""
    inner = module.fc1(hidden)
    return module.fc2(inner * torch.sigmoid(1.702 * inner))


def encode_texts(model: Any, ids_TL: Tensor) -> Tensor:
    """Returns the projected features (T, D) of texts padded to one length."""
    text, length = model.text_model, ids_TL.shape[1]
    hidden = text.embeddings(ids_TL)
    mask = torch.full((length, length), -torch.inf, device=ids_TL.device, dtype=hidden.dtype).triu(1)
    for layer in text.encoder.layers:
        # Each block is computed again in the backward pass, as in the release.
        hidden = checkpoint(block, layer, hidden, mask, use_reentrant=False)
    hidden = text.final_layer_norm(hidden)
    end_T = (ids_TL == text.eos_token_id).int().argmax(dim=-1)
    return model.text_projection(hidden[torch.arange(len(ids_TL), device=ids_TL.device), end_T])


def encode_images(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the projected features of images (B, D) and of their patches (B, P, D)."""
    vision = model.vision_model
    # The name of the layer is misspelt in transformers.
    hidden = vision.pre_layrnorm(vision.embeddings(pixel_values))
    for layer in vision.encoder.layers[:-1]:
        hidden = block(layer, hidden, None)
    hidden = last_vision_block(vision.encoder.layers[-1], hidden)
    features = model.visual_projection(vision.post_layernorm(hidden))
    return features[:, 0], features[:, 1:]


def last_vision_block(layer: Any, hidden: Tensor) -> Tensor:
    """Returns the last block, in which CLS attends and patches keep their own values. Attention has all queries."""
    normed = layer.layer_norm1(hidden)
    values = layer.self_attn.out_proj(layer.self_attn.v_proj(normed))
    attended = self_attention(layer, normed, None)
    mixed = hidden + torch.cat([attended[:, :1], values[:, 1:]], dim=1)
    return mixed + mlp(layer.mlp, layer.layer_norm2(mixed))


def pool(pooler: Any, queries_BSD: Tensor, patches_BPD: Tensor) -> Tensor:
    """Returns the image as each of its texts sees it, (B, S, D)."""
    query, key, value = pooler.q_proj(queries_BSD), pooler.k_proj(patches_BPD), pooler.v_proj(patches_BPD)
    attended = pooler.out_proj(attend(query, key, value, pooler.num_heads))
    return attended + mlp(pooler, pooler.layer_norm(attended))


def beta_cal(v_TD: Tensor, u_TD: Tensor, image_index_T: Tensor, scale: Tensor, beta: float) -> Tensor:
    """Returns β-CAL (CE) from full matrices: logits, masks, weights and log-probabilities of both directions."""
    is_same_image_TT = (image_index_T[:, None] == image_index_T[None, :]).float()
    is_same_text_TT = torch.eye(len(v_TD), device=v_TD.device)
    weights_TT = is_same_text_TT + beta * (is_same_image_TT - is_same_text_TT)
    weights_TT = weights_TT / weights_TT.sum(dim=1, keepdim=True)
    logits_TT = scale * v_TD @ u_TD.T
    image_to_text = -(weights_TT * logits_TT.log_softmax(dim=1)).sum(dim=1).mean()
    text_to_image = -(weights_TT * logits_TT.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (image_to_text + text_to_image) / 2


def reference_loss(model: Any, pixel_values: Tensor, long_ids_BSL: Tensor, phrase_ids_BSL: Tensor) -> Tensor:
    """
    Returns the loss of a batch whose images all have the same number of texts.

    Args:
        pixel_values: (B, 3, height, width).
        long_ids_BSL: Caption, then sentences, padded to the longest of the batch.
        phrase_ids_BSL: Phrases, padded to the longest of the batch.
    """
    images, patches = encode_images(model, pixel_values)
    texts = []
    for ids_BSL in (long_ids_BSL, phrase_ids_BSL):
        texts.append(encode_texts(model, ids_BSL.flatten(0, 1)).unflatten(0, ids_BSL.shape[:2]))
    u_BSD = F.normalize(torch.cat(texts, dim=1).float(), dim=-1)
    image_BD = F.normalize(images.float(), dim=-1)
    patches_BPD = F.normalize(patches.float(), dim=-1)
    v_BSD = F.normalize(pool(model.pooler, u_BSD, patches_BPD).float(), dim=-1)
    # The caption is the first text of its image.
    target_B = torch.arange(len(images), device=images.device)
    logits_BB = model.logit_scale.exp() * image_BD @ u_BSD[:, 0].T
    contrast = (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2
    image_index_T = target_B.repeat_interleave(u_BSD.shape[1])
    scale = model.pooler.logit_scale.exp()
    return contrast + beta_cal(v_BSD.flatten(0, 1), u_BSD.flatten(0, 1), image_index_T, scale, model.config.beta)
