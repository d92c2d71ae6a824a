"""β-CLIP on Hugging Face's CLIP: flat texts, dense patch features, the text-conditioned pooler and the losses.

Letters: B images, T texts of the batch (all granularities, flat), P patches, D projection width, L tokens, H heads.
Only what differs from `CLIPModel` is written here.
"""

from copy import deepcopy
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils.generic import can_return_tuple

from .configuration_beta_clip import CLIP_TEXT_POSITIONS, BetaCLIPConfig
from .loss_beta_clip import beta_cal_loss, clip_loss
from .pooler_beta_clip import TextConditionedPooler, normalize
from .positions_beta_clip import stretch_text_positions
from .regions_beta_clip import grid_boxes, roi_align
from .towers_beta_clip import CLIPTowers


HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class Granularity(IntEnum):
    """What kind of text a row of a flat batch is; β-CAL runs over the first three."""

    CAPTION = 0
    SENTENCE = 1
    PHRASE = 2
    SHORT_CAPTION = 3


@dataclass
class BetaCLIPOutput(CLIPOutput):
    r"""
    [`~transformers.models.clip.modeling_clip.CLIPOutput`] and, for a batch with `image_index`:

    Args:
        losses (`dict[str, Tensor]`, *optional*):
            The parts of `loss` by the name of their function (`clip_loss`, `beta_cal_loss`), before their weights.
        contextualized_embeds (`Tensor` of shape `(T, D)`, *optional*):
            L2-normalised embedding of each text's own image as pooled for that text.

    For a batch with `image_index` the embeddings are L2-normalised in at least float32, `logits_per_image` is `(B, T)`
    on CLS and EOS, and the outputs of the towers are left out.
    """

    losses: dict[str, Tensor] | None = None
    contextualized_embeds: Tensor | None = None


