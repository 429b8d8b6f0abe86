"""What dystformer's encoder is good for beside its own heads: representations, and a start for other models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import AutoModel
from transformers.utils.generic import ModelOutput

from ...forecasting import evaluating
from ...observations import check_past_values
from .configuration_dystformer import DystformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


@dataclass
class DystformerRepresentation(ModelOutput):
    """What `embed` returns.

    patches: (batch, channels, patches, d_model), the last layer's state of each patch.
    channels: (batch, channels, d_model), their mean over the patches with a visible value.
    pooled: (batch, d_model), the mean of `channels` over the channels with a visible value.
    channel_attentions: a tensor (batch, patches, heads, channels, channels) for each layer, on request: how much the
        next to last axis, a channel at one patch, attends to the last; rows sum to 1.
    """

    patches: Tensor | None = None
    channels: Tensor | None = None
    pooled: Tensor | None = None
    channel_attentions: tuple[Tensor, ...] | None = None


class EncoderMixin(_Model):
    """`embed` and `from_encoder`, for the backbone and every model with a head on it."""

    config: DystformerConfig

    @torch.no_grad()
    def embed(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        *,
        output_channel_attentions: bool = False,
    ) -> DystformerRepresentation:
        """Represent each series by vectors, which do not depend on its level or its unit.

        Args:
            past_values: (batch, time, channels), data units, at least one patch; NaN = unseen. The oldest steps that
                fill no patch enter the scaling only.
            past_observed_mask: boolean, same shape, True = seen.
            channel_mask: boolean (batch, channels), True = a real channel; the others do not count.
            output_channel_attentions: return the attention maps across channels too.
        Raises: ValueError on shapes that do not fit, a series with nothing seen, or maps asked of a model without
            channel attention.
        """
        if output_channel_attentions and not self.config.channel_attention:
            raise ValueError(
                "channel attention maps need a model with channel_attention, found one without; load another, or leave "
                "output_channel_attentions out."
            )
        values, mask = check_past_values(past_values, past_observed_mask)
        values, mask = values.to(self.device), mask.to(self.device)
        if channel_mask is not None:
            channel_mask = channel_mask.to(self.device)
        implementation = self.config._attn_implementation or "sdpa"
        if output_channel_attentions:
            self.set_attn_implementation("eager")
        try:
            with evaluating(self):
                output = self.base_model(
                    values,
                    past_observed_mask=mask,
                    channel_mask=channel_mask,
                    output_channel_attentions=output_channel_attentions,
                    return_dict=True,
                )
        finally:
            if output_channel_attentions:
                self.set_attn_implementation(implementation)
        return self._pool(output.last_hidden_state, mask, channel_mask, output.channel_attentions)

    def _pool(
        self, patches: Tensor, seen: Tensor, channel_mask: Tensor | None, maps: tuple[Tensor, ...] | None
    ) -> DystformerRepresentation:
        num_patches = patches.shape[2]
        used = seen[:, -num_patches * self.config.patch_length :]
        weights = used.unflatten(1, (num_patches, -1)).any(dim=2).transpose(1, 2)  # (batch, channels, patches)
        weights = weights.to(patches)
        channels = _weighted_mean(patches, weights)
        real = weights.any(dim=2) if channel_mask is None else weights.any(dim=2) & channel_mask.bool()
        return DystformerRepresentation(
            patches=patches,
            channels=channels,
            pooled=_weighted_mean(channels, real.to(patches)),
            channel_attentions=tuple(each.unflatten(0, (-1, num_patches)) for each in maps) if maps else None,
        )

    @classmethod
    def from_encoder(cls, name_or_path: str | Path, *, revision: str | None = None, **fields: Any) -> Self:
        """Return a new model with the encoder of another dystformer checkpoint, whatever head that has.

        Args:
            name_or_path: checkpoint folder or Hub name. revision: branch or hash of a commit there.
            fields: of the configuration, instead of the checkpoint's; none that change the encoder's weights.
        Raises: ValueError naming the encoder's weights that do not fit.
        """
        pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
        found = DystformerConfig.from_pretrained(name_or_path, **pinned)
        own: dict[str, Any] = {
            name: getattr(found, name) for name in DystformerConfig.__annotations__ if name != "model_type"
        }
        unknown = sorted(fields.keys() - own.keys())
        if unknown:
            raise ValueError(f"fields must be those of DystformerConfig, found {unknown}; its docstring lists them.")
        own["spread_factor"] = 1.0  # the calibration of the head that is left behind
        config = DystformerConfig(**(own | fields))
        # By the backbone's own class: a head's weights that happen to fit the new head are not to come along.
        loaded: Any = AutoModel.from_pretrained(
            name_or_path, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **pinned
        )
        backbone, report = loaded
        prefix = cls.base_model_prefix
        names = {_key(entry).removeprefix(f"{prefix}.") for kind in report.values() for entry in kind}
        wrong = sorted(name for name in names if name.split(".")[0] in dict(backbone.named_children()))
        if wrong:
            raise ValueError(
                f"an encoder must have the weights of its new model, found others for {wrong[:4]} in {name_or_path} "
                f"with {fields}; keep the fields that decide the encoder's shapes as they are."
            )
        if isinstance(backbone, cls):
            return backbone
        model = cls(config).to(backbone.dtype)
        setattr(model, prefix, backbone)
        return model.eval()


def _key(entry: Any) -> str:
    return str(entry[0] if isinstance(entry, tuple) else entry)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the next to last axis; 0 where no weight is."""
    total = (values * weights[..., None]).sum(dim=-2)
    return total / weights.sum(dim=-1, keepdim=True).clamp(min=1)
