"""What an evaluation found, as a file that tables, cards and figures are rendered from."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import bootstrap_median, bootstrap_paired_difference

FORMAT_VERSION = 1

STEP_METRIC = "step_normalised_mae"
"""Error of a single step, for curves of error growth; reported, not summarised."""

METRIC_LABELS = {
    "smape": "sMAPE (0-100)",
    "normalised_mae": "MAE / context std",
    "normalised_mse": "MSE / context variance",
    "mase": "MASE",
    STEP_METRIC: "absolute error / context std",
    "vpt_periods@0.4": "valid time, periods (0.4)",
    "vpt_periods@0.2": "valid time, periods (0.2)",
    "vpt_lyapunov@0.4": "valid time, Lyapunov times (0.4)",
    "vpt_lyapunov@0.2": "valid time, Lyapunov times (0.2)",
    "completion_mae@patches": "MAE / window std, patches hidden",
    "completion_mae@channel_consistent": "MAE / window std, patches of all channels hidden",
    "completion_mae@span": "MAE / window std, one span hidden",
    "normalised_crps": "CRPS / context std",
    "coverage@0.8": "coverage of the 80 % interval",
    "coverage@0.6": "coverage of the 60 % interval",
    "coverage@0.4": "coverage of the 40 % interval",
    "coverage@0.2": "coverage of the 20 % interval",
    "interval_width@0.8": "width of the 80 % interval / context std",
    "weighted_quantile_loss": "weighted quantile loss",
    "state_space_divergence": "state-space divergence, nats",
    "state_space_divergence@tail": "state-space divergence of the tail, nats",
    "spectrum_distance": "spectrum distance",
    "spectrum_distance@tail": "spectrum distance of the tail",
    "lyapunov_error": "largest exponent's error, relative",
    "lyapunov_error@tail": "largest exponent's error of the tail, relative",
    "correlation_dimension_error": "correlation dimension's error",
    "correlation_dimension_error@tail": "correlation dimension's error of the tail",
    "prediction_error": "n-step error / variance",
    "correlation_dimension": "correlation dimension",
    "lyapunov_max": "largest Lyapunov exponent",
    "kaplan_yorke_dimension": "Kaplan-Yorke dimension",
    "num_regions": "linear regions visited",
    "num_regions_above_1_percent": "linear regions visited over 1 % of the time",
}
"""Names for tables and axes; a metric that is not here goes by its own name."""


@dataclass(frozen=True)
class ResultRow:
    """The median over the windows of one system, `num_windows` of them with something to score."""

    model: str
    system: str
    horizon: int
    metric: str
    value: float
    num_windows: int
    seed: int


@dataclass(frozen=True)
class SummaryRow:
    """The median over systems of a model's rows, with its bootstrap interval."""

    model: str
    horizon: int
    metric: str
    median: float
    low: float
    high: float
    num_systems: int


@dataclass(frozen=True)
class DifferenceRow:
    """The median over systems of `model - baseline`, paired by system, with its bootstrap interval."""

    model: str
    baseline: str
    horizon: int
    metric: str
    median: float
    low: float
    high: float
    num_systems: int


