"""Linear forecasters of a window in its own scale, solved in closed form and then trained on with the rest."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .closed_form import is_flat, level_free, periodic_solution, pool, reduced_rank, ridge_solution

if TYPE_CHECKING:
    from .configuration_dynonet import DynoNetConfig


class Specialist(nn.Module):
    """Forecast a window as its level plus a linear map of how the window departs from it.

    The forecast of a z + b is a times that of z, plus b. A new specialist forecasts the level.

    Args:
        input_length: latest steps that it reads; all of the context by default.
        level_length: latest steps whose mean is the level; all that it reads by default, 1 is the last value.
    """

    def __init__(
        self,
        num_channels: int,
        context_length: int,
        prediction_length: int,
        *,
        input_length: int | None = None,
        level_length: int | None = None,
    ):
        super().__init__()
        self.num_channels = num_channels
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.input_length = context_length if input_length is None else input_length
        self.level_length = self.input_length if level_length is None else level_length
        _check_between("input_length", self.input_length, 1, context_length)
        _check_between("level_length", self.level_length, 1, self.input_length)

    def forward(self, z: Tensor) -> Tensor:
        """Forecast (batch, prediction_length, channels) of windows (batch, time, channels), in their units.

        time: at least `input_length`."""
        past = z[:, -self.input_length :]
        level = past[:, -self.level_length :].mean(dim=1, keepdim=True)
        return level + self.departure(past - level)

    def departure(self, past: Tensor) -> Tensor:
        """Forecast departures from the level, (batch, prediction_length, channels), by those of the past."""
        raise NotImplementedError

    def fit(self, moments: Tensor) -> None:
        """Set the parameters to the solution for windows of these `closed_form.window_moments`."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set the parameters such that the level is forecast."""
        raise NotImplementedError


