"""LoRA: low-rank adapters of the linear layers of both towers, by PEFT, with what is new trained whole."""

import functools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ...inference.adapters import require_peft
from ..distributed import without_gathering
from .names import unwrapped


# The linear layers in the blocks of both towers, by the ends of their names.
BLOCK_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_IN_BLOCKS = re.compile(r"(vision_model|text_model)\.encoder\.layers\.\d+\.")
# What is trained whole: the pooler, which is new, the ends of the towers (projections of CLIP, heads of SigLIP 2), and
# the stretched positions of texts. The rank loss has no weights, but its threshold belongs to the run.
WHOLE_MODULES = (
    "pooler", "visual_projection", "text_projection", "long_text_projection",
    "vision_model.head", "patch_head", "text_model.head", "long_text_head", "box_text_head", "rank_loss",
    "text_model.embeddings.position_embedding", "text_model.embeddings.long_position_embedding",
)  # fmt: skip
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraSettings:
    """
    Says which low-rank adapters a model gets.

    Args:
        rank: The rank of the adapters.
        alpha: Their product is scaled by `alpha / rank`, or by `alpha / √rank` with `rslora`. `None` is twice the rank.
        dropout: The dropout of their inputs.
        targets: Names of linear layers in the blocks of the towers, such as `["q_proj", "v_proj"]`; or a regular
            expression for whole names. `None` takes all linear layers of the blocks.
        rslora: Whether the scale is rank-stabilised (arXiv 2312.03732).
        dora: Whether the adapters are weight-decomposed (arXiv 2402.09353).
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | str | None = None
    rslora: bool = False
    dora: bool = False

    @classmethod
    def from_value(cls, value: Any) -> "LoraSettings | None":
        """
        Reads the argument `lora`: a rank, `True` for all defaults, a mapping of settings, or its JSON.

        Returns:
            The settings; `None` for `None` and `False`.

        Raises:
            ValueError: if a setting is unknown or not possible.

        >>> LoraSettings.from_value({"rank": 8, "targets": ["q_proj"]})
        LoraSettings(rank=8, alpha=None, dropout=0.0, targets=('q_proj',), rslora=False, dora=False)
        """
        if isinstance(value, str):
            value = _parsed(value)
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, int):
            value = {"rank": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"lora must be a rank or a mapping of settings, but is {value!r}")
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(name) for name in value if name not in known)
        if unknown:
            raise ValueError(f"lora must have the settings {', '.join(known)} only, but has {', '.join(unknown)}")
        values = dict(value)
        if isinstance(values.get("targets"), list):
            values["targets"] = tuple(values["targets"])
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raises `ValueError` if a setting is not possible."""
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"lora.rank must be an integer of at least 1, but is {self.rank!r}")
        if self.alpha is not None and (not _is_number(self.alpha) or self.alpha <= 0):
            raise ValueError(f"lora.alpha must be a number above 0, but is {self.alpha!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be a number of at least 0 and below 1, but is {self.dropout!r}")
        names = self.targets
        is_list = isinstance(names, tuple) and all(isinstance(name, str) for name in names) and bool(names)
        if not (names is None or isinstance(names, str) or is_list):
            raise ValueError(f"lora.targets must be a list of names or a regular expression, but is {names!r}")
        for name in ("rslora", "dora"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"lora.{name} must be true or false, but is {getattr(self, name)!r}")


def add_lora(model: Any, settings: LoraSettings, seed: int, frozen: Collection[nn.Module] = ()) -> Any:
    """
    Wraps a model into PEFT's, with adapters in the blocks of its towers.

    The pooler, the projections, the positions of texts and the logit scales are trained whole and saved with the
    adapters, unless they are frozen already.

    Args:
        model: A model that was loaded by `from_pretrained`. It is changed in place.
        settings: The adapters.
        seed: Of the first values of the adapters. They do not change the model's output.
        frozen: Modules whose layers get no adapter.

    Returns:
        The `PeftModel`. Its `save_pretrained` writes the adapter, the configuration and the scales.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the model was not loaded from a checkpoint, or no layer has a name of `settings.targets`.
    """
    peft = require_peft()
    if isinstance(model, peft.PeftModel):
        raise ValueError("lora must be left out for a model that has adapters already, but is given")
    if not model.config.name_or_path:
        raise ValueError(
            "lora must start from a saved model, because an adapter is loaded into it again; but this model was made "
            "from a configuration: save it, and load it with from_pretrained"
        )
    scales = [name for name, scale in model.named_parameters(recurse=False) if scale.requires_grad]
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings.targets, frozen),
        modules_to_save=_whole_modules(model),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        base_model_name_or_path=str(model.config.name_or_path),
    )
    # The Trainer sets its seed later, and other random numbers must not depend on the number of adapters.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = _adapter_class()(model, config)
    for name in scales:
        model.get_parameter(name).requires_grad_(True)
    return adapted


def _targets(model: nn.Module, targets: tuple[str, ...] | str | None, frozen: Collection[nn.Module]) -> list[str]:
    """Returns the names of the layers that get an adapter."""
    left_out: set[nn.Module] = set()
    for part in frozen:
        left_out.update(part.modules())
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module not in left_out and _is_target(name, targets):
            names.append(name)
    if not names:
        raise ValueError(
            f"lora.targets must name linear layers that are trained (such as {', '.join(BLOCK_LAYERS)}), but "
            f"{targets!r} names none"
        )
    return names


def _is_target(name: str, targets: tuple[str, ...] | str | None) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return _IN_BLOCKS.match(name) is not None and name.split(".")[-1] in (targets or BLOCK_LAYERS)


def _whole_modules(model: nn.Module) -> list[str]:
    """Returns the names of the modules of `WHOLE_MODULES` that the model has and that are not frozen."""
    names = []
    modules = dict(model.named_modules())
    for name in WHOLE_MODULES:
        if name in modules:
            parameters = list(modules[name].parameters())
            if not parameters or any(parameter.requires_grad for parameter in parameters):
                names.append(name)
    return names


@functools.cache
def _adapter_class() -> Any:
    """Makes the class of adapted models. Its base class is there only if peft is installed."""
    require_peft()
    from peft import PeftModel

    class AdaptedBetaCLIP(PeftModel):
        """A `PeftModel` that saves the logit scales too, which PEFT cannot save because they are no modules."""

        def create_or_update_model_card(self, output_dir: str) -> None:
            """Writes nothing. PEFT's card is blank, and `beta-clip push` writes the card."""

        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            """Saves the adapter, the configuration of the model and its logit scales."""
            # PEFT reads names from `state_dict`, and under FSDP2 the first process is here alone.
            with without_gathering():
                super().save_pretrained(str(save_directory), *args, **kwargs)
            if not kwargs.get("is_main_process", True):
                return
            core: Any = unwrapped(self)
            path = Path(save_directory) / _WEIGHTS
            tensors = load_file(path)
            # Where weights are sharded, the caller has gathered them.
            gathered = kwargs.get("state_dict") or {}
            for name, scale in core.named_parameters(recurse=False):
                # A copy: safetensors refuses views of other tensors.
                tensors[_PREFIX + name] = gathered.get(_PREFIX + name, scale).detach().cpu().clone()
            save_file(tensors, path, metadata={"format": "pt"})
            core.config.save_pretrained(save_directory)

    return AdaptedBetaCLIP


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"lora must be a rank or a mapping of settings, but is {text!r}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["WHOLE_MODULES", "LoraSettings", "add_lora"]
