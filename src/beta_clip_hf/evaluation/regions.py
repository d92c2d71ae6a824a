"""
Phrase localisation: where does the model look for a phrase, and is it where people drew the phrase's boxes?

Letters: B images, N phrases, P patches, D projection width, M boxes; H, W the grid of patches.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..boxes_beta_clip import boxes_in_view
from ..data.rows import Row
from .embedding import Embedder, ImageBatch
from .pointing import box_cells, centre_map, mass_inside_boxes, pointing_hits, uniform_map
from .results import Figure, mean_figure


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
                seen = boxes_in_view(phrase["boxes"], batch.sizes[place], self.embedder.processor.image_processor)
                if not seen:
                    self.counts["phrases_outside_view"] += 1
                    continue
                texts.append(phrase["text"])
                boxes.append(torch.tensor(seen, dtype=torch.float64))
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
