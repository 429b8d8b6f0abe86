"""Streams: every stretch follows its regime's equations from where the last one ended, and every regime is valid."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from data_generation import streams
from data_generation.candidates import generate_candidates
from data_generation.config import (
    CandidatesConfig,
    GenerationConfig,
    IntegrationConfig,
    LyapunovConfig,
    PerturbationConfig,
    SplitsConfig,
    SwitchingConfig,
)
from data_generation.generate import generate_dataset
from data_generation.integration import integrate
from data_generation.plan import PlanItem, plan_items
from data_generation.streams import find_regimes, generate_rows
from data_generation.systems import flatten_parameters, load_system, observe
from data_generation.validate import validate_dataset
from hf_tsdyn.data.trajectories import TrajectoryDataset

STEPS, NUM_POINTS, NUM_REGIMES = 256, 1280, 2
CONFIG = GenerationConfig(
    output="unused",
    seed=3,
    systems=["Lorenz", "Rossler"],
    splits=SplitsConfig(
        train=CandidatesConfig(0), validation=CandidatesConfig(0), test=CandidatesConfig(num_parameter_sets=2)
    ),
    integration=IntegrationConfig(num_points=NUM_POINTS, num_periods=42, transient_periods=5),
    lyapunov=LyapunovConfig(num_periods=0),
    switching=SwitchingConfig(steps_per_regime=STEPS, num_regimes=NUM_REGIMES, max_draws=40),
    rows_per_shard=2,
    jobs=1,
)
MODULE = "driven_streams"
SOURCE = """
import numpy as np


def pendulum(x, t, parameters):
    force = parameters["force"] * np.cos(parameters["omega"] * t)
    return [x[1], -np.sin(x[0]) - parameters["friction"] * x[1] + force]


def observed(x, t, parameters):
    return [np.sin(x[0]), parameters["force"] * np.cos(x[0]), x[1]]


