"""The demo's page: which series, which model, how far; and what came of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

try:
    import gradio as gr
    from gradio.themes import Base, Soft
except ImportError as error:
    raise ImportError("the demo needs gradio, found none; install it with: pip install 'hf_tsdyn[demo]'") from error

from .checkpoints import Checkpoint, fitting_models, load_model
from .forecasts import CONTEXT_RANGE, HORIZON_RANGE, notes, plain_markdown, study_forecast, summary_table
from .inputs import LIMITS, MAX_BYTES, read_upload
from .plots import channel_figure, error_figure, graph_figure, phase_figure, region_figure, run_figure
from .systems import NUM_STEPS, SYSTEMS, Trajectory, shipped_trajectory

UPLOAD = "a file of mine"
"""The choice of a series that is none of those brought along."""
SHIPPED_CHANNELS = 3
INTRODUCTION = """# Forecasting chaotic dynamics

Choose a series and a model. The model sees a context and continues it; the page compares its continuation with what
came true: first step by step, then as an attractor."""
STYLE = """
.gradio-container {max-width: 1500px !important; margin: 0 auto}
#status.problem {border-left: 4px solid #D55E00; background: #FDF1E7; color: #222; padding: 8px 12px}
#summary table {width: 100%; border: none; border-collapse: collapse}
#summary th, #summary td {word-break: normal; overflow-wrap: normal; padding: 7px 8px}
#summary th, #summary td {border: none; border-bottom: 1px solid var(--border-color-primary)}
#summary th:not(:first-child), #summary td:not(:first-child) {text-align: right; width: 27%}
footer {display: none !important}
"""
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"]
_MONOSPACE = ["ui-monospace", "DejaVu Sans Mono", "monospace"]
_log = logging.getLogger(__name__)


def theme() -> Base:
    """Return a theme of fonts that the reader's machine has: none are fetched."""
    return Soft(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE)


def launch_options() -> dict[str, Any]:
    """Return what `launch` of the page needs wherever it is served: looks, and limits."""
    return {
        "theme": theme(),
        "css": STYLE,
        "footer_links": [],
        "max_file_size": MAX_BYTES,
        "ssr_mode": False,
        "share": False,
        "show_error": False,
    }


def chosen_trajectory(series: str, file: str | None) -> Trajectory:
    """Return the series of that name, or the uploaded one.

    Raises: ValueError where there is none, or the file cannot be read as a series.
    """
    if series != UPLOAD:
        if series not in SYSTEMS:
            raise ValueError(f"the series must be one of {[*SYSTEMS, UPLOAD]}, found {series!r}; choose one of them.")
        return shipped_trajectory(series)
    if file is None:
        raise ValueError(f"there is no file yet; upload {LIMITS}.")
    return read_upload(Path(file))


