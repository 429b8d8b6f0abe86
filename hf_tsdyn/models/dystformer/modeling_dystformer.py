"""Dystformer: a patch transformer that attends along time within a channel and across channels.

Source: the architecture of Panda (Lai, Bao, Gilpin 2025, arXiv:2505.13755), after PatchTST (Nie et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...forecasting import ForecastMixin, ForecastOutput, forecast_loss, last_observed, observed
from ...scaling import scale, unscale
from .configuration_dystformer import DystformerConfig
from .embedding import DynamicsEmbedding, LinearEmbedding
from .normalization import DynamicTanh, build_norm
from .rotary import rotary_angles, rotate


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention by the book, for when the weights themselves are wanted."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


# Arguments of transformers' own that may travel through `forward`.
_PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "use_cache"}


class DystformerAttention(nn.Module):
    """Bidirectional multi-head attention over the next-to-last axis of (sequences, length, width)."""

    is_causal = False

    def __init__(self, config: DystformerConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.num_key_value_groups = 1
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.v_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "sdpa", eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(output.reshape(hidden_states.shape)), weights


class DystformerLayer(GradientCheckpointingLayer):
    """Attention along time, attention across channels, feed-forward; each pre-normed, each with a residual."""

    def __init__(self, config: DystformerConfig):
        super().__init__()
        self.temporal_norm = build_norm(config)
        self.temporal_attention = DystformerAttention(config)
        if config.channel_attention:
            self.channel_norm = build_norm(config)
            self.channel_attention = DystformerAttention(config)
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.d_model, config.ffn_dim, bias=config.bias),
            nn.GELU(),
            nn.Dropout(config.ff_dropout),
            nn.Linear(config.ffn_dim, config.d_model, bias=config.bias),
        )
        self.mixes_channels = config.channel_attention

    def forward(
        self,
        hidden_states: Tensor,  # (batch, channels, patches, width)
        temporal_rotary: tuple[Tensor, Tensor],
        channel_rotary: tuple[Tensor, Tensor] | None,
        channel_attention_mask: Tensor | None,
        **kwargs,
    ) -> Tensor:
        batch, channels, patches, width = hidden_states.shape
        normed = self.temporal_norm(hidden_states).view(batch * channels, patches, width)
        mixed, _ = self.temporal_attention(normed, temporal_rotary, **kwargs)
        hidden_states = hidden_states + mixed.view(batch, channels, patches, width)
        if self.mixes_channels:
            normed = self.channel_norm(hidden_states).transpose(1, 2).reshape(-1, channels, width)
            mixed, _ = self.channel_attention(normed, channel_rotary, channel_attention_mask, **kwargs)
            hidden_states = hidden_states + mixed.view(batch, patches, channels, width).transpose(1, 2)
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))


class DystformerPreTrainedModel(PreTrainedModel):
    """What the backbone and its heads share: configuration, initialisation, abilities."""

    config: DystformerConfig
    config_class = DystformerConfig
    base_model_prefix = "model"
    input_modalities = "time"
    main_input_name = "past_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["DystformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": DystformerLayer,
        "attentions": OutputRecorder(DystformerAttention, index=1, layer_name="temporal_attention"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=self.config.init_std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm):
                init.zeros_(module.bias)
        elif isinstance(module, DynamicTanh):
            init.constant_(module.alpha, 0.5)
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, DynamicsEmbedding):
            module.draw_features()


class DystformerModel(DystformerPreTrainedModel):
    """The backbone: scaled patches in, one hidden state per channel and patch out."""

    def __init__(self, config: DystformerConfig):
        super().__init__(config)
        embedding = DynamicsEmbedding if config.embedding == "dynamics" else LinearEmbedding
        self.embedding = embedding(config)
        self.layers = nn.ModuleList(DystformerLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        **kwargs,
    ) -> ForecastOutput:
        """Encode a window.

        Args:
            past_values: (batch, time, channels), data units, at least `patch_length` steps; the oldest steps
                that fill no patch enter the scaling only. NaN = unseen; unseen values count as the mean.
            past_observed_mask: boolean, same shape, True = seen.
            channel_mask: boolean (batch, channels), True = a real channel; the others are attended to by
                none but themselves.
        Returns: `last_hidden_state` and each of `hidden_states` (batch, channels, patches, d_model), `loc`
            and `scale` (batch, 1, channels); `attentions` are the temporal maps, each
            (batch * channels, heads, patches, patches), with attn_implementation="eager".
        """
        self._check_window(past_values, past_observed_mask, channel_mask, kwargs)
        mask = observed(past_values, past_observed_mask)
        z, loc, spread = scale(
            past_values,
            mask,
            epsilon=self.config.scaling_epsilon,
            relative=self.config.relative_scaling_epsilon,
        )
        length = self.config.patch_length
        num_patches = z.shape[1] // length
        patches = z[:, -num_patches * length :].transpose(1, 2).unflatten(2, (num_patches, length))
        hidden_states = self.embedding(patches.to(self.dtype))
        temporal_rotary = rotary_angles(self.config, num_patches, z.device)
        channel_rotary = rotary_angles(self.config, z.shape[2], z.device) if self.config.channel_rope else None
        attention_mask = self._channel_attention_mask(channel_mask, num_patches, hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, temporal_rotary, channel_rotary, attention_mask, **kwargs)
        return ForecastOutput(last_hidden_state=hidden_states, loc=loc, scale=spread)

    def _check_window(
        self, past_values: Tensor, past_observed_mask: Tensor | None, channel_mask: Tensor | None, kwargs: dict
    ) -> None:
        shape = tuple(past_values.shape)
        if past_values.ndim != 3:
            raise ValueError(
                f"past_values must have shape (batch, time, channels), found {shape}; add the missing axis with "
                "unsqueeze."
            )
        if shape[1] < self.config.patch_length:
            raise ValueError(
                f"past_values must have at least one patch of {self.config.patch_length} steps, found {shape[1]}; "
                "give a longer context."
            )
        masks = {"past_observed_mask": (past_observed_mask, shape), "channel_mask": (channel_mask, shape[::2])}
        for name, (mask, expected) in masks.items():
            if mask is not None and tuple(mask.shape) != expected:
                raise ValueError(
                    f"{name} must have shape {expected} for past_values of {shape}, found {tuple(mask.shape)}; give "
                    "one truth value each."
                )
        unknown = sorted(kwargs.keys() - _PASSED_ON)
        if unknown:
            raise TypeError(f"forward takes no arguments {unknown}; see its docstring for those it takes.")

    @staticmethod
    def _channel_attention_mask(channel_mask: Tensor | None, num_patches: int, dtype: torch.dtype) -> Tensor | None:
        if channel_mask is None:
            return None
        channels = channel_mask.shape[1]
        itself = torch.eye(channels, dtype=torch.bool, device=channel_mask.device)
        hidden = ~(channel_mask.bool()[:, None, :] | itself)  # (batch, channels, channels)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        mask = mask.masked_fill(hidden, torch.finfo(dtype).min)
        return mask.repeat_interleave(num_patches, dim=0)[:, None]


class DystformerPredictionHead(nn.Module):
    """Pool over patches, then one linear map to the block, shared by all channels."""

    def __init__(self, config: DystformerConfig):
        super().__init__()
        self.pooling_type = config.pooling_type
        self.dropout = nn.Dropout(config.head_dropout)
        self.projection = nn.Linear(config.d_model, config.prediction_length, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, channels, patches, d_model) -> (batch, prediction_length, channels), scaled units."""
        if self.pooling_type == "mean":
            pooled = hidden_states.mean(dim=2)
        elif self.pooling_type == "max":
            pooled = hidden_states.amax(dim=2)
        else:
            pooled = hidden_states[:, :, -1]
        return self.projection(self.dropout(pooled)).transpose(1, 2)


