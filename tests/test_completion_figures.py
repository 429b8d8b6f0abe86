"""What is drawn of completions, read back from the figures' own objects."""

import numpy as np
import pytest

from hf_tsdyn.completion import metric_of
from hf_tsdyn.completion_figures import CompletionPanel, completion_error_figure, completion_figure
from hf_tsdyn.results import EvaluationResults, ResultRow, summarise

pytest.importorskip("matplotlib")

KINDS = ("patches", "span")
SYSTEMS = ("Aizawa", "Chua", "Lorenz")


@pytest.fixture
def results():
    """The error of `model` is 0.3, 0.2, 0.1 on the systems, twice that under spans; that of the mean is 0.9."""
    rows = []
    for kind in KINDS:
        for size, system in enumerate(SYSTEMS):
            error = (0.3 - 0.1 * size) * (1 + (kind == "span"))
            rows.append(ResultRow("model", system, 64, metric_of(kind), error, 3, 0))
            rows.append(ResultRow("mean", system, 64, metric_of(kind), 0.9, 3, 0))
    header = {
        "models": ["model", "mean"],
        "baselines": ["mean"],
        "protocol": {"mask_kinds": list(KINDS), "context_length": 64},
    }
    summary, differences = summarise(rows, baselines=["mean"], seed=0, num_resamples=10, confidence=0.9)
    return EvaluationResults(header, rows, summary, differences)


@pytest.fixture
def panel():
    truth = np.sin(0.2 * np.arange(50))
    hidden = np.zeros(50, dtype=bool)
    hidden[10:20] = hidden[40:] = True
    return CompletionPanel("Lorenz", truth, hidden, {"model": truth + 0.1, "spline": truth * 100})


def lines(axes, label):
    return [np.asarray(line.get_xydata(), dtype=float) for line in axes.get_lines() if line.get_label() == label]


def test_fillings_are_drawn_in_gaps_alone_and_what_is_seen_outside(panel):
    axes = completion_figure([panel]).axes[0]
    ((seen,), (truth,)) = lines(axes, "seen"), lines(axes, "truth")
    np.testing.assert_array_equal(np.isnan(seen[:, 1]), panel.hidden)
    np.testing.assert_allclose(truth[:, 1], panel.truth)
    drawn = [np.asarray(line.get_xydata(), dtype=float) for line in axes.get_lines()[2:4]]
    assert [(part[0, 0], part[-1, 0]) for part in drawn] == [(9, 20), (39, 49)]
    for part in drawn:
        np.testing.assert_allclose(part[:, 1], panel.fillings["model"][part[:, 0].astype(int)])
    assert [patch.get_x() for patch in axes.patches] == [9.5, 39.5]


def test_a_filling_that_runs_away_does_not_hide_the_truth(panel):
    low, high = completion_figure([panel]).axes[0].get_ylim()
    assert -2 < low < panel.truth.min()
    assert panel.truth.max() < high < 2


def test_each_name_stands_once_in_the_legend(panel):
    (legend,) = completion_figure([panel] * 3).legends
    assert [text.get_text() for text in legend.get_texts()] == ["seen", "truth", "model", "spline"]


def test_bars_are_sorted_by_the_first_kind_and_medians_are_lines(results):
    figure = completion_error_figure(results, model="model")
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == list(reversed(SYSTEMS))
    assert [bar.get_width() for bar in first.patches] == pytest.approx([0.1, 0.2, 0.3])
    assert [bar.get_width() for bar in second.patches] == pytest.approx([0.2, 0.4, 0.6])
    assert [line.get_xdata()[0] for line in first.get_lines()] == pytest.approx([0.2, 0.9])
    np.testing.assert_allclose(np.asarray(first.collections[0].get_offsets())[:, 0], 0.9)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["model", "mean"]


def test_an_infinite_bar_reaches_past_every_other(results):
    failed = ResultRow("model", "Lorenz", 64, metric_of("patches"), np.inf, 3, 0)
    rows = [failed, *(r for r in results.rows if (r.model, r.system, r.metric) != ("model", "Lorenz", failed.metric))]
    axes = completion_error_figure(EvaluationResults(results.header, rows, results.summary, []), model="model").axes[0]
    assert 0.9 < max(bar.get_width() for bar in axes.patches) < np.inf


def test_absent_rows_and_panels_of_several_channels_are_refused(results, panel):
    with pytest.raises(ValueError, match="'other', found none"):
        completion_error_figure(results, model="other")
    with pytest.raises(ValueError, match=r"found \{\}"):
        completion_figure([])
    wrong = CompletionPanel("a", panel.truth[:, None], panel.hidden[:, None], {})
    with pytest.raises(ValueError, match=r"\(50, 1\)"):
        completion_figure([wrong])
