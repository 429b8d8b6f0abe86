"""Candidates: functions of the settings and the item alone."""

import json
from dataclasses import replace

import numpy as np

from data_generation.candidates import (
    generate_candidates,
    item_initial_condition,
    item_parameters,
    reason_text,
)
from data_generation.config import GenerationConfig, IntegrationConfig, PerturbationConfig
from data_generation.integration import IntegrationStatus
from data_generation.plan import PlanItem
from data_generation.systems import load_system
from data_generation.validity import Rejection


def test_candidates_do_not_depend_on_their_neighbours():
    config = GenerationConfig(output="unused", integration=IntegrationConfig(num_points=256, num_periods=10))
    items = [PlanItem("Lorenz", p, i) for p in range(2) for i in range(2)]
    together = generate_candidates(config, items)
    rows = {row["item_id"]: row for row in together.rows}
    assert len(rows) >= 2
    for item in items:
        alone = generate_candidates(config, [item])
        assert alone.rejected == [entry for entry in together.rejected if entry["item_id"] == item.item_id]
        for row in alone.rows:
            assert row.keys() == rows[item.item_id].keys()
            for name, value in row.items():
                np.testing.assert_array_equal(value, rows[item.item_id][name])


def test_a_system_without_parameters_still_varies():
    config = GenerationConfig(output="unused", integration=IntegrationConfig(num_points=256, num_periods=10))
    rows = generate_candidates(config, [PlanItem("SprottB", p, 0) for p in range(3)]).rows
    assert len({row["target"].tobytes() for row in rows}) == 3


def test_initial_conditions_of_one_index_share_their_parameters():
    config, system = GenerationConfig(output="unused"), load_system("Lorenz")
    drawn = {
        item: item_parameters(config, system, item)
        for p in range(3)
        for i in range(2)
        for item in [PlanItem("Lorenz", p, i)]
    }
    vectors = {tuple(vector) for vector in drawn.values()}
    assert len(vectors) == 3
    np.testing.assert_array_equal(drawn[PlanItem("Lorenz", 0, 1)], system.parameter_vector)
    perturbed = replace(config, perturbation=PerturbationConfig(include_default_parameters=False))
    assert not np.array_equal(item_parameters(perturbed, system, PlanItem("Lorenz", 0, 0)), system.parameter_vector)


def test_the_first_candidate_starts_where_the_system_is_stored():
    config, system = GenerationConfig(output="unused"), load_system("Lorenz")
    starts = [item_initial_condition(config, system, PlanItem("Lorenz", p, i)) for p in range(2) for i in range(2)]
    np.testing.assert_array_equal(starts[0], system.initial_condition)
    assert len({tuple(start) for start in starts}) == 4
    drawn = replace(config, perturbation=PerturbationConfig(include_default_initial_condition=False))
    assert not np.array_equal(item_initial_condition(drawn, system, PlanItem("Lorenz", 0, 0)), starts[0])


def test_every_reason_has_one_text():
    names = [member.name for member in (*Rejection, *IntegrationStatus)]
    assert len(set(names)) == len(names)
    assert len({reason_text(name.lower()) for name in names}) == len(names)


def test_a_failed_integration_is_rejected_by_its_status():
    config = GenerationConfig(output="unused", integration=IntegrationConfig(num_points=128, max_steps=10))
    (rejected,) = generate_candidates(config, [PlanItem("Lorenz", 0, 0)]).rejected
    assert rejected == {"item_id": "Lorenz-p000-i00", "system": "Lorenz", "reason": "too_many_steps", "checks": {}}


def test_mixed_numbers_of_periods_are_drawn_per_item():
    config = GenerationConfig(
        output="unused", integration=IntegrationConfig(num_points=256, num_periods=[10.0, 30.0], transient_periods=2)
    )
    rows = generate_candidates(config, [PlanItem("Lorenz", 0, i) for i in range(4)]).rows
    num_periods = [row["dt"] * 256 / row["period"] for row in rows]
    assert len(set(num_periods)) == len(rows) >= 2
    assert all(10 <= number <= 30 for number in num_periods)


def test_observation_noise_is_recorded_and_leaves_the_trajectory_alone():
    clean = GenerationConfig(output="unused", integration=IntegrationConfig(num_points=256, num_periods=10))
    noisy = replace(clean, perturbation=replace(clean.perturbation, observation_noise=0.05))
    items = [PlanItem("Lorenz", 0, 0), PlanItem("Lorenz", 0, 1)]
    pairs = list(zip(*(generate_candidates(config, items).rows for config in (clean, noisy)), strict=True))
    assert pairs
    noises = [noisy_row["target"] - clean_row["target"] for clean_row, noisy_row in pairs]
    for (clean_row, noisy_row), noise in zip(pairs, noises, strict=True):
        np.testing.assert_allclose(noise.std(axis=1), 0.05 * clean_row["target"].std(axis=1), rtol=0.2)
        assert json.loads(noisy_row["generation"])["observation_noise"] == 0.05
        np.testing.assert_array_equal(noisy_row["initial_condition"], clean_row["initial_condition"])
        assert noisy_row["checks"] == clean_row["checks"]
    assert len({noise.tobytes() for noise in noises}) == len(noises)
    (alone,) = generate_candidates(noisy, items[1:]).rows
    np.testing.assert_array_equal(alone["target"], pairs[-1][1]["target"])
