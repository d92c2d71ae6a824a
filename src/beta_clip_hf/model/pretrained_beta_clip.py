"""How a model is made and loaded: from sizes, from a checkpoint of ours, from plain CLIP, from FG-CLIP."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .checkpoints_beta_clip import FG_CLIP_SWITCHES, LONG_TABLE, from_fg_clip, is_fg_clip, read_weights, weight_names
from .configuration_beta_clip import CLIP_TEXT_POSITIONS, HUB_ARGUMENTS, BetaCLIPConfig
from .pooler_beta_clip import TextConditionedPooler
from .positions_beta_clip import stretch_text_positions
from .remote_code_beta_clip import carrying_code, render_first_card
from .towers_beta_clip import CLIPTowers, TwoPathTextEmbeddings


class BetaCLIPPreTrainedModel(CLIPTowers):
    """The parts of a model, their first values, and `from_pretrained`; what it computes is [`BetaCLIPModel`]."""

    config_class = BetaCLIPConfig
    config: Any  # a BetaCLIPConfig; its sub-configurations are typed too loosely upstream to be of use
    # The Trainer would rescale the loss by token counts under gradient accumulation: a contrast is a mean of its own.
    accepts_loss_kwargs = False

    def __init__(self, config: BetaCLIPConfig) -> None:
        super().__init__(config)
        self.pooler = TextConditionedPooler(config) if config.use_pooler else None
        if config.use_regions:
            self.region_logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
            self.hard_negative_logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """
        As [`~transformers.PreTrainedModel.push_to_hub`]; the code goes along, see [`carrying_code`], and a card where
        the repository has none, see [`render_first_card`].
        """
        with carrying_code({BetaCLIPConfig: "AutoConfig", type(self): "AutoModel"}):
            return super().push_to_hub(*args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        render_first_card(working_dir, repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        r"""
        As [`~transformers.PreTrainedModel.from_pretrained`], for a checkpoint of ours, for any plain CLIP and for
        FG-CLIP. Fields of [`BetaCLIPConfig`] may be given as keyword arguments.

        - A plain CLIP (`model_type` "clip") keeps its weights bit for bit, its 77 text positions are stretched to 248
          (method of Long-CLIP) and the pooler is new. With `use_long_text_path` the 77 positions stay for the short
          path; the stretched ones, and a copy of the text projection, make the long path. With `use_regions` the scales
          of regions and hard negatives start from CLIP's.
        - FG-CLIP (`model_type` "clip", with `text_filip_projection` among its tensors) is loaded as it is, with both
          text paths and all scales, and without a pooler unless `use_pooler=True`.
        - A checkpoint of ours is loaded as it is, whatever its positions.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        source = pretrained_model_name_or_path
        stored = {} if source is None else cls.config_class.get_config_dict(source, **hub)[0]
        is_stock = stored.get("model_type") == "clip"
        is_theirs = is_stock and is_fg_clip(weight_names(source, **hub))
        if is_stock and config is None:
            fields = cls.config_class.__dataclass_fields__.keys() - {"dtype"}
            changes = {name: kwargs.pop(name) for name in fields & kwargs.keys()}
            config = BetaCLIPConfig(**stored | (FG_CLIP_SWITCHES if is_theirs else {}) | changes)
        if is_stock:
            config = deepcopy(config)
            stored_positions = (stored.get("text_config") or {}).get("max_position_embeddings", CLIP_TEXT_POSITIONS)
            config.text_config.max_position_embeddings = stored_positions
        if is_theirs:
            config.name_or_path = str(source)
            kwargs = {name: value for name, value in kwargs.items() if name not in hub}
            kwargs["state_dict"], source = from_fg_clip(read_weights(source, **hub)), None

        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(source, *model_args, config=config, output_loading_info=True, **kwargs)
        model._start_from_clip(set(info["missing_keys"]), stretch=is_stock)
        return (model, info) if wants_info else model

    @torch.no_grad()
    def _start_from_clip(self, missing: set[str], *, stretch: bool) -> None:
        """What a checkpoint lacks begins with what CLIP has of the same kind; the pooler alone begins at random."""
        embeddings = self.text_model.embeddings
        table = embeddings.position_embedding.weight
        if LONG_TABLE in missing:
            is_clips = len(table) == CLIP_TEXT_POSITIONS
            embeddings.long_position_embedding.weight.copy_(stretch_text_positions(table) if is_clips else table)
        elif stretch and not self.config.use_long_text_path and len(table) == CLIP_TEXT_POSITIONS:
            table = stretch_text_positions(table)
            embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
            embeddings.position_ids = torch.arange(len(table), device=table.device).expand((1, -1))
            self.config.text_config.max_position_embeddings = self.text_model.config.max_position_embeddings = len(
                table
            )
        if self.long_text_projection is not None and "long_text_projection.weight" in missing:
            self.long_text_projection.weight.copy_(self.text_projection.weight)
        for name in {"region_logit_scale", "hard_negative_logit_scale"} & missing:
            getattr(self, name).copy_(self.logit_scale)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TextConditionedPooler):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                init.xavier_uniform_(projection.weight)
            for linear in (module.out_proj, module.fc1, module.fc2):
                init.normal_(linear.weight, std=linear.in_features**-0.5)
            init.constant_(module.logit_scale, self.config.pooler_logit_scale_init_value)
        elif isinstance(module, TwoPathTextEmbeddings):
            init.normal_(module.long_position_embedding.weight, std=0.02 * self.config.initializer_factor)
        elif module is getattr(self, "long_text_projection", None):
            init.normal_(module.weight, std=self.text_embed_dim**-0.5 * self.config.initializer_factor)


__all__ = ["BetaCLIPPreTrainedModel"]
