"""Score how a trained model of one system reproduces its attractor and write its results, figures and card.

    python -m training.evaluate_reconstruction runs/lorenz63/CELL/best
    python -m training.evaluate_reconstruction runs/lorenz63/CELL/best --data test.npy --dt 0.01

CHECKPOINT is the folder `best` of a cell of `training.sweep`; data and settings are the run's (run_config.yaml);
options override them, and are written into the results, which say what the card shows and what may be shipped. First
the checkpoint is loaded and must repeat the forecast that was left beside it, to the bit.
Any other checkpoint folder can be scored too, with `--data`. `--second_data`, another true series of the same length,
gives the floor of a perfect model at full length; without it the floor is that of half the length.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tsdyn.linear_model import fit_linear_model
from hf_tsdyn.models.alrnn import ALRNNForPrediction
from hf_tsdyn.models.alrnn.fitting import smooth
from hf_tsdyn.models.alrnn.fixed_points import fixed_points
from hf_tsdyn.models.alrnn.symbolic import symbolic_orbit
from hf_tsdyn.reconstruction import LINEAR, evaluate_reconstruction, free_orbit
from hf_tsdyn.reconstruction_card import reconstruction_table, render_reconstruction_card
from hf_tsdyn.reconstruction_figures import history_figure, reconstruction_figure, spectrum_figure
from hf_tsdyn.results import EvaluationResults, write_atomically
from hf_tsdyn.symbolic_analysis import regions_to_solve
from hf_tsdyn.symbolic_figures import symbol_figure, transition_figure
from training.card_facts import loaded_from_its_folder
from training.checkpoint_figures import figures_place, present_figures, replace_figures
from training.evaluate_checkpoint import RESULTS_FILE
from training.probe import verify_reload
from training.reconstruction_facts import reconstruction_card_facts
from training.reconstruction_request import Request, as_evaluated, load_request
from training.sweep_data import SweepData, SweepSeries, load_series, read_series, same_values
from training.sweep_folder import HISTORY_FILE, Member, load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "reconstruction": "The true series and the model's free run in state space",
    "spectra": "Power spectra of the true series and of the free run",
    "symbols": "The free run in state space and in time, coloured by linear region",
    "transitions": "From region to region: probabilities given that the region changes",
    "history": "Training: loss, and free runs against the validation series",
}
TRUTH_FIGURES = ("reconstruction", "spectra")
"""Those that show the series itself."""


def evaluate_checkpoint(request: Request) -> EvaluationResults:
    """Score the checkpoint, write results.json, figures and README.md beside it, and return the results.

    The card needs the records of a run: a checkpoint of another origin gets results and figures alone.
    """
    evaluation, name = request.evaluation, str(request.evaluation.name)
    series = None if request.data is None else _own_series(request, request.data)
    truth, fingerprint = _truth(request, series)
    second, second_fingerprint = (None, None) if request.second_path is None else _read(request, "second_data")
    model = load_model(request.checkpoint)
    print(verify_reload(model, request.checkpoint, request.summary))
    models = {name: model} | ({} if series is None else {LINEAR: fit_linear_model(series.train)})
    results = evaluate_reconstruction(
        models,
        truth,
        system=evaluation.system,
        protocol=evaluation.protocol,
        dt=evaluation.dt,
        baselines=[each for each in models if each != name],
        second_truth=second,
        known=evaluation.known,
        fingerprint=fingerprint,
    )
    named = {"data": request.test_path and fingerprint, "second_data": second_fingerprint}
    results.header["scored"] = {option: found for option, found in named.items() if found}
    results.header["evaluation"] = asdict(evaluation)
    results.write(request.checkpoint / RESULTS_FILE)
    replace_figures(request.checkpoint, CAPTIONS, lambda: draw_figures(request, results, model, truth))
    if request.summary:
        here = asdict(loaded_from_its_folder(request).evaluation)  # for the card: results may be read elsewhere
        shown = replace(results, header=results.header | {"evaluation": here})
        write_atomically(request.checkpoint / "README.md", render_card(request, shown, model.config).encode())
    return results


def _own_series(request: Request, data: SweepData) -> SweepSeries | None:
    """The run's series; where another is named to score on, without its test part, None if it is gone or has changed.

    Raises: ValueError or FileNotFoundError, if it is needed.
    """
    if request.test_path is not None:
        data = replace(data, test_path=None)
    try:
        for path in filter(None, (data.path, data.test_path)):
            if not Path(path).exists():
                raise FileNotFoundError(
                    f"the series of the run must lie where it was trained from, found nothing at {path!r}; restore it, "
                    "or name a true series with --data."
                )
        return _unchanged(load_series(data), data, request.run_config["dataset"])
    except (OSError, ValueError) as error:
        if request.test_path is None:
            raise
        print(f"without the linear baseline, which needs the training series: {str(error).partition(';')[0]}")
        return None


def _unchanged(series: SweepSeries, data: SweepData, dataset: dict[str, Any]) -> SweepSeries:
    for name, found in {"fingerprint": series.fingerprint, "test_fingerprint": series.test_fingerprint}.items():
        if found != dataset[name] and (name == "fingerprint" or found is not None):
            raise ValueError(
                f"a run must be scored on the series that it was made for, found {name} {found} in place of "
                f"{dataset[name]} at {data.path} and {data.test_path}; restore the files, or name others with --data."
            )
    return series


def _truth(request: Request, series: SweepSeries | None) -> tuple[np.ndarray, str]:
    """The series (time, channels) to score on, and the fingerprint of its file."""
    if request.test_path is not None:
        truth, fingerprint = _read(request, "data")
        _check_unseen(request, truth, fingerprint, series)
        return truth, fingerprint
    if series is None or series.test is None:
        raise ValueError("the run must have a test series to be scored on, found none; name one with --data.")
    return series.test, series.test_fingerprint or series.fingerprint


def _check_unseen(request: Request, truth: np.ndarray, fingerprint: str, series: SweepSeries | None) -> None:
    """Raise ValueError if the series to score on, or its start, is what the run was trained on."""
    seen = request.run_config.get("dataset", {}).get("fingerprint") == fingerprint
    if series is not None and request.data is not None and len(truth) >= len(series.train):
        seen |= same_values(smooth(truth[: len(series.train)], request.data.train_smoothing), series.train)
    if seen:
        raise ValueError(
            f"--data must name a series that the run was not trained on, found its training series in "
            f"{request.test_path}; name another, or leave it out."
        )


def _read(request: Request, option: str) -> tuple[np.ndarray, str]:
    """A series that an option names, its channels chosen as the run's were."""
    path = str(request.test_path if option == "data" else request.second_path)
    if request.data is None:
        return read_series(SweepData(path=path), option=option)
    return read_series(replace(request.data, path=path, test_path=None, item=None), option=option)


