"""
Phrase localisation: where does the model look for a phrase, and is it where people drew the phrase's boxes?

Letters: B images, N phrases, P patches, D projection width, M boxes; H, W the grid of patches.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..data.rows import Row
from .embedding import Embedder, ImageBatch
from .pointing import box_cells, centre_map, mass_inside_boxes, pointing_hits, uniform_map
from .results import Figure, mean_figure


def view_of_image(image_size: tuple[int, int], image_processor: Any) -> tuple[float, float, float, float]:
    """
    The part of an image that the model sees after the image processor's resize (to a shortest edge, or to a fixed size)
    and centre crop.

    Args:
        image_size: Width and height of the image.
        image_processor: One of CLIP's; only its sizes are read.

    Returns:
        xyxy in pixels of the image. Where the processor pads, the view is larger than the image.

    Example:

    ```python
    >>> from transformers import CLIPImageProcessorPil
    >>> processor = CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 50, "width": 50})
    >>> view_of_image((200, 100), processor)
    (50.0, 0.0, 150.0, 100.0)

    ```
    """
    width, height = image_size
    resized_width, resized_height = _resized(width, height, image_processor)
    view_width, view_height = resized_width, resized_height
    if image_processor.do_center_crop:
        view_width, view_height = image_processor.crop_size["width"], image_processor.crop_size["height"]
    left, top = (resized_width - view_width) // 2, (resized_height - view_height) // 2
    scale_x, scale_y = width / resized_width, height / resized_height
    return left * scale_x, top * scale_y, (left + view_width) * scale_x, (top + view_height) * scale_y


def boxes_in_view(boxes: Sequence[Sequence[float]], image_size: tuple[int, int], image_processor: Any) -> Tensor:
    """
    Boxes as the model sees them.

    Args:
        boxes: M boxes, xyxy in pixels of the image.
        image_size, image_processor: See [`view_of_image`].

    Returns:
        (M', 4) float64, xyxy in units of the sides of the view, cut at its borders. M' ≤ M: a box of which nothing is
        visible is dropped.
    """
    x1, y1, x2, y2 = view_of_image(image_size, image_processor)
    boxes_M4 = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    offset, sides = boxes_M4.new_tensor([x1, y1] * 2), boxes_M4.new_tensor([x2 - x1, y2 - y1] * 2)
    seen_M4 = ((boxes_M4 - offset) / sides).clamp(0, 1)
    return seen_M4[(seen_M4[:, 2:] > seen_M4[:, :2]).all(dim=1)]


def located_phrases(row: Row) -> list[dict[str, Any]]:
    """The row's phrases that have boxes."""
    return [phrase for phrase in row.get("phrases") or [] if isinstance(phrase, dict) and phrase.get("boxes")]


class LocalisationProbe:
    """
    Pointing game and mass inside the boxes, for two maps of each phrase over the patches: the pooler's attention (mean
    of the heads), and the similarity of patch features and phrase (cosines less the least one, which has no mass).
    The chance level of both is a uniform map; `phrases/centre` always looks at the middle; `phrases/best_possible` is
    the share of phrases that have the centre of a patch inside a box, which no map can exceed.

    Phrases whose boxes lie wholly outside of what the model sees (cropped away) are counted and left out. Where
    phrases are of several kinds, each kind has its figures too.

    Args:
        embedder: Encodes the phrases; its model must have a pooler.
        seed: Of the bootstrap intervals.
    """

    def __init__(self, embedder: Embedder, *, seed: int = 0) -> None:
        self.embedder, self.seed = embedder, seed
        self.counts = {"phrases": 0, "phrases_outside_view": 0}
        self.kinds: list[str] = []
        self.images: list[int] = []
        self.values: dict[str, list[Tensor]] = {}

    def update(self, batch: ImageBatch) -> None:
        texts, boxes, places = [], [], []
        for place, row in enumerate(batch.rows):
            for phrase in located_phrases(row):
                self.counts["phrases"] += 1
                seen_M4 = boxes_in_view(phrase["boxes"], batch.sizes[place], self.embedder.processor.image_processor)
                if len(seen_M4) == 0:
                    self.counts["phrases_outside_view"] += 1
                    continue
                texts.append(phrase["text"])
                boxes.append(seen_M4)
                places.append(place)
                self.kinds.append(phrase.get("kind", "phrase"))
                self.images.append(int(batch.image_index_B[place]))
        if texts:
            self._measure(batch, self.embedder.texts(texts), boxes, places)

    def figures(self) -> dict[str, Figure]:
        kinds = Counter(self.kinds)
        figures = self._figures("phrases", torch.arange(len(self.kinds))) if kinds else {}
        if len(kinds) > 1:
            for kind in sorted(kinds):
                figures |= self._figures(
                    f"phrases[{kind}]", torch.tensor([one == kind for one in self.kinds]).nonzero()[:, 0]
                )
        return figures

    def _measure(self, batch: ImageBatch, text_embeds_ND: Tensor, boxes: list[Tensor], places: list[int]) -> None:
        image_in_batch_N = torch.tensor(places, device=text_embeds_ND.device)
        patches_BPD = normalize(batch.patch_features_BPD.float(), dim=-1)
        similarity_NP = torch.einsum("npd,nd->np", patches_BPD[image_in_batch_N], text_embeds_ND)
        maps_NP = {
            "attention": self.embedder.attention(batch, text_embeds_ND, image_in_batch_N),
            "patch_similarity": similarity_NP - similarity_NP.amin(dim=-1, keepdim=True),
        }
        maps = {name: flat.unflatten(-1, batch.grid) for name, flat in maps_NP.items()}
        for name, one in {"uniform": uniform_map(batch.grid), "centre": centre_map(batch.grid)}.items():
            maps[name] = one.expand(len(boxes), -1, -1)
        cells = box_cells(boxes, batch.grid)
        for name, maps_NHW in maps.items():
            self.values.setdefault(f"{name}/pointing", []).append(pointing_hits(maps_NHW, cells))
            self.values.setdefault(f"{name}/mass_inside", []).append(mass_inside_boxes(maps_NHW, cells))

    def _figures(self, prefix: str, which: Tensor) -> dict[str, Figure]:
        values = {name: torch.cat(parts)[which] for name, parts in self.values.items()}
        images = torch.tensor(self.images)[which]
        figures = {}
        for name in ("attention", "patch_similarity", "centre"):
            for metric in ("pointing", "mass_inside"):
                chance = float(values[f"uniform/{metric}"].mean())
                figures[f"{prefix}/{name}/{metric}"] = mean_figure(
                    values[f"{name}/{metric}"], chance=chance, cluster_index_N=images, seed=self.seed
                )
        # On a uniform map the score is the share of patch centres inside: above 0 where there is one to point at.
        reachable = (values["uniform/pointing"] > 0).double()
        return figures | {
            f"{prefix}/best_possible/pointing": mean_figure(reachable, cluster_index_N=images, seed=self.seed)
        }


def _resized(width: int, height: int, image_processor: Any) -> tuple[int, int]:
    if not image_processor.do_resize:
        return width, height
    size = dict(image_processor.size)
    if size.get("shortest_edge") and not size.get("longest_edge"):
        shortest = size["shortest_edge"]
        longest = int(shortest * max(width, height) / min(width, height))
        return (shortest, longest) if width <= height else (longest, shortest)
    if size.get("height") and size.get("width"):
        return size["width"], size["height"]
    raise ValueError(f"the image processor's size must be a shortest_edge, or height and width, but is {size}")
