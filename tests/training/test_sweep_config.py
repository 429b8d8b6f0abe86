import re
from pathlib import Path

import pytest
import yaml

from training.sweep_config import build_cells, differing_settings, load_sweep_config

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
FIELDS = ("hidden_size", "prediction_length", "forcing_interval", "noise_std")
PUBLISHED = {
    "lorenz63": (3, (20, 200, 16, 0.05), 1e-3, 2000),
    "rossler": (3, (20, 300, 8, 0.05), 5e-3, 3000),
    "ecg": (5, (100, 50, 10, 0.01), 2e-3, 4000),
    "eeg": (64, (133, 100, 10, 0.0), 1e-3, 2000),
    "fmri": (20, (50, 72, 7, 0.0), 5e-3, 2000),
}
"""Channels, fields of the model, learning rate, epochs."""
RELU_UNITS = {"lorenz63": [2, 10], "rossler": [1], "ecg": [2], "eeg": [60], "fmri": [2]}


@pytest.fixture
def config_file(tmp_path):
    content = {
        "name": "toy",
        "data": {"path": "series.npy"},
        "model": {"hidden_size": 6},
        "grid": {"model.num_relu_units": [1, 2], "fit.learning_rate": [1e-3, 5e-3]},
        "num_seeds": 3,
        "output_dir": "somewhere",
    }

    def write(**changes):
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return str(file)

    return write


def load(file, *options):
    return load_sweep_config(["--config", file, *options])


@pytest.mark.parametrize("name", PUBLISHED)
def test_committed_sweeps_have_the_published_settings(name):
    num_channels, values, learning_rate, num_epochs = PUBLISHED[name]
    config, _ = load(str(CONFIGS / f"alrnn_{name}.yaml"))
    cells = build_cells(config, num_channels)
    assert [cell.model.num_relu_units for cell in cells] == RELU_UNITS[name]
    for cell in cells:
        assert tuple(getattr(cell.model, field) for field in FIELDS) == values
        assert (cell.fit.learning_rate, cell.fit.num_epochs) == (learning_rate, num_epochs)
        assert (cell.fit.batches_per_epoch, cell.fit.batch_size) == (50, 16)
        assert cell.model.regularization_weight == (0.1 if name == "eeg" else 0.0)
    assert not Path(config.data.path).is_absolute()


def test_cells_are_every_combination_under_names_of_their_own(config_file):
    config, _ = load(config_file())
    cells = build_cells(config, 3)
    assert [cell.name for cell in cells] == [
        "num_relu_units=1,learning_rate=0.001",
        "num_relu_units=1,learning_rate=0.005",
        "num_relu_units=2,learning_rate=0.001",
        "num_relu_units=2,learning_rate=0.005",
    ]
    assert [(cell.model.num_relu_units, cell.fit.learning_rate) for cell in cells] == [
        (1, 1e-3),
        (1, 5e-3),
        (2, 1e-3),
        (2, 5e-3),
    ]
    assert {(cell.model.hidden_size, cell.model.num_channels) for cell in cells} == {(6, 3)}


def test_a_sweep_without_a_grid_is_one_cell(config_file):
    config, _ = load(config_file(grid={}))
    assert [cell.values for cell in build_cells(config, 3)] == [{}]


def test_options_override_the_file_field_by_field(config_file):
    config, resolved = load(config_file(), "--grid.model.num_relu_units", "[3]", "--fit.num_epochs", "7")
    assert config.grid == resolved["grid"] == {"model.num_relu_units": [3], "fit.learning_rate": [1e-3, 5e-3]}
    assert config.fit.num_epochs == 7


def test_seeds_count_from_zero_or_are_listed(config_file):
    assert load(config_file())[0].all_seeds == (0, 1, 2)
    assert load(config_file(), "--seeds", "[4, 9]")[0].all_seeds == (4, 9)


