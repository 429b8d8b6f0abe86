"""Gaps and their scores, from a dataset on disk to rows, with completers whose errors are known."""

import dataclasses

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import LinearInterpolation, MeanFill
from hf_tsdyn.completion import (
    MASKS,
    Completer,
    CompletionProtocol,
    draw_mask,
    evaluate_completion,
    metric_of,
)
from hf_tsdyn.data import TrajectoryDataset
from hf_tsdyn.data.held_out_windows import HeldOutWindow, draw_held_out_windows
from hf_tsdyn.data.series import SeriesDataset

PROTOCOL = CompletionProtocol(
    context_length=40, patch_length=5, mask_share=0.4, num_windows=3, batch_size=4, num_resamples=100
)
SYSTEMS = {"Anishchenko": 3, "Blinking": 2, "Chua": 3}  # channels


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_dataset):
    """Two noisy oscillations of each system, 90 steps long, of different sizes and means."""
    rows = []
    for system, num_channels in SYSTEMS.items():
        rng = np.random.default_rng(len(system))
        for k in range(2):
            phase = rng.uniform(0, 6, (num_channels, 1))
            waves = np.sin(0.3 * np.arange(90) + phase) + 0.1 * rng.normal(size=(num_channels, 90))
            target = (7 + 3 * waves).astype(np.float32)
            rows.append({"item_id": f"{system}/{k}", "system": system, "split": "test", "target": target})
    return write_dataset(tmp_path_factory.mktemp("dataset") / "toy", rows)


@pytest.fixture(scope="module")
def dataset(folder):
    return TrajectoryDataset(folder, "test")


@pytest.fixture(scope="module")
def windows(dataset):
    return draw_held_out_windows(dataset, length=40, num_windows=3, seed=0)


class Oracle:
    """Knows the truth of every window, and is off by `error` window standard deviations of each channel."""

    def __init__(self, windows, error):
        self.truths = [torch.from_numpy(np.array(window.values)) for window in windows]
        self.error = error

    def complete(self, values, mask=None):
        filled = []
        for one, hidden in zip(values, mask, strict=True):
            (truth,) = [t for t in self.truths if t.shape == one.shape and torch.equal(t[~hidden], one[~hidden])]
            filled.append(truth + self.error * truth.std(dim=0, correction=0))
        return torch.stack(filled)


class Recorder:
    """Remembers all it was given, and then wipes it."""

    def __init__(self):
        self.seen = []

    def complete(self, values, mask=None):
        self.seen.append((values.clone(), mask.clone()))
        return LinearInterpolation().complete(values.zero_(), mask.zero_())


class Failing:
    """NaN for series that begin above their mean."""

    def complete(self, values, mask=None):
        filled = MeanFill().complete(values, mask)
        filled[filled[:, 0, 0] > filled[:, :, 0].mean(dim=1)] = torch.nan
        return filled


def evaluate(completers, dataset, protocol=PROTOCOL, **options):
    return evaluate_completion(completers, dataset, protocol, show_progress=False, **options)


def errors_of(results, model, kind):
    return {r.system: r.value for r in results.rows if (r.model, r.metric) == (model, metric_of(kind))}


@pytest.mark.parametrize("share", [0.125, 0.4, 0.5, 0.8])
def test_masks_hide_exactly_their_share_in_whole_patches(share):
    rng = np.random.default_rng(0)
    options = {"patch_length": 5, "share": share, "rng": rng}
    for kind in ("patches", "channel_consistent"):
        hidden = MASKS[kind](40, 3, **options).reshape(8, 5, 3)
        assert (hidden == hidden[:, :1]).all()
        assert (hidden[:, 0].sum(axis=0) == round(share * 8)).all()
    span = MASKS["span"](40, 3, **options)
    assert (span.sum(axis=0) == round(share * 40)).all()
    assert (np.abs(np.diff(span[:, 0].astype(int))).sum()) <= 2