class BetaCLIPModel(CLIPTowers):
    r"""
    CLIP with a text-conditioned pooler, for captions of up to 248 tokens, their sentences and their phrases.

    Without `image_index` it is `CLIPModel`, bit for bit. With it, a batch is B images and T flat texts, each of which
    names its image and its kind; see [`BetaCLIPModel.forward`].

    Source: arXiv 2512.12678 (β-CLIP).
    """

    config_class = BetaCLIPConfig
    config: Any  # a BetaCLIPConfig; its sub-configurations are typed too loosely upstream to be of use
    # The Trainer would rescale the loss by token counts under gradient accumulation: a contrast is a mean of its own.
    accepts_loss_kwargs = False

    def __init__(self, config: BetaCLIPConfig) -> None:
        super().__init__(config)
        self.pooler = TextConditionedPooler(config) if config.use_pooler else None
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        r"""
        As [`~transformers.PreTrainedModel.from_pretrained`], for a checkpoint of ours and for any plain CLIP.

        A plain CLIP (`model_type` "clip") keeps its weights bit for bit, its 77 text positions are stretched to 248
        (method of Long-CLIP) and the pooler is new. A checkpoint of ours is loaded as it is, whatever its positions.
        Fields of [`BetaCLIPConfig`] may be given as keyword arguments.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        source = pretrained_model_name_or_path
        stored = {} if source is None else cls.config_class.get_config_dict(source, **hub)[0]
        if stored.get("model_type") != "clip":
            return super().from_pretrained(source, *model_args, config=config, **kwargs)

        if config is None:
            fields = cls.config_class.__dataclass_fields__.keys() - {"dtype"}
            config = BetaCLIPConfig(**stored | {name: kwargs.pop(name) for name in fields & kwargs.keys()})
        config = deepcopy(config)
        positions = (stored.get("text_config") or {}).get("max_position_embeddings", CLIP_TEXT_POSITIONS)
        config.text_config.max_position_embeddings = positions
        loaded = super().from_pretrained(source, *model_args, config=config, **kwargs)
        if positions == CLIP_TEXT_POSITIONS:
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple under output_loading_info=True
            model._stretch_text_positions()
        return loaded

    def _stretch_text_positions(self) -> None:
        embeddings = self.text_model.embeddings
        table = stretch_text_positions(embeddings.position_embedding.weight.data)
        embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        embeddings.position_ids = torch.arange(len(table), device=table.device).expand((1, -1))
        self.config.text_config.max_position_embeddings = self.text_model.config.max_position_embeddings = len(table)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TextConditionedPooler):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                init.xavier_uniform_(projection.weight)
            for linear in (module.out_proj, module.fc1, module.fc2):
                init.normal_(linear.weight, std=linear.in_features**-0.5)
            init.constant_(module.logit_scale, self.config.pooler_logit_scale_init_value)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_index: Tensor | None = None,
        granularity: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        gather: Any = None,
        **kwargs: Any,
    ) -> BetaCLIPOutput:
        r"""
        Embeds a batch and, with `return_loss`, computes the losses that the configuration weighs.

        Args:
            input_ids (`Tensor` of shape `(T, L)`, int64):
                All texts, right-padded, each with its EOS. With `image_index`, what stands after EOS is never computed.
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): normalised pixels.
            attention_mask, position_ids: as in `CLIPModel`; not needed with `image_index` (EOS ends a text).
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text, 0..B-1, non-decreasing. Without it the batch is a plain CLIP batch.
            granularity (`Tensor` of shape `(T,)`, int64, *optional*):
                Kind of each text, see [`Granularity`]; needed for the loss, which wants one caption per image.
            return_loss (`bool`): also compute `loss` (Σ weight · part) and `losses` (the parts).
            interpolate_pos_encoding (`bool`): as in `CLIPModel`, for images of another size.
            gather (*optional*):
                For several processes: `gather(tensor)` as in the loss functions, `gather.offset(rows)` the number of
                rows that lower ranks hold (which makes image indices unique). The Trainer passes it.

        Raises:
            ValueError: if images or texts are missing, shapes disagree, or a loss is asked for and cannot be: B ≠ T in
                a plain batch, no `granularity`, or an image with no caption or several.
        """
        if input_ids is None or pixel_values is None:
            raise ValueError("input_ids and pixel_values must both be given; for one of them see get_…_features")
        if image_index is None:
            if return_loss and len(pixel_values) != len(input_ids):
                raise ValueError(
                    f"without image_index a loss needs as many texts as images, but there are {len(input_ids)} "
                    f"texts and {len(pixel_values)} images"
                )
            kwargs.update(attention_mask=attention_mask, position_ids=position_ids, return_dict=True)
            kwargs.update(return_loss=return_loss, interpolate_pos_encoding=interpolate_pos_encoding)
            outputs = super().forward(input_ids, pixel_values, **kwargs)
            losses = None if outputs.loss is None else {"clip_loss": outputs.loss}
            return BetaCLIPOutput(**outputs, losses=losses)

        if image_index.shape != input_ids.shape[:1]:
            raise ValueError(f"image_index must have shape ({len(input_ids)},), but is {tuple(image_index.shape)}")
        image_features_BD, patch_features_BPD = self.encode_images(pixel_values, interpolate_pos_encoding)
        image_embeds_BD, text_embeds_TD = normalize(image_features_BD), normalize(self._encode_texts(input_ids))
        contextualized_TD = None
        if self.pooler is not None:
            contextualized_TD = normalize(self.pooler(text_embeds_TD, patch_features_BPD, image_index)[0])
        with torch.autocast(image_embeds_BD.device.type, enabled=False):
            logits_BT = _multiplier(self.logit_scale) * image_embeds_BD @ text_embeds_TD.T
        outputs = BetaCLIPOutput(
            logits_per_image=logits_BT,
            logits_per_text=logits_BT.T,
            image_embeds=image_embeds_BD,
            text_embeds=text_embeds_TD,
            contextualized_embeds=contextualized_TD,
        )
        if return_loss:
            outputs.losses = self._losses(outputs, image_index, granularity, gather)
            outputs.loss = sum(getattr(self.config, f"{name}_weight") * part for name, part in outputs.losses.items())
        return outputs

    def _losses(
        self, outputs: BetaCLIPOutput, image_index_T: Tensor, granularity_T: Tensor | None, gather: Any
    ) -> dict[str, Tensor]:
        if granularity_T is None or granularity_T.shape != image_index_T.shape:
            shape = None if granularity_T is None else tuple(granularity_T.shape)
            raise ValueError(f"granularity must have shape {tuple(image_index_T.shape)} for a loss, but is {shape}")
        caption_T = granularity_T == Granularity.CAPTION
        captions_B = torch.bincount(image_index_T[caption_T], minlength=len(outputs.image_embeds))
        if (captions_B != 1).any():
            raise ValueError(f"each image must have one caption for a loss, but they have {captions_B.tolist()}")

        losses = {}
        if self.config.clip_loss_weight:
            caption_order_B = image_index_T[caption_T].argsort()
            losses["clip_loss"] = clip_loss(
                outputs.image_embeds,
                outputs.text_embeds[caption_T][caption_order_B],
                logit_scale=_multiplier(self.logit_scale),
                gather=gather,
            )
        if self.config.beta_cal_loss_weight and self.pooler is not None and outputs.contextualized_embeds is not None:
            aligned_T = granularity_T <= Granularity.PHRASE
            first_image = 0 if gather is None else gather.offset(len(outputs.image_embeds))
            losses["beta_cal_loss"] = beta_cal_loss(
                outputs.contextualized_embeds[aligned_T],
                outputs.text_embeds[aligned_T],
                image_index_T[aligned_T] + first_image,
                logit_scale=_multiplier(self.pooler.logit_scale),
                beta=self.config.beta,
                kind=self.config.alignment_loss,
                gather=gather,
            )
        if not losses:
            raise ValueError("a loss needs a part of positive weight, but the configuration has none")
        return losses

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> Any:
        r"""
        As `CLIPModel.get_text_features`: `.pooler_output` is `(T, D)`, un-normalised.

        Args:
            input_ids, attention_mask (`Tensor` of shape `(T, L)`), position_ids: as in `CLIPModel`.
            path (`str`, *optional*): for models with several text paths; this one has a single path, `None`.

        Raises:
            ValueError: if a path is named.
        """
        if path is not None:
            raise ValueError(f"path must be None for a model with one text path, but is {path!r}")
        return super().get_text_features(input_ids, attention_mask, position_ids, **kwargs)

    def get_patch_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        r"""
        Dense image features: the values of the last vision block, projected like the image embedding.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): normalised pixels.
            interpolate_pos_encoding (`bool`): as in `CLIPModel`.

        Returns:
            `(B, P, D)`, un-normalised, row-major over the grid.

        Source: the releases of β-CLIP and FG-CLIP (the same in both); MaskCLIP's idea.
        """
        return self.encode_images(pixel_values, interpolate_pos_encoding)[1]

    def get_region_features(
        self,
        pixel_values: Tensor,
        boxes: Tensor,
        region_image_index: Tensor | None = None,
        box_format: str = "xyxy_normalized",
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        r"""
        One vector per box: RoIAlign of the patch features, see [`roi_align`].

        Args:
            pixel_values (`Tensor` of shape `(B, 3, height, width)`): normalised pixels.
            boxes (`Tensor` of shape `(R, 4)`): any number per image; never clipped.
            region_image_index (`Tensor` of shape `(R,)`, int64, *optional*):
                The image of each box. Left out: boxes and images in pairs (R = B), or all boxes on one image (B = 1).
            box_format (`str`): "xyxy_normalized", "xyxy_pixels" or "xywh_pixels" (pixels of `pixel_values`).
            interpolate_pos_encoding (`bool`): as in `CLIPModel`, for images of another size.

        Returns:
            `(R, D)`, un-normalised; exact zeros for a box without area.

        Raises:
            ValueError: for an unknown format, boxes that are not `(R, 4)`, or R that fits neither B nor 1 image.

        Source: FG-CLIP (arXiv 2505.05071), region features.
        """
        height, width = pixel_values.shape[-2:]
        patch = self.config.vision_config.patch_size
        grid = (height // patch, width // patch)
        boxes = grid_boxes(boxes, box_format, (height, width), grid)
        index = _index_or_pairs(region_image_index, len(pixel_values), len(boxes), "boxes", pixel_values.device)
        return roi_align(self.get_patch_features(pixel_values, interpolate_pos_encoding), boxes, index, grid)

    def get_text_conditioned_image_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        *,
        patch_features: Tensor | None = None,
        text_embeds: Tensor | None = None,
        image_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""
        The embedding of an image as each text sees it.

        Args:
            pixel_values (`(B, 3, S, S)`) or patch_features (`(B, P, D)`, from [`get_patch_features`]): the images.
            input_ids (`(T, L)`, right-padded) or text_embeds (`(T, D)`, normalised or not): the texts.
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text. Left out: texts and images in pairs (T = B), or all texts on one image (B = 1).
            attention_mask: accepted, so that a processor's output may be passed whole; EOS ends a text.
            output_attentions (`bool`): also return where each text looked.

        Returns:
            `(T, D)`, L2-normalised; with `output_attentions` also the attention `(T, H, P)`.

        Raises:
            ValueError: if the model has no pooler, an input is missing or given twice, or T fits neither B nor 1 image.
        """
        pooler = self._pooler_or_error()
        if (pixel_values is None) == (patch_features is None):
            raise ValueError("exactly one of pixel_values and patch_features must be given")
        if (input_ids is None) == (text_embeds is None):
            raise ValueError("exactly one of input_ids and text_embeds must be given")
        if patch_features is None:
            assert pixel_values is not None
            patch_features = self.get_patch_features(pixel_values)
        if text_embeds is None:
            assert input_ids is not None
            text_embeds = self._encode_texts(input_ids)
        index = _index_or_pairs(image_index, len(patch_features), len(text_embeds), "texts", text_embeds.device)
        pooled_TD, attentions_THP = pooler(text_embeds, patch_features, index, output_attentions)
        return (normalize(pooled_TD), attentions_THP) if output_attentions else normalize(pooled_TD)

    def score_pairs(self, patch_features: Tensor, text_embeds: Tensor, *, chunk_size: int = 8192) -> Tensor:
        r"""
        The text-conditioned score v_{i|t} · u_t of EVERY image i with every text t.

        Pooling each image with its own caption only, and comparing across images, would leak the label; this does not.

        Args:
            patch_features (`Tensor` of shape `(B, P, D)`): from [`get_patch_features`].
            text_embeds (`Tensor` of shape `(T, D)`): normalised or not.
            chunk_size (`int`): pairs computed at a time; memory is about `20 · D · chunk_size` bytes per byte of dtype.

        Returns:
            `(B, T)`, cosines in [-1, 1], at least float32.

        Raises:
            ValueError: if the model has no pooler, or `chunk_size` is below 1.
        """
        return self._pooler_or_error().score_pairs(patch_features, text_embeds, chunk_size=chunk_size)

    def _pooler_or_error(self) -> TextConditionedPooler:
        if self.pooler is None:
            raise ValueError("use_pooler must be True for text-conditioned features, but is False")
        return self.pooler


def _index_or_pairs(
    image_index: Tensor | None, num_images: int, num_rows: int, rows: str, device: torch.device
) -> Tensor:
    """The image of each row; where none is given, rows and images in pairs, or all rows on the one image."""
    if image_index is not None:
        return image_index
    if num_images not in (1, num_rows):
        raise ValueError(
            f"without an image index there must be one image, or one for each of the {rows}, "
            f"but there are {num_images} images and {num_rows} {rows}"
        )
    return torch.arange(num_rows, device=device) % num_images


def _multiplier(logit_scale: Tensor) -> Tensor:
    """exp of a log scale, in at least float32: 100 has no neighbour closer than 0.5 in bfloat16."""
    return logit_scale.to(torch.promote_types(logit_scale.dtype, torch.float32)).exp()


__all__ = ["BetaCLIPModel", "BetaCLIPOutput", "Granularity"]
