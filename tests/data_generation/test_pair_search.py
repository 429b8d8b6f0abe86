"""The search for pairs: what it measures, what it keeps, and that it repeats itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_generation.config import (
    CandidatesConfig,
    GenerationConfig,
    IntegrationConfig,
    SkewProductConfig,
    SplitsConfig,
)
from data_generation.config_loading import load_config
from data_generation.pair_search import (
    TriedPair,
    best_pairs,
    main,
    mutual_dependence,
    search_pairs,
    settings_of,
    try_pair,
)
from data_generation.plan import plan_items, plan_shards
from data_generation.skew_products import draw_pair_coupling, load_item_system

CONFIG = GenerationConfig(
    output="unused", systems=[], splits=SplitsConfig(train=CandidatesConfig(num_pairs=1)),
    integration=IntegrationConfig(num_points=512, num_periods=20),
    skew_products=SkewProductConfig(parents=["SprottB", "SprottC", "Torus"]),
    jobs=1,
)  # fmt: skip


def pair(driver: str, response: str, **changes) -> TriedPair:
    return TriedPair(driver, response, draw_pair_coupling(CONFIG, driver, response), 0, **changes)


def walk(seed: int) -> np.ndarray:
    """A smooth random signal."""
    noise = np.random.default_rng(seed).normal(size=(1, 4096 + 50))
    return np.stack([np.convolve(noise[0], np.hanning(51), mode="valid")])


def test_dependence_is_there_only_where_the_driver_acts():
    driver, stranger = walk(0), walk(1)
    rng = np.random.default_rng(0)
    assert mutual_dependence(driver, np.sin(3 * driver / driver.std()), rng=rng) > 1.0
    assert mutual_dependence(driver, stranger, rng=rng) < 0.05
    assert mutual_dependence(driver, driver + stranger, rng=rng) > 0.2


def test_the_best_pairs_are_the_kept_ones_of_strongest_dependence():
    tried = [
        pair("SprottB", "SprottC", dependence=0.2),
        pair("SprottC", "SprottB", dependence=0.5),
        pair("SprottB", "SprottC", dependence=0.9),
        pair("SprottB", "Torus", dependence=2.0, rejection="not_chaotic"),
    ]
    assert best_pairs(tried, count=2) == [tried[2], tried[1]]
    assert best_pairs(tried, count=1) == [tried[2]]


def test_a_response_that_feels_nothing_is_not_driven():
    silent = pair("SprottB", "SprottC")
    silent = replace(silent, coupling=replace(silent.coupling, driver_strength=1e-12))
    tried = try_pair(CONFIG, silent)
    assert tried.rejection == "not_driven"
    assert tried.exponent is not None
    assert tried.exponent > 0.1


def test_a_search_repeats_itself_and_mutates_what_it_kept():
    first, second = (search_pairs(CONFIG, split="train", population_size=2, num_generations=2) for _ in range(2))
    assert first == second
    assert {entry.generation for entry in first} == {0, 1}
    assert len({(entry.name, entry.coupling) for entry in first}) == 4


def test_found_pairs_are_settings_that_generate_them():
    found = pair("SprottB", "SprottC")
    found = replace(found, coupling=replace(found.coupling, driver_strength=0.123))
    settings = settings_of([found], "train")
    train = CandidatesConfig(1, 1, **settings["splits"]["train"])
    config = replace(
        CONFIG, splits=replace(CONFIG.splits, train=train),
        skew_products=replace(CONFIG.skew_products, **settings["skew_products"]),
    )  # fmt: skip
    assert [item.system for item in plan_items(config, "train")] == ["SprottB->SprottC"]
    assert load_item_system(config, "SprottB->SprottC").parameters["coupling.driver_strength"] == 0.123
    assert load_item_system(CONFIG, "SprottB->SprottC").coupling == draw_pair_coupling(CONFIG, "SprottB", "SprottC")


def test_the_command_writes_settings_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {
        "output": "generated/unused", "systems": [], "splits": {"train": {"num_pairs": 1}}, "jobs": 1,
        "integration": {"num_points": 512, "num_periods": 20},
        "skew_products": {"parents": ["SprottB", "SprottC"], "strength": 2.0},
    }  # fmt: skip
    given, found = tmp_path / "given.yaml", tmp_path / "found.yaml"
    given.write_text(yaml.safe_dump(settings))
    arguments = ["--config", str(given), "--found", str(found), "--population", "2", "--generations", "1"]
    monkeypatch.setattr("sys.argv", ["pair_search", *arguments])
    main()
    report = json.loads(found.with_suffix(".json").read_text())
    kept = sorted(entry["name"] for entry in report if entry["rejection"] is None)
    assert kept
    config = load_config(["--config", str(given), "--config", str(found)], exit_on_error=False)
    assert config.splits.train.systems == sorted(config.skew_products.couplings) == kept
    assert [shard.split for shard in plan_shards(config)] == ["train"]


def test_more_pairs_than_the_split_has_are_refused():
    with pytest.raises(ValueError, match=r"num_pairs"):
        search_pairs(CONFIG, split="train", population_size=99, num_generations=1)
