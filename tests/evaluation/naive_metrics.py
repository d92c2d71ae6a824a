"""The metrics again, as their definitions read: enumerate every order of the tied items, rasterise every box."""

from itertools import pairwise, permutations, product

import torch


def all_orders(scores):
    """Every order of the candidates in which scores do not increase: the outcomes of breaking ties at random."""
    orders = []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            orders.append(order)
    return orders


def recall_at_k(scores, relevant, k):
    total = 0.0
    for row, wanted in zip(scores, relevant, strict=True):
        orders = all_orders(row)
        hits = 0
        for order in orders:
            hits += any(wanted[candidate] for candidate in order[:k])
        total += hits / len(orders)
    return total / len(scores)


def shortlist(first, size):
    """The candidates that are among the first in every order of the tied ones."""
    return set.intersection(*(set(order[:size]) for order in all_orders(first)))


def reranked_recall_at_k(firsts, seconds, relevant, size, k):
    """Shortlists in the order of a second score, then all others in that of the first one."""
    keys = []
    for first, second in zip(firsts, seconds, strict=True):
        short = shortlist(first, size)
        keys.append([(1, second[i]) if i in short else (0, score) for i, score in enumerate(first)])
    return recall_at_k(keys, relevant, k)


def expected_rank(scores, relevant):
    orders = all_orders(scores)
    total = 0
    for order in orders:
        total += 1 + min(order.index(i) for i, hit in enumerate(relevant) if hit)
    return total / len(orders)


def match_ranks(scores, relevant):
    """(ahead, tied, tied and relevant) of each query, counted one by one."""
    found = []
    for row, wanted in zip(scores, relevant, strict=True):
        best = max(score for score, hit in zip(row, wanted, strict=True) if hit)
        ahead = sum(score > best for score in row)
        tied = [hit for score, hit in zip(row, wanted, strict=True) if score == best]
        found.append((ahead, len(tied), sum(tied)))
    return found


def retrieval_ranks(scores, image_index):
    """The same both ways, of a whole (images, texts) score matrix."""
    relevant = []
    for image in range(len(scores)):
        relevant.append([image == own_image for own_image in image_index])
    columns = [list(column) for column in zip(*scores, strict=True)]
    return match_ranks(scores, relevant), match_ranks(columns, [list(column) for column in zip(*relevant, strict=True)])


def paired_difference(values, clusters, draws):
    """The mean of each resample, which is a list of clusters, some of them several times."""
    means = []
    for drawn in draws:
        resample = []
        for drawn_cluster in drawn:
            for value, cluster in zip(values, clusters, strict=True):
                if cluster == drawn_cluster:
                    resample.append(value)
        means.append(sum(resample) / len(resample))
    return means


def hard_negative_accuracy(groups):
    total = 0.0
    for scores in groups:
        best = [i for i, score in enumerate(scores) if score == max(scores)]
        total += (0 in best) / len(best)
    return total / len(groups)


def raster(boxes, grid, fine):
    """(H, W) share of each cell that the boxes cover, by testing fine x fine points per cell."""
    height, width = grid
    cells = torch.zeros(height, width, dtype=torch.float64)
    for i in range(height * fine):
        for j in range(width * fine):
            y, x = (i + 0.5) / (height * fine), (j + 0.5) / (width * fine)
            if any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes):
                cells[i // fine, j // fine] += 1 / fine**2
    return cells


def pointing_hit(heat, boxes):
    height, width = len(heat), len(heat[0])
    hottest = max(map(max, heat))
    cells = [(i, j) for i, j in product(range(height), range(width)) if heat[i][j] == hottest]
    hits = 0
    for i, j in cells:
        y, x = (i + 0.5) / height, (j + 0.5) / width
        hits += any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes)
    return hits / len(cells)
