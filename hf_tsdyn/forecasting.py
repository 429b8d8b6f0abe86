"""What every forecaster promises, what it returns, and the one loop that rolls a model forward."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from .distributions import Distribution, check_num_samples, check_quantile_levels, sample_quantiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


MAX_PATHS = 1024
"""Sampled paths that are rolled out at once; bounds the memory of `forecast_quantiles`."""


@runtime_checkable
class Forecaster(Protocol):
    """Anything that continues a series: models, baselines, wrappers of other people's models."""

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue each series by exactly `prediction_length` steps of its own sampling interval.

        Args:
            past_values: (batch, time, channels), data units; NaN = unseen. Never modified.
            past_observed_mask: boolean, same shape, True = seen.
        Returns: (batch, prediction_length, channels), units, dtype and device of `past_values`.
        """
        ...


@dataclass
class ForecastOutput(ModelOutput):
    """Result of a model's `forward`.

    loss: scalar, when targets were given.
    prediction_outputs: (batch, prediction_length, channels), data units.
    quantile_outputs: (batch, prediction_length, channels, quantiles), data units, from models with quantiles.
    distribution_outputs: parameters of every value's distribution, data units, from models with a distribution.
    loc, scale: (batch, 1, channels), data units: the scaling of each window.
    mask: boolean, like `prediction_outputs`, True = hidden from the model, in masked modelling.
    last_hidden_state, hidden_states, attentions, channel_attentions: as the architecture documents, when asked.
    """

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    quantile_outputs: Tensor | None = None
    distribution_outputs: tuple[Tensor, ...] | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    mask: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    channel_attentions: tuple[Tensor, ...] | None = None


def observed(past_values: Tensor, past_observed_mask: Tensor | None) -> Tensor:
    """Return the boolean mask of seen values: what the caller marked, less what is NaN."""
    seen = ~past_values.isnan()
    return seen if past_observed_mask is None else seen & past_observed_mask.bool()


def last_observed(past_values: Tensor, observed_mask: Tensor) -> Tensor:
    """Return each channel's latest seen value (batch, 1, channels); 0 where nothing is seen.

    Args:
        past_values: (batch, time, channels). observed_mask: boolean, same shape.
    """
    steps = torch.arange(1, past_values.shape[1] + 1, device=past_values.device)[:, None]
    latest = (observed_mask * steps).argmax(dim=1, keepdim=True)
    found = past_values.gather(1, latest)
    return found.masked_fill(~observed_mask.gather(1, latest), 0.0)


def check_past_values(past_values: Tensor, past_observed_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return `(values, mask)`: a copy with every unseen value set to 0, and the boolean mask of seen ones.

    Raises: TypeError if `past_values` is no floating tensor; ValueError if it is not (batch, time, channels),
    is infinite somewhere, if the mask has another shape, or if a series has no seen value at all.
    """
    if not isinstance(past_values, Tensor) or not past_values.is_floating_point():
        found = past_values.dtype if isinstance(past_values, Tensor) else type(past_values).__name__
        raise TypeError(
            f"past_values must be a floating-point tensor, found {found}; convert it first, or pass arrays "
            "and lists through hf_tsdyn.ForecastPipeline."
        )
    if past_values.ndim != 3 or 0 in past_values.shape:
        raise ValueError(
            "past_values must have shape (batch, time, channels), none of them 0, found "
            f"{tuple(past_values.shape)}; add the missing axis with unsqueeze."
        )
    if past_observed_mask is not None and past_observed_mask.shape != past_values.shape:
        raise ValueError(
            f"past_observed_mask must have the shape of past_values, {tuple(past_values.shape)}, found "
            f"{tuple(past_observed_mask.shape)}; give one truth value per value."
        )
    mask = observed(past_values, past_observed_mask)
    empty = (~mask.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            "every series of past_values must have at least one seen value, found none in those at batch index "
            f"{empty[:5]}; drop them, or check the mask (True = seen)."
        )
    values = past_values.masked_fill(~mask, 0.0)
    if not values.isfinite().all():
        raise ValueError("seen past_values must be finite, found infinite ones; mask them with past_observed_mask.")
    return values, mask


def check_prediction_length(prediction_length: int) -> int:
    """Return `prediction_length` as an int; ValueError unless it is a positive integer."""
    try:
        steps = 0 if isinstance(prediction_length, bool) else operator.index(prediction_length)
    except TypeError:
        steps = 0
    if steps < 1:
        raise ValueError(
            f"prediction_length must be an integer of at least 1, found {prediction_length!r}; "
            "it counts steps of the series' own sampling interval."
        )
    return steps


