"""Turn a results file and what is known of a checkpoint into its card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from .results import METRIC_LABELS, EvaluationResults, table_cell

ERROR_METRICS = ("smape", "normalised_mae")
VALID_TIME_METRICS = ("vpt_lyapunov@0.4", "vpt_periods@0.4", "vpt_lyapunov@0.2", "vpt_periods@0.2")
QUANTILE_METRICS = ("coverage@0.8", "interval_width@0.8", "normalised_crps")


@dataclass(frozen=True)
class ModelCardFacts:
    """What a card says that no results file holds; nothing in it may depend on when or where the card is rendered.

    model_id: Hub repository or folder, as `from_pretrained` takes it. model: its name in the results.
    summary: what it is, in a few sentences. channels: what it takes ("any number").
    training_data, training: facts by name, shown as tables. figures: (path beside the card, caption).
    limits: what it does not do, a sentence each. commands: from a checkout to these results.
    evaluation_dataset: Hub repository or name of the dataset of the results. license: as the Hub spells it.
    """

    model_id: str
    model: str
    model_type: str
    summary: str
    num_parameters: int
    context_length: int
    prediction_length: int
    channels: str
    training_data: Mapping[str, str]
    training: Mapping[str, str]
    limits: tuple[str, ...]
    commands: tuple[str, ...]
    evaluation_dataset: str
    figures: tuple[tuple[str, str], ...] = ()
    license: str | None = "apache-2.0"
    tags: tuple[str, ...] = ("time-series", "dynamical-systems", "chaos", "zero-shot-forecasting")

    @property
    def license_text(self) -> str:
        """The licence, or what holds where none was chosen."""
        return self.license or (
            "No licence was chosen: until its owner names one (`--evaluation.license` of the evaluation), all rights "
            "are reserved."
        )


def render_model_card(results: EvaluationResults, facts: ModelCardFacts, *, template: str | Path | None = None) -> str:
    """Return the card as Markdown with YAML front matter: equal arguments, equal text.

    Args:
        template: path of a Jinja template; the package's own by default. It is given `facts`, `front_matter`, the
            rendered tables, and the parts of the results' header.
    Raises: ValueError if the results do not hold `facts.model`, or the template names a variable that is not given.
    """
    header = results.header
    if facts.model not in header["models"]:
        raise ValueError(
            f"the results must hold the card's model {facts.model!r}, found {header['models']}; evaluate it, or "
            "correct the name."
        )
    source = Path(template) if template else Path(__file__).parent / "templates" / "model_card.md"
    return render_strictly(source, _variables(results, facts))


def render_strictly(template: Path, variables: Mapping[str, Any]) -> str:
    """Return the text of a Jinja template.

    Raises: ValueError if it names a variable that is not given.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["counted"] = counted
    try:
        return environment.from_string(template.read_text()).render(variables)
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"every variable of {template.name} must be given, found one that is not: {error.message}; correct its "
            "name in the template."
        ) from error


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with what it counts: "1 system", "23 systems"; `several` defaults to `one` with an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _variables(results: EvaluationResults, facts: ModelCardFacts) -> dict[str, Any]:
    header = results.header
    lyapunov = [row for row in results.summary if row.metric.startswith("vpt_lyapunov")]
    failed = {name: cost["failed_windows"] for name, cost in header["cost"].items() if cost["failed_windows"]}
    return {
        "facts": facts,
        "front_matter": _front_matter(results, facts),
        "error_table": results.summary_table(ERROR_METRICS),
        "valid_time_table": results.summary_table(VALID_TIME_METRICS) if _has(results, VALID_TIME_METRICS) else "",
        "interval_table": results.summary_table(QUANTILE_METRICS) if _has(results, QUANTILE_METRICS[:1]) else "",
        "pooled_coverage": _pooled_coverage(results, facts.model),
        "difference_table": _difference_table(results, facts.model),
        "num_lyapunov_systems": max((row.num_systems for row in lyapunov), default=0),
        "failures": ", ".join(f"{name} {count}" for name, count in failed.items()),
        "dataset": header["dataset"],
        "protocol": header["protocol"],
        "versions": header["versions"],
        "hardware": header["hardware"],
        "cost": header["cost"][facts.model],
        "revision": f"`{header['git_revision']}`" if header["git_revision"] else "not recorded (installed package)",
    }


def _has(results: EvaluationResults, metrics: tuple[str, ...]) -> bool:
    return any(row.metric in metrics for row in results.summary)


def _pooled_coverage(results: EvaluationResults, model: str) -> str:
    """What share of all targets the model's 80 % intervals hold, horizon by horizon; empty without a distribution."""
    entries = results.header.get("calibration", {}).get(model, [])
    shares = {entry["horizon"]: entry["coverage"].get("0.8") for entry in entries}
    return ", ".join(f"{100 * share:.1f} % @ {horizon}" for horizon, share in shares.items() if share is not None)


def _front_matter(results: EvaluationResults, facts: ModelCardFacts) -> str:
    """The Hub's metadata, the model's own medians among it."""
    rows = [row for row in results.summary if row.model == facts.model]
    metrics = (*ERROR_METRICS, *VALID_TIME_METRICS, *QUANTILE_METRICS)
    shown = [row for metric in metrics for row in rows if row.metric == metric]
    periods = [system["steps_per_period"] for system in results.header["systems"].values()]
    part = "held-out systems" if not periods or any(periods) else "held-out part"
    evaluated = [
        EvalResult(
            task_type="time-series-forecasting",
            dataset_type=facts.evaluation_dataset,
            dataset_name=f"{facts.evaluation_dataset}, {part}",
            dataset_split=results.header["dataset"]["split"],
            metric_type=row.metric,
            metric_name=f"{METRIC_LABELS.get(row.metric, row.metric)} @ {row.horizon}",
            metric_value=float(f"{row.median:.4g}"),
        )
        for row in shown
        if math.isfinite(row.median)  # the Hub's schema has no infinity; the table shows it
    ]
    data = ModelCardData(
        license=facts.license,
        library_name="hf_tsdyn",
        pipeline_tag="time-series-forecasting",
        tags=["hf_tsdyn", facts.model_type, *facts.tags],
        model_name=facts.model_id,
        eval_results=evaluated or None,
    )
    return data.to_yaml(line_break="\n")


def _difference_table(results: EvaluationResults, model: str) -> str:
    """One row a baseline, the error metrics at every horizon; empty without baselines."""
    rows = [row for row in results.differences if row.model == model and row.metric in ERROR_METRICS]
    columns = [(m, h) for m in ERROR_METRICS for h in sorted({r.horizon for r in rows})]
    cells = {(r.baseline, r.metric, r.horizon): table_cell(r) for r in rows}
    baselines = list(dict.fromkeys(row.baseline for row in rows))
    if not baselines:
        return ""
    titles = [f"{METRIC_LABELS[metric]} @ {horizon}" for metric, horizon in columns]
    lines = ["| less | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(columns)]
    for baseline in baselines:
        lines.append(f"| {baseline} | " + " | ".join(cells[baseline, m, h] for m, h in columns) + " |")
    return "\n".join(lines)
