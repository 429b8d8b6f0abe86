"""Low-rank adapters on a model's linear maps (LoRA, Hu et al. 2021, arXiv:2106.09685), by the library peft."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class LoraOptions:
    """What is trained when the weights of a checkpoint stay as they are.

    Args:
        rank: of the change of each adapted map.
        alpha: the change is multiplied by alpha / rank.
        dropout: probability, on the input of the change alone.
        target_modules: ends of the names of the linear maps to adapt, such as "q_proj"; null adapts every linear map
            in the backbone's layers: attention projections and feed-forward maps.
        train_head: train what stands after the backbone in full."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None
    train_head: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "lora must have a rank of at least 1, a positive alpha and a dropout in [0, 1), found "
                f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}; correct these fields."
            )
        if importlib.util.find_spec("peft") is None:
            raise ValueError("lora needs the library peft, found none; install it with: pip install 'hf_tsdyn[lora]'")


def add_adapter(model: PreTrainedModel, options: LoraOptions) -> PeftModel:
    """Freeze the model's weights and return it with an adapter, which changes nothing until it is trained.

    Raises: ValueError if a name of `target_modules` is no linear map's.
    """
    from peft import LoraConfig, get_peft_model

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = options.target_modules or _targets(model, linear)
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown:
        raise ValueError(
            f"lora.target_modules must end names of linear maps, found {unknown}; they are, in the backbone's layers, "
            f"{_targets(model, linear)}."
        )
    head = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=cast(int, options.alpha),  # peft takes any number, whatever its annotation says
        lora_dropout=options.dropout,
        target_modules=list(targets),
        modules_to_save=head if options.train_head else None,
    )
    with warnings.catch_warnings():  # peft asks for a property that transformers has renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return cast("PeftModel", get_peft_model(model, config))


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Add the adapter's changes to the weights and return the model as it was built, without peft in it."""
    merged = cast(PreTrainedModel, model.merge_and_unload())
    return merged.requires_grad_(True)  # torch's kernels round frozen weights otherwise than those of a loaded model


def _targets(model: PreTrainedModel, linear: list[str]) -> list[str]:
    """Names within a layer of the linear maps in the lists of layers of the backbone."""
    backbone = model.base_model_prefix
    stacks = [
        f"{backbone}.{name}." for name, part in model.base_model.named_modules() if isinstance(part, nn.ModuleList)
    ]
    inside = [name.removeprefix(stack) for name in linear for stack in stacks if name.startswith(stack)]
    return list(dict.fromkeys(name.split(".", 1)[1] for name in inside))
