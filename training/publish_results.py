"""What must hold between a card that is published and the results that its numbers come from."""

import contextlib
import io
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from hf_tsdyn.results import EvaluationResults
from hf_tsdyn.series_results import SeriesResults
from training.evaluate_checkpoint import RESULTS_FILE
from training.publish_files import CARD_FILE, Bundle
from training.publish_model import read_config
from training.publish_texts import Finding
from training.result_tables import read_results
from training.ship_checkpoint import evaluation_command

Results = EvaluationResults | SeriesResults
DO = "evaluate the checkpoint again, which writes results and card"


def check_results(bundle: Bundle, data: ModelCardData) -> Iterator[Finding]:
    """Compare a card's numbers and tables with the results file, and that with its own rows."""
    if not data.eval_results:
        yield Finding("the card must have results, in model-index", "none", DO)
        return
    file = bundle.files.get(RESULTS_FILE)
    if not isinstance(file, Path):
        do = "put it beside the card, or, of a shipped checkpoint, into results/NAME.json beside its folder"
        yield Finding("the results that the card's numbers come from must be uploaded", f"no {RESULTS_FILE}", do)
        return
    try:
        results = read_results(file)
        found = list(_check_numbers(bundle.text(CARD_FILE), data, results))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield Finding(f"{RESULTS_FILE} must be a results file", f"{type(error).__name__}: {error}", DO)
        return
    yield from found or _check_rendered(bundle, data, file)


def _check_numbers(card: str, data: ModelCardData, results: Results) -> Iterator[Finding]:
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    model = title[1].strip() if title else ""
    if model not in results.header["models"]:
        found = f"{model!r}, where the results are of {results.header['models']}"
        yield Finding("the card's title must be the model's name in its results", found, DO)
        return
    for result in data.eval_results or []:
        recorded = _recorded(results, model, result)
        if not any(math.isclose(_number(result.metric_value), value, rel_tol=1e-3) for value in recorded):
            must = f"{result.metric_name or result.metric_type} on the card must be that of {RESULTS_FILE}"
            instead = (
                f"{result.metric_value!r} in place of {recorded[0]:.4g}" if recorded else "a metric that is not there"
            )
            yield Finding(must, instead, DO)
    if isinstance(results, EvaluationResults):
        yield from _check_summary(results, model)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _recorded(results: Results, model: str, result: EvalResult) -> list[float]:
    """What the results hold of a card's number: one value, or none."""
    found = re.search(r"@ (\d+)$", str(result.metric_name))
    horizon = int(found[1]) if found else None
    if isinstance(results, SeriesResults):
        split = str(result.dataset_split)
        mean = results.mean_of(model, result.metric_type, result.dataset_type, horizon or 0, split=split)
        return [] if mean is None else [mean.mean]
    rows = (row for row in results.summary if row.model == model and row.metric == result.metric_type)
    return [row.median for row in rows if horizon in (None, row.horizon)]


def _check_summary(results: EvaluationResults, model: str) -> Iterator[Finding]:
    for row in results.summary:
        place = (model, row.metric, row.horizon)
        values = [each.value for each in results.rows if (each.model, each.metric, each.horizon) == place]
        if row.model != model or (values and math.isclose(statistics.median(values), row.median, rel_tol=1e-6)):
            continue
        again = f"{statistics.median(values):.6g}" if values else "nothing"
        must = f"the summary of {row.metric} at {row.horizon} must be the median over the rows of {RESULTS_FILE}"
        yield Finding(must, f"{row.median:.6g} in place of {again}", "evaluate the checkpoint again")


def _check_rendered(bundle: Bundle, data: ModelCardData, file: Path) -> Iterator[Finding]:
    """Compare what cannot be edited by hand, metadata of results and rows of tables, with the card rendered again."""
    config = read_config(bundle)[1]
    rendered = None if config is None else _render(bundle.folder.resolve(), file, config)
    if rendered is None:
        return
    must, do = (
        "{} of README.md must be what results and records of the run render to",
        "put it back, or evaluate again by run_config.yaml alone",
    )
    wanted, given = (_entries(cast(ModelCardData, each)) for each in (ModelCard(rendered).data, data))
    if wanted != given:
        differing = [each for each in given if each not in wanted] or [each for each in wanted if each not in given]
        found = f"{differing[0] if differing else 'an entry twice'} in one of the two alone"
        yield Finding(must.format("model-index"), found, do)
    rows = _rows(bundle.text(CARD_FILE))
    missing = [row for row in _rows(rendered) if row not in rows]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        found = f"no row '{' | '.join(missing[0])}'{more}"
        yield Finding(must.format("the tables"), found, do)


def _render(folder: Path, file: Path, config: PreTrainedConfig) -> str | None:
    """Return the card that evaluating would write; None where the settings of the run alone do not lead to one."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            command = evaluation_command(folder)
            request = command.load_request([str(folder)])
            return command.render_card(request, read_results(file), config)
    except (Exception, SystemExit):  # records of other commands or versions may lack anything
        return None


def _entries(data: ModelCardData) -> list[str]:
    """The results in a card's metadata as text, sorted."""
    return sorted(
        f"{each.metric_type} {each.metric_value!r} ({each.metric_name}) of {each.dataset_type} ({each.dataset_name}), "
        f"{each.dataset_split}, {each.task_type}"
        for each in data.eval_results or []
    )


def _rows(card: str) -> list[tuple[str, ...]]:
    """The cells of every row of a card's tables, however wide."""
    rows = [line.strip() for line in card.splitlines() if line.lstrip().startswith("|")]
    cells = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    return [row for row in cells if any(cell.strip("-: ") for cell in row)]
