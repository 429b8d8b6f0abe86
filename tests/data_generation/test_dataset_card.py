"""The card: tables that add up, from the manifest and the rows."""

import re
from pathlib import Path

import numpy as np
import pytest

from data_generation.config_loading import load_config
from data_generation.dataset_card import render_card
from data_generation.folder import ShardRecord, build_manifest
from data_generation.row_statistics import RowStatistics, read_statistics
from hf_tsdyn.hub_upload import address_dataset_card

SETTINGS = load_config(["--output", "unused"])


def record(index: int, accepted: dict[str, int], reasons: list[tuple[str, str]]) -> ShardRecord:
    rejected = [
        {"item_id": f"{name}-{n}", "system": name, "reason": r, "checks": {}} for n, (name, r) in enumerate(reasons)
    ]
    return ShardRecord(
        f"data/test-{index:05d}.arrow", "test", sum(accepted.values()), 10, str(index), accepted, rejected
    )


@pytest.fixture
def manifest() -> dict:
    from data_generation.generate import dataset_settings

    records = [
        record(0, {"Lorenz": 2, "Rossler": 0}, [("Rossler", "diverged"), ("Rossler", "limit_cycle")]),
        record(1, {"Rossler": 0}, [("Rossler", "limit_cycle")]),
    ]
    return build_manifest(dataset_settings(SETTINGS), records)


def card(manifest: dict, *, exponents: list[float] | None = None, has_gallery: bool = False) -> list[str]:
    ranges = {"Lorenz": {"rho": (20.0, 28.25), "sigma": (10.0, 10.0)}, "Rossler": {}}
    statistics = RowStatistics(ranges, np.array(exponents or []))
    return render_card(manifest, statistics, has_gallery=has_gallery).splitlines()


def test_rejections_are_counted_by_reason_and_system(manifest: dict):
    lines = card(manifest)
    assert "2 of 5 candidates were accepted (40%). `rejected.jsonl` lists the others with" in lines
    assert "| system | split | candidates | accepted | diverged | limit_cycle |" in lines
    assert "| Lorenz | test | 2 | 2 | 0 | 0 |" in lines
    assert "| Rossler | test | 3 | 0 | 1 | 2 |" in lines
    assert "No candidate of these systems was accepted: Rossler." in lines
    assert any(manifest["fingerprint"] in line for line in lines)


def test_the_examples_of_an_uploaded_card_load_from_the_repository(manifest: dict):
    text = address_dataset_card("\n".join(card(manifest)), "acme/chaos")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    loads, maps = (compile(block, "card", "exec") for block in blocks)
    assert "acme/chaos" in loads.co_consts
    assert {"acme/chaos", "dataset"} < set(maps.co_consts)
    assert {"snapshot_download", "TrajectoryDataset"} < set(maps.co_names)
    assert "PATH" not in text


def test_parameter_ranges_are_listed(manifest: dict):
    lines = card(manifest)
    assert "| Lorenz | rho 20 to 28.25, sigma 10 |" in lines
    assert "| Rossler | none |" in lines


def test_the_exponents_fill_their_bins(manifest: dict):
    lines = card(manifest, exponents=[-0.1, 0.0, 0.019, 0.5, 0.6, 0.7, 0.8])
    assert "The 7 trajectories that carry a Lyapunov time, by largest exponent x period:" in lines
    assert "| -inf | 0 | 1 | ████████ |" in lines
    assert "| 0 | 0.02 | 2 | " + 15 * "█" + " |" in lines
    assert "| 0.5 | 1 | 4 | " + 30 * "█" + " |" in lines
    assert "No trajectory carries a Lyapunov time." in card(manifest)


def test_the_picture_is_shown_where_there_is_one(manifest: dict):
    assert not any("attractors.png" in line for line in card(manifest))
    assert sum("](attractors.png)" in line for line in card(manifest, has_gallery=True)) == 1


def test_statistics_come_from_the_rows(tmp_path: Path, write_dataset):
    values = np.zeros((1, 4), np.float32)
    rows = [
        {"target": values, "parameters": '{"a": 1, "w": [[3.0, -1.0]]}', "period": 2.0, "lyapunov_time": 4.0},
        {"target": values, "parameters": '{"a": 0.5, "w": [[0.0, 9.0]]}', "lyapunov_time": None},
        {
            "target": values,
            "system": "A->B",
            "parameters": '{"driver": {"k": 2, "name": "tanh"}}',
            "lyapunov_time": None,
        },
    ]
    folder = write_dataset(tmp_path / "data", rows, rows_per_shard=2)
    statistics = read_statistics(sorted((folder / "data").iterdir()))
    assert statistics.parameter_ranges == {
        "Lorenz": {"a": (0.5, 1), "w": (-1.0, 9.0)},
        "A->B": {"driver.k": (2, 2)},
    }
    np.testing.assert_array_equal(statistics.exponents, [0.5])


def test_skew_products_and_mixed_lengths_are_told(manifest: dict):
    assert "2 trajectories of 1 systems of ordinary differential equations from" in card(manifest)
    manifest["systems"]["Lorenz->Rossler"] = manifest["systems"].pop("Lorenz")
    manifest["config"]["integration"]["num_periods"] = [25.0, 100.0]
    text = "\n".join(card(manifest))
    assert "systems of ordinary differential equations, 1 of them skew products of two, from" in text
    assert "points over 25 to 100 dominant periods each" in text
