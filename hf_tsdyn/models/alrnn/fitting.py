"""Fit AL-RNNs to one series: settings, what came of each seed, and the run that can be taken up again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter1d

from ...metrics.invariants import InvariantOptions
from .configuration_alrnn import ALRNNConfig
from .ensemble import Ensemble, own_fields
from .modeling_alrnn import ALRNNForPrediction


class FitStatus(Enum):
    """How the fit of one seed ended; the text says what to do."""

    COMPLETED = "trained to the last epoch"
    EXPLODED = (
        "the loss left the range of numbers: lower learning_rate or forcing_interval, or raise regularization_weight"
    )
    DIVERGED = (
        "every free run left the range of numbers: train longer, raise forcing_interval or regularization_weight, or "
        "take more units"
    )


@dataclass(frozen=True)
class FitOptions:
    """How models are trained and chosen.

    Args:
        num_epochs, batches_per_epoch, batch_size: windows are drawn at random, `batch_size` a batch.
        learning_rate, final_learning_rate: of RAdam, falling by the same factor after each epoch.
        evaluation_interval: epochs between two evaluations of a free run against the validation series.
        free_run_length: steps of that run; the length of the validation series by default.
        discard: steps before it that do not count.
        average_decay: what is evaluated and kept is the running mean of the weights with this decay a step; 0 takes the
            weights as they are.
        invariants: settings of the divergence, which chooses the epoch that is kept, and of the spectrum distance."""

    num_epochs: int = 2000
    batches_per_epoch: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    evaluation_interval: int = 50
    free_run_length: int | None = None
    discard: int = 500
    average_decay: float = 0.0
    invariants: InvariantOptions = field(default_factory=InvariantOptions)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batches_per_epoch", "batch_size", "evaluation_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}; raise it.")
        if not 0 < self.final_learning_rate <= self.learning_rate < float("inf"):
            raise ValueError(
                "final_learning_rate must be above 0 and at most learning_rate, which must be finite, found "
                f"{self.final_learning_rate} and {self.learning_rate}; change them."
            )
        if self.discard < 0 or (self.free_run_length is not None and self.free_run_length < 2):
            raise ValueError(
                f"discard must be at least 0 and free_run_length at least 2, found {self.discard} and "
                f"{self.free_run_length}; raise them."
            )
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must lie in [0, 1), found {self.average_decay}; 0 averages nothing.")

    def learning_rate_of(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.learning_rate * (self.final_learning_rate / self.learning_rate) ** (epoch / self.num_epochs)


@dataclass(frozen=True, eq=False)
class FitResult:
    """What came of one seed.

    model: that of `best_epoch`, least divergent on the validation series; None if none was ever finite.
    history: of each evaluation, `epoch`, `loss` (mean since the last one), `state_space_divergence`,
        `spectrum_distance`.
    cpu_seconds: its share of the program that it was trained in.
    """

    seed: int
    status: FitStatus
    model: ALRNNForPrediction | None
    best_epoch: int
    best_divergence: float
    history: list[dict[str, float]]
    cpu_seconds: float


def fit_ensemble(
    config: ALRNNConfig,
    options: FitOptions,
    train_values: ArrayLike,
    validation_values: ArrayLike,
    *,
    seeds: Sequence[int],
    state_file: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[FitResult]:
    """Train one model a seed on a series and choose, for each, the epoch whose free run is closest to another part.

    Args:
        config: of all models; its scaler is replaced by mean and standard deviation of `train_values`.
        train_values, validation_values: (time, channels), data units. The second is what free runs are compared with:
            a later part of the series, smoothed if that is noisy.
        state_file: where the state is kept at every evaluation, and taken up again if it is there.
        progress: called with the number of epochs done since its last call.
    Raises: ValueError on NaN, other channels than the configuration's, a series shorter than a window, no seeds, or a
        state file that is damaged or of another fit.
    """
    if not len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must hold at least one number, none below 0, found {list(seeds)}; give range(4).")
    seeds = [int(seed) for seed in seeds]
    train, validation = (
        _check_series(values, name, config)
        for values, name in ((train_values, "train_values"), (validation_values, "validation_values"))
    )
    window = config.context_length + config.prediction_length
    if len(train) < window or len(validation) <= config.warmup_length:
        raise ValueError(
            f"the training series must have at least {window} steps (context_length + prediction_length) and the "
            f"validation series more than {config.warmup_length}, found {len(train)} and {len(validation)}; shorten "
            "prediction_length, or give longer series."
        )
    if state_file is not None:
        state_file.parent.mkdir(parents=True, exist_ok=True)
    ensemble = Ensemble(config, options, train, validation, seeds)
    identity = _identity(config, options, train, validation, seeds)
    spent = 0.0
    if state_file is not None and state_file.exists():
        spent = _load(ensemble, state_file, identity)
    start = time.process_time() - spent
    with _denormals_flushed():
        while ensemble.epoch < options.num_epochs:
            first = ensemble.epoch
            ensemble.train_until(min(first + options.evaluation_interval, options.num_epochs))
            ensemble.evaluate()
            if state_file is not None:
                _save(ensemble, state_file, identity, time.process_time() - start)
            if progress is not None:
                progress(ensemble.epoch - first)
    seconds = (time.process_time() - start) / len(ensemble.seeds)
    return [_result(ensemble, member, seconds) for member in range(len(ensemble.seeds))]


def smooth(values: ArrayLike, std: float) -> np.ndarray:
    """Return a series (time, channels) smoothed along time by a Gaussian of `std` steps; 0 leaves it as it is.

    Raises: ValueError if `std` is negative or not finite.
    """
    if not 0 <= std < float("inf"):
        raise ValueError(f"std must be finite and not negative, found {std}; it counts steps.")
    series = np.asarray(values, dtype=np.float64)
    return gaussian_filter1d(series, std, axis=0, mode="nearest") if std > 0 else series


def _check_series(values: ArrayLike, name: str, config: ALRNNConfig) -> np.ndarray:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 2 or series.shape[1] != config.num_channels or len(series) < 2:
        raise ValueError(
            f"{name} must have shape (time, {config.num_channels}) with at least 2 steps, found {series.shape}; "
            "transpose it, change num_channels, or give a longer series."
        )
    missing = int((~np.isfinite(series)).sum())
    if missing:
        raise ValueError(
            f"{name} must be finite, found {missing} values that are not; fill them first, or train with "
            "training.train, which leaves unseen values out."
        )
    constant = np.flatnonzero(series.std(axis=0) <= 1e-12 * np.abs(series).max(axis=0)).tolist()
    if constant:
        raise ValueError(f"every channel of {name} must vary, found constant ones: {constant}; leave them out.")
    return series


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Gradients that fade over a window end as numbers too small for a processor to be fast with."""
    smallest = torch.finfo(torch.float32).tiny
    flushed_before = bool(torch.tensor([smallest]) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)


