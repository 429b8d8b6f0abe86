"""Systems of one's own: found by import path, traced, perturbed and written like any other."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_generation.candidates import generate_candidates
from data_generation.config import GenerationConfig, IntegrationConfig
from data_generation.own_systems import import_own_system
from data_generation.plan import plan_shards
from data_generation.systems import flatten_parameters, load_system, split_of

SOURCE = """
import math

import numpy as np


def twisted(x, t, parameters):
    a, b, c = parameters["abc"]
    return [-x[1] - x[2], x[0] + a * x[1], b + x[2] * (x[0] - c)]


def driven_pendulum(x, t, parameters):
    force = parameters["force"] * np.cos(parameters["omega"] * t)
    return [x[1], -np.sin(x[0]) - parameters["friction"] * x[1] + force]


def branching(x, t, parameters):
    return [x[0] if x[0] > 0 else -x[0]]


def c_library(x, t, parameters):
    return [math.sin(x[0])]


def short(x, t, parameters):
    return [x[0]]


def exploding(x, t, parameters):
    return [x[0] ** 2]


def bounded(x, t, parameters):
    return [np.sin(x[0]), np.cos(x[0]), x[1]]


def undescribed(x, t, parameters):
    return [x[0]]


SYSTEMS = {
    "twisted": {"parameters": {"abc": [0.2, 0.2, 5.7]}, "initial_condition": [1.0, 1.0, 0.0], "period": 5.9},
    "driven_pendulum": {
        "parameters": {"friction": 0.5, "force": 1.15, "omega": 0.6667},
        "initial_condition": [0.1, 0.0],
        "period": 9.42,
        "unbounded": [0],
        "observation": bounded,
        "split": "test",
    },
    "branching": {"parameters": {}, "initial_condition": [1.0], "period": 1.0},
    "c_library": {"parameters": {}, "initial_condition": [1.0], "period": 1.0},
    "short": {"parameters": {}, "initial_condition": [1.0, 1.0], "period": 1.0},
    "exploding": {"parameters": {}, "initial_condition": [1.0], "period": 1.0},
    "without_function": {"parameters": {}, "initial_condition": [1.0], "period": 1.0},
    "bounded": {"parameters": {}, "initial_condition": [1.0, 1.0]},
}
"""
MODULE = "systems_of_a_test"


@pytest.fixture(autouse=True, scope="module")
def module(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("own")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def config_for(*names: str) -> GenerationConfig:
    integration = IntegrationConfig(num_points=512, num_periods=20, transient_periods=5)
    return GenerationConfig(output="unused", systems=[f"{MODULE}:{name}" for name in names], integration=integration)


def test_a_function_becomes_a_system_of_its_split():
    system = load_system(f"{MODULE}:twisted")
    assert system.parameter_names == ("abc[0]", "abc[1]", "abc[2]")
    flow = system.vector_field(np.array([1.0, 2.0, 3.0]), 0.0, system.parameter_vector)
    np.testing.assert_allclose(flow, [-5.0, 1.4, 0.2 + 3 * (1 - 5.7)])
    assert np.all((system.state_std > 0.5) & (system.state_std < 20))
    assert split_of(f"{MODULE}:twisted") == "train"
    assert split_of(f"{MODULE}:twisted->{MODULE}:driven_pendulum") == "test"


def test_its_candidates_are_perturbed_checked_and_described():
    config = config_for("twisted")
    items = [item for shard in plan_shards(config) for item in shard.items]
    candidates = generate_candidates(config, items)
    assert len(candidates.rows) + len(candidates.rejected) == len(items) == 4
    row = candidates.rows[0]
    assert (row["system"], row["split"], row["target"].shape) == (f"{MODULE}:twisted", "train", (3, 512))
    assert json.loads(row["parameters"]) == {"abc": [0.2, 0.2, 5.7]}
    vectors = {tuple(flatten_parameters(load_system(row["system"]), json.loads(row["parameters"])))
               for row in candidates.rows}  # fmt: skip
    assert len(vectors) == len(candidates.rows)


def test_time_and_an_observation_with_more_channels_are_used():
    system = load_system(f"{MODULE}:driven_pendulum")
    assert system.vector_field.depends_on_time
    assert (len(system.channel_std), system.dimension) == (3, 2)
    rows = generate_candidates(config_for("driven_pendulum"), plan_shards(config_for("driven_pendulum"))[0].items).rows
    assert rows
    np.testing.assert_allclose(np.hypot(rows[0]["target"][0], rows[0]["target"][1]), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{MODULE}:undescribed", r"must have an entry in systems_of_a_test.SYSTEMS"),
        (f"{MODULE}:without_function", "must be a function of systems_of_a_test, found None"),
        (f"{MODULE}:bounded", "must give parameters, initial_condition, period"),
    ],
)
def test_a_wrong_description_says_what_is_missing(path: str, message: str):
    with pytest.raises(ValueError, match=message):
        import_own_system(path)


@pytest.mark.parametrize("path", ["nosuch:band", "nosuch.inner:band"])
def test_a_module_that_is_not_there_is_looked_for_from_the_current_folder(path: str):
    with pytest.raises(
        ModuleNotFoundError, match=r"imported from the current folder, found no 'nosuch' in /.*nosuch\.py"
    ):
        import_own_system(path)


def test_a_module_that_imports_a_missing_one_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "needs_another.py").write_text("import nosuch\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'nosuch'$"):
        import_own_system("needs_another:band")


def test_the_name_of_a_system_that_is_not_known_may_want_its_module():
    with pytest.raises(ValueError, match=r"known ones, or module:function of yours, found 'mysystems\.band'"):
        load_system("mysystems.band")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("branching", "without branches on values, found: '>'"),
        ("c_library", "np functions .*, found"),
        ("short", "must return 2 numbers, found 1"),
        ("exploding", "must run for 30 periods from its initial condition, found DIVERGED"),
    ],
)
def test_a_function_that_cannot_serve_is_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_system(f"{MODULE}:{name}")
