"""The card of a run that forecasts a series of its own: what it says beyond the results, from the run's own records."""

from pathlib import Path
from typing import Any, Protocol

from hf_tsdyn.model_card import ModelCardFacts
from hf_tsdyn.series_card import SeriesCardFacts, render_series_card
from hf_tsdyn.series_results import SeriesResults
from training.card_facts import series_borders
from training.checkpoint_figures import present_figures
from training.run_config import CONFIG_FILE, EvaluationConfig

RESULTS_FOLDER = Path(__file__).resolve().parents[1] / "model_cards" / "results"
CAPTIONS = {
    "errors": "Errors over the test windows, units of the training rows' standard deviation",
    "forecasts": "Every channel of a test window: the end of the context, the truth and the forecast, data units",
    "difference": "Where the model is better than its closed-form start (below 0) and where it is worse",
    "control": "What the controller sets as its window slides along the test months",
    "signals": "What the controller says of fixed windows, over training: means and standard deviations over windows",
}
"""By name of the figure's file; a card shows those that there are."""


class Request(Protocol):
    """What a card needs to know of an evaluation."""

    @property
    def checkpoint(self) -> Path: ...

    @property
    def evaluation(self) -> EvaluationConfig: ...

    @property
    def run_config(self) -> dict[str, Any]: ...

    @property
    def summary(self) -> dict[str, Any]: ...


def render_card(request: Request, results: SeriesResults, config: Any) -> str:
    """Return the card of a run, with the study that its evaluation names, if that was shipped.

    config: the model's.
    Raises: ValueError if the results are of another series than that of the training.
    """
    evaluation, run, summary = request.evaluation, request.run_config, request.summary
    dataset = next(row.dataset for row in results.rows if row.model == evaluation.name)
    found = results.header["datasets"][dataset]
    if not is_of_training_series(summary, found["fingerprint"]):
        raise ValueError(
            f"a card must be of the series of the training, fingerprint {summary['dataset_fingerprint']}, found "
            f"results of {dataset!r}, {found['fingerprint']}; evaluate the run on its own series."
        )
    card = ModelCardFacts(
        model_id=evaluation.model_id or f"model_cards/{evaluation.name}",
        model=evaluation.name,
        model_type=config.model_type,
        summary=_summary(config, dataset),
        num_parameters=summary["num_parameters"],
        context_length=config.context_length,
        prediction_length=config.prediction_length,
        channels=str(len(found["channel_names"])),
        training_data=_training_data(run["data"], found, dataset),
        training=_training(run, summary, config),
        limits=_limits(evaluation, config, dataset),
        commands=_commands(compared="start" in results.header["models"]),
        evaluation_dataset=dataset,
        figures=present_figures(request.checkpoint, CAPTIONS),
        license=evaluation.license or None,
        tags=("time-series", "long-term-forecasting"),
    )
    facts = SeriesCardFacts(card, config.architectures[0], data_note=evaluation.data_license)
    return render_series_card(results, facts, study=read_study(evaluation))


def is_of_training_series(summary: dict[str, Any], fingerprint: str) -> bool:
    """Return whether a series is what the run of a summary was trained on."""
    return summary["dataset_fingerprint"] == fingerprint


def read_study(evaluation: EvaluationConfig) -> SeriesResults | None:
    """Return the shipped results of the study that an evaluation names; None without one."""
    study = evaluation.study
    file = RESULTS_FOLDER / f"{study}.json"
    return SeriesResults.read(file) if study is not None and file.is_file() else None


def _summary(config: Any, dataset: str) -> str:
    kind = config.model_type
    if kind != "dynonet":
        return f"A model of type {kind}, trained on the past of {dataset}, to forecast what comes next."
    parts = []
    if config.specialists:
        parts.append(f"{len(config.specialists)} linear specialists in closed form")
    if config.num_worker_layers:
        parts.append(f"{config.num_channels} tiny recurrent workers, one a channel")
    led = ", led by a controller that reads the whole window" if config.controller else ""
    return f"A DynoNet, trained on the past of {dataset}, to forecast what comes next: {' and '.join(parts)}{led}."


def _training_data(data: dict[str, Any], found: dict[str, Any], dataset: str) -> dict[str, str]:
    series = data["series"]
    return {
        "series": dataset,
        "training": f"the first {found['num_train_steps']:,} steps: weights and scaler are fitted to them",
        "borders": series_borders(series),
        "channels": ", ".join(found["channel_names"]),
        "fingerprint": f"`{found['fingerprint']}`",
    }


def _training(run: dict[str, Any], summary: dict[str, Any], config: Any) -> dict[str, str]:
    training, chosen = run["training"], summary["best_step"]
    facts = {}
    specialists = getattr(config, "specialists", None) or ()
    if specialists and run.get("closed_form_start", True):
        kinds = "; ".join(f"{options['kind']} ({_settings(options | {'kind': None})})" for options in specialists)
        facts["start"] = f"closed form: {kinds}".replace(" ()", "")
    if bilevel := run.get("bilevel"):
        facts["bilevel"] = _settings(bilevel)
    if averaging := run.get("weight_averaging"):
        facts["weight averaging"] = _settings(averaging)
    seconds = summary["cpu_seconds_of_last_launch"] + summary.get("closed_form_cpu_seconds", 0)
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return facts | {
        "steps": f"{summary['steps']:,} of {training['per_device_train_batch_size']} windows",
        "checkpoint": "the last step" if chosen is None else f"step {chosen:,}, the best on the validation windows",
        "learning rate": f"{training['learning_rate']:g}, {training['lr_scheduler_type']}",
        "seed": str(training["seed"]),
        "cost": f"{seconds:,.0f} CPU seconds",
        "hardware": summary["hardware"]["accelerator"] or summary["hardware"]["cpu"],
        "versions": versions,
    }


def _settings(options: dict[str, Any]) -> str:
    """Settings as text, those left out that are null."""
    return ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)


def _commands(*, compared: bool) -> tuple[str, ...]:
    start = (
        ["# START: the run that it is compared with, such as this one with --training.max_steps 0"] if compared else []
    )
    return (
        "# DATA: the series of the fingerprint above",
        *start,
        f"python -m training.train --config {CONFIG_FILE} --data.path DATA --training.output_dir MODEL",
        f"python -m training.evaluate_series MODEL --data DATA{' --start START' if compared else ''}",
    )


def _limits(evaluation: EvaluationConfig, config: Any, dataset: str) -> tuple[str, ...]:
    num_channels = getattr(config, "num_channels", None)
    several = f"the {num_channels} channels of that series, in their order, and no others"
    order = f"It takes {'one channel' if num_channels == 1 else several}."
    fixed = (
        f"It knows one series, {dataset}, and was scored on a later part of it; other series were not measured.",
        *([] if num_channels is None else [order]),
        "It gives point forecasts; intervals are not available.",
    )
    return (*fixed, *evaluation.limits)