def render_card(request: Request, results: EvaluationResults, config: Any) -> str:
    """Return the card of a run as its results say that it was evaluated; `config` is the model's."""
    facts = reconstruction_card_facts(
        request.run_config,
        request.summary,
        config=config,
        evaluation=as_evaluated(request, results),
        scored=results.header["scored"],
        figures=present_figures(request.checkpoint, CAPTIONS),
    )
    return render_reconstruction_card(results, facts)


def draw_figures(
    request: Request, results: EvaluationResults, model: ALRNNForPrediction, truth: np.ndarray
) -> dict[str, Figure]:
    """Return what there is to show, by name: nothing of the series if it may not be shown."""
    evaluation = request.evaluation
    part, generated = evaluation.compared(truth), free_orbit(model, truth, evaluation)
    figures = {}
    if evaluation.ship_weights:
        smoothing = evaluation.invariants.spectrum_smoothing
        figures["reconstruction"] = reconstruction_figure(part, generated)
        figures["spectra"] = spectrum_figure(part, generated, smoothing=smoothing, dt=evaluation.dt)
    if evaluation.name in results.header["symbolic"]:
        past = np.array(truth[: model.config.warmup_length])
        orbit = symbolic_orbit(model, past, num_steps=evaluation.symbolic_steps)
        figures["symbols"] = symbol_figure(orbit, fixed_points(model, regions_to_solve(orbit)))
        figures["transitions"] = transition_figure(orbit)
    histories = _histories(request)
    if histories:
        own = [member.seed for member in histories].index(request.summary["seed"])
        entries = [member.history for member in histories]
        figures["history"] = history_figure(entries, chosen=own, best_epoch=histories[own].best_epoch)
    return figures


def _histories(request: Request) -> list[Member]:
    """How the training of every seed of the cell went, where that still lies beside the checkpoint."""
    files = [request.checkpoint.parent / f"seed-{seed}" / HISTORY_FILE for seed in request.summary.get("seeds", [])]
    return [Member.read(file) for file in files] if all(file.is_file() for file in files) else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says, print the table and where everything lies."""
    try:
        request = load_request(arguments)
        results = evaluate_checkpoint(request)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(reconstruction_table(results))
    print(f"checkpoint {request.checkpoint}")
    print(f"results    {request.checkpoint / RESULTS_FILE}")
    print(f"figures    {figures_place(request.checkpoint)}")
    print(f"card       {request.checkpoint / 'README.md' if request.summary else 'none: no record of its training'}")


if __name__ == "__main__":
    main()
