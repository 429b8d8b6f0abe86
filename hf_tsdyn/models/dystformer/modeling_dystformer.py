"""Dystformer: a patch transformer that attends along time within a channel and across channels.

Source: the architecture of Panda (Lai, Bao, Gilpin 2025, arXiv:2505.13755), after PatchTST (Nie et al. 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...checkpoint_safety import SafeLoadingMixin
from ...distributions import build_distribution
from ...forecasting import ForecastMixin, ForecastOutput
from ...hub_card import HubCardMixin
from ...losses import LossTargets, loss_targets, mean_over, point_loss
from ...observations import last_observed, observed
from ...scaling import unscale
from .configuration_dystformer import DystformerConfig
from .embedding import DynamicsEmbedding, LinearEmbedding, UnseenEmbedding
from .encoder import EncoderMixin
from .gap_filling import GapFillingMixin
from .heads import DystformerMaskedHead, DystformerPredictionHead
from .masking import as_value_mask, draw_mask
from .normalization import DynamicTanh, build_norm
from .rotary import rotary_angles, rotate
from .window import ScaledWindow, channel_attention_mask, check_window, scale_window


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
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


# Arguments of transformers' own that may travel through `forward`.
_PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "use_cache", "output_channel_attentions"}


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


class DystformerPreTrainedModel(SafeLoadingMixin, HubCardMixin, EncoderMixin, PreTrainedModel):
    """What the backbone and its heads share: configuration, initialisation, abilities."""

    config: DystformerConfig
    config_class = DystformerConfig
    base_model_prefix = "model"
    input_modalities = "time"
    main_input_name = "past_values"
    _input_embed_layer = "embedding"
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
        "channel_attentions": OutputRecorder(DystformerAttention, index=1, layer_name="channel_attention"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, UnseenEmbedding):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
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


@dataclass
class DystformerModelOutput(ForecastOutput):
    """Result of the backbone.

    scaled_values: (batch, time, channels), the window as it was embedded, gaps filled.
    """

    scaled_values: Tensor | None = None


class DystformerModel(DystformerPreTrainedModel):
    """The backbone: scaled patches in, one hidden state per channel and patch out."""

    def __init__(self, config: DystformerConfig):
        super().__init__(config)
        embedding = DynamicsEmbedding if config.embedding == "dynamics" else LinearEmbedding
        self.embedding = embedding(config)
        self.unseen_embedding = UnseenEmbedding(config) if config.embed_unseen else None
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
        mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DystformerModelOutput:
        """Encode a window.

        Args:
            past_values: (batch, time, channels), data units, at least `patch_length` steps; the oldest steps
                that fill no patch enter the scaling only. NaN = unseen; see `gap_fill` for what stands in for it.
            past_observed_mask: boolean, same shape, True = seen.
            channel_mask: boolean (batch, channels), True = a real channel; the others, and channels of which nothing
                is seen, are attended to by none but themselves.
            mask: boolean (batch, channels, patches) or (batch, time, channels), True = hidden from the model.
        Returns: `last_hidden_state` and each of `hidden_states` (batch, channels, patches, d_model), `loc`
            and `scale` (batch, 1, channels), `scaled_values`; with attn_implementation="eager" and on request,
            `attentions`, the temporal maps, each (batch * channels, heads, patches, patches), and
            `channel_attentions`, each (batch * patches, heads, channels, channels).
        """
        unknown = sorted(kwargs.keys() - _PASSED_ON)
        if unknown:
            raise TypeError(f"forward takes no arguments {unknown}; see its docstring for those it takes.")
        check_window(self.config, past_values, past_observed_mask, channel_mask)
        length = self.config.patch_length
        seen = observed(past_values, past_observed_mask)
        visible = seen if mask is None else seen & ~as_value_mask(mask, past_values, length)
        window = scale_window(self.config, past_values, seen, visible)
        num_patches = window.values.shape[1] // length
        hidden_states = self._embed_patches(window, visible, num_patches)
        device = hidden_states.device
        temporal_rotary = rotary_angles(self.config, num_patches, device)
        channel_rotary = rotary_angles(self.config, visible.shape[2], device) if self.config.channel_rope else None
        attention_mask = channel_attention_mask(visible, channel_mask, num_patches)
        for layer in self.layers:
            hidden_states = layer(hidden_states, temporal_rotary, channel_rotary, attention_mask, **kwargs)
        return DystformerModelOutput(
            last_hidden_state=hidden_states, loc=window.loc, scale=window.scale, scaled_values=window.values
        )

    def _embed_patches(self, window: ScaledWindow, visible: Tensor, num_patches: int) -> Tensor:
        dtype = self.embedding.projection.weight.dtype  # replicas of DataParallel have no `dtype` of their own

        def patches(values: Tensor) -> Tensor:
            latest = values[:, -num_patches * self.config.patch_length :]
            return latest.transpose(1, 2).unflatten(2, (num_patches, -1)).to(dtype)

        hidden_states = self.embedding(patches(window.values)).to(dtype)
        if self.unseen_embedding is not None:
            hidden_states = hidden_states + self.unseen_embedding(patches(~visible))
        return hidden_states


class DystformerForPrediction(ForecastMixin, DystformerPreTrainedModel):
    """Dystformer with a head that forecasts one block of `prediction_length` steps, as points or distributions."""

    def __init__(self, config: DystformerConfig):
        super().__init__(config)
        self.distribution = build_distribution(config.distribution, config.quantile_levels, config.spread_factor)
        self.model = DystformerModel(config)
        self.head = DystformerPredictionHead(config, self.distribution.num_parameters if self.distribution else 1)
        self.post_init()

    def set_spread_factor(self, factor: float) -> None:
        """Multiply the spread of the distribution by `factor`, here and in what is saved."""
        config = self.config
        config.spread_factor = factor
        self.distribution = build_distribution(config.distribution, config.quantile_levels, factor)

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Forecast the block after `past_values`; with `future_values`, also the loss.

        Args:
            past_values, past_observed_mask, channel_mask: as in `DystformerModel.forward`.
            future_values: (batch, at most prediction_length, channels), data units; NaN = unseen.
            future_observed_mask: boolean, same shape; unseen targets do not count in the loss.
        Returns: `prediction_outputs` (batch, prediction_length, channels) in data units, at least float32: with a
            distribution its medians, beside `distribution_outputs`, its parameters, and with quantiles
            `quantile_outputs` (batch, prediction_length, channels, levels) at `config.quantile_levels`.
        """
        outputs = self.model(past_values, past_observed_mask, channel_mask, **kwargs | {"return_dict": True})
        raw = self.head(outputs.last_hidden_state)
        origin = outputs.loc
        if self.config.forecast_origin == "last":
            seen = observed(past_values, past_observed_mask)
            origin = last_observed(past_values, seen).to(outputs.loc.dtype)
        if self.distribution is None:
            parameters, prediction = None, unscale(raw[..., 0], origin, outputs.scale)
        else:
            parameters = self.distribution.parameters(raw, origin, outputs.scale)
            prediction = self.distribution.point(parameters)
        loss = None
        if future_values is not None:
            targets = loss_targets(
                prediction,
                future_values,
                future_observed_mask,
                loc=outputs.loc,
                scale=outputs.scale,
                known=observed(past_values, past_observed_mask).any(dim=1, keepdim=True),
                normalize=self.config.normalize_loss,
            )
            loss = self._loss(prediction, parameters, targets)
        return ForecastOutput(
            loss=loss,
            prediction_outputs=prediction,
            quantile_outputs=parameters[0] if parameters and self.config.distribution == "quantiles" else None,
            distribution_outputs=parameters,
            loc=outputs.loc,
            scale=outputs.scale,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            channel_attentions=outputs.channel_attentions,
        )

    def _loss(self, prediction: Tensor, parameters: tuple[Tensor, ...] | None, targets: LossTargets) -> Tensor:
        if self.distribution is None or parameters is None:
            kind, delta = self.config.loss, self.config.huber_delta
            return mean_over(point_loss(prediction, targets, kind=kind, huber_delta=delta), targets.counted)
        steps = targets.values.shape[1]
        parameters = tuple(each[:, :steps] for each in parameters)
        return mean_over(self.distribution.loss(parameters, targets.values, targets.unit), targets.counted)