def test_the_divergence_that_selects_is_measured_as_the_one_that_scores(config_file):
    config, _ = load(config_file(), "--evaluation.invariants.num_bins", "8")
    assert config.fit.invariants == config.evaluation.invariants
    assert config.fit.invariants.num_bins == 8
    assert {cell.fit.invariants.num_bins for cell in build_cells(config, 3)} == {8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_seed", "3"], "unrecognized arguments"),
        (["--num_seeds", "many"], "num_seeds"),
        (["--num_seeds", "0"], "num_seeds must be at least 1, found 0"),
        (["--seeds", "[1, 1]"], r"seeds must be different numbers from 0, found \(1, 1\)"),
        (["--jobs", "0"], "jobs must be at least 1, or -1, found 0"),
        (["--shard", "4/4"], "shard must be .* found '4/4'"),
        (["--fit.learning_rat", "1"], "learning_rat"),
        (["--fit.learning_rate", "fast"], "learning_rate"),
        (["--fit.num_epochs", "0"], "num_epochs must be at least 1, found 0"),
        (["--fit.invariants.num_bins", "9"], "evaluation.invariants.num_bins"),
        (["--grid.model.num_relu_units", "3"], "num_relu_units must be a list of values, found 3"),
        (["--grid.model.num_relu_units", "[]"], "must be a list of values"),
        (["--grid.model.num_relu_units", "[3, 3]"], r"must differ, found \[3, 3\]"),
        (["--grid.data.item", "[1, 2]"], "found 'data.item'"),
        (["--model.model_type", "dystformer"], "must be alrnn, found 'dystformer'"),
        (["--data.validation_share", "0"], "validation_share must be above 0"),
        (["--data.test_path", "x.npy", "--data.test_share", "0.1"], "must have one test series"),
        (["--data.validation_smoothing", "-1"], "must be finite and not negative, found -1"),
    ],
)
def test_bad_options_end_with_what_was_found(config_file, capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        load(config_file(), *options)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.hiden_size", "9"], "found 'hiden_size'; did you mean hidden_size"),
        (["--model.hidden_size", "large"], "hidden_size"),
        (["--model.hidden_size", "2"], "hidden_size must be at least num_channels"),
        (["--model.num_channels", "2"], "must be the 3 of the data, found 2"),
        (["--grid.model.num_relu_units", "[1, 9]"], r"(?s)cell num_relu_units=9,.*from 0 to hidden_size, found 9"),
        (["--grid.fit.batchsize", "[1]"], "found 'batchsize'; did you mean batch_size"),
        (["--grid.fit.batch_size", "[many]"], "batch_size"),
        (["--grid.fit.final_learning_rate", "[1.0]"], "final_learning_rate must be above 0 and at most"),
        (["--grid.fit.invariants", "[1]"], "found 'invariants'"),
        (["--grid.model.hidden_size", f"[{10**200}]"], "at most 180 letters"),
    ],
)
def test_cells_that_cannot_be_are_named(config_file, options, message):
    config, _ = load(config_file(), *options)
    with pytest.raises(ValueError, match=message):
        build_cells(config, 3)


def test_only_settings_that_decide_results_tell_sweeps_apart(config_file):
    _, one = load(config_file())
    idle = ["--output_dir", "elsewhere", "--jobs", "2", "--ensemble_size", "1", "--data.path", "moved.npy"]
    _, other = load(config_file(), *idle, "--evaluation.dt", "0.1", "--evaluation.known", "{lyapunov_max: 0.9}")
    assert differing_settings(one, other) == []
    _, other = load(config_file(), "--fit.batch_size", "3", "--grid.model.num_relu_units", "[1]")
    assert differing_settings(one, other) == ["fit.batch_size", "grid.model.num_relu_units"]


def test_the_only_series_of_a_file_is_its_first(config_file):
    _, one = load(config_file())
    _, other = load(config_file(), "--data.item", "0")
    assert differing_settings(one, other) == []
    _, other = load(config_file(), "--data.item", "1")
    assert differing_settings(one, other) == ["data.item"]


def test_a_record_of_before_a_field_existed_stands_for_its_default(config_file):
    _, record = load(config_file())
    older = record | {"fit": {"num_epochs": record["fit"]["num_epochs"]}}
    assert differing_settings(older, record) == []
