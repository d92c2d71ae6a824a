"""
Asks a model where each text looks in an image, and how well each region matches each text.

Letters: T texts, H heads, R regions, D projection width; Y, X rows and columns of patches.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..data.images import load_image
from ..model.boxes_beta_clip import has_area, seen_box
from ..model.image_views_beta_clip import view_of_image
from ..model.modeling_beta_clip import BetaCLIPModel
from ..text.hierarchy import build_text_hierarchy
from .models import text_inputs


CAPTION, SENTENCE, PHRASE = "caption", "sentence", "phrase"
SHOWN_SIDE = 1024  # pixels: what is drawn on need not be larger


class ShownText(NamedTuple):
    """A text and what it is of the text that was given."""

    text: str
    kind: str = PHRASE
    """ "caption" of a text that has parts, "sentence" of one of several, else "phrase"."""
    group: int = 0
    """Texts of one group belong together: a sentence and its phrases."""


class Look(NamedTuple):
    """What a model sees of an image for some texts. All tensors are float32 on the CPU."""

    view: Image.Image
    """The part of the image that the model sees."""
    similarity_T: Tensor
    """(T,) cosine of each text with the whole image, as in CLIP."""
    conditioned_T: Tensor | None
    """(T,) cosine of each text with the image as this text sees it; `None` for a model without a pooler."""
    attention_THYX: Tensor | None
    """(T, H, Y, X) where each head of the pooler looks for each text."""
    boxes_R4: Tensor
    """(R, 4) xyxy in units of the view's sides, cut at its borders."""
    region_scores_RT: Tensor
    """(R, T) cosine of each region with each text."""

    def maps(self, head: int | None = None) -> Tensor:
        """
        (T, Y, X) where each text looks: the mean of the heads, or one of them.

        Raises:
            ValueError: without a pooler, or for a head that is not there.
        """
        if self.attention_THYX is None:
            raise ValueError("use_pooler must be True for heat maps, but the model has no pooler")
        heads = self.attention_THYX.shape[1]
        if head is None:
            return self.attention_THYX.mean(dim=1)
        if not 0 <= head < heads:
            raise ValueError(f"head must be 'mean' or one of 0 to {heads - 1}, but is {head}")
        return self.attention_THYX[:, head]


def split_texts(texts: Sequence[str], *, most_phrases: int = 12) -> list[ShownText]:
    """
    Each text, followed by its sentences if there are several, each followed by its phrases. No text comes twice.

    Args:
        texts: Captions of any length, or phrases.
        most_phrases: Of each text; 0 leaves the texts as they are.

    Raises:
        ValueError: where a text is blank, or there is none.

    >>> [(one.text, one.kind, one.group) for one in split_texts(["A cat sleeps. A red ball is near.", "the sky"])]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('A cat sleeps. A red ball is near.', 'caption', 0), ('A cat sleeps.', 'sentence', 1), ('A cat', 'phrase', 1),
     ('A red ball is near.', 'sentence', 2), ('A red ball', 'phrase', 2), ('the sky', 'phrase', 3)]
    """
    if not texts:
        raise ValueError("texts must be at least one, but there is none")
    shown: list[ShownText] = []
    seen: set[str] = set()
    group = 0

    def add(text: str, kind: str) -> None:
        folded = text.casefold().strip(" .")
        if folded not in seen:
            seen.add(folded)
            shown.append(ShownText(text, kind, group))

    for text in texts:
        hierarchy = build_text_hierarchy(text)
        phrases = list(zip(hierarchy.phrases, hierarchy.phrase_sentences, strict=True))[:most_phrases]
        phrases = [one for one in phrases if one[0].casefold() != hierarchy.caption.casefold().strip(" .")]
        has_parts = most_phrases > 0 and (len(hierarchy.sentences) > 1 or phrases)
        add(hierarchy.caption, CAPTION if has_parts else PHRASE)
        for place, sentence in enumerate(hierarchy.sentences if has_parts else ()):
            if len(hierarchy.sentences) > 1:
                group += 1
                add(sentence, SENTENCE)
            for phrase, home in phrases:
                if home == place:
                    add(phrase, PHRASE)
        group += 1
    return shown