def _result(ensemble: Ensemble, member: int, cpu_seconds: float) -> FitResult:
    model, history = ensemble.best_model(member), ensemble.history[member]
    status = FitStatus.COMPLETED if model is not None else FitStatus.DIVERGED
    if not all(np.isfinite(row["loss"]) for row in history):
        status = FitStatus.EXPLODED
    return FitResult(
        seed=ensemble.seeds[member],
        status=status,
        model=model,
        best_epoch=int(ensemble.best_epoch[member]),
        best_divergence=float(ensemble.best_divergence[member]),
        history=history,
        cpu_seconds=round(cpu_seconds, 2),
    )


def _identity(
    config: ALRNNConfig, options: FitOptions, train: np.ndarray, validation: np.ndarray, seeds: Sequence[int]
) -> str:
    """What a state file must agree on with the fit that takes it up."""
    series = hashlib.sha256(train.tobytes() + validation.tobytes()).hexdigest()
    record = {"config": own_fields(config), "options": asdict(options), "seeds": list(seeds), "series": series}
    return json.dumps(record, sort_keys=True)


def _save(ensemble: Ensemble, file: Path, identity: str, cpu_seconds: float) -> None:
    record = {"epoch": ensemble.epoch, "history": ensemble.history, "cpu_seconds": cpu_seconds}
    part = file.with_name(f".{file.name}.part")
    tensors = {name: tensor.contiguous() for name, tensor in ensemble.state().items()}
    save_file(tensors, part, metadata={"identity": identity, "record": json.dumps(record)})
    part.replace(file)


def _load(ensemble: Ensemble, file: Path, identity: str) -> float:
    try:
        opened = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"state_file must be what a fit wrote, found {file} damaged ({error}); delete it.") from error
    with opened as state:
        metadata = state.metadata() or {}
        if metadata.get("identity") != identity:
            raise ValueError(
                f"state_file must be of this same fit, found one of other settings, seeds or series in {file}; delete "
                "it, or name another."
            )
        record = json.loads(metadata["record"])
        tensors = {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118  (it is no mapping)
    ensemble.load_state(tensors, epoch=record["epoch"], history=record["history"])
    return record["cpu_seconds"]


def fit_alrnn(
    past_values: ArrayLike,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3),
    validation_share: float = 0.2,
    validation_smoothing: float = 0.0,
    options: FitOptions | None = None,
    **fields: Any,
) -> ALRNNForPrediction:
    """Return the AL-RNN that reconstructs a series best, of one trained on each seed.

    Args:
        past_values: (time, channels), evenly sampled, data units.
        validation_share: the last part of the series, which chooses epoch and seed.
        validation_smoothing: standard deviation, in steps, of the Gaussian that smooths that part of a noisy series.
        fields: of `ALRNNConfig`, but for the series' channels and their scaler.
    Raises: ValueError as `fit_ensemble`; RuntimeError if no seed gave a model whose free run stays finite.
    """
    series = np.asarray(past_values, dtype=np.float64)
    if series.ndim != 2 or not series.size:
        raise ValueError(f"past_values must have shape (time, channels), found {series.shape}; reshape them.")
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share must lie between 0 and 1, found {validation_share}; give 0.2.")
    known = own_fields(ALRNNConfig()).keys() - {"num_channels", "channel_loc", "channel_scale"}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(
            f"fields must be of ALRNNConfig, found {unknown}; those that can be given are {sorted(known)}."
        )
    border = len(series) - int(validation_share * len(series))
    config = ALRNNConfig(num_channels=series.shape[1], **fields)
    validation = smooth(series[border:], validation_smoothing)
    results = fit_ensemble(config, options or FitOptions(), series[:border], validation, seeds=seeds)
    best = min(results, key=lambda result: result.best_divergence)
    if best.model is None:
        raise RuntimeError(
            f"one seed at least must give a finite model, found none of {len(results)}: {best.status.value}."
        )
    return best.model
