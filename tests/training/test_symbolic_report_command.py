import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from training import symbolic_report

SLOPE, LOC, SCALE = 1.9, 5.0, 2.0
STEPS = ["--num_steps", "1500"]
PNG = b"\x89PNG"


@pytest.fixture
def checkpoint(tmp_path):
    """The tent map 1 - SLOPE |z| of one channel, as a checkpoint."""
    model = ALRNNForPrediction(ALRNNConfig(num_channels=1, hidden_size=1, num_relu_units=1))
    model.set_scaler([LOC], [SCALE])
    with torch.no_grad():
        for name, value in {"A": [SLOPE], "W": [[-2 * SLOPE]], "h": [1.0]}.items():
            getattr(model.model, name).copy_(torch.tensor(value))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def series(tmp_path):
    """A thousand steps of the tent map, one of them unseen."""
    z = [0.3]
    while len(z) < 1000:
        z.append(1 - SLOPE * abs(z[-1]))
    values = LOC + SCALE * np.array(z)[:, None]
    values[100] = np.nan
    np.save(tmp_path / "series.npy", values)
    return tmp_path / "series.npy"


def test_the_command_writes_numbers_text_and_figures_that_belong_together(checkpoint, series, tmp_path, capsys):
    output = tmp_path / "report"
    symbolic_report.main([str(checkpoint), "--data", str(series), "--output", str(output), "--dt", "0.1", *STEPS])
    report = json.loads((output / "symbolic.json").read_text())
    assert (report["num_steps"], report["dt"], report["num_regions"]) == (1500, 0.1, 2)
    assert report["lyapunov"]["exponents"] == pytest.approx([np.log(SLOPE) / 0.1], rel=1e-5)
    assert report["comparison"]["num_steps"] == 449  # half of the 899 steps after the gap
    text = (output / "symbolic.md").read_text()
    printed = capsys.readouterr().out
    assert printed.startswith(text)
    assert str(output / "symbolic.md") in printed
    figures = sorted(path.relative_to(output) for path in (output / "figures").iterdir())
    assert [path.stem for path in figures] == ["reconstruction", "spectra", "symbols", "transitions"]
    assert all((output / path).read_bytes().startswith(PNG) and f"]({path})" in text for path in figures)
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "model.safetensors"]


def test_the_same_command_gives_the_same_bytes(checkpoint, tmp_path):
    for name in "ab":
        symbolic_report.main([str(checkpoint), "--output", str(tmp_path / name), "--num_steps", "600"])
    for file in ("symbolic.json", "symbolic.md", "figures/symbols.png", "figures/transitions.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_without_data_the_run_starts_from_the_probe_or_from_the_mean(checkpoint):
    model = symbolic_report.load_model(checkpoint)
    start = symbolic_report.find_start(model, checkpoint, None, num_steps=1500)
    assert (start.past_values.tolist(), start.truth, start.dt) == ([[LOC]], None, 1.0)
    save_file({"past_values": torch.full((1, 4, 1), 4.5)}, checkpoint / "probe.safetensors")
    start = symbolic_report.find_start(model, checkpoint, None, num_steps=1500)
    assert start.past_values.tolist() == [[4.5]] * 4
    assert start.truth is None


def test_data_gives_the_start_and_its_longest_stretch_without_gaps(checkpoint, series):
    model = symbolic_report.load_model(checkpoint)
    start = symbolic_report.find_start(model, checkpoint, series, num_steps=1500)
    values = np.load(series)
    np.testing.assert_array_equal(start.past_values, values[: model.config.warmup_length])
    np.testing.assert_array_equal(start.truth, values[101:])


def test_a_time_column_gives_the_interval(checkpoint, tmp_path):
    rows = [f"2024-01-01 00:00:{second:02d},{5 + 0.1 * second}" for second in range(0, 60, 2)]
    (tmp_path / "series.csv").write_text("\n".join(["time,a", *rows]))
    model = symbolic_report.load_model(checkpoint)
    start = symbolic_report.find_start(model, checkpoint, tmp_path / "series.csv", num_steps=1500)
    assert start.dt == 2.0


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda values: values.__setitem__(slice(2, None, 4), np.nan), "longest stretch without gaps: 3 steps"),
        (lambda values: values.__setitem__(slice(None), 5.0), "do not vary in channels [0] over the 500 steps"),
        (lambda values: values.__setitem__(slice(None, 600), 5.0), "do not vary in channels [0] over the 500 steps"),
    ],
)
def test_data_that_cannot_be_compared_with_are_left_out_with_a_note(checkpoint, series, tmp_path, spoil, note):
    values = np.nan_to_num(np.load(series), nan=5.0)
    spoil(values)
    np.save(series, values)
    output = tmp_path / "report"
    symbolic_report.main([str(checkpoint), "--data", str(series), "--output", str(output), "--num_steps", "600"])
    report = json.loads((output / "symbolic.json").read_text())
    assert report["comparison"] is None
    assert note in report["comparison_note"]
    assert note in (output / "symbolic.md").read_text()
    assert sorted(path.stem for path in (output / "figures").iterdir()) == ["symbols", "transitions"]


def test_a_channel_that_was_never_seen_leaves_the_comparison_out(tmp_path):
    model = ALRNNForPrediction(ALRNNConfig(num_channels=2, hidden_size=3, num_relu_units=1))
    model.save_pretrained(tmp_path / "model")
    values = np.random.default_rng(0).normal(size=(300, 2))
    values[:, 1] = np.nan
    np.save(tmp_path / "series.npy", values)
    start = symbolic_report.find_start(model, tmp_path / "model", tmp_path / "series.npy", num_steps=600)
    assert start.truth is None
    assert start.note is not None
    assert start.note.endswith("longest stretch without gaps: 0 steps")


def test_without_matplotlib_everything_but_figures_is_written(checkpoint, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    symbolic_report.main([str(checkpoint), "--output", str(tmp_path / "report"), "--num_steps", "600"])
    captured = capsys.readouterr()
    assert "note: no figures" in captured.err
    assert "pip install 'hf_tsdyn[plot]'" in captured.err
    assert "figures/" not in captured.out
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["symbolic.json", "symbolic.md"]


def test_what_is_no_alrnn_is_refused_by_name(checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="error: checkpoint must be a folder with config"):
        symbolic_report.main([str(tmp_path / "absent")])
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "dystformer"}))
    with pytest.raises(SystemExit, match=r"error: a symbolic report needs an AL-RNN.*found 'dystformer'"):
        symbolic_report.main([str(checkpoint)])


def test_impossible_requests_are_refused(checkpoint, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((50, 2)))
    np.save(tmp_path / "several.npy", np.zeros((2, 50, 1)))
    for options, message in (
        (["--data", str(tmp_path / "wide.npy")], "time, 1"),
        (["--data", str(tmp_path / "several.npy")], "one series, found 2"),
        (["--data", str(tmp_path / "absent.npy")], "absent.npy"),
        (["--dt", "-1"], "dt must be above 0"),
        (["--dt", "0"], "dt must be above 0"),
        (["--num_steps", "100"], "num_steps must be at least 540"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            symbolic_report.main([str(checkpoint), "--output", str(tmp_path / "report"), *options])
    assert not (tmp_path / "report").exists()
