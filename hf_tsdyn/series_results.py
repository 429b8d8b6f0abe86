"""What forecasters scored on the windows of series, as a file that tables, cards and figures are rendered from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .results import write_atomically
from .series_scores import INTERVAL_METRICS, SeriesInterval, SeriesRow

FORMAT = "hf_tsdyn series results 1"
CLAIM_NOTES = {
    "claim": "A claim was published elsewhere and not measured here.",
    "rerun": "A rerun is what its authors' own code gave when we ran it, at an earlier time.",
}
"""What tables say of each kind of claim."""


class SeedMean(NamedTuple):
    """Mean, standard deviation (n - 1 in the denominator; 0 of a single one) and number of seeds."""

    mean: float
    std: float
    num_seeds: int


@dataclass(frozen=True)
class SeriesResults:
    """Rows, their intervals, and how they came about.

    header: `models` (in the order of tables), `labels` (text of each), `num_parameters` and `cpu_seconds` (of training,
    mean over seeds; both of each model's first dataset and horizon in the rows, absent where unknown), `claims` (by
    name: `dataset`, `horizon`, `mse`, `mae`, `num_parameters`, `source`, `kind`: numbers that come from no cell of the
    results, "claim" (the default: published elsewhere) or "rerun" (from its authors' code)),
    `protocol` (`num_resamples`, `confidence`, `seed`: of the intervals), `datasets` (by name: `fingerprint`,
    `channel_names`, `num_train_steps`, `num_windows` by split and horizon), `versions`, `hardware`, `git_revision`.
    """

    header: dict[str, Any]
    rows: list[SeriesRow]
    intervals: list[SeriesInterval]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON, one row a line, replacing `path` in one step.

        Raises: ValueError if a number is not finite.
        """
        parts = [f'"format": "{FORMAT}"', f'"header": {json.dumps(self.header, indent=1, allow_nan=False)}']
        for name in ("rows", "intervals"):
            lines = ",\n".join(json.dumps(asdict(row), allow_nan=False) for row in getattr(self, name))
            parts.append(f'"{name}": [\n{lines}\n]')
        write_atomically(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SeriesResults:
        """Read what `write` wrote.

        Raises: FileNotFoundError; ValueError on a file of another format.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            rows = [_from_json(SeriesRow, row) for row in content["rows"]]
            return cls(content["header"], rows, [_from_json(SeriesInterval, row) for row in content["intervals"]])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} must be a file of {FORMAT!r}, found {error!r}; write it with SeriesResults.write."
            ) from error

    @property
    def settings(self) -> list[tuple[str, int]]:
        """Every dataset and horizon that was scored, in the order of the rows."""
        return list(dict.fromkeys((row.dataset, row.horizon) for row in self.rows))

    def scored_on(self, split: str) -> list[tuple[str, int]]:
        """Return every dataset and horizon that was scored on windows of a split, in the order of the rows."""
        return list(dict.fromkeys((row.dataset, row.horizon) for row in self.rows if row.split == split))

    def mean_of(self, model: str, metric: str, dataset: str, horizon: int, *, split: str = "test") -> SeedMean | None:
        """Return a metric's mean over the model's seeds; None if it was not scored there."""
        place = (model, metric, dataset, horizon, split)
        values = [r.value for r in self.rows if (r.model, r.metric, r.dataset, r.horizon, r.split) == place]
        if not values:
            return None
        return SeedMean(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values))

    def interval_of(
        self, model: str, baseline: str | None, metric: str, dataset: str, horizon: int, *, split: str = "test"
    ) -> SeriesInterval | None:
        """Return the interval of a model's error, or of its difference to a baseline; None if there is none."""
        place = (model, baseline, metric, dataset, horizon, split)
        found = (
            row
            for row in self.intervals
            if (row.model, row.baseline, row.metric, row.dataset, row.horizon, row.split) == place
        )
        return next(found, None)

    def table(self, dataset: str, horizon: int, *, split: str = "test") -> str:
        """Render a Markdown table: a model a row, mean ± standard deviation over (n) seeds.

        Claims, which are of test windows, come last there, and are marked.

        Raises: ValueError if nothing was scored there.
        """
        lines = ["| model | MSE | MAE | parameters | CPU s of training |", "|---|---:|---:|---:|---:|"]
        for model in self.header["models"]:
            errors = [self.mean_of(model, metric, dataset, horizon, split=split) for metric in ("mse", "mae")]
            if errors[0] is not None:
                costs = self._costs(model, dataset, horizon)
                lines.append(_line([self.label(model), *map(_seed_mean, errors), *map(_count, costs)]))
        if len(lines) == 2:
            raise ValueError(
                f"a table needs a model that was scored on {split} windows of {dataset!r} at {horizon}, found none; "
                f"scored were {sorted({(r.dataset, r.horizon, r.split) for r in self.rows})}."
            )
        for name, claim in self.claims_at(dataset, horizon).items() if split == "test" else ():
            errors = [_number(claim.get(metric)) for metric in ("mse", "mae")]
            size = _count(claim.get("num_parameters"))
            lines.append(_line([claim_label(name, claim, source=True), *errors, size, "-"]))
        return "\n".join(lines)

    def overview(self, *, split: str = "test", settings: Sequence[tuple[str, int]] = ()) -> str:
        """Render a compact Markdown table, a dataset and horizon a column: MSE / MAE, means over seeds; "-" = unknown.

        Claims are as in `table`.

        Args:
            settings: the columns; every dataset and horizon by default.
        Raises: ValueError if nothing was scored on that split.
        """
        columns = list(settings) or self.scored_on(split)
        if not columns:
            raise ValueError(f"an overview needs scores on the {split} windows, found none; score them first.")
        lines = [_line(["model", *(f"{dataset} @ {horizon}" for dataset, horizon in columns)])]
        lines.append("|---|" + "---:|" * len(columns))
        for model in self.header["models"]:
            cells = []
            for place in columns:
                mse, mae = (self.mean_of(model, metric, *place, split=split) for metric in ("mse", "mae"))
                cells.append(f"{mse.mean:.4f} / {mae.mean:.4f}" if mse and mae else "-")
            if set(cells) != {"-"}:
                lines.append(_line([self.label(model), *cells]))
        for place in columns if split == "test" else ():
            for name, claim in self.claims_at(*place).items():
                errors = " / ".join(_number(claim.get(metric)) for metric in ("mse", "mae"))
                cells = [errors if each == place else "-" for each in columns]
                lines.append(_line([claim_label(name, claim, source=True), *cells]))
        return "\n".join(lines)

    def differences_table(self, *, split: str = "test", metrics: Sequence[str] = INTERVAL_METRICS) -> str:
        """Render the differences between models with their intervals as a Markdown table; "" if there are none."""
        shown = [row for row in self.intervals if row.baseline is not None and row.split == split]
        lines = ["| model | less | on | metric | difference | says |", "|---|---|---|---|---:|---|"]
        for row in shown:
            if row.metric in metrics:
                place = f"{row.dataset} @ {row.horizon}"
                names = [self.label(row.model), self.label(str(row.baseline))]
                lines.append(_line([*names, place, row.metric.upper(), row.text, row.verdict]))
        return "\n".join(lines) if len(lines) > 2 else ""

    def claims_at(self, dataset: str, horizon: int) -> dict[str, dict[str, Any]]:
        """Return what others published of one dataset and horizon."""
        claims = self.header["claims"].items()
        return {name: claim for name, claim in claims if (claim["dataset"], claim["horizon"]) == (dataset, horizon)}

    @property
    def claims_note(self) -> str:
        """Sentences on the kinds of claims that there are; "" without any."""
        kinds = {_kind(claim) for claim in self.header["claims"].values()}
        return " ".join(note for kind, note in CLAIM_NOTES.items() if kind in kinds)

    def label(self, model: str) -> str:
        """Return the text that tables show for a model."""
        return self.header["labels"].get(model, model)

    def _costs(self, model: str, dataset: str, horizon: int) -> list[float | None]:
        """Parameters and seconds, which the header has of a model's first dataset and horizon alone."""
        first = next((row.dataset, row.horizon) for row in self.rows if row.model == model)
        known = first == (dataset, horizon)
        return [self.header[key].get(model) if known else None for key in ("num_parameters", "cpu_seconds")]


def _from_json(row_class: type, values: dict[str, Any]) -> Any:
    names = {field.name for field in fields(row_class)}
    if set(values) != names:
        raise ValueError(f"a {row_class.__name__} with the fields {sorted(values)}")
    return row_class(**values)


def _kind(claim: Mapping[str, Any]) -> str:
    return claim.get("kind", "claim")


def claim_label(name: str, claim: Mapping[str, Any], *, source: bool = False) -> str:
    """Return the text that tables and figures show for a claim: its kind with it, and its source if asked for."""
    return f"{name} ({_kind(claim)}: {claim['source']})" if source else f"{name} ({_kind(claim)})"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _seed_mean(found: SeedMean | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.4f}" + (f" ± {found.std:.4f} ({found.num_seeds})" if found.num_seeds > 1 else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 or float(value).is_integer() else f"{value:.1f}"
