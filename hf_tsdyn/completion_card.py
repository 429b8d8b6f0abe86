"""Turn a completion results file and what is known of a masked-modelling checkpoint into its card."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .completion import metric_of
from .completion_figures import ERROR_LABEL, MASK_LABELS
from .model_card import ModelCardFacts, render_strictly
from .results import EvaluationResults, table_cell

TEMPLATE = Path(__file__).parent / "templates" / "completion_card.md"


@dataclass(frozen=True)
class CompletionCardFacts:
    """What a completion card says beyond the results and the facts of every card.

    model_class, forecasting_class: names of classes of `hf_tsdyn`, of this checkpoint and of those that take its
    encoder.
    """

    card: ModelCardFacts
    model_class: str
    forecasting_class: str


def render_completion_card(results: EvaluationResults, facts: CompletionCardFacts) -> str:
    """Return the card as Markdown with YAML front matter: equal arguments, equal text.

    Raises: ValueError if the results do not hold the card's model.
    """
    header, card = results.header, facts.card
    if card.model not in header["models"]:
        raise ValueError(
            f"the results must hold the card's model {card.model!r}, found {header['models']}; evaluate it, or "
            "correct the name."
        )
    failed = {name: cost["failed_windows"] for name, cost in header["cost"].items() if cost["failed_windows"]}
    variables = {
        "facts": card,
        "model_class": facts.model_class,
        "forecasting_class": facts.forecasting_class,
        "front_matter": _front_matter(results, card),
        "error_table": error_table(results),
        "difference_table": difference_table(results, card.model),
        "failures": ", ".join(f"{name} {count}" for name, count in failed.items()),
        "cost": header["cost"][card.model],
        "revision": f"`{header['git_revision']}`" if header["git_revision"] else "not recorded (installed package)",
    }
    return render_strictly(
        TEMPLATE, variables | {n: header[n] for n in ("dataset", "protocol", "versions", "hardware")}
    )


def error_table(results: EvaluationResults) -> str:
    """Render a Markdown table: a completer a row, a kind of mask a column, median [low, high] over systems."""
    kinds, length = results.header["protocol"]["mask_kinds"], results.header["protocol"]["context_length"]
    rows = {
        name: [table_cell(results.summary_of(name, metric_of(kind), length)) for kind in kinds]
        for name in results.header["models"]
    }
    return _table("completer", kinds, rows)


def difference_table(results: EvaluationResults, model: str) -> str:
    """Render the median over systems of the model's error less each baseline's, a baseline a row; empty without any."""
    kinds = results.header["protocol"]["mask_kinds"]
    cells = {(row.baseline, row.metric): table_cell(row) for row in results.differences if row.model == model}
    baselines = list(dict.fromkeys(baseline for baseline, _ in cells))
    rows = {baseline: [cells[baseline, metric_of(kind)] for kind in kinds] for baseline in baselines}
    return _table("less", kinds, rows) if rows else ""


def _table(corner: str, kinds: list[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| {corner} | " + " | ".join(MASK_LABELS.get(kind, kind) for kind in kinds) + " |"]
    lines.append("|---|" + "---:|" * len(kinds))
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def _front_matter(results: EvaluationResults, facts: ModelCardFacts) -> str:
    """The Hub's metadata, the model's own medians among it."""
    protocol: dict[str, Any] = results.header["protocol"]
    rows = [
        results.summary_of(facts.model, metric_of(kind), protocol["context_length"]) for kind in protocol["mask_kinds"]
    ]
    evaluated = [
        EvalResult(
            task_type="time-series-imputation",
            dataset_type=facts.evaluation_dataset,
            dataset_name=f"{facts.evaluation_dataset}, held-out systems",
            dataset_split=results.header["dataset"]["split"],
            metric_type=row.metric,
            metric_name=f"{ERROR_LABEL}, {row.metric.partition('@')[2]}",
            metric_value=float(f"{row.median:.4g}"),
        )
        for row in rows
        if math.isfinite(row.median)  # the Hub's schema has no infinity; the table shows it
    ]
    data = ModelCardData(
        license=facts.license,
        library_name="hf_tsdyn",
        tags=["hf_tsdyn", facts.model_type, *facts.tags],
        model_name=facts.model_id,
        eval_results=evaluated or None,
    )
    return data.to_yaml(line_break="\n")
