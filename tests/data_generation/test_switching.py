"""Settings of switching parameters, and the order in which regimes come."""

import json
from argparse import ArgumentError
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from data_generation.config import GenerationConfig, data_settings
from data_generation.config_loading import config_from_settings, load_config
from data_generation.plan import PlanItem, plan_items
from data_generation.switching import SwitchingConfig

LENGTH = ["--integration.num_points", "1000", "--switching.steps_per_regime", "100"]


def load(*arguments: str) -> GenerationConfig:
    return load_config(["--output", "unused", "--systems", "[Lorenz]", *arguments], exit_on_error=False)


def sequence(order: Literal["abrupt", "recurring"], *, num_regimes: int = 3, seed: int = 0) -> list[int]:
    switching = SwitchingConfig(steps_per_regime=100, num_regimes=num_regimes)
    return switching.regime_sequence(order, 2000, rng=np.random.default_rng(seed))


def test_an_abrupt_stream_never_comes_back():
    assert sequence("abrupt") == list(range(20))


@pytest.mark.parametrize("num_regimes", [2, 3, 4, 19])
@pytest.mark.parametrize("seed", range(5))
def test_a_recurring_stream_shows_every_regime_in_every_block_and_always_switches(num_regimes: int, seed: int):
    found = sequence("recurring", num_regimes=num_regimes, seed=seed)
    assert len(found) == 20
    assert found[:num_regimes] == list(range(num_regimes))
    for first in range(0, 20 - num_regimes + 1, num_regimes):
        assert sorted(found[first : first + num_regimes]) == list(range(num_regimes))
    assert all(one != other for one, other in pairwise(found))


def test_regimes_come_back_in_drawn_order():
    drawn = {tuple(sequence("recurring", seed=seed)) for seed in range(20)}
    assert len(drawn) > 15
    assert sequence("recurring", seed=4) == sequence("recurring", seed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--switching.orders", "[]"], "orders must name at least one order"),
        (["--switching.orders", "[abrupt, abrupt]"], "orders must name each order once, found"),
        (["--switching.orders", "[sudden]"], "sudden"),
        (["--switching.steps_per_regime", "10"], "steps_per_regime must be at least 64, found 10"),
        (["--switching.num_regimes", "1"], "num_regimes must be at least 2, found 1"),
        (["--switching.max_draws", "0"], "max_draws must be at least 1, found 0"),
        (["--integration.num_points", "950"], r"a multiple of .*, 100, and 4 times .*, found 950; give 1000, for"),
        (["--integration.num_points", "300"], r"4 times as many at least, found 300; give 400, for example"),
        (["--integration.num_points", "100", "--switching.orders", "[abrupt]"], r"and 2 times .*found 100; give 200"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(arguments: list[str], message: str):
    with pytest.raises(ArgumentError, match=message):
        load(*LENGTH, *arguments)


def test_settings_come_from_a_file_and_from_options(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "output: here\nintegration: {num_points: 1000}\nswitching: {orders: [recurring], steps_per_regime: 200}\n"
    )
    config = load_config(["--config", str(file), "--switching.num_regimes", "4"], exit_on_error=False)
    assert config.switching == SwitchingConfig(orders=["recurring"], steps_per_regime=200, num_regimes=4)


def test_settings_without_switching_are_what_they_always_were():
    assert load().switching is None
    assert set(data_settings(load())) == {
        "seed", "systems", "splits", "perturbation", "integration", "skew_products", "validity", "lyapunov",
        "rows_per_shard",
    }  # fmt: skip


def test_settings_with_switching_come_back_from_a_manifest():
    config = load(*LENGTH)
    stored = json.loads(json.dumps(data_settings(config)))
    assert stored["switching"]["orders"] == ["abrupt", "recurring"]
    assert config_from_settings(stored, output="there").switching == config.switching


def test_every_candidate_gets_a_stream_of_each_order():
    counts = ["--splits.test", "{num_parameter_sets: 2, num_initial_conditions: 1}"]
    assert [item.item_id for item in plan_items(load(*LENGTH, *counts), "test")] == [
        "Lorenz-p000-i00-abrupt", "Lorenz-p000-i00-recurring", "Lorenz-p001-i00-abrupt", "Lorenz-p001-i00-recurring",
    ]  # fmt: skip
    (item, *_) = plan_items(load(*counts), "test")
    assert item == PlanItem("Lorenz", 0, 0)


def test_regimes_draw_their_own_parameters_and_share_everything_else():
    items = [PlanItem("Lorenz", p, i, None, regime) for p in range(2) for i in range(2) for regime in range(3)]
    assert len({item.item_id for item in items}) == len(items)
    assert items[0].parameter_key == PlanItem("Lorenz", 0, 0, "abrupt").parameter_key
    assert len({item.parameter_key for item in items}) == 2 * 3
    assert len({item.spawn_key for item in items}) == 2 * 2
    others = {key for item in items for key in (item.spawn_key, item.noise_key, item.sequence_key)}
    assert not others & {item.parameter_key for item in items}