class ForecastMixin(_Model):
    """`forecast` for every model whose `forward` continues a window by one block of fixed length."""

    @property
    def min_context_length(self) -> int:
        """Fewest steps of context that the model accepts."""
        return 1

    @property
    def max_context_length(self) -> int | None:
        """Most steps of context that the model uses, the latest ones; None = all that are given."""
        return None

    @torch.no_grad()
    def forecast(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        growing_context: bool = False,
    ) -> Tensor:
        """Roll the model forward from the end of `past_values`, feeding each block back as context.

        Args:
            past_values: (batch, time, channels), data units, evenly sampled; NaN = unseen. At least
                `min_context_length` steps; of more than `max_context_length` the latest are used.
            prediction_length: need not divide the model's block.
            past_observed_mask: boolean, same shape, True = seen.
            growing_context: False slides the context, dropping as many old steps as are added; True keeps
                all steps, up to `max_context_length`.
        Returns: (batch, prediction_length, channels), units, dtype and device of `past_values`. Dropout is
            off for the call, whatever mode the model is in. A series whose forecast leaves the range of floating-point
            numbers is NaN from the block on in which it does.
        Raises: ValueError or TypeError on bad shapes or lengths, or a series with nothing seen.
        """
        prediction_length = check_prediction_length(prediction_length)
        values, mask = self._check_context(past_values, past_observed_mask)
        longest = self.max_context_length
        keep = longest if growing_context else min(values.shape[1], longest or values.shape[1])
        with evaluating(self):
            blocks = self._roll_out(values, mask, steps=prediction_length, keep=keep)
        return blocks.to(past_values)

    def _check_context(self, past_values: Tensor, past_observed_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The context on the model's device, and what is seen of it."""
        values, mask = check_past_values(past_values, past_observed_mask)
        if values.shape[1] < self.min_context_length:
            raise ValueError(
                f"past_values must have at least {self.min_context_length} steps for {type(self).__name__}, "
                f"found {values.shape[1]}; give a longer context."
            )
        # Half precision is rolled out in float32, as scaling is; double stays double.
        return values.to(self.device, torch.promote_types(values.dtype, torch.float32)), mask.to(self.device)

    def _roll_out(
        self, values: Tensor, mask: Tensor, *, steps: int, keep: int | None, scores: Tensor | None = None
    ) -> Tensor:
        """Point forecasts, or with `scores` (batch, blocks, channels) the sampled path that they choose."""
        blocks = []
        known = mask.any(dim=1, keepdim=True)  # a channel that was never seen stays so: its forecast informs no other
        lost = torch.zeros(values.shape[0], 1, 1, dtype=torch.bool, device=values.device)
        while steps > 0:
            if keep is not None:
                values, mask = values[:, -keep:], mask[:, -keep:]
            output = self(past_values=values, past_observed_mask=mask)
            block = output.prediction_outputs
            if scores is not None:
                block = self._quantiles(output, scores[:, None, len(blocks), :, None])[..., 0]
            block = block[:, :steps].to(values.dtype)
            steps -= block.shape[1]
            lost = lost | ~block.isfinite().all(dim=(1, 2), keepdim=True)
            blocks.append(block.masked_fill(lost, torch.nan))
            values = torch.cat([values, block.masked_fill(lost, 0.0)], dim=1)
            mask = torch.cat([mask, known.expand(block.shape)], dim=1)
        return torch.cat(blocks, dim=1)

    distribution: Distribution | None = None
    """What the model's head describes of each value; None for point forecasts."""

    def _quantiles(self, output: ForecastOutput, scores: Tensor) -> Tensor:
        distribution, parameters = cast(Distribution, self.distribution), output.distribution_outputs
        return distribution.at_scores(cast("tuple[Tensor, ...]", parameters), scores)

    @torch.no_grad()
    def forecast_quantiles(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        quantile_levels: Sequence[float],
        past_observed_mask: Tensor | None = None,
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Quantiles of the forecast of each value.

        Those of the first block are the model's own. Later ones are the quantiles of `num_samples` paths: in each
        block a path takes, in every channel, the quantile of one random level at all steps, and what it took becomes
        context of the next. Paths are smooth within a block that way; each step alone is distributed as the model says.

        Args:
            past_values, past_observed_mask, prediction_length: as in `forecast`.
            quantile_levels: in (0, 1), any order.
            num_samples: paths of each series.
            generator: source of the random levels, on the CPU; seeded with 0 by default, so that calls repeat.
        Returns: (batch, prediction_length, channels, levels), non-decreasing from level to level; units, dtype and
            device of `past_values`.
        Raises: NotImplementedError if the model has no distribution; else as `forecast`.
        """
        if self.distribution is None:
            raise NotImplementedError(
                f"forecast_quantiles needs a model with a distribution, found {type(self).__name__} with point "
                'forecasts; call forecast, or train a model with distribution "quantiles" or "student_t" (dystformer '
                "has them)."
            )
        steps = check_prediction_length(prediction_length)
        levels = check_quantile_levels(quantile_levels)
        check_num_samples(num_samples)
        values, mask = self._check_context(past_values, past_observed_mask)
        keep = min(values.shape[1], self.max_context_length or values.shape[1])
        values, mask = values[:, -keep:], mask[:, -keep:]
        with evaluating(self):
            output = self(past_values=values, past_observed_mask=mask)
            block = output.prediction_outputs.shape[1]
            scores = torch.special.ndtri(levels).to(values)
            quantiles = self._quantiles(output, scores)[:, :steps].to(values.dtype)
            if steps > block:
                generator = torch.Generator().manual_seed(0) if generator is None else generator
                paths = self._sample_paths(values, mask, steps, -(-steps // block), num_samples, generator)
                quantiles = torch.cat([quantiles, sample_quantiles(paths[:, :, block:], levels)], dim=1)
        order = levels.argsort()
        quantiles[..., order] = quantiles[..., order].cummax(dim=-1).values  # rounding alone could cross them
        return quantiles.to(past_values)

    def _sample_paths(
        self, values: Tensor, mask: Tensor, steps: int, num_blocks: int, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        """(batch, samples, steps, channels), a few series at a time; no path depends on how they are cut."""
        batch, _, channels = values.shape
        scores = torch.randn(batch, num_samples, num_blocks, channels, generator=generator).to(values)
        group = max(1, MAX_PATHS // num_samples)
        paths = []
        for first in range(0, batch, group):
            part = slice(first, first + group)
            repeated = (each[part].repeat_interleave(num_samples, dim=0) for each in (values, mask))
            path = self._roll_out(*repeated, steps=steps, keep=values.shape[1], scores=scores[part].flatten(0, 1))
            paths.append(path.unflatten(0, (-1, num_samples)))
        return torch.cat(paths)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put every module of the model into eval mode for a while, and back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
