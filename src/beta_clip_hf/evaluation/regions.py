"""
Measures phrase localisation: where does the model look for a phrase, and is it where people drew its boxes?

In names of tensors, I counts phrases.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.grids import Grid, features_on_grid, images_by_grid, on_grid
from ..inference.shards import Kept
from ..inference.text_kinds import PHRASE
from ..model.boxes_beta_clip import Box
from ..model.image_views_beta_clip import boxes_in_view
from ..model.regions_beta_clip import roi_align
from .metric_names import MetricName
from .metrics import chance_ranks, hits_at_k, match_ranks
from .pointing import (
    BoxCells,
    box_cells,
    centre_map,
    mass_inside_boxes,
    pointing_hits,
    sliding_windows,
    uniform_map,
)
from .results import Metric, mean_metric


POINTING, MASS_INSIDE, GROUNDING = "pointing", "mass_inside", "grounding"
MODEL_MAPS = ("attention", "patch_similarity", "region_similarity")
# What is kept of each batch: a tensor for each score and metric, and for the single heads of the attention one (I, H)
# for each metric.
HEADS, UNIFORM, CENTRE = "heads", "uniform", "centre"


def located_phrases(row: Row) -> list[dict[str, Any]]:
    """Returns the phrases of a row that have boxes."""
    phrases = row.get("phrases") or []
    return [phrase for phrase in phrases if isinstance(phrase, dict) and phrase.get("boxes")]


class _SeenPhrases(NamedTuple):
    """Holds the phrases of a batch that the model can be asked for: it sees at least a part of one of their boxes."""

    numbers: list[int]
    """Number of each phrase among all phrases of the data set."""
    boxes: list[list[Box]]
    """Boxes of each phrase, in shares of the view."""
    image_I: Tensor
    """(I,) int64: place in the batch of the image of each phrase, non-decreasing."""


class _PhrasesOnGrid(NamedTuple):
    """Holds phrases of images that have the same grid."""

    grid: Grid
    patches_BPD: Tensor
    """(B, P, D) patch features of these images."""
    cells: BoxCells
    """The boxes of the phrases on the grid."""
    text_embeds_ID: Tensor
    """(I, D) embeddings of the phrases."""
    image_I: Tensor
    """(I,) int64: place among these images of the image of each phrase, non-decreasing."""
    attention_IHP: Tensor | None
    """(I, H, P) attention of the pooler; `None` for a model without a pooler."""


class LocalisationProbe:
    """
    Measures the pointing game and the mass inside the boxes, for several maps of each phrase over the patches:

    - `attention`: the attention of the pooler, the mean of its heads, and of each head, as `attention[head 0]`;
    - `patch_similarity`: the cosines of patch features and phrase, less the least one, which has no mass;
    - `region_similarity`: the same for features of regions: for each patch the best cosine of the [`sliding_windows`]
      around it;
    - `centre`: always looks at the middle.

    The chance level of all is a uniform map. `best_possible` is the share of phrases that have the centre of a patch
    inside a box, which no map can exceed.

    `region/grounding` chooses among all boxes of the phrases of an image, by the cosine of region feature and phrase: a
    hit is a box of the phrase, and a tie for the best of n counts 1/n. `centre/grounding` takes the box whose centre is
    nearest to the middle. Phrases that have all of these boxes have no choice and are left out.

    Phrases whose boxes lie wholly outside of what the model sees (cropped away) are counted and left out. If phrases
    are of several kinds, each kind has metrics too, but not for single heads.

    Args:
        embedder: Encodes the phrases; its model must have patch features.
        texts: Rows without their images, see [`located_phrases`].
        conditioned: Whether to measure the attention of the pooler, if there is one.
        seed: Seed of the bootstrap intervals.
    """

    name = "phrases"

    def __init__(self, embedder: Embedder, texts: Sequence[Row], *, conditioned: bool = True, seed: int = 0) -> None:
        self.embedder = embedder
        self.seed = seed
        self.has_attention = conditioned and embedder.has_pooler
        self.phrases = [located_phrases(row) for row in texts]
        self.num_phrases_B = torch.tensor([len(image_phrases) for image_phrases in self.phrases])
        # The phrases of image i are numbered from first_phrase[i] to first_phrase[i + 1].
        self.first_phrase = [0, *accumulate(self.num_phrases_B.tolist())]
        self.flat = list(chain.from_iterable(self.phrases))
        self.text_embeds_ID = embedder.texts([phrase["text"] for phrase in self.flat], PHRASE)

    def measure(self, batch: ImageBatch) -> Kept:
        """Keeps the hits and masses of all maps of the phrases of a batch."""
        seen = self._seen_phrases(batch)
        kept: Kept = {"phrase": torch.tensor(seen.numbers, dtype=torch.int64)}
        if not seen.numbers:
            return kept
        text_embeds_ID = self.text_embeds_ID[seen.numbers]
        parts = []
        order: list[int] = []
        # Maps of one grid are measured at once.
        for phrases, phrases_on_grid in self._by_grid(batch, text_embeds_ID, seen):
            order += phrases
            parts.append(_values_on_grid(phrases_on_grid))
        # Back in the order of the phrases.
        places_I = torch.tensor(order).argsort()
        for name in parts[0]:
            kept[name] = torch.cat([part[name].cpu() for part in parts])[places_I]
        return kept | self._grounding(batch, text_embeds_ID, seen)

    def _by_grid(
        self, batch: ImageBatch, text_embeds_ID: Tensor, seen: _SeenPhrases
    ) -> Iterator[tuple[list[int], _PhrasesOnGrid]]:
        """Yields the phrases of the images of each grid, with their places among the phrases that are seen."""
        attention_IHP = None
        if self.has_attention:
            attention_IHP = self.embedder.attention(batch, text_embeds_ID, seen.image_I)
        patches = batch.patches._replace(features=batch.patches.features.float())
        for grid, images in images_by_grid(patches).items():
            place_of_image = {image: place for place, image in enumerate(images)}
            phrases = [phrase for phrase, image in enumerate(seen.image_I.tolist()) if image in place_of_image]
            if not phrases:
                continue
            places = [place_of_image[image] for image in seen.image_I[phrases].tolist()]
            boxes = [torch.tensor(seen.boxes[phrase], dtype=torch.float64) for phrase in phrases]
            phrases_on_grid = _PhrasesOnGrid(
                grid=grid,
                patches_BPD=features_on_grid(patches, grid, images),
                cells=box_cells(boxes, grid),
                text_embeds_ID=text_embeds_ID[phrases],
                image_I=torch.tensor(places),
                attention_IHP=None if attention_IHP is None else attention_IHP[phrases],
            )
            yield phrases, phrases_on_grid

    def _seen_phrases(self, batch: ImageBatch) -> _SeenPhrases:
        numbers: list[int] = []
        boxes: list[list[Box]] = []
        places: list[int] = []
        for place, image in enumerate(batch.image_index_B.tolist()):
            for number, phrase in enumerate(self.phrases[image], self.first_phrase[image]):
                seen = boxes_in_view(phrase["boxes"], batch.sizes[place], self.embedder.image_processor)
                if seen:
                    numbers.append(number)
                    boxes.append(seen)
                    places.append(place)
        return _SeenPhrases(numbers, boxes, torch.tensor(places, dtype=torch.int64))

    def _grounding(self, batch: ImageBatch, text_embeds_ID: Tensor, seen: _SeenPhrases) -> Kept:
        """
        Chooses a box for each phrase by each score, and by chance.

        Returns:
            (I,) hits of each score; NaN for phrases that have nothing to choose from.
        """
        places, counts = seen.image_I.unique_consecutive(return_counts=True)
        image_texts = text_embeds_ID.split(counts.tolist())
        # The boxes of the phrases of each image, and each different box once.
        phrase_boxes: list[list[list[Box]]] = []
        candidates: list[list[Box]] = []
        ends = list(accumulate(counts.tolist()))
        for first, end in zip([0, *ends[:-1]], ends, strict=True):
            phrase_boxes.append(seen.boxes[first:end])
            candidates.append(list(dict.fromkeys(chain.from_iterable(seen.boxes[first:end]))))
        sizes = [len(boxes) for boxes in candidates]
        place_R = places.repeat_interleave(torch.tensor(sizes))
        embeds_RD = self.embedder.view_embeds(batch, list(chain.from_iterable(candidates)), place_R)
        hits: dict[str, list[Tensor]] = {"region": [], CENTRE: [], UNIFORM: []}
        images = zip(image_texts, embeds_RD.split(sizes), candidates, phrase_boxes, strict=True)
        for texts_ID, box_embeds_RD, boxes, boxes_of_phrases in images:
            image_hits = _grounding_hits((texts_ID @ box_embeds_RD.T).cpu(), boxes, boxes_of_phrases)
            for score, hits_I in image_hits.items():
                hits[score].append(hits_I)
        return {_key(score, GROUNDING): torch.cat(parts) for score, parts in hits.items()}

    def counts(self, kept: Kept) -> dict[str, int]:
        """Returns the number of phrases, and of those that the model does not see."""
        num_phrases = len(self.flat)
        return {"phrases": num_phrases, "phrases_outside_view": num_phrases - len(kept["phrase"])}

    def metrics(self, kept: Kept) -> list[Metric]:
        """Returns the metrics of all phrases and, if there are several kinds, of each kind."""
        numbers = kept["phrase"].tolist()
        if not numbers:
            return []
        kinds = [self.flat[number].get("kind", "phrase") for number in numbers]
        metrics = self._metrics("", kept, torch.arange(len(numbers)))
        distinct_kinds = sorted(set(kinds))
        # A single kind would repeat the total.
        if len(distinct_kinds) > 1:
            for kind in distinct_kinds:
                selected = torch.tensor([phrase_kind == kind for phrase_kind in kinds]).nonzero()[:, 0]
                metrics += self._metrics(kind, kept, selected)
        return metrics

    def _metrics(self, kind: str, kept: Kept, selected: Tensor) -> list[Metric]:
        """Returns the metrics of selected phrases, all of a kind or, if that is empty, of any."""
        image_of_phrase = torch.arange(len(self.phrases)).repeat_interleave(self.num_phrases_B)
        image_I = image_of_phrase[kept["phrase"]][selected]
        metrics = []
        for name, values in self._named_values(kind, kept):
            values_I = values[selected]
            chance_I = kept[_key(UNIFORM, name.metric)][selected]
            has_choice_I = ~values_I.isnan()
            if has_choice_I.any():
                metric = mean_metric(
                    name,
                    values_I[has_choice_I],
                    chance=float(chance_I[has_choice_I].mean()),
                    cluster_index_I=image_I[has_choice_I],
                    seed=self.seed,
                )
                metrics.append(metric)
        # On a uniform map the score is the share of patch centres inside: above 0 if there is one to point at.
        is_reachable_I = kept[_key(UNIFORM, POINTING)][selected] > 0
        name = MetricName(self.name, "best_possible", POINTING, subset=kind)
        best_possible = mean_metric(name, is_reachable_I.double(), cluster_index_I=image_I, seed=self.seed)
        return [*metrics, best_possible]

    def _named_values(self, kind: str, kept: Kept) -> Iterator[tuple[MetricName, Tensor]]:
        """Yields the name of each metric with its values, one per phrase; for a kind, not those of single heads."""
        for score in MODEL_MAPS:
            for metric in (POINTING, MASS_INSIDE):
                if _key(score, metric) in kept:
                    yield MetricName(self.name, score, metric, subset=kind), kept[_key(score, metric)]
        if _key(HEADS, POINTING) in kept and not kind:
            for head in range(kept[_key(HEADS, POINTING)].shape[1]):
                for metric in (POINTING, MASS_INSIDE):
                    yield MetricName(self.name, "attention", metric, head=head), kept[_key(HEADS, metric)][:, head]
        for score, metric in ((CENTRE, POINTING), (CENTRE, MASS_INSIDE), ("region", GROUNDING), (CENTRE, GROUNDING)):
            yield MetricName(self.name, score, metric, subset=kind), kept[_key(score, metric)]


def _key(score: str, metric: str) -> str:
    """Returns the name under which the values of a score are kept."""
    return f"{score}/{metric}"


def _values_on_grid(phrases: _PhrasesOnGrid) -> Kept:
    """Returns the values of each phrase, (I,), for all maps and metrics, and those of single heads, (I, H)."""
    grid = phrases.grid
    num_phrases = len(phrases.image_I)
    maps = _similarity_maps(phrases)
    maps[UNIFORM] = uniform_map(grid).expand(num_phrases, -1, -1)
    maps[CENTRE] = centre_map(grid).expand(num_phrases, -1, -1)
    kept: Kept = {}
    if phrases.attention_IHP is not None:
        attention_IHYX = on_grid(phrases.attention_IHP, grid)
        maps["attention"] = attention_IHYX.mean(dim=1)
        heads = [_map_values(map_IYX, phrases.cells) for map_IYX in attention_IHYX.unbind(dim=1)]
        for metric in (POINTING, MASS_INSIDE):
            kept[_key(HEADS, metric)] = torch.stack([values[metric] for values in heads], dim=1)
    for score, map_IYX in maps.items():
        for metric, values_I in _map_values(map_IYX, phrases.cells).items():
            kept[_key(score, metric)] = values_I
    return kept


def _similarity_maps(phrases: _PhrasesOnGrid) -> dict[str, Tensor]:
    """Computes (I, Y, X) maps of the cosines of phrases with patches and with regions. No value is negative."""
    patches_BPD = phrases.patches_BPD
    device = patches_BPD.device
    num_patches = patches_BPD.shape[1]
    num_phrases_B = torch.bincount(phrases.image_I, minlength=len(patches_BPD)).tolist()
    image_I = phrases.image_I.to(device)
    # Features of windows are sums of those of patches, and so are their products with the phrases. The weights are
    # what RoIAlign makes of an image whose patch features are unit vectors.
    rows, columns = phrases.grid
    sides = torch.tensor([columns, rows, columns, rows], device=device)
    windows = sliding_windows(phrases.grid).to(device) * sides
    units_PP = torch.eye(num_patches, device=device)
    first_image = windows.new_zeros(len(windows)).long()
    window_weights = roi_align(units_PP[None], windows, first_image, phrases.grid)
    # Each phrase with the patches of its own image alone.
    products = []
    for image_texts_ID, patches_PD in zip(phrases.text_embeds_ID.split(num_phrases_B), patches_BPD, strict=True):
        products.append(image_texts_ID @ patches_PD.T)
    product_IP = torch.cat(products)
    # Image by image: the features of all windows of a batch at once would be many times those of its patches.
    lengths = [(window_weights @ patches_PD).norm(dim=-1) for patches_PD in patches_BPD]
    # A feature that is zero everywhere gets the cosine 0 instead of NaN.
    window_lengths = torch.stack(lengths).clamp(min=1e-12)
    length_BP = patches_BPD.norm(dim=-1).clamp(min=1e-12)
    patch_IP = product_IP / length_BP[image_I]
    window_cosines = product_IP @ window_weights.T / window_lengths[image_I]
    # Windows are listed size by size, one for each patch: the best size counts.
    region_IP = window_cosines.unflatten(-1, (-1, num_patches)).amax(dim=1)
    maps = {}
    for score, similarity_IP in (("patch_similarity", patch_IP), ("region_similarity", region_IP)):
        map_IP = similarity_IP - similarity_IP.amin(dim=-1, keepdim=True)
        maps[score] = on_grid(map_IP, phrases.grid)
    return maps


def _map_values(map_IYX: Tensor, cells: BoxCells) -> dict[str, Tensor]:
    """Returns (I,) values of each metric of a map."""
    return {POINTING: pointing_hits(map_IYX, cells), MASS_INSIDE: mass_inside_boxes(map_IYX, cells)}


def _grounding_hits(
    scores_IR: Tensor, boxes: Sequence[Box], boxes_of_phrases: Sequence[Sequence[Box]]
) -> dict[str, Tensor]:
    """
    Computes (I,) hits by each score for the phrases of one image.

    Args:
        scores_IR: (I, R) cosine of each phrase with each box.
        boxes: R boxes to choose from.
        boxes_of_phrases: The boxes of each phrase.
    """
    is_own = []
    for own_boxes in boxes_of_phrases:
        is_own.append([box in own_boxes for box in boxes])
    is_own_IR = torch.tensor(is_own)
    centre_R2 = torch.tensor(boxes, dtype=torch.float64).view(-1, 2, 2).mean(dim=1)
    # Rounded, so that boxes at the same distance on different sides are tied.
    nearness_R = -(centre_R2 - 0.5).norm(dim=-1).round(decimals=9)
    ranks = {
        "region": match_ranks(scores_IR, is_own_IR),
        CENTRE: match_ranks(nearness_R.expand(len(is_own_IR), -1), is_own_IR),
        UNIFORM: chance_ranks(len(boxes), is_own_IR.sum(dim=1)),
    }
    has_no_choice_I = is_own_IR.all(dim=1)
    hits = {}
    for score, score_ranks in ranks.items():
        hits[score] = hits_at_k(score_ranks, 1).masked_fill(has_no_choice_I, torch.nan)
    return hits