def test_masks_differ_between_channels_only_where_they_should():
    rng = np.random.default_rng(0)
    draws = {kind: [mask(40, 2, patch_length=5, share=0.5, rng=rng) for _ in range(20)] for kind, mask in MASKS.items()}
    alike = {kind: [bool((d[:, 0] == d[:, 1]).all()) for d in kinds] for kind, kinds in draws.items()}
    assert all(alike["channel_consistent"])
    assert all(alike["span"])
    assert not any(alike["patches"][:5])


@pytest.mark.parametrize("kind", MASKS)
def test_every_place_is_hidden_as_often(kind):
    """Patches everywhere alike; a span as likely at each start, so that the ends are hidden less."""
    rng = np.random.default_rng(0)
    often = np.mean([MASKS[kind](40, 1, patch_length=5, share=0.5, rng=rng)[:, 0] for _ in range(4000)], axis=0)
    starts = np.arange(21)
    spans = np.array([np.mean((starts <= step) & (step < starts + 20)) for step in range(40)])
    np.testing.assert_allclose(often, spans if kind == "span" else 0.5, atol=0.04)


def test_a_mask_is_a_function_of_seed_kind_and_the_windows_place(windows):
    window = windows[4]
    elsewhere = HeldOutWindow(99, window.trajectory, window.start, window.length)
    mask = draw_mask(window, "patches", PROTOCOL)
    assert (draw_mask(elsewhere, "patches", PROTOCOL) == mask).all()
    others = [
        draw_mask(window, "patches", dataclasses.replace(PROTOCOL, seed=1)),
        draw_mask(window, "channel_consistent", PROTOCOL),
        draw_mask(windows[3], "patches", PROTOCOL),
        draw_mask(dataclasses.replace(window, start=window.start + 1), "patches", PROTOCOL),
    ]
    assert not any((other == mask).all() for other in others)


def test_the_error_is_the_mean_over_hidden_values_in_units_of_the_windows_spread(dataset, windows):
    results = evaluate({"exact": Oracle(windows, 0.0), "off": Oracle(windows, 0.25)}, dataset)
    for kind in MASKS:
        assert set(errors_of(results, "exact", kind).values()) == {0}
        assert errors_of(results, "off", kind) == pytest.approx(dict.fromkeys(SYSTEMS, 0.25), rel=1e-5)
        assert results.summary_of("off", metric_of(kind), 40).median == pytest.approx(0.25, rel=1e-5)


def test_a_row_is_the_median_over_a_systems_windows_written_out(dataset, windows):
    results = evaluate({"mean": MeanFill()}, dataset)
    errors = []
    for window in windows:
        if window.trajectory.system != "Chua":
            continue
        truth, hidden = np.array(window.values, dtype=np.float64), draw_mask(window, "span", PROTOCOL)
        off = [np.abs(truth[h, c] - truth[~h, c].mean()) / truth[:, c].std() for c, h in enumerate(hidden.T)]
        errors.append(np.mean(np.concatenate(off)))
    (row,) = [r for r in results.rows if (r.system, r.metric) == ("Chua", metric_of("span"))]
    assert row.value == pytest.approx(np.median(errors), rel=1e-5)
    assert (row.num_windows, row.horizon) == (6, 40)


def test_hidden_values_are_not_in_what_completers_are_given(dataset):
    first, second = Recorder(), Recorder()
    assert isinstance(first, Completer)
    evaluate({"a": first, "b": second}, dataset)
    assert {values.shape[2] for values, _ in first.seen} == {2, 3}
    for (values, mask), (again, same) in zip(first.seen, second.seen, strict=True):
        assert torch.equal(values.isnan(), mask)
        assert torch.equal(mask, same)
        torch.testing.assert_close(values, again, equal_nan=True, rtol=0, atol=0)
        assert set(mask.sum(dim=1).flatten().tolist()) <= {15, 16}  # three patches of eight, or a span of 0.4