@dataclass(frozen=True)
class EvaluationResults:
    """Long rows, their medians over systems, and how they came about.

    header: `models`, `baselines`, `protocol`, `dataset` (fingerprint, split, counts), `systems` (per system:
    num_channels, num_trajectories, steps_per_period and lyapunov_times_per_period, None where unknown), `cost` (per
    model: cpu_seconds, wall_seconds, those of quantiles, failed_windows), `calibration` (per model with a distribution
    and horizon, as `hf_tsdyn.scoring.calibration` says; absent in older files), `versions`, `hardware`,
    `git_revision` (None outside a checkout); of models that reconstruct one system also `symbolic`, `known`,
    `evaluation` and `scored`, as `hf_tsdyn.reconstruction` says; of a benchmark also `benchmark` (name, condition,
    series by fingerprint, and per model label, kind, num_parameters, training, cost of a forecast, errors that it
    raised) and, in `systems`, `group` and what of the protocol a short series changed.
    """

    header: dict[str, Any]
    rows: list[ResultRow]
    summary: list[SummaryRow]
    differences: list[DifferenceRow]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON, one row a line, replacing `path` in one step; compressed if it ends in ".gz".

        Infinite values (a forecast that was not finite) are written as the string "Infinity".
        Raises: ValueError if a value is NaN, or one in the header infinite.
        """
        header = json.dumps(self.header, indent=1, allow_nan=False)
        parts = [f'"format_version": {FORMAT_VERSION}', f'"header": {header}']
        for name in ("rows", "summary", "differences"):
            lines = ",\n".join(_to_json(row) for row in getattr(self, name))
            parts.append(f'"{name}": [\n{lines}\n]')
        content = ("{\n" + ",\n".join(parts) + "\n}\n").encode()
        write_atomically(path, gzip.compress(content, mtime=0) if Path(path).suffix == ".gz" else content)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> EvaluationResults:
        """Read what `write` wrote.

        Raises: FileNotFoundError; ValueError on a file of another format.
        """
        try:
            content = json.loads(results_bytes(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} must be a results file, found no JSON: {error}; write it again.") from error
        found = content.get("format_version") if isinstance(content, dict) else None
        if found != FORMAT_VERSION:
            raise ValueError(
                f"{path} must be a results file of format {FORMAT_VERSION}, found format_version {found!r}; "
                "write it with EvaluationResults.write of this version."
            )
        return cls(
            header=content["header"],
            rows=[_from_json(ResultRow, row) for row in content["rows"]],
            summary=[_from_json(SummaryRow, row) for row in content["summary"]],
            differences=[_from_json(DifferenceRow, row) for row in content["differences"]],
        )

    def summary_of(self, model: str, metric: str, horizon: int) -> SummaryRow:
        """Return one cell of the summary; ValueError if it was not evaluated."""
        for row in self.summary:
            if (row.model, row.metric, row.horizon) == (model, metric, horizon):
                return row
        known = sorted({(row.metric, row.horizon) for row in self.summary})
        raise ValueError(
            f"the results must hold {metric!r} at horizon {horizon} for {model!r}, found models "
            f"{self.header['models']} with {known}; evaluate it first."
        )

    def summary_table(
        self, metrics: Sequence[str] = ("smape", "normalised_mae"), horizons: Sequence[int] | None = None
    ) -> str:
        """Render a Markdown table: a model a row, horizon x metric as columns, median [low, high] over systems.

        A model that is scored on none of the columns has no row, one that lacks some has "-" there.
        metrics: of those in the summary, in this order. horizons: all evaluated ones by default.
        Raises: ValueError if nothing is left to show.
        """
        present = {(row.metric, row.horizon) for row in self.summary}
        cells = {(row.model, row.metric, row.horizon): table_cell(row) for row in self.summary}
        wanted = sorted({h for _, h in present}) if horizons is None else horizons
        columns = [(metric, h) for metric in metrics for h in wanted if (metric, h) in present]
        if not columns:
            raise ValueError(
                f"a table needs at least one evaluated column, found none for metrics {list(metrics)} at horizons "
                f"{list(wanted)}; evaluated were {sorted(present)}."
            )
        titles = [f"{METRIC_LABELS.get(metric, metric)} @ {h}" for metric, h in columns]
        lines = ["| model | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(columns)]
        for model in self.header["models"]:
            shown = [cells.get((model, metric, h), "-") for metric, h in columns]
            if set(shown) != {"-"}:
                lines.append(f"| {model} | " + " | ".join(shown) + " |")
        return "\n".join(lines)


def verdict(row: DifferenceRow) -> str:
    """Return what the interval of a difference of errors says: "better", "worse", "undecided", or that it is none."""
    if row.num_systems == 1:
        return "one system tells no interval"
    return "better" if row.high < 0 else "worse" if row.low > 0 else "undecided"


def table_cell(row: SummaryRow | DifferenceRow) -> str:
    """Return a median with its interval over systems, for a table."""
    interval = f" [{row.low:.3g}, {row.high:.3g}]" if row.num_systems > 1 else ""  # one system has no interval
    return f"{row.median:.3g}{interval}"


def _to_json(row: ResultRow | SummaryRow | DifferenceRow) -> str:
    return json.dumps({k: _encode(v) for k, v in asdict(row).items()}, allow_nan=False)


def _encode(value: Any) -> Any:
    infinite = isinstance(value, float) and abs(value) == float("inf")
    return str(value).replace("inf", "Infinity") if infinite else value


def _from_json(row_class: type, values: dict[str, Any]) -> Any:
    names = [field.name for field in fields(row_class)]
    if sorted(values) != sorted(names):
        raise ValueError(
            f"a {row_class.__name__} must have the fields {names}, found {sorted(values)}; write the file again."
        )
    numbers = {field.name for field in fields(row_class) if field.type == "float"}
    return row_class(**{name: float(values[name]) if name in numbers else values[name] for name in names})


def results_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the JSON of a results file, compressed or not.

    Raises: FileNotFoundError; ValueError on a file that ends in ".gz" and is not compressed.
    """
    content = Path(path).read_bytes()
    try:
        return gzip.decompress(content) if Path(path).suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} must be compressed, found {error}; write it again.") from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to a file beside `path` and rename it, so that `path` is never half-written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def summarise(
    rows: Sequence[ResultRow], *, baselines: Sequence[str], seed: int, num_resamples: int, confidence: float
) -> tuple[list[SummaryRow], list[DifferenceRow]]:
    """Return medians over systems, and paired differences to each baseline, with bootstrap intervals.

    Every cell resamples the systems alike, so that a model's interval does not depend on what it is compared with.
    """
    cells: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in rows:
        cells.setdefault((row.model, row.horizon, row.metric), {})[row.system] = row.value
    options: dict[str, Any] = {"num_resamples": num_resamples, "confidence": confidence}
    summary, differences = [], []
    for (model, horizon, metric), values in cells.items():
        interval = bootstrap_median(list(values.values()), rng=np.random.default_rng(seed), **options)
        summary.append(SummaryRow(model, horizon, metric, *interval, len(values)))
        for baseline in baselines:
            if baseline == model or (baseline, horizon, metric) not in cells:
                continue  # a baseline without a distribution has no scores of one
            reference = cells[baseline, horizon, metric]
            common = [system for system in values if system in reference]
            if common:
                pairs = ([each[system] for system in common] for each in (values, reference))
                interval = bootstrap_paired_difference(*pairs, rng=np.random.default_rng(seed), **options)
                differences.append(DifferenceRow(model, baseline, horizon, metric, *interval, len(common)))
    return summary, differences


def of_group(results: EvaluationResults, group: str) -> EvaluationResults:
    """Return the results of the systems of one group alone, as the header's facts name it, with medians over them.

    Raises: ValueError if no system is of that group.
    """
    facts: dict[str, dict[str, Any]] = results.header["systems"]
    systems = {name: each for name, each in facts.items() if each.get("group") == group}
    if not systems:
        known = sorted({str(each.get("group")) for each in facts.values()})
        raise ValueError(f"group must be one of the results' systems, {known}, found {group!r}; choose one of them.")
    rows = [row for row in results.rows if row.system in systems]
    protocol = results.header["protocol"]
    summary, differences = summarise(
        [row for row in rows if row.metric != STEP_METRIC],
        baselines=results.header["baselines"],
        seed=protocol["seed"],
        num_resamples=protocol["num_resamples"],
        confidence=protocol["confidence"],
    )
    return EvaluationResults(results.header | {"systems": systems}, rows, summary, differences)


def rows_of(rows: Iterable[ResultRow], *, model: str, metric: str, horizon: int | None = None) -> list[ResultRow]:
    """Return the rows of one model and metric, at one horizon or at all."""
    return [r for r in rows if r.model == model and r.metric == metric and horizon in (None, r.horizon)]
