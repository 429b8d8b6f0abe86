"""Turn a reconstruction's results file and what is known of its model into a card."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .metrics.invariants import MAX_BINNED_CHANNELS
from .model_card import ModelCardFacts, render_strictly
from .models.alrnn import ALRNNConfig
from .reconstruction import FLOOR, LINEAR, PERSISTENCE
from .results import METRIC_LABELS, EvaluationResults
from .symbolic_report import render_symbolic_report

TEMPLATE = Path(__file__).parent / "templates" / "reconstruction_card.md"
TABLE_METRICS = (
    "state_space_divergence",
    "spectrum_distance",
    "prediction_error",
    "correlation_dimension",
    "lyapunov_max",
    "kaplan_yorke_dimension",
    "num_regions",
    "num_regions_above_1_percent",
)
PUBLISHED = "published"
BASELINE_NOTES = {
    LINEAR: "the linear system that least squares fit to the training series",
    PERSISTENCE: "the last value, at every step",
}


@dataclass(frozen=True)
class ReconstructionCardFacts:
    """What the card of a reconstruction says beyond the results and the facts of every card.

    config: of the model. system: what its series is of. ships_weights: whether they lie beside the card.
    """

    card: ModelCardFacts
    config: ALRNNConfig
    system: str
    ships_weights: bool = True


def render_reconstruction_card(results: EvaluationResults, facts: ReconstructionCardFacts) -> str:
    """Return the card as Markdown with YAML front matter: equal arguments, equal text.

    Raises: ValueError if the results do not hold the card's model.
    """
    header, card = results.header, facts.card
    if card.model not in header["cost"]:
        raise ValueError(
            f"the results must hold the card's model {card.model!r}, found {header['models']}; evaluate it, or "
            "correct the name."
        )
    failed = [name for name, cost in header["cost"].items() if cost["failed_windows"]]
    report = header["symbolic"].get(card.model)
    variables = {
        "facts": card,
        "model_class": (facts.config.architectures or ["ALRNNForPrediction"])[0],
        "model_facts": _model_facts(facts),
        "ships_weights": facts.ships_weights,
        "num_channels": facts.config.num_channels,
        "warmup_length": facts.config.warmup_length,
        "front_matter": _front_matter(results, facts),
        "results_table": reconstruction_table(results),
        "divergence": _divergence(facts.config, header["protocol"]["invariants"]),
        "floor": FLOOR,
        "floor_origin": _floor_origin(results),
        "baselines": _baselines(header["baselines"]),
        "failures": ", ".join(failed),
        "symbolic": "" if report is None else _deeper(render_symbolic_report(report)),
        "cost": header["cost"][card.model],
        "revision": f"`{header['git_revision']}`" if header["git_revision"] else "not recorded (installed package)",
    }
    return render_strictly(
        TEMPLATE, variables | {n: header[n] for n in ("dataset", "protocol", "versions", "hardware")}
    )


def reconstruction_table(results: EvaluationResults) -> str:
    """Render a Markdown table: a metric at a number of steps a row; a model, the floor, the truth a column."""
    cells = {(row.model, row.metric, row.horizon): f"{row.median:.3g}" for row in results.summary}
    known: dict[str, float] = results.header["known"]
    columns = [*results.header["models"], *([PUBLISHED] if known else [])]
    lines = ["| | steps | " + " | ".join(columns) + " |", "|---|---:|" + "---:|" * len(columns)]
    for metric in TABLE_METRICS:
        for steps in sorted({steps for _, found, steps in cells if found == metric}, reverse=True):
            published = {PUBLISHED: f"{known[metric]:g}"} if metric in known else {}
            shown = [published.get(name, cells.get((name, metric, steps), "-")) for name in columns]
            label = METRIC_LABELS.get(metric, metric)
            lines.append(f"| {label} | {steps:,} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _deeper(text: str) -> str:
    """Markdown with every heading one level further down."""
    return re.sub(r"^#", "##", text, flags=re.MULTILINE).strip()


def _model_facts(facts: ReconstructionCardFacts) -> dict[str, str]:
    config = facts.config
    units, rectified = config.hidden_size, config.num_relu_units
    hidden = units - config.num_channels
    return {
        "system": facts.system,
        "channels": str(config.num_channels),
        "state": f"{units} units: the {config.num_channels} channels and {hidden} hidden ones",
        "nonlinearity": f"{rectified} of the units rectified: affine in each of at most 2^{rectified} regions",
    }


def _divergence(config: ALRNNConfig, invariants: dict[str, Any]) -> str:
    if config.num_channels <= MAX_BINNED_CHANNELS:
        return (
            f"{invariants['num_bins']} bins a channel over the range of the test series, and one more for all that is "
            "outside; counts smoothed over the bins that either series visits"
        )
    return f"between Gaussian mixtures of variance {invariants['mixture_variance']:g}"


def _baselines(names: list[str]) -> str:
    notes = "; ".join(f"`{name}`: {BASELINE_NOTES[name]}" for name in names if name in BASELINE_NOTES)
    return notes if LINEAR in names else f"{notes}; no `{LINEAR}` model, as the training series was not at hand"


def _floor_origin(results: EvaluationResults) -> str:
    longest = max(row.horizon for row in results.summary if row.model == FLOOR)
    halves = "the second half of the test series against the first"
    full = results.header["protocol"]["num_steps"]
    return halves if longest < full else f"{halves}, and at full length another series against it"


def _front_matter(results: EvaluationResults, facts: ReconstructionCardFacts) -> str:
    """The Hub's metadata, the model's own scores among it."""
    card = facts.card
    rows = [row for row in results.summary if row.model == card.model and row.metric in TABLE_METRICS]
    evaluated = [
        EvalResult(
            task_type="time-series-forecasting",
            dataset_type=card.evaluation_dataset,
            dataset_name=card.evaluation_dataset,
            dataset_split=results.header["dataset"]["split"],
            metric_type=row.metric,
            metric_name=f"{METRIC_LABELS.get(row.metric, row.metric)} @ {row.horizon}",
            metric_value=float(f"{row.median:.4g}"),
        )
        for row in rows
        if math.isfinite(row.median)  # the Hub's schema has no infinity; the table shows it
    ]
    data = ModelCardData(
        license=card.license,
        library_name="hf_tsdyn",
        pipeline_tag="time-series-forecasting",
        tags=["hf_tsdyn", card.model_type, *card.tags],
        model_name=card.model_id,
        eval_results=evaluated or None,
    )
    return data.to_yaml(line_break="\n")