SYSTEMS = {
    "pendulum": {
        "parameters": {"friction": 0.5, "force": 1.15, "omega": 0.6667},
        "initial_condition": [0.1, 0.0],
        "period": 9.42,
        "unbounded": [0],
        "observation": observed,
        "split": "test",
    },
}
"""


def rows_of(config: GenerationConfig, *systems: str) -> list[dict[str, Any]]:
    items = plan_items(replace(config, systems=list(systems)), "test")
    return [row for name in systems for row in generate_rows(config, [i for i in items if i.system == name]).rows]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found = rows_of(CONFIG, "Lorenz", "Rossler")
    assert {row["system"] for row in found} == {"Lorenz", "Rossler"}
    return found


@pytest.fixture(scope="module")
def driven_rows(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("own")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        scaled = replace(CONFIG, perturbation=PerturbationConfig(parameter_scale=0.05))
        yield rows_of(scaled, f"{MODULE}:pendulum")


def schedule_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    return json.loads(row["generation"])["schedule"]


@pytest.mark.parametrize("which", ["rows", "driven_rows"])
def test_each_stretch_is_reproduced_by_its_own_parameters_from_its_first_state(which: str, request):
    found = request.getfixturevalue(which)
    assert found
    for row in found:
        system, settings = load_system(row["system"]), json.loads(row["generation"])
        assert [entry["first_step"] for entry in settings["schedule"]] == list(range(0, NUM_POINTS, STEPS))
        for entry, following in pairwise([*settings["schedule"], None]):
            parameters = flatten_parameters(system, entry["parameters"])
            result = integrate(
                system.vector_field,
                entry["initial_condition"],
                parameters,
                start_time=entry["first_step"] * row["dt"],
                dt=row["dt"],
                num_points=STEPS + 1,
                rtol=settings["rtol"],
                atol=settings["atol"],
                unbounded=system.unbounded,
            )
            expected = observe(system, result.states[0, :-1], parameters).T.astype(np.float32)
            stretch = row["target"][:, entry["first_step"] : entry["first_step"] + STEPS]
            np.testing.assert_array_equal(stretch, expected)
            if following is not None:
                np.testing.assert_array_equal(following["initial_condition"], result.states[0, -1])


@pytest.mark.parametrize("which", ["rows", "driven_rows"])
def test_scipy_goes_on_from_the_first_stored_points_of_a_stretch(which: str, request):
    row = request.getfixturevalue(which)[0]
    system = load_system(row["system"])
    for entry in schedule_of(row):
        parameters, first = flatten_parameters(system, entry["parameters"]), entry["first_step"]
        times = (first + np.arange(8)) * row["dt"]
        solution = solve_ivp(
            lambda time, state, parameters=parameters: system.vector_field(state, time, parameters),
            (times[0], times[-1]), entry["initial_condition"], t_eval=times, rtol=1e-10, atol=1e-12,
        )  # fmt: skip
        expected = observe(system, solution.y.T, parameters).T
        np.testing.assert_allclose(row["target"][:, first : first + 8], expected, rtol=1e-4, atol=1e-4)


def test_regimes_are_the_first_drawn_ones_whose_own_trajectories_pass(rows: list[dict[str, Any]]):
    num_rejected = 0
    for row in rows:
        draws = [replace(item_of(row), order=None, regime=regime) for regime in range(40)]
        alone = generate_candidates(replace(CONFIG, switching=None), draws)
        passed = [json.loads(regime["parameters"]) for regime in alone.rows]
        used = {entry["regime"]: entry["parameters"] for entry in schedule_of(row)}
        assert [used[regime] for regime in sorted(used)] == passed[: len(used)]
        num_rejected += len(alone.rejected)
    assert num_rejected


def item_of(row: dict[str, Any]) -> PlanItem:
    return next(item for item in plan_items(CONFIG, "test") if item.item_id == row["item_id"])


def test_both_orders_are_one_series_until_a_regime_comes_back(rows: list[dict[str, Any]]):
    by_name = {row["item_id"]: row for row in rows}
    pairs = [(row, by_name.get(name.replace("abrupt", "recurring"))) for name, row in by_name.items() if "abr" in name]
    whole = [(abrupt, recurring) for abrupt, recurring in pairs if recurring is not None]
    assert whole
    shared = NUM_REGIMES * STEPS
    for abrupt, recurring in whole:
        np.testing.assert_array_equal(abrupt["target"][:, :shared], recurring["target"][:, :shared])
        assert (abrupt["target"][:, shared + 1 :] != recurring["target"][:, shared + 1 :]).any(axis=0).all()
        assert [entry["regime"] for entry in schedule_of(abrupt)] == [0, 1, 2, 3, 4]
        assert [entry["regime"] for entry in schedule_of(recurring)] == [0, 1, 0, 1, 0]


def test_columns_are_those_of_the_first_stretch(rows: list[dict[str, Any]]):
    for row in rows:
        first = schedule_of(row)[0]
        assert json.loads(row["parameters"]) == first["parameters"]
        np.testing.assert_array_equal(row["initial_condition"], first["initial_condition"])
        assert row["item_id"].endswith(json.loads(row["generation"])["order"])
        assert json.loads(row["generation"])["default_parameters"] == ("-p000-" in row["item_id"])
        assert row["lyapunov_time"] is None
        checks = json.loads(row["checks"])
        assert len(checks["stretches"]) == NUM_POINTS // STEPS
        assert all("diffusing_share" in regime for regime in checks["regimes"])


def test_regimes_carry_their_lyapunov_times():
    config = replace(CONFIG, lyapunov=LyapunovConfig(num_periods=30, reject_regular=True))
    (row, *_) = generate_rows(config, [PlanItem("Lorenz", 0, 0, "recurring")]).rows
    times = [entry["lyapunov_time"] for entry in schedule_of(row)]
    assert times[0] == times[2] == pytest.approx(1.1, rel=0.2)
    assert len(set(times)) == NUM_REGIMES


def test_a_stream_does_not_depend_on_its_neighbours(rows: list[dict[str, Any]]):
    for row in rows:
        (alone,) = generate_rows(CONFIG, [item_of(row)]).rows
        np.testing.assert_array_equal(alone["target"], row["target"])
        assert alone["generation"] == row["generation"]
        assert alone["checks"] == row["checks"]


def test_another_seed_gives_other_regimes(rows: list[dict[str, Any]]):
    (other, *_) = generate_rows(replace(CONFIG, seed=4), [PlanItem("Lorenz", 0, 0, "recurring")]).rows
    first, second, *_ = schedule_of(other)
    known = [entry["parameters"] for row in rows if row["system"] == "Lorenz" for entry in schedule_of(row)]
    assert first["parameters"] in known
    assert second["parameters"] not in known


def test_noise_is_added_to_what_is_stored_alone(rows: list[dict[str, Any]]):
    noisy = replace(CONFIG, perturbation=PerturbationConfig(observation_noise=0.05))
    (row,) = generate_rows(noisy, [item_of(rows[0])]).rows
    noise = row["target"] - rows[0]["target"]
    np.testing.assert_allclose(noise.std(axis=1), 0.05 * rows[0]["target"].std(axis=1), rtol=0.1)
    assert schedule_of(row) == schedule_of(rows[0])


def test_asking_for_more_regimes_keeps_those_that_fewer_gave():
    item = PlanItem("Rossler", 1, 0, "abrupt")
    few, many = (find_regimes(CONFIG, item, count) for count in (2, 4))
    assert [row["parameters"] for row in many[:2]] == [row["parameters"] for row in few]
    assert len({row["parameters"] for row in many}) == len(many) == 4


def test_too_few_valid_regimes_reject_a_stream():
    scarce = replace(CONFIG, switching=SwitchingConfig(steps_per_regime=STEPS, num_regimes=2, max_draws=1))
    (rejected,) = generate_rows(scarce, [PlanItem("Lorenz", 0, 0, "recurring")]).rejected
    assert rejected == {
        "item_id": "Lorenz-p000-i00-recurring",
        "system": "Lorenz",
        "reason": "few_regimes",
        "checks": {"num_regimes": 1, "num_draws": 1},
    }


@pytest.mark.parametrize(
    ("system", "changed", "reason"),
    [
        ("Lorenz", {"rho": 5.0}, "fixed_point"),
        ("Lorenz", {"sigma": -10.0}, "diverged"),
        ("Rossler", {"c": 2.5}, "limit_cycle"),
    ],
)
def test_a_stretch_that_leaves_its_attractor_rejects_the_stream(
    system: str, changed: dict[str, float], reason: str, monkeypatch: pytest.MonkeyPatch
):
    item = PlanItem(system, 0, 0, "recurring")
    slow = replace(
        CONFIG,
        integration=replace(CONFIG.integration, num_points=3072, num_periods=100),
        switching=SwitchingConfig(orders=["recurring"], steps_per_regime=1024, num_regimes=2),
    )
    valid = find_regimes(slow, item, 1)[0]
    spoilt = valid | {"parameters": json.dumps(json.loads(valid["parameters"]) | changed)}
    monkeypatch.setattr(streams, "find_regimes", lambda config, item, count: [valid, spoilt])
    candidates = generate_rows(slow, [item])
    assert not candidates.rows
    assert candidates.rejected[0]["checks"]["first_step"] == 1024
    assert candidates.rejected[0]["reason"] == reason


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams") / "dataset"
    generate_dataset(replace(CONFIG, output=str(folder)))
    return folder


def test_a_dataset_of_streams_is_whole_and_can_be_made_again(dataset: Path):
    findings = validate_dataset(dataset)
    assert [finding.failures for finding in findings] == [[]] * len(findings)
    assert findings[-1].note.endswith("rows integrated again")


def test_a_reader_knows_when_parameters_switch(dataset: Path, rows: list[dict[str, Any]]):
    trajectories = list(TrajectoryDataset(dataset, "test"))
    assert [trajectory.item_id for trajectory in trajectories] == [row["item_id"] for row in rows]
    for trajectory, row in zip(trajectories, rows, strict=True):
        np.testing.assert_array_equal(trajectory.values, row["target"])
        assert trajectory.generation["schedule"] == schedule_of(row)


def test_the_card_says_how_parameters_switch(dataset: Path):
    text = (dataset / "README.md").read_text()
    assert "Every 256 points the parameters of a row jump" in text
    assert "show 2 regimes once each" in text
    assert "Up to point 512 the two are the same series" in text


def test_shards_of_several_runs_and_workers_give_the_same_bytes(dataset: Path, tmp_path: Path):
    config = replace(CONFIG, output=str(tmp_path / "shared"))
    assert generate_dataset(replace(config, shard="1/2")).manifest is None
    with joblib.parallel_config(backend="threading"):
        generate_dataset(replace(config, jobs=2))
    assert files_of(tmp_path / "shared") == files_of(dataset)


def test_a_damaged_shard_is_made_again(dataset: Path, tmp_path: Path):
    config = replace(CONFIG, output=str(tmp_path / "damaged"))
    generate_dataset(config)
    file = tmp_path / "damaged" / "data" / "test-00001.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    assert not generate_dataset(config).was_complete
    assert files_of(tmp_path / "damaged") == files_of(dataset)
    assert generate_dataset(config).was_complete
