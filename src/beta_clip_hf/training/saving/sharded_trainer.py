"""transformers' Trainer with what FSDP2 needs: the model's preparation, DDP's precision, whole weights on disk."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME

from ..distributed import ProcessGather, give_scales_an_axis, prepare_for_fsdp2


class ShardedTrainer(Trainer):
    """
    A Trainer that also trains under FSDP2, whether the arguments (`fsdp`) or the launcher's configuration ask for it.

    - The model is prepared by [`prepare_for_fsdp2`].
    - Half precision is autocast, as under DDP. Weights, logit scales and boxes stay float32, and so does what processes
      exchange.
    - Saved models are whole, whatever kind of state dict checkpoints have.

    Raises:
        ValueError: for FSDP1, and for an option of FSDP2 that the model does not work with.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            self._set_up_fsdp2()
        elif self.is_deepspeed_enabled:
            # It sends weights as bytes, and cannot do so for a number without an axis.
            give_scales_an_axis(self.model)

    def create_accelerator_and_postprocess(self) -> None:
        """Creates the accelerator like `Trainer`, and lets it shard on CPUs too."""
        from accelerate import PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env

        options = self.args.fsdp_plugin_args or {}
        is_wanted = bool(options) or parse_flag_from_env("ACCELERATE_USE_FSDP")
        # The default of accelerate's configurations is 1.
        version = options.get("fsdp_version", int(os.environ.get("FSDP_VERSION", "1")))
        if is_wanted and version != 2:
            raise ValueError(
                f"fsdp_version must be 2, but is {version}: FSDP1 cannot shard logit scales. Set `fsdp_version: 2` in "
                "the configuration of accelerate, or 'version': 2 in fsdp_config"
            )
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        # accelerate shards on accelerators alone. On CPUs it would train whole copies of the model without a word.
        if is_wanted and state.distributed_type == DistributedType.MULTI_CPU:
            # Both states are shared by all of accelerate, and the second is copied into the first again and again.
            state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**options)
            self.is_fsdp_enabled = True

    def _set_up_fsdp2(self) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, StateDictType

        plugin = self.accelerator.state.fsdp_plugin
        if plugin.cpu_ram_efficient_loading:
            raise ValueError(
                "cpu_ram_efficient_loading must be false, but is true: other processes than the first would have no "
                "weights to stretch text positions or start new logit scales from"
            )
        if plugin.activation_checkpointing:
            raise ValueError(
                "activation_checkpointing of FSDP must be false, but is true; use vision_checkpointing and "
                "text_checkpointing of the training arguments"
            )
        if hasattr(self.model, "peft_config") and plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
            # PEFT leaves out logit scales, which are no modules.
            raise ValueError(
                f"fsdp_state_dict_type must be FULL_STATE_DICT with lora, but is {plugin.state_dict_type.name}, which "
                "would lose the logit scales; the whole state of adapters is small"
            )
        if self.args.torch_compile:
            raise ValueError("torch_compile must be False under FSDP2, but is True; use DDP to train a compiled model")
        # FSDP2 would cast logit scales and the coordinates of boxes too. bfloat16 has three digits: too few for both.
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
        # It warns of operations in place on outputs, which the Trainer does not do.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        prepare_for_fsdp2(self.model)

    @property
    def shards_weights(self) -> bool:
        """Whether each process has a part of the weights only, so that `forward` is collective."""
        return self.is_fsdp_enabled and hasattr(self.model, "_get_fsdp_state")

    def compute_loss_context_manager(self) -> ExitStack:
        """Returns the context of the loss: autocast, which accelerate puts into a model under DDP alone."""
        stack = super().compute_loss_context_manager()
        if self.is_fsdp_enabled:
            stack.enter_context(self.accelerator.autocast())
        return stack

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the whole model. transformers would save none where checkpoints are sharded (SHARDED_STATE_DICT)."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        # Of sharded weights only the first process gets the tensors, and all have to ask for them.
        state_dict = self.accelerator.get_state_dict(self.model) if self.shards_weights else None
        self._save(output_dir, state_dict=state_dict)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Saves like `Trainer`, under FSDP2 also for parameters that no loss has reached yet."""
        if self.is_fsdp_enabled:
            _complete_state(self.optimizer)
        super()._save_optimizer_and_scheduler(output_dir)

    def batches_in_step(self, loader: DataLoader, processes: ProcessGather) -> Iterator[dict[str, Any]]:
        """
        Yields the batches of this process, and a blank one wherever only other processes have one left.

        A forward pass over sharded weights needs all processes, and their shares of the rows may differ.

        Args:
            loader: The batches of this process.
            processes: Counts the batches of all.

        Yields:
            Batches; a blank one has the key "is_blank".
        """
        batches = iter(loader)
        while True:
            batch = next(batches, None)
            num_batches = 0 if batch is None else 1
            counts = processes.row_counts(num_batches) if self.shards_weights else [[num_batches]]
            if not any(count for (count,) in counts):
                return
            yield self._blank_batch() if batch is None else batch

    def _blank_batch(self) -> dict[str, Any]:
        config = self.model.config
        size = config.vision_config.image_size
        return {
            "pixel_values": torch.zeros(1, 3, size, size),
            # A token and its end, the shortest text there is.
            "input_ids": torch.tensor([[0, config.text_config.eos_token_id]]),
            "is_blank": True,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Loads the weights of a checkpoint. One of another kind of run is refused in a sentence."""
        names = os.listdir(resume_from_checkpoint) if os.path.isdir(resume_from_checkpoint) else []
        is_sharded = any(name.startswith("pytorch_model_fsdp") for name in names)
        is_whole = not is_sharded and bool({SAFE_WEIGHTS_NAME, WEIGHTS_NAME}.intersection(names))
        if (is_whole and self.is_fsdp_enabled) or (is_sharded and not self.is_fsdp_enabled):
            written = "under FSDP2" if is_sharded else "without FSDP2"
            raise ValueError(
                f"a run must go on as it began, but {resume_from_checkpoint} was written {written}: start a new run "
                "from the model in that directory"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)


def _complete_state(optimizer: Any) -> None:
    """
    Gives parameters without a state a state of zeros, with which optimisers of Adam's kind start.

    torch does not load the state of an optimiser that has none for a parameter.
    """
    parameters: list[Tensor] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    with_state = next((parameter for parameter in parameters if optimizer.state.get(parameter)), None)
    if with_state is None:
        return
    for parameter in parameters:
        if optimizer.state.get(parameter):
            continue
        state = {}
        for name, value in optimizer.state[with_state].items():
            is_moment = value.shape == with_state.shape
            state[name] = torch.zeros_like(parameter if is_moment else value, dtype=value.dtype)
        optimizer.state[parameter] = state


__all__ = ["ShardedTrainer"]
