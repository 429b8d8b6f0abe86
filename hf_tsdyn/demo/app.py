"""The demo's page: which series, which model, how far; and what came of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

try:
    import gradio as gr
    from gradio.themes import Base, Soft
except ImportError as error:
    raise ImportError("the demo needs gradio, found none; install it with: pip install 'hf_tsdyn[demo]'") from error

from .checkpoints import Checkpoint, fitting_models, load_model
from .forecasts import COMPARED_STEPS, CONTEXT_RANGE, HORIZON_RANGE, study_forecast
from .inputs import LIMITS, MAX_BYTES, read_upload
from .plots import channel_figure, error_figure, graph_figure, phase_figure, region_figure, run_figure
from .summary import describe, notes, plain_markdown, summary_table
from .systems import NUM_STEPS, SYSTEMS, Trajectory, shipped_trajectory

UPLOAD = "a file of mine"
"""The choice of a series that is none of those brought along."""
SHIPPED_CHANNELS = 3
OPENING_MODEL = "alrnn-lorenz63-p2"
"""What the page opens with, where it is there: of few regions, so that its symbols can be read."""
LENGTHS = (1024, 512, 512)
"""Start of the forecast, context and horizon that the page opens with, in steps."""
SLIDER_STEP = 16
INTRODUCTION = """# Forecasting chaotic dynamics

