import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hf_tsdyn.evaluation import EvaluationProtocol
from hf_tsdyn.leaderboard import read_boards
from hf_tsdyn.leaderboard_attractors import attractors_file, merge_attractors, write_attractors
from hf_tsdyn.leaderboard_page import leaderboard_summary
from hf_tsdyn.results import EvaluationResults, ResultRow, summarise
from training import leaderboard
from training.leaderboard import END, PAGE, RESULTS, ROOT, START, main, render_page, render_readme

SHIPPED = ROOT / PAGE


def results_of(model, error, *, condition="context-512"):
    """The results of one model on two systems under one condition, as a benchmark writes them."""
    asked = EvaluationProtocol(horizons=(64,), num_windows=1, num_resamples=20)
    rows = [ResultRow(model, system, 64, "smape", error * size, 1, 0) for size, system in enumerate(("A", "B"), 1)]
    summary, _ = summarise(rows, baselines=(), seed=0, num_resamples=20, confidence=0.95)
    facts = {"num_windows": 1, "steps_per_period": 50.0, "lyapunov_times_per_period": None, "group": "base"}
    header = {
        "models": [model], "baselines": [],
        "protocol": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(asked).items()},
        "dataset": {"fingerprint": "abc", "split": "test", "num_windows": 2}, "systems": {"A": facts, "B": facts},
        "cost": {model: {"cpu_seconds": 1.0, "failed_windows": 0}}, "versions": {}, "git_revision": None,
        "hardware": {"cpu": "a CPU", "num_cores": 2, "accelerator": None},
        "benchmark": {"name": "toy", "condition": condition, "models": {model: {}}},
    }  # fmt: skip
    return EvaluationResults(header, rows, summary, [])


@pytest.fixture
def root(tmp_path):
    """A checkout with the results of two models and a README that has a place for the table."""
    for model, error in {"fine": 2.0, "coarse": 5.0}.items():
        results_of(model, error).write(tmp_path / RESULTS / f"toy-{model}.json")
    truth = np.random.default_rng(0).normal(size=(20, 3))
    attractors = {"A": {"truth": truth, "fine": truth[::-1]}}
    write_attractors(attractors, attractors_file(tmp_path / RESULTS / "toy-fine.json"))
    (tmp_path / "README.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    return tmp_path


def render(root):
    options = {"--results": RESULTS, "--page": PAGE, "--readme": "README.md"}
    main([part for name, path in options.items() for part in (name, str(root / path))])


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_page_figures_and_table_are_rendered_and_a_new_file_joins(root, capsys):
    pytest.importorskip("matplotlib")
    render(root)
    assert f"rendered {root / PAGE / 'README.md'}" in capsys.readouterr().out
    boards = read_boards(root / RESULTS)
    summary = leaderboard_summary(boards, page="model_cards/leaderboard/README.md")
    assert (root / "README.md").read_text() == f"before\n{START}\n{summary}\n{END}\nafter\n"
    page = (root / PAGE / "README.md").read_text()
    figures = sorted(file.name for file in (root / PAGE / "figures").iterdir())
    assert figures == [f"{kind}_context-512.png" for kind in ("attractors", "cost", "forest", "ranks", "wins")]
    assert all(f"(figures/{name})" in page for name in figures)
    assert "newcomer" not in page
    results_of("newcomer", 1.0).write(root / RESULTS / "another.json.gz")
    render(root)
    assert "| newcomer | 1.00 |" in (root / PAGE / "README.md").read_text()
    assert "| newcomer | 1.00 |" in (root / "README.md").read_text()


def test_rendering_again_gives_the_same_bytes_and_leaves_nothing_old(root):
    pytest.importorskip("matplotlib")
    render(root)
    first = files_of(root / PAGE)
    (root / PAGE / "figures" / "old.png").write_bytes(b"")
    render(root)
    assert files_of(root / PAGE) == first
    assert sorted(file.name for file in (root / "model_cards").iterdir()) == ["leaderboard", "results"]


def test_a_folder_that_holds_something_else_is_not_replaced(root):
    (root / PAGE).mkdir()
    (root / PAGE / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match=r"error: .* hold a page alone, as it is replaced, found \['thesis\.tex'\]"):
        render(root)
    assert (root / PAGE / "thesis.tex").read_text() == "years of work"


def test_a_readme_without_a_place_is_refused_before_anything_is_written(root):
    (root / "README.md").write_text("no place")
    with pytest.raises(SystemExit, match=r"must hold the lines '<!-- leaderboard -->' and .*; add them"):
        render(root)
    assert not (root / PAGE).exists()


def test_a_failure_while_drawing_leaves_page_and_readme_as_they_were(root, monkeypatch):
    (root / PAGE).mkdir()
    (root / PAGE / "README.md").write_text("the last page")

    def fail(*_):
        raise ValueError("no ink")

    monkeypatch.setattr(leaderboard, "draw_leaderboard", fail)
    with pytest.raises(SystemExit, match="error: no ink"):
        render(root)
    assert files_of(root / PAGE) == {Path("README.md"): b"the last page"}
    assert "old" in (root / "README.md").read_text()


def test_a_folder_without_results_of_a_benchmark_is_an_error(root):
    with pytest.raises(SystemExit, match=r"error: a leaderboard needs results files .* run training\.benchmark"):
        main(["--results", str(root), "--page", str(root / PAGE), "--readme", str(root / "README.md")])


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no leaderboard is shipped")
def test_the_shipped_page_and_table_are_what_the_shipped_results_render_to():
    boards = read_boards(ROOT / RESULTS)
    attractors = {board.condition: merge_attractors(ROOT / RESULTS, board.files) for board in boards}
    assert (SHIPPED / "README.md").read_text() == render_page(boards, attractors, SHIPPED)
    text = (ROOT / "README.md").read_text()
    assert render_readme(text, boards, page=f"{PAGE.as_posix()}/README.md") == text