class DystformerForMaskedModeling(GapFillingMixin, DystformerPreTrainedModel):
    """Dystformer that reconstructs what is masked: pre-training for its encoder, and gap filling (`complete`)."""

    def __init__(self, config: DystformerConfig):
        super().__init__(config)
        self.model = DystformerModel(config)
        # Not `head`: no other model is to take its weights for those of a forecast.
        self.reconstruction = DystformerMaskedHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Reconstruct a window from what is not masked.

        Args:
            past_values, past_observed_mask, channel_mask: as in `DystformerModel.forward`; unseen values are
                reconstructed too, but have no loss.
            mask: boolean (batch, channels, patches) or (batch, time, channels), True = hidden. Drawn at random as the
                configuration says when it is left out, in eval mode too.
            generator: source of a drawn mask, on the device of the values; torch's own by default.
        Returns: `prediction_outputs` (batch, patches * patch_length, channels) in data units, the latest steps;
            `mask`, like them, what was hidden of the seen; `loss`, the mean over that in each window's own scale.
        """
        if mask is None:
            mask = draw_mask(self.config, past_values, generator)
        mask = as_value_mask(mask, past_values, self.config.patch_length)
        outputs = self.model(past_values, past_observed_mask, channel_mask, mask, **kwargs | {"return_dict": True})
        z = self.reconstruction(outputs.last_hidden_state)
        steps = z.shape[1]
        past_values, mask = past_values[:, -steps:], mask[:, -steps:]
        seen = observed(past_values, None if past_observed_mask is None else past_observed_mask[:, -steps:])
        visible = seen & ~mask
        filled = outputs.scaled_values[:, -steps:].masked_fill(visible, 0.0)
        prediction = unscale(z.to(filled.dtype) + filled, outputs.loc, outputs.scale)
        targets = loss_targets(
            prediction,
            past_values,
            seen & mask,
            loc=outputs.loc,
            scale=outputs.scale,
            known=visible.any(dim=1, keepdim=True),
            normalize=True,
        )
        losses = point_loss(prediction, targets, kind=self.config.loss, huber_delta=self.config.huber_delta)
        return ForecastOutput(
            loss=mean_over(losses, targets.counted),
            prediction_outputs=prediction,
            loc=outputs.loc,
            scale=outputs.scale,
            mask=seen & mask,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            channel_attentions=outputs.channel_attentions,
        )