@torch.no_grad()
def look(
    model: BetaCLIPModel,
    processor: Any,
    image: Any,
    texts: Sequence[str | ShownText],
    *,
    boxes: Sequence[Sequence[float]] = (),
    box_format: str = "xyxy_pixels",
) -> Look:
    """
    Asks a model what it sees of one image for each text, and of each region.

    Args:
        model: A β-CLIP or FG-CLIP, on any device; its pooler, if it has one, gives the heat maps.
        processor: Its processor.
        image: PIL image, path or bytes.
        texts: T of them. Of a model with two text paths, those of the kind "caption" take the long one.
        boxes: R boxes of the image.
        box_format: "xyxy_pixels", "xywh_pixels" (of the image as given) or "xyxy_normalized".

    Raises:
        ValueError: where the image cannot be read, there is no text, or the model sees nothing of a box.
    """
    image = load_image(image)
    shown = [text if isinstance(text, ShownText) else ShownText(text) for text in texts]
    if not shown:
        raise ValueError("texts must be at least one, but there is none")
    view = view_of_image(image.size, processor.image_processor)
    seen = []
    for box in boxes:
        seen.append(seen_box(box, box_format, image.size, view))
        if not has_area(seen[-1]):
            raise ValueError(
                f"boxes must lie in what the model sees of the image, {tuple(map(round, view))} of its pixels, but "
                f"{list(box)} ({box_format}) does not"
            )
    text_TD = _text_embeds(model, processor, shown)
    pixels = processor.image_processor([image], return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    is_other_size = pixels.shape[-2:] != (side, side)
    image_1D, patches_1PD = model.encode_images(pixels, is_other_size)
    conditioned_T = attention_THYX = None
    if model.pooler is not None:
        conditioned_TD, attention_THP = model.get_text_conditioned_image_features(
            patch_features=patches_1PD, text_embeds=text_TD, output_attentions=True
        )
        conditioned_T = (conditioned_TD * text_TD).sum(dim=-1).float().cpu()
        attention_THYX = attention_THP.unflatten(-1, (rows, columns)).float().cpu()
    boxes_R4 = torch.tensor(seen, dtype=torch.float32).reshape(-1, 4)
    regions_RD = normalize(image_1D[:0], dim=-1)
    if len(seen):
        features = model.get_region_features(pixels, boxes_R4.to(model.device), interpolate_pos_encoding=is_other_size)
        regions_RD = normalize(features, dim=-1)
    cropped = image.crop(tuple(map(round, view)))
    cropped.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    similarity_T = (normalize(image_1D, dim=-1) @ text_TD.T)[0].float().cpu()
    return Look(cropped, similarity_T, conditioned_T, attention_THYX, boxes_R4, (regions_RD @ text_TD.T).float().cpu())


def _text_embeds(model: BetaCLIPModel, processor: Any, texts: Sequence[ShownText]) -> Tensor:
    """(T, D) normalised; each text on its own path."""
    embeds: list[Tensor] = [torch.empty(0)] * len(texts)
    for is_caption in (True, False):
        places = [place for place, one in enumerate(texts) if (one.kind == CAPTION) == is_caption]
        path = "long" if is_caption and model.config.use_long_text_path else None
        if places:
            inputs = text_inputs(model, processor, [texts[place].text for place in places], path).to(model.device)
            options: dict[str, Any] = {} if path is None else {"path": path}
            features = normalize(model.get_text_features(**inputs, **options).pooler_output, dim=-1)
            for place, embed in zip(places, features, strict=True):
                embeds[place] = embed
    return torch.stack(embeds)


def records(seen: Look, texts: Sequence[ShownText]) -> dict[str, Any]:
    """The scores as JSON: those of each text, and those of each region with each text."""
    of_texts = []
    for place, one in enumerate(texts):
        conditioned = None if seen.conditioned_T is None else float(seen.conditioned_T[place])
        scores = {"conditioned": conditioned, "similarity": float(seen.similarity_T[place])}
        of_texts.append({"text": one.text, "kind": one.kind, **scores})
    of_regions = [
        {"box": box, "scores": dict(zip((one.text for one in texts), scores, strict=True))}
        for box, scores in zip(seen.boxes_R4.tolist(), seen.region_scores_RT.tolist(), strict=True)
    ]
    return {"texts": of_texts, "regions": of_regions}


def format_scores(seen: Look, texts: Sequence[ShownText]) -> str:
    """The same as a plain-text table."""
    names = ["" if seen.conditioned_T is None else "as seen", "cosine"]
    names += [f"box {number}" for number in range(1, len(seen.boxes_R4) + 1)]
    lines = ["".join(f"{name:>8}" for name in names if name) + "  text"]
    for place, one in enumerate(texts):
        values = [] if seen.conditioned_T is None else [float(seen.conditioned_T[place])]
        values += [float(seen.similarity_T[place]), *seen.region_scores_RT[:, place].tolist()]
        indent = {CAPTION: "", SENTENCE: "  ", PHRASE: "    "}[one.kind]
        text = one.text if len(one.text) <= 70 else one.text[:69] + "…"
        lines.append("".join(f"{value:8.3f}" for value in values) + f"  {indent}{text}")
    return "\n".join(lines)
