"""Random scores and texts, and ranks as plain numbers."""

import torch


def generator(seed):
    return torch.Generator().manual_seed(seed)


def piece_of(scores_BT):
    return lambda images, texts: scores_BT[images, texts]


def several_texts(num_images, num_texts, seed):
    """An image for each text, in no order, such that every image has one."""
    others = torch.randint(num_images, (num_texts - num_images,), generator=generator(seed))
    return torch.cat([torch.arange(num_images), others])[torch.randperm(num_texts, generator=generator(seed))]


def as_rows(ranks):
    sides = []
    for side in ranks:
        columns = [column.tolist() for column in side]
        sides.append(list(zip(*columns, strict=True)))
    return sides
