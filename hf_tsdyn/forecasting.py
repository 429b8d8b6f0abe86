"""What every forecaster promises, what it returns, and the one loop that rolls a model forward."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from .distributions import Distribution, check_num_samples, check_quantile_levels, sample_quantiles
from .observations import check_past_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


MAX_PATHS = 1024
"""Sampled paths that are rolled out at once, unless one series has more; bounds the memory of `forecast_quantiles`."""


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
    signals: by name, what a controller says of each window, as the architecture documents, when asked.
    """

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    quantile_outputs: Tensor | None = None
    distribution_outputs: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    channel_attentions: tuple[Tensor, ...] | None = None
    signals: dict[str, Tensor] | None = None


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


class Block(NamedTuple):
    """What a model says of the next steps: points (batch, steps, channels), and its distribution's parameters."""

    points: Tensor
    parameters: tuple[Tensor, ...]


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
        self,
        values: Tensor,
        mask: Tensor,
        *,
        steps: int,
        keep: int | None,
        scores: Tensor | None = None,
        first: Block | None = None,
    ) -> Tensor:
        """Point forecasts, or with `scores` (batch, blocks, channels) the sampled path that they choose.

        first: the first block, where it is known already.
        """
        blocks = []
        known = mask.any(dim=1, keepdim=True)  # a channel that was never seen stays so: its forecast informs no other
        lost = torch.zeros(values.shape[0], 1, 1, dtype=torch.bool, device=values.device)
        while steps > 0:
            if keep is not None:
                values, mask = values[:, -keep:], mask[:, -keep:]
            block, parameters = first or self._forecast_block(values, mask)
            first = None
            if scores is not None:
                block = self._quantiles(parameters, scores[:, None, len(blocks), :, None])[..., 0]
            block = block[:, :steps].to(values.dtype)
            steps -= block.shape[1]
            lost = lost | ~block.isfinite().all(dim=(1, 2), keepdim=True)
            blocks.append(block.masked_fill(lost, torch.nan))
            values = torch.cat([values, block.masked_fill(lost, 0.0)], dim=1)
            mask = torch.cat([mask, known.expand(block.shape)], dim=1)
        return torch.cat(blocks, dim=1)

    distribution: Distribution | None = None
    """What the model's head describes of each value; None for point forecasts."""

    def _forecast_block(self, values: Tensor, mask: Tensor) -> Block:
        output = self(past_values=values, past_observed_mask=mask)
        return Block(output.prediction_outputs, output.distribution_outputs or ())

    def _quantiles(self, parameters: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        return cast(Distribution, self.distribution).at_scores(parameters, scores)

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
        All series share the random levels: a series has the quantiles that it has alone, up to rounding.

        Args:
            past_values, past_observed_mask, prediction_length: as in `forecast`.
            quantile_levels: in (0, 1), any order.
            num_samples: paths of each series.
            generator: source of the random levels, on the CPU; seeded with 0 by default, so that calls repeat.
        Returns: (batch, prediction_length, channels, levels), non-decreasing from level to level; units, dtype and
            device of `past_values`.
        Raises: NotImplementedError if the model has no distribution; else as `forecast`.
        """
        _check_distribution(self, "forecast_quantiles")
        steps = check_prediction_length(prediction_length)
        levels = check_quantile_levels(quantile_levels)
        check_num_samples(num_samples)
        values, mask = self._latest(*self._check_context(past_values, past_observed_mask))
        with evaluating(self):
            first = self._forecast_block(values, mask)
            length = first.points.shape[1]
            scores = torch.special.ndtri(levels).to(values)
            quantiles = self._quantiles(first.parameters, scores)[:, :steps].to(values.dtype)
            if steps > length:
                paths = self._sample_paths(values, mask, first, steps, num_samples, generator)
                quantiles = torch.cat([quantiles, sample_quantiles(paths[:, :, length:], levels)], dim=1)
        order = levels.argsort()
        quantiles[..., order] = quantiles[..., order].cummax(dim=-1).values  # rounding alone could cross them
        return quantiles.to(past_values)

    @torch.no_grad()
    def forecast_samples(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample paths of the future, those that `forecast_quantiles` takes quantiles of beyond the first block.

        Args:
            past_values, past_observed_mask, prediction_length: as in `forecast`.
            num_samples, generator: as in `forecast_quantiles`.
        Returns: (batch, prediction_length, channels, samples), units, dtype and device of `past_values`. Within a block
            a channel's path is the quantile of one level; levels of channels and blocks are independent.
        Raises: NotImplementedError if the model has no distribution; else as `forecast`.
        """
        _check_distribution(self, "forecast_samples")
        steps = check_prediction_length(prediction_length)
        check_num_samples(num_samples)
        values, mask = self._latest(*self._check_context(past_values, past_observed_mask))
        with evaluating(self):
            first = self._forecast_block(values, mask)
            paths = self._sample_paths(values, mask, first, steps, num_samples, generator)
        return paths.movedim(1, -1).to(past_values)

    def _latest(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The steps of a context that the model uses."""
        keep = min(values.shape[1], self.max_context_length or values.shape[1])
        return values[:, -keep:], mask[:, -keep:]

    def _sample_paths(
        self,
        values: Tensor,
        mask: Tensor,
        first: Block,
        steps: int,
        num_samples: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        """(batch, samples, steps, channels), a few series at a time; cutting them changes paths by rounding alone."""
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        batch, length, channels = values.shape
        num_blocks = -(-steps // first.points.shape[1])
        # Block by block, and the same for every series: neither the horizon nor the batch changes a path.
        draws = [torch.randn(num_samples, channels, generator=generator) for _ in range(num_blocks)]
        scores = torch.stack(draws, dim=1).to(values).expand(batch, -1, -1, -1)
        group = max(1, MAX_PATHS // num_samples)
        paths = []
        for start in range(0, batch, group):

            def repeated(each: Tensor, part: slice = slice(start, start + group)) -> Tensor:
                return each[part].repeat_interleave(num_samples, dim=0)

            block = Block(repeated(first.points), tuple(map(repeated, first.parameters)))
            path = self._roll_out(
                repeated(values),
                repeated(mask),
                steps=steps,
                keep=length,
                scores=scores[start : start + group].flatten(0, 1),
                first=block,
            )
            paths.append(path.unflatten(0, (-1, num_samples)))
        return torch.cat(paths)


def _check_distribution(model: ForecastMixin, method: str) -> None:
    if model.distribution is None:
        raise NotImplementedError(
            f"{method} needs a model with a distribution, found {type(model).__name__} with point forecasts; call "
            'forecast, or train a model with distribution "quantiles" or "student_t" (dystformer has them).'
        )


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
