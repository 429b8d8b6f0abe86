import pytest

from hf_tsdyn.results import EvaluationResults, SummaryRow
from training.result_tables import names_in, render_pages, render_tables

PLACE = "before\n<!-- results {} -->\nold\n<!-- end -->\nafter\n"


def results_of(model, error, *, baseline_error=2.0):
    """The results of a checkpoint beside persistence at two horizons."""
    rows = [
        SummaryRow(name, horizon, metric, value + horizon / 1000, 0.0, 9.0, 1)
        for name, value in {model: error, "persistence": baseline_error}.items()
        for horizon in (64, 256)
        for metric in ("smape", "normalised_mae", "vpt_periods@0.4", "coverage@0.8")
    ]
    protocol = {"horizons": [64, 256]}
    header = {"models": [model, "persistence"], "baselines": ["persistence"], "protocol": protocol}
    return EvaluationResults(header, [], rows, [])


def table_in(text):
    lines = text.split("-->\n")[1].split("\n<!-- end")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_short_table_has_three_columns_and_of_baselines_those_of_the_first_results():
    files = {"a": results_of("a", 1.0), "b": results_of("b", 0.5, baseline_error=7.0)}
    text = render_tables(PLACE.format("a b"), files.__getitem__)
    assert text.startswith("before\n<!-- results a b -->\n| model |")
    assert text.endswith("|\n<!-- end -->\nafter\n")
    titles, _, *rows = table_in(text)
    assert titles[1:] == ["MAE / context std @ 64", "sMAPE (0-100) @ 64", "valid time, periods (0.4) @ 256"]
    assert rows == [
        ["a", "1.06", "1.06", "1.26"],
        ["b", "0.564", "0.564", "0.756"],
        ["persistence", "2.06", "2.06", "2.26"],
    ]
    assert render_tables(text, files.__getitem__) == text


def test_every_page_that_shows_results_is_written_anew_and_no_other(tmp_path):
    folder = tmp_path / "model_cards"
    shown = {tmp_path / "README.md": "a b", folder / "page" / "README.md": "a", folder / "other" / "README.md": "c"}
    for page, names in shown.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(PLACE.format(names))
    with pytest.raises(FileNotFoundError):
        render_pages(tmp_path, "a", results_of("a", 1.0))
    results_of("b", 0.5).write(folder / "results" / "b.json")
    pages = render_pages(tmp_path, "a", results_of("a", 1.0))
    assert set(pages) == {tmp_path / "README.md", folder / "page" / "README.md"}
    assert [row[0] for row in table_in(pages[tmp_path / "README.md"])[2:]] == ["a", "b", "persistence"]
    assert all("old" in page.read_text() for page in shown)


def test_names_are_those_of_all_tables():
    assert names_in(PLACE.format("a-1 b.2") + PLACE.format("c") + "<!-- leaderboard -->") == ["a-1", "b.2", "c"]
