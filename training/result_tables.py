"""Tables of results files in the pages of a checkout: README.md, and those of `model_cards`.

A page holds a table between the lines `<!-- results NAME ... -->` and `<!-- end -->`, each NAME that of a file in
`model_cards/results`. Of several forecasters it is one table, the baselines those of the first.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from hf_tsdyn.completion_card import error_table
from hf_tsdyn.online_card import online_summary
from hf_tsdyn.online_results import is_online
from hf_tsdyn.reconstruction_card import reconstruction_table
from hf_tsdyn.results import EvaluationResults
from hf_tsdyn.series_card import results_table
from hf_tsdyn.series_results import SeriesResults
from training.fold_tables import fold_table, has_folds

Results = EvaluationResults | SeriesResults
RESULTS = Path("model_cards", "results")
END = "<!-- end -->"
_TABLE = re.compile(rf"<!-- results ([\w. -]+?) -->\n.*?{END}", re.DOTALL)
SHORT_METRICS = ("normalised_mae", "smape", "vpt_periods@0.4")
SHORT_HORIZONS = {"normalised_mae": 64, "smape": 64}
"""Of the other metrics, the valid time, a table shows the last horizon."""


def read_results(path: Path) -> Results:
    """Read a results file of either kind.

    Raises: FileNotFoundError; ValueError on a file of neither.
    """
    return SeriesResults.read(path) if is_of_series(path) else EvaluationResults.read(path)


def is_of_series(path: Path) -> bool:
    """Return whether a results file, if there is one, holds errors on a series; JSON of all others has no `format`."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and "format" in content


def names_in(text: str) -> list[str]:
    """Return the results that a page has tables of."""
    return [name for place in _TABLE.finditer(text) for name in place[1].split()]


def render_tables(text: str, read: Callable[[str], Results]) -> str:
    """Return a page with its tables written anew.

    read: the results of a name.
    """

    def render(place: re.Match[str]) -> str:
        return f"<!-- results {place[1]} -->\n{_table([read(name) for name in place[1].split()])}\n{END}"

    return _TABLE.sub(render, text)


def render_pages(root: Path, name: str, results: Results) -> dict[Path, str]:
    """Return the text of the pages of a checkout that have a table of these results, written anew.

    Raises: FileNotFoundError if such a table is also of results that the checkout does not have.
    """

    def read(other: str) -> Results:
        return results if other == name else read_results(root / RESULTS / f"{other}.json")

    pages = {page: page.read_text() for page in (root / "README.md", *root.glob("model_cards/*/README.md"))}
    return {page: render_tables(text, read) for page, text in pages.items() if name in names_in(text)}


def _table(found: Sequence[Results]) -> str:
    first = found[0]
    if isinstance(first, SeriesResults):
        render = online_summary if is_online(first) else fold_table if has_folds(first) else results_table
        return render(first)
    if "symbolic" in first.header:
        return reconstruction_table(first)
    if "mask_kinds" in first.header["protocol"]:
        return error_table(first)
    return _short_table(cast(Sequence[EvaluationResults], found))


def _short_table(found: Sequence[EvaluationResults]) -> str:
    """The main errors of forecasters that were scored on the same data, beside the baselines."""
    first, *others = found
    own = [name for each in others for name in each.header["models"] if name not in first.header["models"]]
    checkpoints = [name for name in first.header["models"] if name not in first.header["baselines"]]
    header = first.header | {"models": [*checkpoints, *own, *first.header["baselines"]]}
    last = max(first.header["protocol"]["horizons"])
    rows = [row for each in found for row in each.summary if each is first or row.model in own]
    shown = [row for row in rows if row.horizon == SHORT_HORIZONS.get(row.metric, last)]
    return EvaluationResults(header, [], shown, []).summary_table(SHORT_METRICS)
