"""The plan: every item's draws are its own, and shards are known in advance."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from data_generation.config import CandidatesConfig, GenerationConfig, SkewProductConfig, SplitsConfig
from data_generation.plan import PlanItem, Shard, draw_pairs, item_generator, plan_items, plan_shards
from data_generation.systems import load_system, parents_of, split_of


@pytest.fixture
def config() -> GenerationConfig:
    return GenerationConfig(
        output="unused",
        systems=["SprottB", "Lorenz", "Halvorsen", "Chen", "SprottC"],
        splits=SplitsConfig(
            train=CandidatesConfig(3, 2), validation=CandidatesConfig(2, 1), test=CandidatesConfig(1, 2)
        ),
        rows_per_shard=5,
    )


def test_items_are_named_after_their_place():
    assert PlanItem("Lorenz", 3, 1).item_id == "Lorenz-p003-i01"
    assert Shard("train", 12, ()).name == "train-00012"


def test_spawn_keys_hold_stable_words_and_indices():
    key = PlanItem("Lorenz", 3, 1).spawn_key
    # printf Lorenz | sha256sum: bc85feb4e13790042786651664884b7b..., as little-endian words.
    assert key == (3036579260, 76560353, 375752231, 2068547684, 3, 1)
    assert PlanItem("Lorenz", 3, 0).parameter_key == key[:-1]


def test_draws_differ_between_items_and_seeds():
    items = [PlanItem(system, p, i) for system in ("Lorenz", "Rossler") for p in range(3) for i in range(3)]
    keys = [*(item.spawn_key for item in items), *{item.parameter_key for item in items}]
    draws = [item_generator(seed, key).random() for key in keys for seed in (0, 1)]
    assert len(set(draws)) == 2 * len(keys)
    assert draws[0] == item_generator(0, keys[0]).random()


def test_every_split_holds_its_systems_and_counts(config: GenerationConfig):
    assert [item.item_id for item in plan_items(config, "test")] == [
        "Halvorsen-p000-i00", "Halvorsen-p000-i01", "Lorenz-p000-i00", "Lorenz-p000-i01",
    ]  # fmt: skip
    assert {item.system for item in plan_items(config, "train")} == {"SprottB", "SprottC"}
    assert len(plan_items(config, "train")) == 2 * 3 * 2
    assert [item.system for item in plan_items(config, "validation")] == ["Chen", "Chen"]


def test_items_do_not_depend_on_the_other_systems(config: GenerationConfig):
    alone = plan_items(replace(config, systems=["Lorenz"]), "test")
    assert set(alone) <= set(plan_items(config, "test"))


def test_shards_hold_every_item_once_in_order(config: GenerationConfig):
    shards = plan_shards(config)
    assert [shard.name for shard in shards] == [
        "train-00000", "train-00001", "train-00002", "validation-00000", "test-00000",
    ]  # fmt: skip
    items = chain.from_iterable(plan_items(config, split) for split in ("train", "validation", "test"))
    assert list(chain.from_iterable(shard.items for shard in shards)) == list(items)
    assert max(len(shard.items) for shard in shards) == config.rows_per_shard


def test_a_shard_groups_its_items_by_system(config: GenerationConfig):
    groups = list(plan_shards(config)[1].items_by_system())
    assert [(system, len(items)) for system, items in groups] == [("SprottB", 1), ("SprottC", 4)]
    assert all(item.system == system for system, items in groups for item in items)


def test_all_means_every_system():
    config = GenerationConfig(output="unused", systems="all", rows_per_shard=10**6)
    sizes = {shard.split: len({item.system for item in shard.items}) for shard in plan_shards(config)}
    assert sizes == {"train": 96, "validation": 10, "test": 23}


def test_an_unknown_system_is_named_with_close_matches(config: GenerationConfig):
    with pytest.raises(ValueError, match=r"'Lorens'.*Lorenz"):
        plan_shards(replace(config, systems=["Lorens"]))


def test_a_plan_without_candidates_is_refused(config: GenerationConfig):
    nothing = CandidatesConfig(0, 1)
    with pytest.raises(ValueError, match="at least one candidate"):
        plan_shards(replace(config, splits=SplitsConfig(nothing, nothing, nothing)))


def test_neighbouring_indices_are_uncorrelated():
    draws = np.array(
        [item_generator(0, (*PlanItem("Lorenz", 0, 0).parameter_key, i)).standard_normal(64) for i in range(64)]
    )
    correlations = np.asarray(np.corrcoef(draws))[np.triu_indices(64, k=1)]
    assert abs(correlations.mean()) < 5 / np.sqrt(len(correlations) * 64)


def test_an_item_has_a_key_of_its_own_for_every_kind_of_draw():
    item = PlanItem("Lorenz", 0, 0)
    keys = [item.parameter_key, item.spawn_key, item.num_periods_key, item.noise_key]
    assert len({item_generator(0, key).random() for key in keys}) == len(keys)


def pairs_config(num_pairs: int, **settings) -> GenerationConfig:
    counts = CandidatesConfig(num_pairs=num_pairs)
    return GenerationConfig(
        output="unused", systems=[], splits=SplitsConfig(counts, counts, counts),
        skew_products=SkewProductConfig(**settings),
    )  # fmt: skip


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_random_pairs_stay_within_their_split_and_time_scale(split: str):
    config = pairs_config(10, max_period_ratio=3.0)
    pairs = draw_pairs(config, split)
    assert len(set(pairs)) == 10
    assert {item.system for item in plan_items(config, split)} == set(pairs)
    for pair in pairs:
        parents = parents_of(pair)
        assert parents is not None
        assert {split_of(name) for name in (pair, *parents)} == {split}
        periods = [load_system(name).period for name in parents]
        assert max(periods) <= 3 * min(periods)


def test_more_pairs_keep_the_first_ones():
    few, many = (draw_pairs(pairs_config(number), "validation") for number in (3, 9))
    assert many[:3] == few
    assert draw_pairs(replace(pairs_config(9), seed=1), "validation") != many


def test_more_pairs_than_there_are_is_refused():
    config = pairs_config(3, parents=["SprottB", "SprottC", "Lorenz"], max_period_ratio=1e9)
    with pytest.raises(ValueError, match=r"train.num_pairs .*found 3 of 2"):
        draw_pairs(config, "train")


@pytest.mark.parametrize("name", ["Lorenz", "Lorenz->SprottB", "SprottB->Chen"])
def test_a_held_out_system_asked_for_in_train_is_refused(name: str):
    config = GenerationConfig(output="unused", splits=SplitsConfig(train=CandidatesConfig(systems=["SprottC", name])))
    with pytest.raises(ValueError, match=rf"splits.train.systems must belong to train, found .*{name}"):
        plan_shards(config)


def test_a_split_can_list_its_own_systems(config: GenerationConfig):
    splits = replace(config.splits, train=CandidatesConfig(1, systems=["SprottD->SprottE", "SprottF"]))
    chosen = replace(config, splits=splits)
    assert [item.system for item in plan_items(chosen, "train")] == ["SprottD->SprottE", "SprottF"]
    assert plan_items(chosen, "test") == plan_items(config, "test")


def test_named_pairs_go_to_the_split_of_their_held_out_parent():
    config = GenerationConfig(output="unused", systems=["SprottB->Lorenz", "Chen->SprottB", "SprottC->SprottB"])
    systems = {split: {item.system for item in plan_items(config, split)} for split in ("train", "validation", "test")}
    assert systems == {"train": {"SprottC->SprottB"}, "validation": {"Chen->SprottB"}, "test": {"SprottB->Lorenz"}}


def test_a_coupling_that_is_not_whole_is_refused_in_the_plan():
    config = GenerationConfig(
        output="unused", systems=["SprottC->SprottB"],
        skew_products=SkewProductConfig(couplings={"SprottC->SprottB": {"kind": "additive"}}),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"a coupling must have the fields .*missing"):
        plan_shards(config)