class DystformerForPrediction(ForecastMixin, DystformerPreTrainedModel):
    """Dystformer with a head that forecasts one block of `prediction_length` steps."""

    def __init__(self, config: DystformerConfig):
        super().__init__(config)
        self.model = DystformerModel(config)
        self.head = DystformerPredictionHead(config)
        self.post_init()

    @property
    def min_context_length(self) -> int:
        return self.config.patch_length

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        **kwargs,
    ) -> ForecastOutput:
        """Forecast the block after `past_values`; with `future_values`, also the loss.

        Args:
            past_values, past_observed_mask, channel_mask: as in `DystformerModel.forward`.
            future_values: (batch, at most prediction_length, channels), data units; NaN = unseen.
            future_observed_mask: boolean, same shape; unseen targets do not count in the loss.
        Returns: `prediction_outputs` (batch, prediction_length, channels) in data units, at least float32.
        """
        outputs = self.model(past_values, past_observed_mask, channel_mask, **kwargs)
        z = self.head(outputs.last_hidden_state)
        origin = outputs.loc
        if self.config.forecast_origin == "last":
            mask = observed(past_values, past_observed_mask)
            origin = last_observed(past_values, mask).to(outputs.loc.dtype)
        prediction = unscale(z, origin, outputs.scale)
        loss = None
        if future_values is not None:
            loss = forecast_loss(
                prediction,
                future_values,
                future_observed_mask,
                loc=outputs.loc,
                scale=outputs.scale,
                kind=self.config.loss,
                huber_delta=self.config.huber_delta,
                normalize=self.config.normalize_loss,
            )
        return ForecastOutput(
            loss=loss,
            prediction_outputs=prediction,
            loc=outputs.loc,
            scale=outputs.scale,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
