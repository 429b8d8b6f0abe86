"""How well the free run of a model of one system reproduces its attractor, beside the floor of a perfect model."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .baselines import Persistence
from .metrics import correlation_dimension
from .metrics.invariants import InvariantOptions, prediction_error, spectrum_distance, state_space_divergence
from .models.alrnn import ALRNNForPrediction
from .provenance import git_revision, hardware_class, package_versions
from .results import EvaluationResults, ResultRow, summarise
from .symbolic_report import symbolic_report

TRUTH = "truth"
FLOOR = "truth against truth"
PERSISTENCE = "persistence"
"""Pseudo-models: the true series itself; a true series scored as if generated; the baseline of n-step errors."""
LINEAR = "linear"
"""What the model of `hf_tsdyn.linear_model` is called as a baseline."""
RARE_SHARE = 0.01


@dataclass(frozen=True)
class ReconstructionProtocol:
    """What is asked of every model.

    Args:
        discard: first steps that are left out, of the free run (until it is on its attractor) and of the truth alike.
        num_steps: compared after those; null takes all that the truth has.
        prediction_starts: first steps of the truth that n-step errors start from; null starts from every one.
        symbolic_steps: of the free run whose regions, fixed points, cycles and exponents are reported.
        invariants: bins, smoothing, steps of the metrics.
        seed: of samples that a metric draws."""

    discard: int = 500
    num_steps: int | None = None
    prediction_starts: int | None = None
    symbolic_steps: int = 20_000
    invariants: InvariantOptions = field(default_factory=InvariantOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"discard": 0, "num_steps": 2, "prediction_starts": 1, "symbolic_steps": 1000}
        found = {name: getattr(self, name) for name in lowest}
        wrong = {name: value for name, value in found.items() if value is not None and value < lowest[name]}
        if wrong:
            raise ValueError(f"these must be at least {[lowest[name] for name in wrong]}, found {wrong}; raise them.")

    def compared(self, truth: np.ndarray) -> np.ndarray:
        """Return the part (num_steps, channels) of the true series that free runs are compared with.

        Raises: ValueError if the series is no (time, channels), not finite, or too short.
        """
        if truth.ndim != 2 or not np.isfinite(truth).all():
            raise ValueError(
                f"truth must be finite, of shape (time, channels), found shape {truth.shape} with "
                f"{int((~np.isfinite(truth)).sum())} values that are not; give one series without gaps."
            )
        available = len(truth) - self.discard
        if available < max(self.num_steps or 2, 2):
            raise ValueError(
                f"truth must have {self.num_steps or 'at least 2'} steps after the first {self.discard}, found "
                f"{len(truth)} in all; lower discard or num_steps, or give a longer series."
            )
        return truth[self.discard :][: self.num_steps]

    def predicted(self, truth: np.ndarray, *, context_length: int) -> np.ndarray:
        """Return the part of the true series (time, channels) that n-step errors are measured on."""
        windows_end = context_length + self.invariants.prediction_steps - 1
        return truth if self.prediction_starts is None else truth[: self.prediction_starts + windows_end]


def free_orbit(model: ALRNNForPrediction, truth: np.ndarray, protocol: ReconstructionProtocol) -> np.ndarray:
    """Return the model's free run (num_steps, channels) from the start of the truth (time, channels), data units.

    The first steps of the truth, as many as the model warms up on, are all that it is given.
    Raises: ValueError as `ReconstructionProtocol.compared` does, or if the truth has other channels than the model.
    """
    return _read_out(model, _free_states(model, truth, protocol))


def reconstruction_scores(
    model: ALRNNForPrediction, truth: np.ndarray, protocol: ReconstructionProtocol
) -> dict[str, float]:
    """Compare the model's free run with the truth (time, channels).

    Returns: by the names of `METRIC_LABELS`: the divergence of the two in state space, the distance of their spectra,
        the error of the last of `prediction_steps` steps from true starts, and the linear regions that the run visits
        at all and for more than 1 % of its time; of a run that is not finite those that it visited before.
    Raises: ValueError as `free_orbit` does.
    """
    states = _free_states(model, truth, protocol)
    orbit = _read_out(model, states)
    return (
        _attractor_scores(protocol.compared(truth), orbit, protocol)
        | {"prediction_error": _prediction_error(model, truth, protocol, model.config.warmup_length)}
        | _region_counts(states, model.config.num_relu_units)
    )


def _free_states(model: ALRNNForPrediction, truth: np.ndarray, protocol: ReconstructionProtocol) -> np.ndarray:
    """Latent states (num_steps, units) of the free run, its first steps left out."""
    num_steps = len(protocol.compared(truth))
    if truth.shape[1] != model.config.num_channels:
        raise ValueError(
            f"truth must have the model's {model.config.num_channels} channels, found {truth.shape[1]}; choose columns."
        )
    past = torch.tensor(truth[: model.config.warmup_length].astype(np.float32))[None]
    start = model.initial_state(past.to(model.device))
    return model.free_run(start, protocol.discard + num_steps)[0, protocol.discard :].cpu().numpy()


def _read_out(model: ALRNNForPrediction, states: np.ndarray) -> np.ndarray:
    return model.read_out(torch.from_numpy(states).to(model.device)).cpu().numpy()


def _attractor_scores(truth: np.ndarray, generated: np.ndarray, protocol: ReconstructionProtocol) -> dict[str, float]:
    options, rng = protocol.invariants, np.random.default_rng(protocol.seed)
    return {
        "state_space_divergence": state_space_divergence(truth, generated, options, rng=rng),
        "spectrum_distance": spectrum_distance(truth, generated, smoothing=options.spectrum_smoothing),
    }


def _prediction_error(model: Any, truth: np.ndarray, protocol: ReconstructionProtocol, context_length: int) -> float:
    steps, part = protocol.invariants.prediction_steps, protocol.predicted(truth, context_length=context_length)
    return float(prediction_error(model, part, num_steps=steps, context_length=context_length)[-1])


def _dimension(values: np.ndarray, protocol: ReconstructionProtocol) -> dict[str, float]:
    """The correlation dimension, where the series is long enough and no fixed point, short cycle or explosion."""
    try:
        estimate = correlation_dimension(values, rng=np.random.default_rng(protocol.seed))
    except ValueError:
        return {}
    return {"correlation_dimension": estimate.dimension}


def _region_counts(states: np.ndarray, num_relu_units: int) -> dict[str, float]:
    """How many sets of active units occur, and how many of them for long."""
    finite = states[np.isfinite(states).all(axis=1)]
    active = np.packbits(finite[:, states.shape[1] - num_relu_units :] > 0, axis=1)
    _, counts = np.unique(active, axis=0, return_counts=True)
    return {
        "num_regions": float(len(counts)),
        "num_regions_above_1_percent": float((counts > RARE_SHARE * counts.sum()).sum()),
    }


def evaluate_reconstruction(
    models: Mapping[str, ALRNNForPrediction],
    truth: np.ndarray,
    *,
    system: str,
    protocol: ReconstructionProtocol,
    dt: float = 1.0,
    baselines: Collection[str] = (),
    second_truth: np.ndarray | None = None,
    known: Mapping[str, float] | None = None,
    fingerprint: str = "unknown",
    show_progress: bool = True,
) -> EvaluationResults:
    """Score the free runs of models of one system, with the floor that a perfect model would have beside them.

    A row's horizon is the number of steps that it is about: those compared, or n of an n-step error. What a perfect
    model would score depends on that number and on the pair of series: the second half of the truth is scored against
    the first as if a model had generated it, and every model's run against that first half too; with `second_truth`
    the same is done at full length. The truth's own invariants are rows of the model "truth".

    Args:
        models: by the name they are reported under; those named in `baselines` have scores, no symbolic report.
        truth: (time, channels), data units, of the system in the models' sampling; no part of the training series.
        dt: time between two steps, the unit of Lyapunov exponents.
        second_truth: another true series (time, channels), of at least as many steps as the truth has to compare.
        known: published values by metric name, put into the header for cards.
        fingerprint: of the truth's file.
    Raises: ValueError on no models, a name that is taken, or series that do not fit.
    """
    names = [*models, PERSISTENCE, FLOOR, TRUTH]
    unknown = sorted(set(baselines) - set(models))
    if not models or len(set(names)) < len(names) or unknown:
        raise ValueError(
            f"models must be at least one, under other names than {names[-3:]}, and hold all baselines, found "
            f"{list(models)} and unknown baselines {unknown}; correct the names."
        )
    study = _Study(system, truth, protocol, second_truth)
    cost, reports = {}, {}
    with tqdm(total=len(models) + 1, desc="reconstruct", disable=not show_progress) as progress:
        for name, model in models.items():
            progress.set_postfix_str(name)
            started = time.process_time(), time.perf_counter()
            states = _free_states(model, truth, protocol)
            study.add_model(name, model, states)
            report = None if name in baselines else _report(model, truth, protocol, dt)
            if report is not None:
                reports[name] = report
                study.add_report(name, report)
            cost[name] = _cost(started, failed=not np.isfinite(states).all())
            progress.update()
        progress.set_postfix_str(TRUTH)
        study.add_truth()
        progress.update()
    summary, _ = summarise(study.rows, baselines=(), seed=protocol.seed, num_resamples=1, confidence=0.95)
    header = {
        "models": names,
        "baselines": [*baselines, PERSISTENCE],
        "protocol": asdict(protocol) | {"num_steps": len(study.part), "dt": dt},
        "dataset": {"fingerprint": fingerprint, "split": "test", "num_systems": 1, "num_steps": len(truth)},
        "systems": {system: {"num_channels": truth.shape[1]}},
        "cost": cost,
        "symbolic": reports,
        "known": dict(known or {}),
        "versions": package_versions(),
        "hardware": hardware_class(torch.device("cpu")),
        "git_revision": git_revision(),
    }
    return EvaluationResults(header, study.rows, summary, [])


def _report(model: Any, truth: np.ndarray, protocol: ReconstructionProtocol, dt: float) -> dict[str, Any] | None:
    """The symbolic report; None if the run, longer than the scored one where that is short, diverges."""
    past = np.array(truth[: model.config.warmup_length])
    try:
        return symbolic_report(model, past, dt=dt, num_steps=protocol.symbolic_steps)
    except ValueError:
        return None


class _Study:
    """The rows of one evaluation as they come in."""

    def __init__(self, system: str, truth: np.ndarray, protocol: ReconstructionProtocol, second: np.ndarray | None):
        self.system, self.truth, self.protocol = system, truth, protocol
        self.part = protocol.compared(truth)
        self.second_part = None if second is None else _as_long(protocol.compared(second), self.part)
        self.half = len(self.part) // 2
        self.rows: list[ResultRow] = []

    def add(self, model: str, horizon: int, scores: Mapping[str, float]) -> None:
        seed = self.protocol.seed
        self.rows += [ResultRow(model, self.system, horizon, name, value, 1, seed) for name, value in scores.items()]

    def add_model(self, name: str, model: ALRNNForPrediction, states: np.ndarray) -> None:
        orbit, units = _read_out(model, states), model.config.num_relu_units
        scores = _attractor_scores(self.part, orbit, self.protocol) | _region_counts(states, units)
        self.add(name, len(orbit), scores | _dimension(orbit, self.protocol))
        self.add(name, self.half, _attractor_scores(self.part[: self.half], orbit[: self.half], self.protocol))
        self.add_prediction_error(name, model, model.config.warmup_length)

    def add_prediction_error(self, name: str, forecaster: Any, context_length: int) -> None:
        error = _prediction_error(forecaster, self.truth, self.protocol, context_length)
        self.add(name, self.protocol.invariants.prediction_steps, {"prediction_error": error})

    def add_report(self, name: str, report: Mapping[str, Any]) -> None:
        largest, dimension = report["lyapunov"]["exponents"][0], report["kaplan_yorke_dimension"]
        scores = {"lyapunov_max": largest, "kaplan_yorke_dimension": dimension}
        self.add(name, report["num_steps"], {metric: found for metric, found in scores.items() if found is not None})

    def add_truth(self) -> None:
        second_half = self.part[self.half : 2 * self.half]
        self.add(FLOOR, self.half, _attractor_scores(self.part[: self.half], second_half, self.protocol))
        if self.second_part is not None:
            self.add(FLOOR, len(self.part), _attractor_scores(self.part, self.second_part, self.protocol))
        self.add(TRUTH, len(self.part), _dimension(self.part, self.protocol))
        self.add_prediction_error(PERSISTENCE, Persistence(), 1)


def _as_long(second: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The first steps of a second true series, as many as the truth has; ValueError if it can be no floor of it."""
    steps, channels = truth.shape
    if len(second) < steps or second.shape[1] != channels or np.array_equal(second[:steps], truth):
        raise ValueError(
            f"the second true series must have at least the {steps} steps of the first that are compared, its "
            f"{channels} channels and other values, found {len(second)} steps, {second.shape[1]} channels; give "
            "another run of the system, or leave it out."
        )
    return second[:steps]


def _cost(started: tuple[float, float], *, failed: bool) -> dict[str, float | int]:
    cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
    return {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 2), "failed_windows": int(failed)}
