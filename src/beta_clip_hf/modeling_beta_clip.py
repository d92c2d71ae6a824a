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
from torch.nn import functional as F
from transformers import CLIPModel
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPOutput
from transformers.utils.generic import can_return_tuple

from .configuration_beta_clip import CLIP_TEXT_POSITIONS, BetaCLIPConfig
from .loss_beta_clip import beta_cal_loss, clip_loss
from .pooler_beta_clip import TextConditionedPooler, normalize
from .positions_beta_clip import stretch_text_positions


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


class BetaCLIPModel(CLIPModel):
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
        image_features_BD, patch_features_BPD = self._encode_images(pixel_values, interpolate_pos_encoding)
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
        return self._encode_images(pixel_values, interpolate_pos_encoding)[1]

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
        num_images, num_texts = len(patch_features), len(text_embeds)
        if image_index is None:
            if num_images not in (1, num_texts):
                raise ValueError(
                    f"without image_index there must be one image, or one per text, but there are {num_images} images "
                    f"and {num_texts} texts"
                )
            image_index = torch.arange(num_texts, device=text_embeds.device) % num_images
        pooled_TD, attentions_THP = pooler(text_embeds, patch_features, image_index, output_attentions)
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

    def _encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> tuple[Tensor, Tensor]:
        """Image features `(B, D)` and patch features `(B, P, D)` of one pass, both un-normalised."""
        vision = self.vision_model
        hidden_states = vision.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        hidden_states = vision.pre_layrnorm(hidden_states)
        for layer in vision.encoder.layers[:-1]:
            hidden_states = layer(hidden_states, None)
        hidden_states = _value_only_block(vision.encoder.layers[-1], hidden_states)
        features = self.visual_projection(vision.post_layernorm(hidden_states))
        return features[:, 0], features[:, 1:]

    def _encode_texts(self, input_ids_TL: Tensor) -> Tensor:
        """
        Text features `(T, D)`, un-normalised. Attention is causal and what follows EOS has no influence, so texts are
        sorted by length and encoded in groups of similar length, each cut to its longest.
        """
        lengths = self._lengths(input_ids_TL).tolist()
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        features, start = [self.text_projection.weight.new_zeros(0, self.projection_dim)], 0
        while start < len(order):
            longest = lengths[order[start]]
            end = next((i for i in range(start, len(order)) if lengths[order[i]] < 0.75 * longest), len(order))
            pooled = self.text_model(input_ids=input_ids_TL[order[start:end], :longest]).pooler_output
            features.append(self.text_projection(pooled))
            start = end
        inverse = torch.tensor(order, device=input_ids_TL.device).argsort()
        return torch.cat(features[1:] or features)[inverse]

    def _lengths(self, input_ids_TL: Tensor) -> Tensor:
        """Tokens up to and including the one that CLIP pools: the first EOS or, by its legacy rule, the largest id."""
        eos_token_id = self.text_model.eos_token_id
        ids = input_ids_TL if eos_token_id == 2 else (input_ids_TL == eos_token_id).int()
        return ids.argmax(dim=-1) + 1


def _value_only_block(layer: CLIPEncoderLayer, hidden_states: Tensor) -> Tensor:
    """The last vision block: CLS attends as in CLIP, patches keep their own values. Only CLS has a query."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    values = attention.v_proj(normed)
    query, key, value = (
        x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for x in (attention.q_proj(normed[:, :1]), attention.k_proj(normed), values)
    )
    dropout = attention.dropout if layer.training else 0.0
    cls = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(-2)
    hidden_states = hidden_states + attention.out_proj(torch.cat([cls, values[:, 1:]], dim=1))
    return hidden_states + layer.mlp(layer.layer_norm2(hidden_states))


def _multiplier(logit_scale: Tensor) -> Tensor:
    """exp of a log scale, in at least float32: 100 has no neighbour closer than 0.5 in bfloat16."""
    return logit_scale.to(torch.promote_types(logit_scale.dtype, torch.float32)).exp()


__all__ = ["BetaCLIPModel", "BetaCLIPOutput", "Granularity"]
