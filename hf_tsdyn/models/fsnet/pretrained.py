"""What the models of the FSNet family share: how they begin, how they are loaded, and their online state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...channel_scaling import ChannelScalingMixin
from ...checkpoint_safety import SafeLoadingMixin
from ...hub_card import HubCardMixin
from .averages import GradientAverages
from .configuration_fsnet import FSNetConfig
from .initialization import init_part
from .memory import Memory
from .network import Bank


class FSNetPreTrainedModel(SafeLoadingMixin, HubCardMixin, ChannelScalingMixin, PreTrainedModel):
    """What the backbone and its head share: configuration, initialisation, online state."""

    config: FSNetConfig
    config_class = FSNetConfig
    base_model_prefix = "model"
    input_modalities = "time"
    main_input_name = "past_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = False
    _no_split_modules = ["DilatedNetwork"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_part(module, self.config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """Load as all models here do; a memory that was normalised in another way is brought to that of `config`."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *arguments, **options)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        memories = [module for module in model.modules() if isinstance(module, Memory)]
        if memories and pretrained_model_name_or_path is not None:
            saved, _ = FSNetConfig.get_config_dict(pretrained_model_name_or_path, **options)
            if saved.get("slot_normalization", "memory") != model.config.slot_normalization:
                for memory in memories:
                    memory.normalize()
        return loaded

    @property
    def banks(self) -> list[Bank]:
        """The convolutions, stacked by shape."""
        return [module for module in self.modules() if isinstance(module, Bank)]

    @property
    def averages(self) -> list[GradientAverages]:
        """The averages of gradients of each bank, with its triggers; empty of a plain network."""
        return [bank.calibration.averages for bank in self.banks if bank.calibration is not None]

    @property
    def without_gradient(self) -> frozenset[str]:
        """Names of the parameters that no loss reaches in the state that the model is in.

        Controllers read nothing before the first gradients, and what decides on memory counts where it is asked. A
        model without data, on the meta device, is taken to be at its beginning.
        """
        silent = []
        for name, module in self.named_modules():
            if isinstance(module, Bank) and module.calibration is not None:
                averages = module.calibration.averages
                if averages.num_steps.is_meta or not bool(averages.num_steps):
                    silent.append(f"{name}.calibration.controller.weight")
                if averages.trigger.is_meta or not bool(averages.trigger.any()):
                    silent += [f"{name}.calibration.fusion_", f"{name}.calibration.memory."]
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(tuple(silent)))

    @property
    def moved_by_learning(self) -> list[Tensor]:
        """The buffers that a learning forward is about to write to, for callers who may have to take it back."""
        calibrations = (bank.calibration for bank in self.banks)
        return [buffer for each in calibrations if each is not None for buffer in each.moved_by_learning()]

    def after_optimizer_step(self, *, online: bool) -> None:
        """Take the gradients that the parameters hold into the averages, before they are cleared.

        Gradients of a bank that are not all finite are left out.

        online: whether a disagreement of the averages makes the next learning forward ask the memory.
        """
        for bank in self.banks:
            bank.after_optimizer_step(online=online)


__all__ = ["FSNetPreTrainedModel"]
