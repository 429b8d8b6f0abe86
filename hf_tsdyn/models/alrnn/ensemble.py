"""Many AL-RNNs trained as one batched program.

What becomes of a seed does not depend on the others: same bits in any company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...metrics.invariants import spectrum_distance, state_space_divergence
from .configuration_alrnn import ALRNNConfig
from .forcing import Parameters, draw_parameters, lift, one_step_run, penalty, prediction_loss, synchronise
from .modeling_alrnn import ALRNNForPrediction
from .recurrence import free_run

if TYPE_CHECKING:
    from .fitting import FitOptions


class Ensemble:
    """Models of one configuration, a seed each, as they train: stacked parameters, optimizer, best so far.

    train, validation: (time, channels), data units, finite.
    """

    def __init__(
        self,
        config: ALRNNConfig,
        options: FitOptions,
        train: np.ndarray,
        validation: np.ndarray,
        seeds: Sequence[int],
    ):
        self.options, self.seeds = options, list(seeds)
        loc, scale = train.mean(axis=0), train.std(axis=0)
        self.config = ALRNNConfig(**own_fields(config) | {"channel_loc": loc.tolist(), "channel_scale": scale.tolist()})
        scaled = torch.from_numpy(((train - loc) / scale).astype(np.float32))
        window = config.context_length + config.prediction_length
        # Overlapping rows of one series, each a window with its channels side by side.
        self.windows = scaled.flatten().unfold(0, window * scaled.shape[1], scaled.shape[1])
        self.validation = (validation - loc) / scale
        drawn = [draw_parameters(config, _generator(seed, 0)) for seed in self.seeds]
        self.parameters = Parameters(
            *(torch.cat(each).requires_grad_() for each in zip(*drawn, strict=True))  # pyright: ignore[reportArgumentType]
        )
        self.averages = Parameters(*(each.detach().clone() for each in self.parameters))
        self.best = Parameters(*(each.detach().clone() for each in self.parameters))
        self.best_divergence = torch.full((len(seeds),), torch.inf, dtype=torch.float64)
        self.best_epoch = torch.zeros(len(seeds), dtype=torch.long)
        self.history: list[list[dict[str, float]]] = [[] for _ in seeds]
        self.optimizer = torch.optim.RAdam(self.parameters, lr=options.learning_rate, foreach=False)
        self.epoch = 0
        self.losses = torch.zeros(len(seeds))
        self.num_losses = 0

    def train_until(self, epoch: int) -> None:
        """Train the epochs before `epoch`."""
        self.losses, self.num_losses = torch.zeros(len(self.seeds)), 0
        for current in range(self.epoch, epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.learning_rate_of(current)
            generators = [_generator(seed, current + 1) for seed in self.seeds]
            starts = self._draw_starts(generators)
            for batch in range(self.options.batches_per_epoch):
                self._step(starts[:, batch], generators)
        self.epoch = epoch

    def _draw_starts(self, generators: list[torch.Generator]) -> Tensor:
        """(models, batches, batch size)"""
        size = (self.options.batches_per_epoch, self.options.batch_size)
        return torch.stack([torch.randint(len(self.windows), size, generator=generator) for generator in generators])

    def _step(self, starts: Tensor, generators: list[torch.Generator]) -> None:
        config = self.config
        windows = self.windows.index_select(0, starts.flatten()).view(*starts.shape, -1, config.num_channels)
        if config.noise_std > 0:
            noise = torch.empty_like(windows)
            for each, generator in zip(noise, generators, strict=True):
                each.normal_(generator=generator)
            windows.add_(noise, alpha=config.noise_std)
        context, targets = windows[:, :, : config.context_length], windows[:, :, config.context_length :]
        lifted = lift(self.parameters.L, context)
        seen = torch.ones((), dtype=torch.bool).expand(context.shape)
        states = synchronise(self.parameters, lifted, seen, num_relu_units=config.num_relu_units)
        run = one_step_run(self.parameters, states[:, :, -1], targets, None, config)
        loss = prediction_loss(run.observed, targets)
        if config.regularization_weight > 0:
            loss = loss + penalty(self.parameters, config)
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()
        self.losses += loss.detach()
        self.num_losses += 1
        if self.options.average_decay > 0:
            for average, value in zip(self.averages, self.parameters, strict=True):
                average.lerp_(value.detach(), 1 - self.options.average_decay)

    @torch.no_grad()
    def evaluate(self) -> None:
        """Compare a free run of each model with the validation series, and keep those that are the best so far."""
        candidates = self.averages if self.options.average_decay > 0 else self.parameters
        runs = self._free_runs(candidates)
        for member, run in enumerate(runs):
            invariants = self.options.invariants
            rng = np.random.default_rng(0)
            divergence = state_space_divergence(self.validation, run, invariants, rng=rng)
            length = min(len(run), len(self.validation))
            distance = spectrum_distance(
                self.validation[:length], run[:length], smoothing=invariants.spectrum_smoothing
            )
            loss = self.losses[member].item() / self.num_losses
            row = {"epoch": self.epoch, "loss": loss}
            self.history[member].append(row | {"state_space_divergence": divergence, "spectrum_distance": distance})
            if divergence < self.best_divergence[member]:
                self.best_divergence[member], self.best_epoch[member] = divergence, self.epoch
                for kept, value in zip(self.best, candidates, strict=True):
                    kept[member] = value[member]

    def _free_runs(self, parameters: Parameters) -> np.ndarray:
        """(models, free_run_length, channels), scaled, from the beginning of the validation series."""
        config = self.config
        context = torch.from_numpy(self.validation[: config.warmup_length].astype(np.float32))
        context = context.expand(len(self.seeds), 1, *context.shape)
        seen = torch.ones((), dtype=torch.bool).expand(context.shape)
        states = synchronise(parameters, lift(parameters.L, context), seen, num_relu_units=config.num_relu_units)
        steps = self.options.discard + (self.options.free_run_length or len(self.validation))
        A, W, h, _ = parameters
        runs = free_run(
            A, W, h, states[:, :, -1], steps, num_relu_units=config.num_relu_units, num_units=config.num_channels
        )
        return runs[:, 0, self.options.discard :].double().numpy()

    def state(self) -> dict[str, Tensor]:
        """Return all that training goes on from, by name; `load_state` takes it."""
        groups = {"parameters": self.parameters, "averages": self.averages, "best": self.best}
        tensors = {f"{group}.{n}": each.detach() for group, p in groups.items() for n, each in p._asdict().items()}
        for name, value in self.parameters._asdict().items():
            for key, state in self.optimizer.state[value].items():
                tensors[f"optimizer.{name}.{key}"] = state
        return tensors | {"best_divergence": self.best_divergence, "best_epoch": self.best_epoch}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], *, epoch: int, history: list[list[dict[str, float]]]) -> None:
        """Go on from what `state` gave after `epoch` epochs."""
        for name, value in self.parameters._asdict().items():
            prefix = f"optimizer.{name}."
            self.optimizer.state[value] = {
                key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)
            }
        for name, tensor in self.state().items():
            if not name.startswith("optimizer."):
                tensor.copy_(tensors[name])
        self.epoch, self.history = epoch, history

    def best_model(self, member: int) -> ALRNNForPrediction | None:
        """Return the model of the least divergence so far; None if no free run was ever finite."""
        if not self.best_divergence[member] < torch.inf:
            return None
        model = ALRNNForPrediction(ALRNNConfig(**own_fields(self.config)))
        with torch.no_grad():
            for name, value in self.best._asdict().items():
                getattr(model.model, name).copy_(value[member])
        return model.eval()


def own_fields(config: ALRNNConfig) -> dict[str, Any]:
    """Return the fields that `ALRNNConfig` has beyond those of every configuration."""
    return {name: getattr(config, name) for name in ALRNNConfig.__annotations__ if name != "model_type"}


def _generator(seed: int, stream: int) -> torch.Generator:
    """The source of one seed's initial weights (stream 0), or of all that it draws in an epoch (1, 2, ...)."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