class Periodic(Specialist):
    """Forecast each phase of the coming periods from the same phase of the past ones.

    The weights, one for each pair of a future and a past period, are shared by all phases and channels.

    Args:
        period: in steps; of the window the latest whole periods are read.
        ridge: penalty on squared weights, in mean squares of an input.
    """

    def __init__(
        self,
        num_channels: int,
        context_length: int,
        prediction_length: int,
        *,
        period: int = 24,
        ridge: float = 0.1,
        input_length: int | None = None,
        level_length: int | None = None,
    ):
        super().__init__(
            num_channels, context_length, prediction_length, input_length=input_length, level_length=level_length
        )
        _check_between("period", period, 1, self.input_length)
        _check_penalties(ridge=ridge)
        self.period = period
        self.ridge = ridge
        self.weight = nn.Parameter(torch.empty(-(-prediction_length // period), self.input_length // period))
        self.reset_parameters()

    def departure(self, past: Tensor) -> Tensor:
        periods = self.weight.shape[1]
        past = past[:, -periods * self.period :].unflatten(1, (periods, self.period))
        future = torch.einsum("qd,bdpc->bqpc", self.weight, past)
        return future.flatten(1, 2)[:, : self.prediction_length]

    @torch.no_grad()
    def fit(self, moments: Tensor) -> None:
        gram, cross = level_free(moments, input_length=self.input_length, level_length=self.level_length)
        if is_flat(gram):
            self.reset_parameters()
        else:
            self.fit_departure(gram, cross)

    @torch.no_grad()
    def fit_departure(self, gram: Tensor, cross: Tensor) -> None:
        """Solve for departures: gram (channels, input, input), cross (channels, input, horizon)."""
        weight = periodic_solution(gram.mean(dim=0), cross.mean(dim=0), period=self.period, ridge=self.ridge)
        self.weight.copy_(weight)

    def reset_parameters(self) -> None:
        init.zeros_(self.weight)


class LowRank(Specialist):
    """Forecast by a few features of the window; with a period, what the same phases of past periods leave.

    Args:
        rank: number of features; every channel has the same, read out by weights of its own.
        period: of a `Periodic` part, solved first; None leaves it out.
        period_ridge: its penalty, as in `Periodic`.
        ridge: penalty on squared weights of the oldest step read, in mean squares of an input; it falls to the present
            as the square root of the lag.
        pooling: what the mean over channels counts when a channel's weights are solved, the channel itself counting
            1; None shares the read-out between channels too.
    """

    def __init__(
        self,
        num_channels: int,
        context_length: int,
        prediction_length: int,
        *,
        rank: int = 8,
        period: int | None = None,
        period_ridge: float = 1.0,
        ridge: float = 5.0,
        pooling: float | None = 1.0,
        input_length: int | None = None,
        level_length: int | None = None,
    ):
        super().__init__(
            num_channels, context_length, prediction_length, input_length=input_length, level_length=level_length
        )
        readers = 1 if pooling is None else num_channels
        _check_between("rank", rank, 1, min(self.input_length, readers * prediction_length))
        _check_penalties(ridge=ridge, pooling=pooling or 0.0, period_ridge=period_ridge)
        self.ridge = ridge
        self.pooling = pooling
        self.periodic = None
        if period is not None:
            self.periodic = Periodic(
                num_channels, self.input_length, prediction_length, period=period, ridge=period_ridge
            )
        self.encoder = nn.Parameter(torch.empty(rank, self.input_length))
        self.decoder = nn.Parameter(torch.empty(readers, prediction_length, rank))
        self.reset_parameters()

    def departure(self, past: Tensor) -> Tensor:
        features = torch.einsum("rl,blc->bcr", self.encoder, past)
        decoder = self.decoder.expand(past.shape[2], -1, -1)
        forecast = torch.einsum("chr,bcr->bhc", decoder, features)
        return forecast if self.periodic is None else forecast + self.periodic.departure(past)

    @torch.no_grad()
    def fit(self, moments: Tensor) -> None:
        length = self.input_length
        gram, cross = level_free(moments, input_length=length, level_length=self.level_length)
        if is_flat(gram):
            self.reset_parameters()
            return
        if self.periodic is not None:
            self.periodic.fit_departure(gram, cross)
            cross = cross - gram @ self._periodic_map().to(gram)
        lag = torch.arange(length, 0, -1, dtype=gram.dtype, device=gram.device)
        penalty = self.ridge * (lag / length).sqrt()
        maps = ridge_solution(pool(gram, self.pooling), pool(cross, self.pooling), penalty)
        encoder, decoder = reduced_rank(maps, gram.mean(dim=0), len(self.encoder))
        self.encoder.copy_(encoder)
        self.decoder.copy_(decoder)

    def _periodic_map(self) -> Tensor:
        """The periodic part as a matrix (input, horizon)."""
        assert self.periodic is not None
        impulses = torch.eye(self.input_length, dtype=self.encoder.dtype, device=self.encoder.device)
        return self.periodic.departure(impulses[..., None])[..., 0]

    def reset_parameters(self) -> None:
        init.normal_(self.encoder, std=self.input_length**-0.5)
        init.zeros_(self.decoder)
        if self.periodic is not None:
            self.periodic.reset_parameters()


SPECIALISTS: dict[str, type[Specialist]] = {"periodic": Periodic, "low_rank": LowRank}


WHOLE_NUMBERS = ("rank", "period", "input_length", "level_length")
"""Arguments of specialists that count steps or features; the others are numbers."""


def build_specialist(config: DynoNetConfig, options: Mapping[str, Any]) -> Specialist:
    """Make the specialist that `options` name by `kind`, for windows as `config` has them; the rest are its arguments.

    Raises: ValueError, naming those there are, on an unknown kind or argument, or one of a wrong type or range."""
    arguments = dict(options)
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in SPECIALISTS:
        raise ValueError(
            f"kind of a specialist must be one of {sorted(SPECIALISTS)}, found {kind!r}; name one of them."
        )
    parameters = inspect.signature(SPECIALISTS[kind]).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    if unknown := sorted(arguments.keys() - defaults.keys()):
        raise ValueError(f"a {kind} specialist takes {sorted(defaults)}, found {unknown}; leave them out.")
    for name, value in arguments.items():
        wanted = int if name in WHOLE_NUMBERS else int | float
        may_be_none = defaults[name] is None or name == "pooling"
        if not (value is None and may_be_none) and (isinstance(value, bool) or not isinstance(value, wanted)):
            number = "a whole number" if wanted is int else "a number"
            raise ValueError(f"{name} of a specialist must be {number}, found {value!r}; change it.")
    return SPECIALISTS[kind](config.num_channels, config.context_length, config.prediction_length, **arguments)


def _check_between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} of a specialist must lie in [{least}, {most}], found {value}; change it.")


def _check_penalties(**penalties: float) -> None:
    for name, value in penalties.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} of a specialist must be finite and not negative, found {value}; change it.")


__all__ = ["SPECIALISTS", "LowRank", "Periodic", "Specialist", "build_specialist"]