def build(checkpoints: Mapping[str, Checkpoint]) -> gr.Blocks:
    """Return the page, which forecasts with these checkpoints and the baselines."""
    with gr.Blocks(title="hf_tsdyn", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                series, file, model, lengths, button, status = _controls(checkpoints)
            with gr.Column(scale=3, visible=False) as results:
                shown = _results()

        def offer(series: str, file: str | None, model: str) -> tuple[Any, Any, Any, Any]:
            return _offer(checkpoints, series, file, model)

        def forecast(*choices: Any) -> list[Any]:
            return _forecast(checkpoints, *choices)

        gr.on(
            [series.change, file.change],
            offer,
            inputs=[series, file, model],
            outputs=[file, model, lengths[0], status],
            show_progress="hidden",
            api_visibility="private",
        )
        for event in (page.load, button.click):
            event(
                forecast,
                inputs=[series, file, model, *lengths],
                outputs=[status, results, *shown],
                show_progress_on=status,
                concurrency_id="forecast",
                api_visibility="private",
            )
    page.queue(max_size=16, default_concurrency_limit=1)
    return page


def _controls(checkpoints: Mapping[str, Checkpoint]) -> tuple[Any, Any, Any, list[Any], Any, Any]:
    names = fitting_models(checkpoints, num_channels=SHIPPED_CHANNELS)
    series = gr.Radio([*SYSTEMS, UPLOAD], value=next(iter(SYSTEMS)), label="Series", elem_id="series")
    file = gr.File(file_types=[".csv", ".npy"], label="CSV or NPY", visible=False, height=140, elem_id="file")
    model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
    lengths = [
        gr.Slider(0, _latest_start(NUM_STEPS), value=0, step=1, label="Start of the context, step", elem_id="start"),
        gr.Slider(*CONTEXT_RANGE, value=512, step=16, label="Context, steps", elem_id="context"),
        gr.Slider(*HORIZON_RANGE, value=512, step=16, label="Horizon, steps", elem_id="horizon"),
    ]
    button = gr.Button("Forecast", variant="primary", elem_id="run")
    status = gr.Markdown("", elem_id="status", min_height=80)
    return series, file, model, lengths, button, status


def _results() -> list[Any]:
    """Lay out the figures and the table; the column of an AL-RNN's figures comes last."""
    with gr.Row(equal_height=True):
        phase = _figure("Truth and forecast in phase space", "phase", scale=2)
        channels = _figure("Channels over time", "channels", scale=3)
    with gr.Row():
        error = _figure("Growth of the error", "error", scale=1)
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("### In numbers")
            summary = gr.Markdown(elem_id="summary", container=True)
    run = _figure("The attractor: the truth, and the forecast rolled on", "attractor", scale=1)
    with gr.Column(visible=False) as symbols:
        graph = _figure("Symbols: which linear region follows which", "graph", scale=1)
        regions = _figure("Symbols: where, and when", "regions", scale=1)
    return [phase, channels, error, summary, run, graph, regions, symbols]


def _figure(title: str, name: str, *, scale: int) -> Any:
    with gr.Column(scale=scale, min_width=320):
        gr.Markdown(f"### {title}")
        return gr.Plot(show_label=False, elem_id=name)


def _latest_start(num_steps: int) -> int:
    """Return the last step at which a context may start, so that the shortest fits; 1 for a slider that can move."""
    return max(num_steps - CONTEXT_RANGE[0] - HORIZON_RANGE[0], 1)


def _offer(
    checkpoints: Mapping[str, Checkpoint], series: str, file: str | None, model: str
) -> tuple[Any, Any, Any, Any]:
    """Show the upload where it is wanted, offer the models that fit the series, and say what is wrong with a file."""
    upload = gr.update(visible=series == UPLOAD)
    if series == UPLOAD and file is None:
        return upload, gr.update(), gr.update(), _said(f"Upload {LIMITS}.")
    try:
        trajectory = chosen_trajectory(series, file)
    except ValueError as error:
        return upload, gr.update(), gr.update(), _problem(str(error))
    steps, channels = trajectory.values.shape
    names = fitting_models(checkpoints, num_channels=channels)
    found = f"{plain_markdown(trajectory.title)}: {steps:,} steps of {channels} channel{'' if channels == 1 else 's'}."
    models = gr.update(choices=names, value=model if model in names else names[0])
    return upload, models, gr.update(maximum=_latest_start(steps), value=0), _said(found)


def _forecast(
    checkpoints: Mapping[str, Checkpoint], series: str, file: str | None, model: str, *lengths: float
) -> list[Any]:
    """Return a value for each output; where something is wrong, what, and no figures."""
    try:
        start, context, horizon = map(int, lengths)
        study = study_forecast(
            chosen_trajectory(series, file),
            load_model(model, checkpoints),
            model=model,
            context_length=context,
            horizon=horizon,
            start=start,
        )
        figures = [draw(study) for draw in (phase_figure, channel_figure, error_figure, run_figure)]
        symbols = [graph_figure(study), region_figure(study)]
    except (ValueError, TypeError, NotImplementedError) as error:
        return _refusal(str(error))
    except Exception:  # whatever a file or a model brought about: the page lives on, and the log has the details
        _log.exception("a forecast failed")
        return _refusal("this forecast failed; choose another model or series, or see the server's log.")
    phase, channels, error, run = figures
    has_symbols = gr.update(visible=study.orbit is not None)
    return [
        _said(notes(study)), gr.update(visible=True), phase, channels, error, summary_table(study), run, *symbols,
        has_symbols,
    ]  # fmt: skip


def _refusal(message: str) -> list[Any]:
    return [_problem(message), gr.update(visible=False), *[gr.skip()] * 8]


def _said(message: str) -> Any:
    return gr.update(value=message, elem_classes=[])


def _problem(message: str) -> Any:
    return gr.update(value=f"**This does not work yet.** {plain_markdown(message)}", elem_classes=["problem"])