Choose a series and a model. The model sees a context and continues it; the page compares its continuation with what
came true: first step by step, then as an attractor."""
STYLE = """
.gradio-container {max-width: 1500px !important; margin: 0 auto}
#status.problem {border-left: 4px solid #D55E00; background: #FDF1E7; color: #222; padding: 8px 12px}
#summary table {width: 100%; border: none; border-collapse: collapse}
#summary tr {border: none}
#summary th, #summary td {word-break: normal; overflow-wrap: normal; padding: 7px 8px}
#summary th, #summary td {border: none; border-bottom: 1px solid var(--border-color-primary)}
#summary th:not(:first-child), #summary td:not(:first-child) {text-align: right; width: 27%}
footer {display: none !important}
@media (max-width: 700px) {
  #channels, #error, #attractor, #graph, #regions {overflow-x: auto; contain: inline-size}
  :is(#channels, #error, #attractor, #graph, #regions) .matplotlib {align-items: flex-start}
  :is(#channels, #error, #attractor, #graph, #regions) img {min-width: 620px; max-width: none}
}
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
        "run_history": False,
        "max_file_size": MAX_BYTES,
        "ssr_mode": False,
        "share": False,
        "show_error": False,
    }


def chosen_trajectory(series: str, file: str | None, lyapunov_steps: float | None = None) -> Trajectory:
    """Return the series of that name, or the uploaded one with the Lyapunov time that its owner knows.

    Raises: ValueError where there is none, the file cannot be read as a series, or the time is not positive.
    """
    if series != UPLOAD:
        if series not in SYSTEMS:
            raise ValueError(f"the series must be one of {[*SYSTEMS, UPLOAD]}, found {series!r}; choose one of them.")
        return shipped_trajectory(series)
    if file is None:
        raise ValueError(f"there is no file yet; upload {LIMITS}.")
    trajectory = read_upload(Path(file))
    if not lyapunov_steps:  # unknown, or an emptied field
        return trajectory
    if not 0 < lyapunov_steps < float("inf"):
        raise ValueError(f"a Lyapunov time must be positive, found {lyapunov_steps:g} steps; correct it, or empty it.")
    return replace(trajectory, lyapunov_time=lyapunov_steps * trajectory.dt)


def build(checkpoints: Mapping[str, Checkpoint]) -> gr.Blocks:
    """Return the page, which forecasts with these checkpoints and the baselines."""
    with gr.Blocks(title="hf_tsdyn", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                series, file, lyapunov, model, lengths, button, status = _controls(checkpoints)
            with gr.Column(scale=3, visible=False) as results:
                shown = _results()

        def offer(*choices: Any) -> list[Any]:
            return _offer(checkpoints, *choices)

        def forecast(*choices: Any) -> list[Any]:
            return _forecast(checkpoints, *choices)

        gr.on(
            [series.change, file.change],
            offer,
            inputs=[series, file, model, *lengths],
            outputs=[file, lyapunov, model, *lengths, status],
            show_progress="hidden",
            api_visibility="private",
        )
        for event in (page.load, button.click):
            event(
                forecast,
                inputs=[series, file, lyapunov, model, *lengths],
                outputs=[status, results, *shown],
                show_progress_on=status,
                concurrency_id="forecast",
                api_visibility="private",
            )
    page.queue(max_size=16, default_concurrency_limit=1)
    return page


def _controls(checkpoints: Mapping[str, Checkpoint]) -> tuple[Any, Any, Any, Any, list[Any], Any, Any]:
    names = fitting_models(checkpoints, num_channels=SHIPPED_CHANNELS)
    series = gr.Radio([*SYSTEMS, UPLOAD], value=next(iter(SYSTEMS)), label="Series", elem_id="series")
    file = gr.File(file_types=[".csv", ".npy"], label="CSV or NPY", visible=False, height=140, elem_id="file")
    lyapunov = gr.Number(0, label="Its Lyapunov time, steps (0: unknown)", visible=False, elem_id="lyapunov")
    opening = OPENING_MODEL if OPENING_MODEL in names else names[0]
    model = gr.Dropdown(names, value=opening, label="Model", elem_id="model")
    ranges = {
        "Forecast from step": (CONTEXT_RANGE[0], _latest_origin(next(iter(SYSTEMS)), NUM_STEPS)),
        "Context, steps": CONTEXT_RANGE,
        "Horizon, steps": HORIZON_RANGE,
    }
    lengths = [
        gr.Slider(*ends, value=value, step=SLIDER_STEP, label=label, elem_id=name)
        for (label, ends), value, name in zip(ranges.items(), LENGTHS, ("origin", "context", "horizon"), strict=True)
    ]
    button = gr.Button("Forecast", variant="primary", elem_id="run")
    status = gr.Markdown("", elem_id="status", min_height=80)
    return series, file, lyapunov, model, lengths, button, status


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


def _latest_origin(series: str, num_steps: int) -> int:
    """Return the last step to forecast from: of a shipped series, one that leaves enough to compare attractors."""
    return num_steps - (HORIZON_RANGE[0] if series == UPLOAD else 2 * COMPARED_STEPS)


def _whole(lengths: Sequence[float | None]) -> list[int]:
    if None in lengths:
        raise ValueError("start, context and horizon must be numbers of steps, found an empty field; fill it in.")
    return [int(length) for length in lengths if length is not None]


def _fitting_lengths(lengths: Sequence[int], *, latest: int, num_steps: int) -> list[int]:
    """Return start, context and horizon if a series has room for them, else such as it has room for."""
    origin, context, horizon = lengths
    if context <= origin <= latest and origin + horizon <= num_steps:
        return [origin, context, horizon]
    origin = _on_slider(min(LENGTHS[0], num_steps // 2))
    return [origin, min(LENGTHS[1], origin), _on_slider(min(LENGTHS[2], num_steps - origin))]


def _on_slider(steps: int) -> int:
    return steps // SLIDER_STEP * SLIDER_STEP


def _offer(
    checkpoints: Mapping[str, Checkpoint], series: str, file: str | None, model: str, *lengths: float | None
) -> list[Any]:
    """Show the upload where it is wanted; offer models and lengths that fit the series, or say what is wrong."""
    shown = gr.update(visible=series == UPLOAD)
    if series == UPLOAD and file is None:
        return [shown, shown, *[gr.skip()] * 4, _said(f"Upload {LIMITS}.")]
    try:
        trajectory = chosen_trajectory(series, file)
        steps, channels = trajectory.values.shape
        latest = _latest_origin(series, steps)
        origin, context, horizon = _fitting_lengths(_whole(lengths), latest=latest, num_steps=steps)
    except ValueError as error:
        return [shown, shown, *[gr.skip()] * 4, _problem(str(error))]
    except Exception:  # whatever a file brought about: the page lives on, and the log has the details
        _log.exception("a file could not be read")
        return [shown, shown, *[gr.skip()] * 4, _problem("this file could not be read; choose another one.")]
    names = fitting_models(checkpoints, num_channels=channels)
    return [
        shown, shown, gr.update(choices=names, value=model if model in names else names[0]),
        gr.update(maximum=latest, value=origin), gr.update(value=context), gr.update(value=horizon),
        _said(describe(trajectory)),
    ]  # fmt: skip


def _forecast(
    checkpoints: Mapping[str, Checkpoint],
    series: str,
    file: str | None,
    lyapunov_steps: float | None,
    model: str,
    *lengths: float | None,
) -> list[Any]:
    """Return a value for each output; where something is wrong, what, and the figures stay as they are."""
    try:
        origin, context, horizon = _whole(lengths)
        trajectory = chosen_trajectory(series, file, lyapunov_steps)
        _check_fit(checkpoints, model, trajectory.values.shape[1])
        study = study_forecast(
            trajectory,
            load_model(model, checkpoints),
            model=model,
            context_length=context,
            horizon=horizon,
            origin=origin,
        )
        figures = [draw(study) for draw in (phase_figure, channel_figure, error_figure, run_figure)]
        symbols = [graph_figure(study), region_figure(study)]
    except (ValueError, NotImplementedError) as error:
        return _refusal(str(error).replace("past_values", "the context"))
    except Exception:  # whatever a file or a model brought about: the page lives on, and the log has the details
        _log.exception("a forecast failed")
        return _refusal("this forecast failed; choose another model or series, or see the server's log.")
    phase, channels, error, run = figures
    has_symbols = gr.update(visible=study.orbit is not None)
    return [
        _said(notes(study)), gr.update(visible=True), phase, channels, error, summary_table(study), run, *symbols,
        has_symbols,
    ]  # fmt: skip


def _check_fit(checkpoints: Mapping[str, Checkpoint], model: str, num_channels: int) -> None:
    if model in checkpoints and model not in fitting_models(checkpoints, num_channels=num_channels):
        raise ValueError(
            f"{model} forecasts series of {checkpoints[model].num_channels} channels, found {num_channels}; choose "
            "another model."
        )


def _refusal(message: str) -> list[Any]:
    return [_problem(message), *[gr.skip()] * 9]


def _said(message: str) -> Any:
    return gr.update(value=message, elem_classes=[])


def _problem(message: str) -> Any:
    return gr.update(value=f"**This does not work yet:** {plain_markdown(message)}", elem_classes=["problem"])