def test_a_systems_rows_do_not_depend_on_the_others_or_the_batch(dataset, folder):
    together = evaluate({"linear": LinearInterpolation()}, dataset)
    small = dataclasses.replace(PROTOCOL, batch_size=1)
    alone = evaluate({"linear": LinearInterpolation()}, TrajectoryDataset(folder, "test", systems=["Chua"]), small)
    assert alone.rows == [row for row in together.rows if row.system == "Chua"]


def test_baselines_are_compared_with_and_cost_is_told(dataset):
    results = evaluate({"linear": LinearInterpolation(), "mean": MeanFill()}, dataset, baselines=["mean"])
    paired = [
        errors_of(results, "linear", "patches")[s] - errors_of(results, "mean", "patches")[s] for s in sorted(SYSTEMS)
    ]
    row = next(row for row in results.differences if row.metric == metric_of("patches"))
    assert (row.model, row.baseline) == ("linear", "mean")
    assert row.median == pytest.approx(np.median(paired))
    assert results.header["baselines"] == ["mean"]
    assert results.header["protocol"]["mask_kinds"] == list(MASKS)
    assert results.header["cost"]["linear"]["wall_seconds"] > 0


def test_failed_windows_are_counted_once_and_infinite(dataset, tmp_path):
    results = evaluate({"failing": Failing(), "mean": MeanFill()}, dataset)
    failed = results.header["cost"]["failing"]["failed_windows"]
    assert 0 < failed <= results.header["dataset"]["num_windows"]
    assert results.header["cost"]["mean"]["failed_windows"] == 0
    assert any(np.isinf(row.value) for row in results.rows if row.model == "failing")
    results.write(tmp_path / "results.json")
    assert type(results).read(tmp_path / "results.json") == results


def test_unseen_values_are_neither_given_nor_scored_and_empty_channels_left_out(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2)).astype(np.float32)
    values[::7, 0] = np.nan
    values[:90, 1] = np.nan
    np.save(tmp_path / "series.npy", values)
    dataset = SeriesDataset(tmp_path / "series.npy", "train", context_length=0)
    recorder = Recorder()
    protocol = dataclasses.replace(PROTOCOL, num_windows=200)
    results = evaluate({"linear": recorder}, dataset, protocol)
    starts = [w.start for w in draw_held_out_windows(dataset, length=40, num_windows=200, seed=0)]
    given = sum(len(given) for given, _ in recorder.seen) / len(MASKS)
    assert 0 < given <= len([start for start in starts if start + 40 > 90]) < len(starts)
    assert all((~mask).any(dim=1).all() for _, mask in recorder.seen)
    assert {row.system for row in results.rows} == {"series"}
    assert all(row.num_windows < len(starts) and np.isfinite(row.value) for row in results.rows)


def test_a_completion_of_another_shape_is_refused_by_name(dataset):
    class Short:
        def complete(self, values, mask=None):
            return values[:, :-1]

    with pytest.raises(ValueError, match=r"found \(4, 39, 2\) from 'short'"):
        evaluate({"short": Short()}, dataset)


def test_unknown_baselines_and_no_completers_are_refused(dataset):
    with pytest.raises(ValueError, match=r"found \['mena'\]"):
        evaluate({"mean": MeanFill()}, dataset, baselines=["mena"])
    with pytest.raises(ValueError, match="at least one completer and one trajectory, found 0 and 6"):
        evaluate({}, dataset)
    with pytest.raises(ValueError, match=r"95 steps, found 90"):
        evaluate({"mean": MeanFill()}, dataset, dataclasses.replace(PROTOCOL, context_length=95))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_windows": 0}, "num_windows"),
        ({"confidence": 1.0}, "confidence"),
        ({"mask_kinds": ("holes",)}, "mask_kinds"),
        ({"mask_kinds": ()}, "mask_kinds"),
        ({"context_length": 250}, "250 steps, patches of 16"),
        ({"mask_share": 0.01}, "share of 0.01"),
        ({"mask_share": 0.99}, "share of 0.99"),
    ],
)
def test_an_impossible_protocol_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CompletionProtocol(**wrong)
