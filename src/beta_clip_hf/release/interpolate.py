"""Mixes the weights of a model with those of its base: most of what was learnt stays, less is forgotten."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, PreTrainedModel

from ..model.checkpoints_beta_clip import is_fg_clip, weight_names
from ..model.checkpoints_beta_siglip2 import STOCK_TYPES, TRAINING_STATE
from ..model.configuration_beta_clip import CLIP_TEXT_POSITIONS, BetaCLIPConfig
from ..model.configuration_beta_siglip2 import BetaSiglip2Config
from ..model.loading_checks_beta_clip import load_checked
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.objective_beta_clip import added_logit_scales
from .directories import check_output, read_any_model, read_model, read_processor_of


logger = logging.getLogger(__name__)

TOWER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "vocab_size",
    "image_size",
    "patch_size",
    "num_channels",
    "num_patches",
)


def interpolate(
    base: str | Path, tuned: str | Path, output_dir: str | Path, *, alpha: float
) -> BetaCLIPModel | BetaSiglip2Model:
    r"""
    Saves the model with the weights `(1 - alpha) · base + alpha · tuned`, and the processor of `tuned` beside it.

    Args:
        base: Directory or Hub id of the model that the training started from. A plain CLIP, SigLIP or SigLIP 2 is
            brought into the architecture of `tuned` like at the beginning of a training: its positions are stretched,
            and its long text path is a copy of the short one.
        tuned: Directory or Hub id of a model of this package, of FG-CLIP or of FG-CLIP 2.
        output_dir: Directory to write.
        alpha: Weight of `tuned`, in [0, 1]. 0 gives the towers of `base` and 1 gives `tuned`, both bit for bit.

    Returns:
        The model in evaluation mode, in the dtype of `tuned`. The sum is computed in at least float32. Tensors that
        `base` does not have (the pooler) are those of `tuned`, whatever `alpha` is.

    Raises:
        ValueError: if `alpha` is outside of [0, 1], the architectures differ (the first difference is named), or the
            output is one of the two models.

    Source: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903).
    """
    check_output(output_dir, base, tuned)
    check_alphas([alpha])
    pair = ModelPair(base, tuned)
    pair.save(output_dir, alpha)
    return pair.model


def interpolate_all(
    base: str | Path, tuned: str | Path, output_dir: str | Path, *, alphas: Sequence[float]
) -> dict[float, Path]:
    """
    Saves the model of each alpha.

    Args:
        base, tuned: See [`interpolate`].
        output_dir: Directory to write. A single alpha is written into it, several into its folders `alpha_X`.
        alphas: Weights of `tuned`, each in [0, 1].

    Returns:
        The directory of each alpha.

    Raises:
        ValueError: see [`interpolate`]. Nothing is written then.
    """
    check_alphas(alphas)
    folders = alpha_folders(output_dir, alphas)
    if len(alphas) == 1:
        folders = {alphas[0]: Path(output_dir)}
    for folder in folders.values():
        check_output(folder, base, tuned)
    pair = ModelPair(base, tuned)
    for alpha, folder in folders.items():
        pair.save(folder, alpha)
        logger.info("alpha %g is in %s", alpha, folder)
    return folders


class ModelPair:
    """
    Holds two models of one architecture, which are read once for any number of alphas.

    Args:
        base, tuned: See [`interpolate`].

    Raises:
        ValueError: if their architectures differ.
    """

    def __init__(self, base: str | Path, tuned: str | Path) -> None:
        self.model = read_any_model(tuned)
        self.processor = read_processor_of(self.model, tuned)
        base_model = _read_base(base, self.model.config)
        self.base_tensors = base_model.state_dict()
        self.tuned_tensors = self.model.state_dict()
        _check_same_sizes(base_model.config, self.model.config)
        check_same_tensors(self.base_tensors, self.tuned_tensors)
        not_in_base = self.tuned_tensors.keys() - self.base_tensors.keys()
        if not_in_base:
            parts = sorted({name.split(".")[0] for name in not_in_base})
            logger.info("Not in the base, so taken from the tuned model whatever alpha is: %s", ", ".join(parts))

    def save(self, output_dir: str | Path, alpha: float) -> None:
        """Gives `model` the weights of one alpha and saves it, with the processor of the tuned model."""
        self.model.load_state_dict(mix(self.base_tensors, self.tuned_tensors, alpha), assign=True)
        self.model.save_pretrained(output_dir)
        if self.processor is not None:
            self.processor.save_pretrained(output_dir)


def mix(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """
    Computes `(1 - alpha) · base + alpha · tuned` for each tensor, in the dtypes of `tuned`.

    A tensor that `base` lacks is copied from `tuned`. The sum is computed in at least float32. At 0 and 1 nothing is
    computed, so that these are exact, signs of zeros included.
    """
    mixed = {}
    for name, target in tuned.items():
        if alpha == 1 or name not in base:
            mixed[name] = target.clone()
        elif alpha == 0:
            mixed[name] = base[name].to(target.dtype, copy=True)
        else:
            dtype = torch.promote_types(target.dtype, torch.float32)
            weighted_sum = (1 - alpha) * base[name].to(dtype) + alpha * target.to(dtype)
            mixed[name] = weighted_sum.to(target.dtype)
    return mixed


def check_alphas(alphas: Sequence[float]) -> None:
    """
    Checks the weights of a sweep.

    Raises:
        ValueError: if one lies outside of [0, 1], or is given twice.
    """
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], but is {alpha}")
    if len(set(alphas)) < len(alphas):
        raise ValueError(f"alphas must differ, but are {list(alphas)}")


def alpha_folders(output_dir: str | Path, alphas: Sequence[float]) -> dict[float, Path]:
    """Returns the folder of each alpha in a directory of several models."""
    return {alpha: Path(output_dir) / f"alpha_{alpha:g}" for alpha in alphas}


def _read_base(base: str | Path, tuned_config: Any) -> PreTrainedModel:
    """Loads the base. A plain CLIP or SigLIP gets the text paths and the scales of the tuned model."""
    if isinstance(tuned_config, BetaSiglip2Config):
        return _read_siglip2_base(base, tuned_config)
    is_plain_clip = BetaCLIPConfig.get_config_dict(base)[0].get("model_type") == "clip"
    # FG-CLIP's checkpoints call themselves "clip", too.
    if not is_plain_clip or is_fg_clip(weight_names(base)):
        return read_model(base)
    is_stretched = tuned_config.text_config.max_position_embeddings != CLIP_TEXT_POSITIONS
    if not tuned_config.use_long_text_path and not is_stretched:
        # Reading it as a model of this package would stretch its positions.
        return load_checked(CLIPModel.from_pretrained, base)[0]
    return read_model(
        base,
        use_long_text_path=tuned_config.use_long_text_path,
        long_text_max_position_embeddings=tuned_config.long_text_max_position_embeddings,
        use_regions=tuned_config.use_regions,
    )


def _read_siglip2_base(base: str | Path, tuned_config: BetaSiglip2Config) -> BetaSiglip2Model:
    """Loads the base of a model on SigLIP 2 towers, see [`_read_base`]."""
    changes = {}
    if BetaSiglip2Config.get_config_dict(base)[0].get("model_type") in STOCK_TYPES:
        changes = {
            "long_text_max_position_embeddings": tuned_config.long_text_max_position_embeddings,
            "use_regions": tuned_config.use_regions,
        }
    model: BetaSiglip2Model = BetaSiglip2Model.from_pretrained(base, **changes)
    return model


def _check_same_sizes(base: Any, tuned: Any) -> None:
    """Checks the configurations of both towers. Tensors of one shape may still belong to different architectures."""
    for tower in ("text_config", "vision_config"):
        for field in TOWER_FIELDS:
            base_value = getattr(getattr(base, tower), field, None)
            tuned_value = getattr(getattr(tuned, tower), field, None)
            if base_value != tuned_value:
                raise ValueError(
                    f"{tower}.{field} of the base must be the tuned model's {tuned_value}, but is {base_value}"
                )


def check_same_tensors(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Checks names and shapes of all tensors. The base may lack those that are new in a fine-tuned model."""
    new_scales = added_logit_scales()
    for name in sorted(base.keys() | tuned.keys()):
        is_new = name.startswith("pooler.") or name in new_scales or name in TRAINING_STATE
        if name not in base and is_new:
            continue
        if name not in base:
            raise ValueError(f"the base model must have {name} like the tuned one, but does not")
        if name not in tuned:
            raise ValueError(f"the tuned model must have {name} like the base one, but does not")
        base_shape = tuple(base[name].shape)
        tuned_shape = tuple(tuned[name].shape)
        if base_shape != tuned_shape:
            raise ValueError(f"{name} of the base must be {tuned_shape} like the tuned model's, but is {base_shape}")


__all__ = ["ModelPair", "alpha_folders", "check_alphas", "interpolate", "interpolate_all", "mix"]
