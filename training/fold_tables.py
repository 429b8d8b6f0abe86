"""Tables of a study with folds: means over the folds, each fold, and differences between models on each."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from hf_tsdyn.results import EvaluationResults
from hf_tsdyn.series_results import SeedMean, SeriesResults
from hf_tsdyn.series_scores import INTERVAL_METRICS, SeriesInterval, signed
from training.study_cells import fold_name


def mean_over_folds(
    results: SeriesResults, model: str, metric: str, dataset: str, horizon: int, *, num_folds: int
) -> SeedMean | None:
    """Return the mean over all folds, of the seeds of which every fold was scored; None if there is none."""
    names = set(map(fold_name, range(num_folds)))
    values: dict[int | None, list[float]] = {}
    for row in results.rows:
        place = (row.model, row.metric, row.dataset, row.horizon)
        if place == (model, metric, dataset, horizon) and row.split in names:
            values.setdefault(row.seed, []).append(row.value)
    means = [mean(each) for each in values.values() if len(each) == num_folds]
    return SeedMean(mean(means), stdev(means) if len(means) > 1 else 0.0, len(means)) if means else None


def render_folds(results: SeriesResults) -> list[str]:
    """Return paragraphs of Markdown: of each dataset and horizon what the folds are, the errors and the differences."""
    folds = results.header["protocol"]["folds"]
    num_folds, length = folds["num_folds"], folds["fold_length"]
    parts = [
        f"Rolling origin: the last {num_folds * length:,} steps of the training split are {num_folds} folds of "
        f"{length:,}, fold 0 the earliest. On each, a model is scored that was trained on the steps before it alone. "
        "The units are those of the whole training split."
    ]
    for dataset, horizon in results.settings:
        counts = results.header["datasets"][dataset]["num_windows"].values()
        count = next(of_fold[str(horizon)] for of_fold in counts if str(horizon) in of_fold)
        parts.append(f"## {dataset}, {horizon} steps ahead, {count:,} windows a fold")
        parts += [f"### {metric.upper()}\n\n{_table(results, metric, dataset, horizon)}" for metric in INTERVAL_METRICS]
        differences = _differences(results, dataset, horizon)
        if differences:
            parts.append(f"### Differences, paired by window\n\n{differences}")
    return parts


def has_folds(results: EvaluationResults | SeriesResults) -> bool:
    """Return whether results are those of a study with folds."""
    return bool(results.header.get("protocol", {}).get("folds"))


def fold_table(results: SeriesResults) -> str:
    """Return the table of squared errors at the first dataset and horizon."""
    return _table(results, INTERVAL_METRICS[0], *results.settings[0])


def _table(results: SeriesResults, metric: str, dataset: str, horizon: int) -> str:
    num_folds = results.header["protocol"]["folds"]["num_folds"]
    lines = _head(["model", "mean over folds", *_titles(num_folds), "parameters", "CPU s a fold"], num_text=1)
    for model in results.header["models"]:
        place = (model, metric, dataset, horizon)
        errors = [results.mean_of(*place, split=fold_name(index)) for index in range(num_folds)]
        if any(errors):
            whole = mean_over_folds(results, *place, num_folds=num_folds)
            cells = [results.label(model), _mean(whole), *(_mean(error) for error in errors)]
            lines.append(_line([*cells, *_costs(results, model, dataset, horizon)]))
    return "\n".join(lines)


def _costs(results: SeriesResults, model: str, dataset: str, horizon: int) -> list[str]:
    """Parameters and seconds, which the header has of a model's first dataset and horizon alone."""
    first = next((row.dataset, row.horizon) for row in results.rows if row.model == model)
    if first != (dataset, horizon):
        return ["-", "-"]
    return [f"{results.header['num_parameters'][model]:,}", f"{results.header['cpu_seconds'][model]:.1f}"]


def _differences(results: SeriesResults, dataset: str, horizon: int) -> str:
    """ "" if no two models were compared."""
    num_folds = results.header["protocol"]["folds"]["num_folds"]
    found: dict[tuple[str, str, str], dict[str, SeriesInterval]] = {}
    for row in results.intervals:
        if row.baseline is not None and (row.dataset, row.horizon) == (dataset, horizon):
            found.setdefault((row.model, row.baseline, row.metric), {})[row.split] = row
    titles = _titles(num_folds)
    lines = _head(["model", "less", "metric", "folds say", "mean over folds", *titles], num_text=4)
    for (model, baseline, metric), by_fold in found.items():
        intervals = [by_fold.get(fold_name(index)) for index in range(num_folds)]
        whole = signed(mean(row.mean for row in by_fold.values()))[0] if None not in intervals else "-"
        names = [results.label(model), results.label(baseline), metric.upper()]
        texts = ["-" if row is None else row.text for row in intervals]
        lines.append(_line([*names, _says(by_fold.values()), whole, *texts]))
    return "\n".join(lines) if found else ""


def _says(intervals: Iterable[SeriesInterval]) -> str:
    verdicts = [row.verdict for row in intervals]
    counts = {verdict: verdicts.count(verdict) for verdict in ("better", "worse", "undecided")}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def _mean(found: SeedMean | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.4f}" + (f" ± {found.std:.4f} ({found.num_seeds})" if found.num_seeds > 1 else "")


def _titles(num_folds: int) -> list[str]:
    return [fold_name(index).replace("-", " ") for index in range(num_folds)]


def _head(titles: Sequence[str], *, num_text: int) -> list[str]:
    return [_line(titles), "|" + "---|" * num_text + "---:|" * (len(titles) - num_text)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
