"""What is done with an AL-RNN's recurrence: start it, keep it on observations, score its one-step predictions.

All functions take E models at once, parameters and states with a leading axis of models, in scaled units. A single
model is an ensemble of one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_alrnn import ALRNNConfig
from .recurrence import ForcedRun, forced_run


class Parameters(NamedTuple):
    """Of E models: A (E, M) and h (E, M), W (E, M, M), L (E, M - N, N)."""

    A: Tensor
    W: Tensor
    h: Tensor
    L: Tensor


def draw_parameters(config: ALRNNConfig, generator: torch.Generator | None = None) -> Parameters:
    """Return the first parameters of one model, E = 1, on the CPU in float32.

    With R a matrix of standard normal numbers and K = R'R / M + I, A is K's diagonal over its largest eigenvalue; W is
    normal with deviation `init_std`, h is 0, L uniform within 1 / sqrt(N) of 0.
    """
    units, channels = config.hidden_size, config.num_channels
    R = torch.randn(units, units, generator=generator, device="cpu", dtype=torch.float32)
    K = R.T @ R / units + torch.eye(units, device="cpu")
    A = K.diagonal() / torch.linalg.eigvalsh(K).abs().max()
    W = config.init_std * torch.randn(units, units, generator=generator, device="cpu", dtype=torch.float32)
    L = torch.rand(units - channels, channels, generator=generator, device="cpu", dtype=torch.float32)
    h = torch.zeros(units, device="cpu", dtype=torch.float32)
    return Parameters(A[None], W[None], h[None], ((2 * L - 1) / channels**0.5)[None])


def lift(L: Tensor, observed: Tensor) -> Tensor:
    """Return states (E, ..., M) whose first units are `observed` (E, ..., N) and whose others are L times them."""
    latent = torch.einsum("e...n,emn->e...m", observed, L)
    return torch.cat([observed, latent], dim=-1)


def synchronise(parameters: Parameters, lifted: Tensor, seen: Tensor, *, num_relu_units: int) -> Tensor:
    """Return the states (E, B, time, M) at each observed step, carried from the first with what is seen put in place.

    Args:
        lifted: (E, B, time, M), `lift` of the observations; the first one starts the run.
        seen: boolean (E, B, time, N); what is unseen stays as the model has it.
    """
    channels = seen.shape[-1]
    initial, observed = lifted[:, :, 0], lifted[..., :channels]
    if lifted.shape[2] == 1:
        return initial[:, :, None]
    run = forced_run(
        parameters.A,
        parameters.W,
        parameters.h,
        initial,
        observed[:, :, :-1],
        seen[:, :, :-1].to(lifted.dtype),
        num_relu_units=num_relu_units,
    )
    kept = torch.where(seen[:, :, 1:], observed[:, :, 1:], run.states[..., :channels])
    later = torch.cat([kept, run.states[..., channels:]], dim=-1)
    return torch.cat([initial[:, :, None], later], dim=2)


def one_step_run(
    parameters: Parameters, initial: Tensor, targets: Tensor, seen: Tensor | None, config: ALRNNConfig
) -> ForcedRun:
    """Run along the targets, pulled to them at every `forcing_interval`-th step: its outputs predict one step ahead.

    Args:
        initial: (E, B, M), the state at the step before the first target.
        targets: (E, B, T, N). seen: boolean, same shape, None if all are; none is pulled to what is unseen.
    """
    steps = targets.shape[2]
    pulled = torch.arange(steps, device=targets.device) % config.forcing_interval == 0
    pulled[0] = False  # the initial state is already there
    weight = config.forcing_strength * pulled.to(targets.dtype)[:, None]
    forcing = torch.cat([targets[:, :, :1], targets[:, :, :-1]], dim=2)  # step t starts at target t - 1
    if seen is not None:
        weight = weight * torch.cat([seen[:, :, :1], seen[:, :, :-1]], dim=2).to(targets.dtype)
    return forced_run(
        parameters.A, parameters.W, parameters.h, initial, forcing, weight, num_relu_units=config.num_relu_units
    )


def prediction_loss(observed: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return each model's mean squared error over seen targets, (E,); 0 where nothing is seen."""
    error = (observed - targets).square()
    if seen is None:
        return error.mean(dim=(1, 2, 3))
    count = seen.sum(dim=(1, 2, 3)).clamp(min=1)
    return error.masked_fill(~seen, 0.0).sum(dim=(1, 2, 3)) / count


def penalty(parameters: Parameters, config: ALRNNConfig) -> Tensor:
    """Return each model's `lambda * ||relu(A + diag(W) - c)||_2`, (E,)."""
    own = parameters.A + parameters.W.diagonal(dim1=1, dim2=2)
    excess = (own - config.regularization_threshold).relu()
    # The norm has no derivative at 0; the square root of the smallest number is as good as 0 and has one.
    norm = (excess.square().sum(dim=1) + torch.finfo(own.dtype).tiny).sqrt()
    return config.regularization_weight * norm
