# Copyright 2026 The hf_tsdyn authors. Licensed under the Apache License, Version 2.0.
"""Configuration of dystformer."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

_COUNTS = (
    "context_length", "prediction_length", "patch_length", "d_model", "num_hidden_layers", "num_attention_heads",
    "ffn_dim",
)  # fmt: skip
_LARGEST = 3e38  # of float32, in which these numbers are used


@strict
class DystformerConfig(PreTrainedConfig):
    """Configuration of `DystformerModel` and its heads.

    Args:
        context_length: steps of context the model is trained on; it accepts any length from one patch on.
        prediction_length: steps of one forecast block; longer forecasts are rolled out.
        patch_length: steps of one patch; patches do not overlap and the last one ends at the present.
        d_model: width of the hidden states.
        ffn_dim: inner width of the feed-forward sublayers.
        channel_attention: attention across channels at each patch after attention along time within each
            channel. False gives the channel-independent baseline.
        channel_rope: rotary positions in channel attention too; off, as channels have no order.
        rope_percent: share of the rotary frequencies in use, the fastest ones (p-RoPE).
        max_wavelength: base of the rotary wavelengths, in patches.
        embedding: "dynamics" = patch, random monomials of degree 2 and up, and random Fourier features of
            the patch, mixed by one matrix; "linear" = one affine map.
        num_poly_feats: monomials of each degree of the dynamics embedding.
        poly_degrees: how many degrees, from 2 on.
        num_rff: random Fourier features, half sines and half cosines.
        rff_scale: standard deviation of the random frequencies.
        rff_trainable: let the random frequencies and phases be trained.
        norm_type: "rmsnorm", "layernorm" or "dyt" (a scaled tanh without statistics).
        pooling_type: "mean" or "max" over patches before the prediction head, or the "last" patch alone.
        forecast_origin: what the head's output is added to: "mean" of the window, as in the reference, or its "last"
            seen value, so that an untrained model starts out close to persistence.
        gap_fill: what stands at unseen and masked places of a scaled window before it is embedded: "mean" (0, as in
            the reference) or "hermite", the cubic between the neighbours (`hf_tsdyn.interpolation.fill_hermite`).
            Masked modelling adds its output to it.
        embed_unseen: a learned embedding of which values of a patch are unseen or masked; it starts out as 0.
        distribution: "point" forecasts; "quantiles" at `quantile_levels`, scored by the pinball loss; or
            "student_t", scored by its likelihood.
        quantile_levels: increasing, in (0, 1), with the median, 0.5, which is the point forecast.
        spread_factor: what the spread of the distribution is multiplied by; `training.train` sets it after training, so
            that intervals hold what they should on the validation data.
        mask_ratio: masked modelling: share of the patches of each channel that is masked.
        channel_consistent_masking: mask the same patches in all channels of a window.
        mask_shift_rate: share of the windows whose masked stretches are shifted by a random number of steps, so that
            they begin and end within patches, as gaps of real series do.
        scale_masked_values: let masked values count in a window's scaling, as the reference does, which tells the model
            something of what it is to find; `complete` never does.
        scaling_epsilon, relative_scaling_epsilon: see `hf_tsdyn.scaling.scale`.
        loss: "mse", "mae" or "huber" (with `huber_delta`), of point forecasts and of masked modelling.
        normalize_loss: take the loss in units of each window's own scale, so that systems of every
            amplitude count alike; channels constant over the context are left out of it. False takes it in
            data units, as the reference does.
    """

    model_type = "dystformer"

    context_length: int = 512
    prediction_length: int = 128
    patch_length: int = 16
    d_model: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    ffn_dim: int = 512
    channel_attention: bool = True
    channel_rope: bool = False
    rope_percent: float | int = 0.75
    max_wavelength: float | int = 500.0
    embedding: Literal["dynamics", "linear"] = "dynamics"
    num_poly_feats: int = 120
    poly_degrees: int = 2
    num_rff: int = 256
    rff_scale: float | int = 1.0
    rff_trainable: bool = False
    norm_type: Literal["rmsnorm", "layernorm", "dyt"] = "rmsnorm"
    norm_eps: float | int = 1e-5
    bias: bool = True
    attention_dropout: float | int = 0.0
    ff_dropout: float | int = 0.0
    head_dropout: float | int = 0.0
    pooling_type: Literal["mean", "max", "last"] = "mean"
    forecast_origin: Literal["mean", "last"] = "mean"
    gap_fill: Literal["mean", "hermite"] = "mean"
    embed_unseen: bool = False
    distribution: Literal["point", "quantiles", "student_t"] = "point"
    quantile_levels: list[float] | tuple[float, ...] = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
    spread_factor: float | int = 1.0
    mask_ratio: float | int = 0.5
    channel_consistent_masking: bool = False
    mask_shift_rate: float | int = 0.0
    scale_masked_values: bool = False
    scaling_epsilon: float | int = 1e-6
    relative_scaling_epsilon: bool = True
    loss: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: float | int = 1.0
    normalize_loss: bool = True
    init_std: float | int = 0.02

    def __post_init__(self, **kwargs) -> None:
        self.quantile_levels = tuple(self.quantile_levels)  # JSON has lists only
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states, under the name other libraries look for."""
        return self.d_model

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_attention_heads

    def validate_architecture(self) -> None:
        """Check the rules that tie fields to one another."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}; raise it.")
        for name in ("attention_dropout", "ff_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), found {getattr(self, name)}; it is a probability.")
        if self.context_length < self.patch_length:
            raise ValueError(
                f"context_length must hold at least one patch of {self.patch_length} steps, found "
                f"{self.context_length}; lengthen the context or shorten patch_length."
            )
        if self.d_model % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                "d_model must be an even multiple of num_attention_heads, found "
                f"d_model={self.d_model}, num_attention_heads={self.num_attention_heads}."
            )
        self._validate_magnitudes()
        if not 0 <= self.rope_percent <= 1:
            raise ValueError(f"rope_percent must lie between 0 and 1, found {self.rope_percent}.")
        if not 0 < self.spread_factor < float("inf"):
            raise ValueError(
                f"spread_factor must be positive and finite, found {self.spread_factor}; 1 changes nothing."
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, found {self.mask_ratio}; it is a share of patches.")
        if not 0 <= self.mask_shift_rate <= 1:
            raise ValueError(f"mask_shift_rate must lie between 0 and 1, found {self.mask_shift_rate}; it is a share.")
        levels = list(self.quantile_levels)
        if levels != sorted(set(levels)) or 0.5 not in levels or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError(
                f"quantile_levels must increase between 0 and 1 and hold 0.5, found {levels}; sort them and add the "
                "median."
            )
        if self.embedding == "dynamics":
            self._validate_dynamics_embedding()

    def _validate_magnitudes(self) -> None:
        for name in ("norm_eps", "scaling_epsilon", "max_wavelength", "huber_delta"):
            if not 0 < getattr(self, name) < _LARGEST:
                raise ValueError(f"{name} must be positive and finite, found {getattr(self, name)}; change it.")
        for name in ("init_std", "rff_scale"):
            if not 0 <= getattr(self, name) < _LARGEST:
                raise ValueError(f"{name} must be finite and at least 0, found {getattr(self, name)}; change it.")

    def _validate_dynamics_embedding(self) -> None:
        for name in ("num_poly_feats", "poly_degrees", "num_rff"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}; give 0 to go without.")
        if self.num_rff % 2:
            raise ValueError(f"num_rff must be even (sines and cosines), found {self.num_rff}.")
        width = self.patch_length + self.poly_degrees * self.num_poly_feats + self.num_rff
        if width != self.d_model:
            raise ValueError(
                "patch_length + poly_degrees * num_poly_feats + num_rff must equal d_model, found "
                f"{self.patch_length} + {self.poly_degrees} * {self.num_poly_feats} + {self.num_rff} = {width} "
                f"and d_model={self.d_model}; change num_poly_feats or num_rff by the difference."
            )


__all__ = ["DystformerConfig"]
