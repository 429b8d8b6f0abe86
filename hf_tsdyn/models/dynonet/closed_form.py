"""Least squares for the specialists: one pass over the windows, in double precision, then small linear systems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .specialists import Specialist

# Mean square, in each window's own scale.
_FLAT = 1e-20

# Share of the mean power added to every diagonal, so that repeating or constant series have a solution too.
_JITTER = 1e-10


@torch.no_grad()
def fit_specialists(
    specialists: Iterable[Specialist], batches: Iterable[tuple[Tensor, Tensor, Tensor | float]]
) -> None:
    """Set the parameters of every specialist to the least-squares solution over all windows, read once.

    Args:
        batches: (z_past (batch, context, channels), z_future (batch, horizon, channels), weight) of windows without
            gaps, each in its own scale. weight, (batch, 1, channels) or a number, of the squared errors: 1 counts them
            in each window's own units, the square of its scale in the series'.
    Raises: ValueError without windows, on numbers that are not finite, or on shapes that the specialists do not have.
    """
    specialists = list(specialists)
    moments = window_moments(batches)
    for specialist in specialists:
        expected = (specialist.num_channels, specialist.context_length, specialist.prediction_length)
        found = (len(moments), moments.shape[1], moments.shape[2] - moments.shape[1])
        if expected != found:
            raise ValueError(
                f"windows must have (channels, context, horizon) {expected}, found {found}; cut them as the model does."
            )
        specialist.fit(moments)


def window_moments(batches: Iterable[tuple[Tensor, Tensor, Tensor | float]]) -> Tensor:
    """Average the products of each past step with each past and future step: (channels, context, context + horizon).

    In double precision; batches as in `fit_specialists`."""
    total, count = None, 0
    for z_past, z_future, weight in batches:
        past = z_past.double().permute(2, 1, 0)  # (channels, context, batch)
        both = (torch.cat([z_past, z_future], dim=1).double() * weight).permute(2, 0, 1)
        products = past @ both
        total = products if total is None else total.add_(products)
        count += len(z_past)
    if total is None or count == 0:
        raise ValueError(
            "specialists must have at least one window of context_length + prediction_length steps without a gap, "
            "found none; fill the gaps, give a longer series, or shorten the context."
        )
    if not bool(total.isfinite().all()):
        raise ValueError("windows must be finite, found values that are not; fill gaps or leave those windows out.")
    return total / count


def windows_without_gaps(values: Tensor, length: int, batch_size: int) -> Iterator[Tensor]:
    """Yield all windows (batch, length, channels) of values (time, channels) in which nothing is NaN, in order."""
    gaps = torch.nn.functional.pad(values.isnan().any(dim=1).cumsum(dim=0), (1, 0))
    starts = (gaps[length:] == gaps[:-length]).nonzero()[:, 0] if len(values) >= length else gaps[:0]
    steps = torch.arange(length, device=values.device)
    for batch in starts.split(batch_size) if len(starts) else ():
        yield values[batch[:, None] + steps]


def level_free(moments: Tensor, *, input_length: int, level_length: int) -> tuple[Tensor, Tensor]:
    """Return the moments of the last `input_length` steps with their level taken off past and future.

    The level of a window is the mean of its last `level_length` steps. Returns: past with past (channels, input,
    input), past with future (channels, input, horizon)."""
    skipped = moments.shape[1] - input_length
    moments = moments[:, skipped:, skipped:]
    level = moments[:, -level_length:].mean(dim=1, keepdim=True)
    moments = moments - level
    level = moments[:, :, input_length - level_length : input_length].mean(dim=2, keepdim=True)
    moments = moments - level
    return moments[..., :input_length], moments[..., input_length:]


def is_flat(gram: Tensor) -> bool:
    """Return whether windows of these second moments hold nothing but rounding errors about their level."""
    return bool(gram.diagonal(dim1=-2, dim2=-1).mean() < _FLAT)


def ridge_solution(gram: Tensor, cross: Tensor, penalty: Tensor | float) -> Tensor:
    """Minimise |Y - X W|² + power Σ penalty_i |W_i|², power the mean square of an input: W (..., inputs, outputs).

    gram: X'X (..., inputs, inputs). cross: X'Y (..., inputs, outputs). penalty: one for all inputs or (inputs,)."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    power = diagonal.mean(dim=-1, keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
    added = (power * (penalty + _JITTER)).expand_as(diagonal)
    return torch.linalg.solve(gram + torch.diag_embed(added), cross)


def periodic_solution(gram: Tensor, cross: Tensor, *, period: int, ridge: float) -> Tensor:
    """Regress each future period on the past ones, with the same weights at every phase: (future, past periods).

    gram, cross: as in `ridge_solution`, of steps; the latest whole periods count, a last part of a future one too."""
    past, horizon = len(gram) // period, cross.shape[1]
    future = -(-horizon // period)
    gram = gram[-past * period :, -past * period :].reshape(past, period, past, period)
    cross = torch.nn.functional.pad(cross[-past * period :], (0, future * period - horizon))
    gram = gram.diagonal(dim1=1, dim2=3)  # (past, past, phase)
    cross = cross.reshape(past, period, future, period).diagonal(dim1=1, dim2=3)
    rows = []
    for ahead in range(future):
        phases = min(period, horizon - ahead * period)
        rows.append(ridge_solution(gram[..., :phases].sum(-1), cross[:, ahead].sum(-1, keepdim=True), ridge)[:, 0])
    return torch.stack(rows)


def reduced_rank(maps: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Split maps (maps, inputs, outputs) into one encoder (rank, inputs) and decoders (maps, outputs, rank).

    Of all such products these change the outputs least, summed over the maps, for inputs of second moments `gram`; the
    features that the encoder puts out are uncorrelated with mean square 1."""
    power = gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    root = torch.linalg.cholesky(gram + _JITTER * power * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    outputs = root.T @ maps  # (maps, inputs, outputs), of white inputs
    _, vectors = torch.linalg.eigh((outputs @ outputs.mT).sum(dim=0))
    basis = vectors[:, -rank:].flip(-1)
    encoder = torch.linalg.solve_triangular(root.T, basis, upper=True).T
    return encoder, outputs.mT @ basis


def pool(values: Tensor, share: float | None) -> Tensor:
    """Add to each channel `share` times the mean over channels; None leaves that mean alone, (1, ...)."""
    mean = values.mean(dim=0, keepdim=True)
    return mean if share is None else values + share * mean
