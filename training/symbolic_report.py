"""Analyse a trained AL-RNN by its linear regions and write the numbers, a text about them and figures.

    python -m training.symbolic_report runs/lorenz63/model --data series.npy --dt 0.01
    python -m training.symbolic_report runs/lorenz63/model --output REPORT --num_steps 100000

The free run starts from the first steps of the data, which it is then compared with; without data from the window
beside the checkpoint (probe.safetensors), or else from the mean of the series that it was trained on. `symbolic.json`,
`symbolic.md` and `figures/` go to the checkpoint's folder, or to another.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file
from tqdm.auto import tqdm
from transformers import AutoModelForTimeSeriesPrediction

from hf_tsdyn.data.series_files import read_series_file
from hf_tsdyn.figures import save_figure
from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.reconstruction_figures import reconstruction_figure, spectrum_figure
from hf_tsdyn.results import write_atomically
from hf_tsdyn.symbolic_analysis import STAGES, SymbolicAnalysis, analyse_symbols
from hf_tsdyn.symbolic_figures import symbol_figure, transition_figure
from hf_tsdyn.symbolic_report import render_symbolic_report, report_of
from training.probe import PROBE_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORTEST_STRETCH = 100
"""Steps without gaps that data need to be compared with."""
REPORT_FILE, TEXT_FILE = "symbolic.json", "symbolic.md"
CAPTIONS = {
    "symbols": "The free run, coloured by linear region, and the fixed points",
    "transitions": "Which region follows which",
    "reconstruction": "The data and the free run in phase space",
    "spectra": "Power spectra of the data and of the free run",
}


@dataclass(frozen=True)
class Start:
    """Where the free run starts, and what it is compared with.

    past_values: (time, channels). truth: (time, channels) without gaps, or None. dt: time of a step.
    note: why data are not compared with.
    """

    past_values: np.ndarray
    truth: np.ndarray | None
    dt: float
    note: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report as the command line says and print its text."""
    options = _parse(arguments)
    output = options.output or options.checkpoint
    try:
        model = load_model(options.checkpoint)
        start = find_start(model, options.checkpoint, options.data, num_steps=options.num_steps)
        dt = start.dt if options.dt is None else options.dt
        text = write_report(model, start, output, dt=dt, num_steps=options.num_steps)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(text)
    print(f"report     {output / TEXT_FILE}, {output / REPORT_FILE}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.symbolic_report",
        description="Analyse an AL-RNN by its linear regions.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, help="folder of an AL-RNN")
    parser.add_argument(
        "--data", type=Path, help="a series, NPY (time, channels) or CSV, to start from and compare with"
    )
    parser.add_argument("--output", type=Path, help="folder of the report; the checkpoint's by default")
    parser.add_argument("--num_steps", type=int, default=20_000, help="steps of the free run after a transient")
    parser.add_argument("--dt", type=float, help="time between two steps; the data's by default, else 1")
    return parser.parse_args(arguments)


def load_model(checkpoint: Path) -> ALRNNForPrediction:
    """Return the AL-RNN of a folder; ValueError or FileNotFoundError if it holds none."""
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(
            f"checkpoint must be a folder with config.json, found none in {str(checkpoint)!r}; train a model first."
        )
    model_type = json.loads((checkpoint / "config.json").read_text()).get("model_type")
    if model_type != ALRNNConfig.model_type:
        raise ValueError(
            f"a symbolic report needs an AL-RNN, model_type {ALRNNConfig.model_type!r}, found {model_type!r} in "
            f"{str(checkpoint)!r}: other models have no linear regions."
        )
    return AutoModelForTimeSeriesPrediction.from_pretrained(checkpoint).eval()


def find_start(model: ALRNNForPrediction, checkpoint: Path, data: Path | None, *, num_steps: int) -> Start:
    """Return the first steps of the data, with its longest stretch without gaps as truth, or what stands in for them.

    num_steps: of the free run, which says how much of the truth is compared.

    Raises: FileNotFoundError if there is no such file; ValueError if it holds other than one series.
    """
    if data is not None:
        content = read_series_file(data, columns=None, time_column=None)
        if len(content.series) != 1:
            raise ValueError(f"data must hold one series, found {len(content.series)} in {str(data)!r}; choose one.")
        values = np.array(content.series[0].T, dtype=np.float64)
        truth = longest_stretch(values)
        note = comparison_obstacle(truth, num_steps)
        return Start(values[: model.config.warmup_length], None if note else truth, content.dt, note)
    probe = load_file(checkpoint / PROBE_FILE) if (checkpoint / PROBE_FILE).is_file() else {}
    if "past_values" in probe:
        return Start(probe["past_values"][0], None, 1.0)
    return Start(model.model.loc.detach().cpu().numpy()[None], None, 1.0)


def longest_stretch(values: np.ndarray) -> np.ndarray:
    """Return the longest part of a series (time, channels) in which every value is seen."""
    gaps = np.flatnonzero(~np.isfinite(values).all(axis=1))
    borders = np.concatenate([[-1], gaps, [len(values)]])
    longest = int(np.argmax(np.diff(borders)))
    return values[borders[longest] + 1 : borders[longest + 1]]


def comparison_obstacle(truth: np.ndarray, num_steps: int) -> str | None:
    """Say what keeps a free run of so many steps from being compared with a truth (time, channels) without gaps."""
    if len(truth) < SHORTEST_STRETCH:
        return (
            f"a comparison needs {SHORTEST_STRETCH} steps of data without gaps, longest stretch without gaps: "
            f"{len(truth):,} steps"
        )
    compared = truth[: min(len(truth) // 2, num_steps)]
    constant = np.flatnonzero(np.ptp(compared, axis=0) == 0).tolist()
    if constant:
        return f"the data do not vary in channels {constant} over the {len(compared):,} steps to compare"
    return None


def write_report(model: ALRNNForPrediction, start: Start, output: Path, *, dt: float, num_steps: int) -> str:
    """Write numbers, text and figures into `output` and return the text; a bar shows the stages on stderr."""
    with tqdm(total=len(STAGES) + 2, desc="analyse") as progress:

        def begin(stage: str) -> None:
            progress.update(stage != STAGES[0])  # what came before is done
            progress.set_postfix_str(stage)

        analysis = analyse_symbols(model, start.past_values, dt=dt, num_steps=num_steps, progress=begin)
        begin("comparison")
        report = report_of(analysis, truth=start.truth, note=start.note)
        begin("figures")
        captions = write_figures(analysis, start.truth, output)
        progress.update()
    text = render_symbolic_report(report, figures=captions)
    write_atomically(output / REPORT_FILE, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(output / TEXT_FILE, text.encode())
    return text


def write_figures(analysis: SymbolicAnalysis, truth: np.ndarray | None, output: Path) -> dict[str, str]:
    """Draw into `output/figures` and return the captions by path; none, and a note on stderr, without matplotlib."""
    orbit = analysis.orbit
    draw: dict[str, Callable[[], Figure]] = {
        "symbols": lambda: symbol_figure(orbit, analysis.fixed_points),
        "transitions": lambda: transition_figure(orbit),
    }
    if truth is not None:
        draw["reconstruction"] = lambda: reconstruction_figure(truth, orbit.observed)
        draw["spectra"] = lambda: spectrum_figure(truth, orbit.observed, dt=analysis.dt)
    captions: dict[str, Any] = {f"figures/{name}.png": CAPTIONS[name] for name in draw}
    try:
        for path, make in zip(captions, draw.values(), strict=True):
            save_figure(make(), output / path)
    except ImportError as error:
        print(f"note: no figures: {error}", file=sys.stderr)
        return {}
    return captions


if __name__ == "__main__":
    main()
