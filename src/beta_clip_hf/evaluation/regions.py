"""
Phrase localisation: where does the model look for a phrase, and is it where people drew the phrase's boxes?

Letters: B images, N phrases, n phrases of one image, P patches, D projection width, H heads, W windows, R boxes.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from ..model.boxes_beta_clip import Box
from ..model.image_views_beta_clip import boxes_in_view
from ..model.regions_beta_clip import roi_align
from .metrics import chance_ranks, hits_at_k, match_ranks
from .pointing import box_cells, centre_map, mass_inside_boxes, pointing_hits, sliding_windows, uniform_map
from .results import Figure, mean_figure


def located_phrases(row: Row) -> list[dict[str, Any]]:
    """The row's phrases that have boxes."""
    return [phrase for phrase in row.get("phrases") or [] if isinstance(phrase, dict) and phrase.get("boxes")]


class LocalisationProbe:
    """
    Pointing game and mass inside the boxes, for several maps of each phrase over the patches:

    - `attention`: the pooler's attention, the mean of its heads, and of each head, as `attention[head 0]`;
    - `patch_similarity`: the cosines of patch features and phrase, less the least one, which has no mass;
    - `region_similarity`: the same of region features, for each patch the best cosine of the [`sliding_windows`] whose
      middle it is;
    - `centre`: always looks at the middle. The chance level of all is a uniform map.

    `best_possible` is the share of phrases that have the centre of a patch inside a box, which no map can exceed.

    `region/grounding` chooses among all boxes of the image's phrases, by the cosine of region feature and phrase: a hit
    is a box of the phrase, a tie for the best of n counts 1/n. `centre/grounding` takes the box whose centre is nearest
    to the middle. A phrase that has all of these boxes is not asked.

    Phrases whose boxes lie wholly outside of what the model sees (cropped away) are counted and left out. Where
    phrases are of several kinds, each kind has its figures too, but for those of single heads.

    Args:
        embedder: Encodes the phrases; its model must have patch features.
        texts: The rows without their images, see [`located_phrases`].
        conditioned: Whether to measure the pooler's attention, where there is a pooler.
        seed: Of the bootstrap intervals.
    """

    name = "phrases"

    def __init__(self, embedder: Embedder, texts: Sequence[Row], *, conditioned: bool = True, seed: int = 0) -> None:
        self.embedder, self.seed = embedder, seed
        self.has_attention = conditioned and embedder.has_pooler
        self.phrases = [located_phrases(row) for row in texts]
        self.first_phrase = [0, *accumulate(map(len, self.phrases))]
        self.text_embeds_ND = embedder.texts([one["text"] for of_image in self.phrases for one in of_image])

    def measure(self, batch: ImageBatch) -> Kept:
        boxes: list[list[Box]] = []
        places, numbers = [], []
        for place, image in enumerate(batch.image_index_B.tolist()):
            for number, phrase in enumerate(self.phrases[image], self.first_phrase[image]):
                seen = boxes_in_view(phrase["boxes"], batch.sizes[place], self.embedder.image_processor)
                if seen:
                    boxes.append(seen)
                    places.append(place)
                    numbers.append(number)
        kept = {"phrase": torch.tensor(numbers, dtype=torch.int64)}
        if not numbers:
            return kept
        image_N = torch.tensor(places, dtype=torch.int64)
        maps = {name: flat.unflatten(-1, batch.grid) for name, flat in self._maps(batch, numbers, image_N).items()}
        for name, one in {"uniform": uniform_map(batch.grid), "centre": centre_map(batch.grid)}.items():
            maps[name] = one.expand(len(boxes), -1, -1)
        cells = box_cells([torch.tensor(seen, dtype=torch.float64) for seen in boxes], batch.grid)
        for name, map_NHW in maps.items():
            kept[f"{name}/pointing"] = pointing_hits(map_NHW, cells)
            kept[f"{name}/mass_inside"] = mass_inside_boxes(map_NHW, cells)
        return kept | self._grounding(batch, numbers, image_N, boxes)

    def counts(self, kept: Kept) -> dict[str, int]:
        total = self.first_phrase[-1]
        return {"phrases": total, "phrases_outside_view": total - len(kept["phrase"])}

    def figures(self, kept: Kept) -> dict[str, Figure]:
        named = [one.get("kind", "phrase") for of_image in self.phrases for one in of_image]
        kinds = [named[number] for number in kept["phrase"].tolist()]
        figures = self._figures("phrases", kept, torch.arange(len(kinds))) if kinds else {}
        without_heads = {name: values_N for name, values_N in kept.items() if "[head" not in name}
        for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
            of_kind = torch.tensor([one == kind for one in kinds]).nonzero()[:, 0]
            figures |= self._figures(f"phrases[{kind}]", without_heads, of_kind)
        return figures

    def _maps(self, batch: ImageBatch, numbers: list[int], image_N: Tensor) -> dict[str, Tensor]:
        """The maps by name, (N, P) each, none of them negative."""
        texts_ND, patches_BPD = self.text_embeds_ND[numbers], batch.patch_features_BPD.float()
        device, counts_B = patches_BPD.device, torch.bincount(image_N, minlength=len(patches_BPD)).tolist()
        image_N = image_N.to(device)
        # Features of windows are sums of those of patches, and so are their products with the phrases.
        windows_W4 = sliding_windows(batch.grid).to(device) * torch.tensor(batch.grid[::-1] * 2, device=device)
        patches_PP = torch.eye(patches_BPD.shape[1], device=device)
        weights_WP = roi_align(patches_PP[None], windows_W4, windows_W4.new_zeros(len(windows_W4)).long(), batch.grid)
        products = [texts_nD @ one_PD.T for texts_nD, one_PD in zip(texts_ND.split(counts_B), patches_BPD, strict=True)]
        product_NP = torch.cat(products)
        length_BW = torch.stack([(weights_WP @ one_PD).norm(dim=-1) for one_PD in patches_BPD]).clamp(min=1e-12)
        length_BP = patches_BPD.norm(dim=-1).clamp(min=1e-12)
        region_NW = product_NP @ weights_WP.T / length_BW[image_N]
        similarities = {
            "patch_similarity": product_NP / length_BP[image_N],
            "region_similarity": region_NW.unflatten(-1, (-1, len(patches_PP))).amax(dim=1),
        }
        maps = {name: one_NP - one_NP.amin(dim=-1, keepdim=True) for name, one_NP in similarities.items()}
        if not self.has_attention:
            return maps
        attention_NHP = self.embedder.attention(batch, texts_ND, image_N)
        heads = {f"attention[head {head}]": one_NP for head, one_NP in enumerate(attention_NHP.unbind(dim=1))}
        return {"attention": attention_NHP.mean(dim=1)} | maps | heads

    def _grounding(
        self, batch: ImageBatch, numbers: list[int], image_N: Tensor, boxes: list[list[Box]]
    ) -> dict[str, Tensor]:
        """(N,) hits of each score, and of chance; NaN where there is nothing to choose from."""
        places, counts = image_N.unique_consecutive(return_counts=True)
        phrases = torch.arange(len(image_N)).split(counts.tolist())
        candidates = [list(dict.fromkeys(box for phrase in own for box in boxes[phrase])) for own in phrases]
        sizes = list(map(len, candidates))
        flat = [box for of_image in candidates for box in of_image]
        embeds = self.embedder.view_embeds(batch, flat, places.repeat_interleave(torch.tensor(sizes))).split(sizes)
        parts: list[tuple[Tensor, ...]] = []
        for phrases_n, boxes_R, embeds_RD in zip(phrases, candidates, embeds, strict=True):
            is_own_nR = torch.tensor([[box in boxes[phrase] for box in boxes_R] for phrase in phrases_n])
            texts_nD = self.text_embeds_ND[[numbers[phrase] for phrase in phrases_n]]
            centre_R2 = torch.tensor(boxes_R, dtype=torch.float64).view(-1, 2, 2).mean(dim=1)
            nearness_R = -(centre_R2 - 0.5).norm(dim=-1).round(decimals=9)
            ranks = [
                match_ranks((texts_nD @ embeds_RD.T).cpu(), is_own_nR),
                match_ranks(nearness_R.expand(len(phrases_n), -1), is_own_nR),
                chance_ranks(len(boxes_R), is_own_nR.sum(dim=1)),
            ]
            has_no_choice_n = is_own_nR.all(dim=1)
            parts.append(tuple(hits_at_k(one, 1).masked_fill(has_no_choice_n, torch.nan) for one in ranks))
        names = ("region/grounding", "centre/grounding", "uniform/grounding")
        return dict(zip(names, map(torch.cat, zip(*parts, strict=True)), strict=True))

    def _figures(self, prefix: str, kept: Kept, which: Tensor) -> dict[str, Figure]:
        images = torch.arange(len(self.phrases)).repeat_interleave(torch.tensor(list(map(len, self.phrases))))
        images = images[kept["phrase"]][which]
        values = {name: values_N[which] for name, values_N in kept.items() if "/" in name}
        figures = {}
        for name, values_N in values.items():
            of_chance_N = values[f"uniform/{name.partition('/')[2]}"]
            is_asked_N = ~values_N.isnan()
            if name.startswith("uniform/") or not is_asked_N.any():
                continue
            figures[f"{prefix}/{name}"] = mean_figure(
                values_N[is_asked_N],
                chance=float(of_chance_N[is_asked_N].mean()),
                cluster_index_N=images[is_asked_N],
                seed=self.seed,
            )
        # On a uniform map the score is the share of patch centres inside: above 0 where there is one to point at.
        reachable = (values["uniform/pointing"] > 0).double()
        return figures | {
            f"{prefix}/best_possible/pointing": mean_figure(reachable, cluster_index_N=images, seed=self.seed)
        }
