"""The formulas of the papers in float64 Python loops: slow twins of what the library does fast."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.double().tolist(), b.double().tolist(), strict=True))


def all_logits(left: Tensor, right: Tensor, scale: float) -> list[list[float]]:
    """Row i holds s · left_i·right_j for all j."""
    logits = []
    for row in left:
        logits.append([scale * dot(row, column) for column in right])
    return logits


def log_softmax_at(logits: Sequence[float], index: int) -> float:
    peak = max(logits)
    return logits[index] - peak - math.log(sum(math.exp(logit - peak) for logit in logits))


def clip_loss(image_embeds: Tensor, text_embeds: Tensor, scale: float) -> float:
    n = len(image_embeds)
    logits = all_logits(image_embeds, text_embeds, scale)
    image_to_text = sum(-log_softmax_at(logits[i], i) for i in range(n)) / n
    columns = list(zip(*logits, strict=True))
    text_to_image = sum(-log_softmax_at(columns[i], i) for i in range(n)) / n
    return (image_to_text + text_to_image) / 2


def beta_cal_loss(
    v: Tensor, u: Tensor, image_index: Tensor, scale: float, beta: float, kind: str, text_ids: list[int] | None = None
) -> float:
    """The same text on two images is left out, where `text_ids` says which texts are the same."""
    n, g = len(v), image_index.tolist()
    logits = all_logits(v, u, scale)
    ids = text_ids or list(range(n))
    kept = []
    for i in range(n):
        kept.append([j for j in range(n) if g[i] == g[j] or ids[i] != ids[j]])
    if kind == "bce":
        total = 0.0
        for i in range(n):
            for j in kept[i]:
                sign = 1 if g[i] == g[j] else -1
                weight = beta if i != j and g[i] == g[j] else 1.0
                total += weight * math.log1p(math.exp(-abs(logits[i][j]))) + weight * max(0.0, -sign * logits[i][j])
        return total / n**2
    total = 0.0
    for i in range(n):
        weights = [1.0 if i == j else beta if g[i] == g[j] else 0.0 for j in range(n)]
        row = [logits[i][j] for j in kept[i]]
        column = [logits[j][i] for j in kept[i]]
        for place, j in enumerate(kept[i]):
            target = weights[j] / sum(weights)
            total -= target * (log_softmax_at(row, place) + log_softmax_at(column, place)) / 2
    return total / n


def text_conditioned_loss(scores: Tensor, image_index: Tensor, scale: float, kind: str) -> float:
    """Scores `(B, T)` of all pairs: each text picks its image, and each image its texts; or each pair is a choice."""
    logits, g = (scale * scores.double()).tolist(), image_index.tolist()
    if kind == "bce":
        signed = []
        for i, row in enumerate(logits):
            signed += [logit if g[t] == i else -logit for t, logit in enumerate(row)]
        return sum(math.log1p(math.exp(-abs(s))) + max(0.0, -s) for s in signed) / len(signed)
    total = 0.0
    for t, image in enumerate(g):
        total -= log_softmax_at([row[t] for row in logits], image) / 2
        total -= log_softmax_at(logits[image], t) / 2
    return total / len(g)


def hard_negative_loss(regions: Tensor, texts: Tensor, region_index: Tensor, scale: float) -> float:
    lists: dict[int, list[float]] = {}
    for text, region in zip(texts, region_index.tolist(), strict=True):
        lists.setdefault(region, []).append(scale * dot(regions[region], text))
    return sum(-log_softmax_at(logits, 0) for logits in lists.values()) / len(lists)


def text_negative_loss(scores: Tensor, negative_scores: Tensor, text_index: Tensor, scale: float) -> float:
    """Each text that has negatives is chosen out of a list with them."""
    lists: dict[int, list[float]] = {}
    for score, text in zip(negative_scores.double().tolist(), text_index.tolist(), strict=True):
        lists.setdefault(text, [scale * scores[text].item()]).append(scale * score)
    return sum(-log_softmax_at(logits, 0) for logits in lists.values()) / len(lists)


def stretch_text_positions(p: Tensor) -> Tensor:
    """method.md 1.1, row by row."""
    new = torch.zeros(248, p.shape[1], dtype=torch.float64)
    p = p.double()
    for i in range(20):
        new[i] = p[i]
    for i in range(56):
        for k in range(4):
            new[20 + 4 * i + k] = ((4 - k) * p[20 + i] + k * p[21 + i]) / 4
    for k in range(4):
        new[244 + k] = p[76] + k * (p[76] - p[75]) / 4
    return new


def unit(x: Tensor) -> Tensor:
    return x.double() / x.double().norm(dim=-1, keepdim=True)


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    bias = 0.0 if layer.bias is None else layer.bias.double()
    return x.double() @ layer.weight.double().T + bias


def layer_norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    x = x.double()
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + layer.eps).sqrt()
    return scaled * layer.weight.double() + layer.bias.double()


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def pooled(pooler, text_embed: Tensor, patches: Tensor, activation=quick_gelu) -> tuple[Tensor, Tensor]:
    """One text on one image, head by head (method.md 2.2): un-normalised output `(D,)` and attention `(H, P)`."""
    query, keys = linear(pooler.q_proj, unit(text_embed)), linear(pooler.k_proj, unit(patches))
    values = linear(pooler.v_proj, unit(patches))
    size = len(query) // pooler.num_heads
    mixed, attention = [], []
    for head in range(pooler.num_heads):
        part = slice(head * size, (head + 1) * size)
        weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(size), dim=0)
        mixed.append(weights @ values[:, part])
        attention.append(weights)
    attended = linear(pooler.out_proj, torch.cat(mixed))
    hidden = activation(linear(pooler.fc1, layer_norm(pooler.layer_norm, attended)))
    return attended + linear(pooler.fc2, hidden), torch.stack(attention)


def patch_features(model, hidden_states: Tensor) -> Tensor:
    """Input of the last vision block `(B, 1 + P, width)` to patch features `(B, P, D)` (method.md 1.2)."""
    block = model.vision_model.encoder.layers[-1]
    attention = block.self_attn
    hidden = hidden_states.double()
    hidden = hidden + linear(attention.out_proj, linear(attention.v_proj, layer_norm(block.layer_norm1, hidden)))
    hidden = hidden + linear(block.mlp.fc2, quick_gelu(linear(block.mlp.fc1, layer_norm(block.layer_norm2, hidden))))
    return linear(model.visual_projection, layer_norm(model.vision_model.post_layernorm, hidden))[:, 1:]


def roi_align(feature_map: Tensor, box: list[float]) -> Tensor:
    """One box `[x1, y1, x2, y2]` in grid units on one map `(rows, columns, D)`, sample by sample (method.md 3)."""
    rows, columns, width = feature_map.shape
    left, top, right, bottom = (side - 0.5 for side in box)
    across, down = max(0, math.ceil(right - left)), max(0, math.ceil(bottom - top))
    total = torch.zeros(width, dtype=torch.float64)
    for j in range(down):
        for i in range(across):
            x, y = left + (i + 0.5) * (right - left) / across, top + (j + 0.5) * (bottom - top) / down
            if not (-1 <= x <= columns and -1 <= y <= rows):
                continue
            x, y = min(max(x, 0), columns - 1), min(max(y, 0), rows - 1)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            upper = (1 - (x - x0)) * feature_map[y0, x0].double() + (x - x0) * feature_map[y0, x1].double()
            lower = (1 - (x - x0)) * feature_map[y1, x0].double() + (x - x0) * feature_map[y1, x1].double()
            total += (1 - (y - y0)) * upper + (y - y0) * lower
    return total / max(1, across * down)


def region_loss(regions: Tensor, texts: Tensor, scale: float, text_ids: list[int]) -> float:
    """`clip_loss` where pairs of different rows with the same text are no negatives."""
    n, total = len(regions), 0.0
    logits = all_logits(regions, texts, scale)
    for i in range(n):
        others = [j for j in range(n) if j != i and text_ids[j] != text_ids[i]]
        total -= log_softmax_at([logits[i][i], *(logits[i][j] for j in others)], 0)
        total -= log_softmax_at([logits[i][i], *(logits[j][i] for j in others)], 0)
    return total / (2 * n)


def sigmoid_loss(images: Tensor, texts: Tensor, scale: float, bias: float) -> float:
    """Of every pair, whether it belongs together, one by one (method-fg-clip2.md 4)."""
    total = 0.0
    for i, row in enumerate(all_logits(images, texts, scale)):
        for j, logit in enumerate(row):
            answer = (logit + bias) * (1 if i == j else -1)
            total += math.log1p(math.exp(-abs(answer))) + max(0.0, -answer)
    return total / len(images)


def intra_text_loss(texts: Tensor, leave_out: bool = False) -> float:
    """Of each text the ten most similar others; similar ones count as 0, or are left out."""
    losses = []
    for i, row in enumerate(all_logits(texts, texts, 1.0)):
        similarities = []
        for j, similarity in enumerate(row):
            is_same = i == j or similarity > 0.95
            if not (is_same and leave_out):
                similarities.append(0.0 if is_same else similarity)
        largest = sorted(similarities, reverse=True)[:10]
        if largest:
            losses.append(math.log(sum(math.exp(value) for value in largest)))
    return sum(losses) / len(losses)


def hard_lists(index: Tensor) -> list[tuple[int, list[int]]]:
    """The region of each list, and the places of its texts, the true one first."""
    lists: dict[int, list[int]] = {}
    for place, region in enumerate(index.tolist()):
        lists.setdefault(region, []).append(place)
    return list(lists.items())


def hard_contrast_loss(regions: Tensor, texts: Tensor, index: Tensor, scale: float) -> float:
    """Each flagged region among all hard texts, and each true text among the flagged regions."""
    lists = hard_lists(index)
    logits = all_logits(regions, texts, scale)
    total = 0.0
    for number, (region, places) in enumerate(lists):
        total -= log_softmax_at(logits[region], places[0])
        total -= log_softmax_at([logits[other][places[0]] for other, _ in lists], number)
    return total / (2 * len(lists))


def rank_loss(regions: Tensor, texts: Tensor, index: Tensor, scale: float, threshold: float) -> tuple[float, float]:
    """The hinge of each negative, and the next threshold."""
    logits = all_logits(regions, texts, scale)
    hinges, positives, negatives = [], [], []
    for region, (true, *others) in hard_lists(index):
        positives.append(logits[region][true])
        for other in others:
            negatives.append(logits[region][other])
            hinges.append(max(0.0, threshold + logits[region][other] - logits[region][true]))
    gap = sum(positives) / len(positives) - sum(negatives) / len(negatives)
    return sum(hinges) / len(hinges), min(max(gap, 0.0), 10.0)
