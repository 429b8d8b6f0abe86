"""Turn the errors of forecasts of one's own series, and what is known of their model, into its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .model_card import ModelCardFacts, render_strictly
from .series_figures import METRIC_NAMES
from .series_results import SeriesResults

CHANNEL_METRICS = {"mse": "MSE", "raw_mae": "MAE, data units"}
TEMPLATE = Path(__file__).parent / "templates" / "series_card.md"


@dataclass(frozen=True)
class SeriesCardFacts:
    """What the card of a forecaster of one's own series says beyond its results and the facts of every card.

    model_class: that `from_pretrained` returns.
    data_note: sentence on the licence of the series; empty if there is nothing to say.
    """

    card: ModelCardFacts
    model_class: str
    data_note: str = ""


def render_series_card(results: SeriesResults, facts: SeriesCardFacts, *, study: SeriesResults | None = None) -> str:
    """Return the card as Markdown with YAML front matter: equal arguments, equal text.

    study: errors of models with and without the parts of this one, over several seeds.
    Raises: ValueError if the results do not hold the card's model on test windows.
    """
    header, model = results.header, facts.card.model
    settings = [place for place in results.scored_on("test") if results.mean_of(model, "mse", *place) is not None]
    if not settings:
        raise ValueError(
            f"the results must hold the card's model {model!r} on test windows, found {header['models']}; evaluate it, "
            "or correct the name."
        )
    channel_names = header["datasets"][settings[0][0]]["channel_names"]
    datasets = list(dict.fromkeys(dataset for dataset, _ in settings))
    variables = {
        "facts": facts.card,
        "model_class": facts.model_class,
        "channel_names": channel_names,
        "data_note": facts.data_note,
        "front_matter": _front_matter(results, facts, settings),
        "tables": {place: results.table(*place) for place in settings},
        "num_windows": {place: _num_windows(results, *place) for place in settings},
        "channel_table": channel_table(results, channel_names),
        "difference_table": results.differences_table(),
        **_study_variables(study, settings),
        "fingerprints": {name: header["datasets"][name]["fingerprint"] for name in datasets},
        "revision": f"`{header['git_revision']}`" if header["git_revision"] else "not recorded (installed package)",
    }
    return render_strictly(TEMPLATE, variables | {name: header[name] for name in ("protocol", "versions", "hardware")})


def _study_variables(study: SeriesResults | None, settings: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """What the template is told of a study: in full where the card's own results are, an overview of more."""
    if study is None:
        return {"study_tables": {}, "study_overview": "", "study_claims": "", "study_differences": ""}
    places = study.scored_on("test")
    return {
        "study_tables": {place: study.table(*place) for place in places if place in settings},
        "study_overview": study.overview() if len(places) > 1 else "",
        "study_claims": study.claims_note,
        "study_differences": study.differences_table(),
    }


def results_table(results: SeriesResults) -> str:
    """Return Markdown of the test windows: the first dataset and horizon in full, an overview of the others.

    Raises: ValueError if nothing was scored there.
    """
    if not results.scored_on("test"):
        raise ValueError(
            f"a results table is of the test windows, found {sorted({row.split for row in results.rows})} alone; score "
            "the test windows."
        )
    (dataset, horizon), *others = results.scored_on("test")
    parts = [results.table(dataset, horizon)]
    if others:
        parts = [f"{dataset}, {horizon} steps ahead, mean ± standard deviation over (n) seeds:", *parts]
        parts += ["MSE / MAE at other places, means over seeds:", results.overview(settings=others)]
    return "\n\n".join([*parts, results.claims_note]).rstrip()


def channel_table(results: SeriesResults, channel_names: Sequence[str]) -> str:
    """Render a Markdown table of the errors of each channel over the test windows: a model and a metric a row."""
    lines = [["model", "on", "error", *channel_names], ["---", "---", "---", *["---:"] * len(channel_names)]]
    scored = [(model, *place) for place in results.scored_on("test") for model in results.header["models"]]
    for model, dataset, horizon in scored:
        for metric, text in CHANNEL_METRICS.items():
            means = [results.mean_of(model, f"{metric}/{name}", dataset, horizon) for name in channel_names]
            if any(means):
                cells = ["-" if found is None else f"{found.mean:.4g}" for found in means]
                lines.append([results.label(model), f"{dataset} @ {horizon}", text, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _num_windows(results: SeriesResults, dataset: str, horizon: int) -> int:
    return results.header["datasets"][dataset]["num_windows"]["test"][str(horizon)]


def _front_matter(results: SeriesResults, facts: SeriesCardFacts, settings: Sequence[tuple[str, int]]) -> str:
    """The Hub's metadata, the model's own errors among it."""
    card = facts.card
    evaluated = [
        EvalResult(
            task_type="time-series-forecasting",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{METRIC_NAMES[metric]} @ {horizon}",
            metric_value=float(f"{found.mean:.4g}"),
        )
        for dataset, horizon in settings
        for metric in METRIC_NAMES
        if (found := results.mean_of(card.model, metric, dataset, horizon))
    ]
    data = ModelCardData(
        license=card.license,
        library_name="hf_tsdyn",
        pipeline_tag="time-series-forecasting",
        tags=["hf_tsdyn", card.model_type, *card.tags],
        model_name=card.model_id,
        metrics=list(METRIC_NAMES),
        eval_results=evaluated,
    )
    return data.to_yaml(line_break="\n")
