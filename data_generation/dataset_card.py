"""The dataset's README.md, rendered from its manifest: equal manifests give equal cards."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_generation.candidates import reason_text
from data_generation.config import SPLITS
from data_generation.gallery import GALLERY_FILE, MAX_PANELS
from data_generation.row_statistics import RowStatistics, read_statistics
from hf_tsdyn.data.trajectories import FEATURES

COLUMNS = {
    "item_id": "system, parameter index and initial condition index, e.g. `Lorenz-p003-i01`",
    "start": "1970-01-01 everywhere; `dt` holds the truth",
    "freq": "`s` everywhere; `dt` holds the truth",
    "target": "channels x time, in the system's own units",
    "system": "name in dysts, `Driver->Response` of a skew product, or an import path",
    "split": "train, validation or test",
    "dt": "sampling interval, in the system's time",
    "period": "dominant period at default parameters, in the system's time",
    "lyapunov_time": "one over the largest Lyapunov exponent of the row's own equations, in the system's time; null "
    "where the motion is not clearly chaotic (`checks` holds the exponent and its standard error)",
    "parameters": "JSON, by name",
    "initial_condition": "raw state at the first stored point: integrating it with `parameters` from time 0 "
    "gives the row, but for observation noise",
    "seed": "JSON: entropy and spawn key of the NumPy SeedSequence of the initial condition",
    "checks": "JSON: statistic of each validity check",
    "generation": "JSON: tolerances, transient, points, whether the parameters are the defaults, versions",
}

TEMPLATE = """---
{front_matter}---

# Trajectories of chaotic systems

{num_rows} trajectories of {num_systems} systems of ordinary differential equations{pairs} from
[dysts](https://github.com/williamgilpin/dysts): {num_points} points over {num_periods} dominant periods each,
with perturbed parameters and initial conditions. The splits hold different systems, not different windows: what
is in `test` is never seen in `train`.

| split | systems | candidates | trajectories |
|---|---|---|---|
{split_rows}

## Use

```python
from datasets import load_dataset

dataset = load_dataset("PATH", split="{first_split}")
```

or, without copying a value,

```python
from hf_tsdyn.data.trajectories import TrajectoryDataset

trajectory = TrajectoryDataset("PATH", "{first_split}")[0]
trajectory.values  # (channels, time)
```

The files of `data` are also a gluonts `FileDataset` (`freq="s"`, `one_dim_target=False`).

## Columns

| column | type | content |
|---|---|---|
{column_rows}

{switching}## How it was made

Save the settings below as `dataset.yaml`, and run

```bash
python -m data_generation --config dataset.yaml --output DIR
```

```yaml
{settings}```

Made with {versions}; fingerprint `{fingerprint}`.
The same settings and versions give the same bytes on the same type of processor, whatever the number of workers.

## What was rejected

{num_accepted} of {num_candidates} candidates were accepted ({acceptance:.0%}). `rejected.jsonl` lists the others with
their statistics.

| reason | candidates | meaning |
|---|---|---|
{reason_rows}

{empty_systems}

<details><summary>By system</summary>

{system_table}

</details>

## What is in it

{gallery}<details><summary>Ranges of the parameters</summary>

| system | smallest to largest value over the trajectories, and over the entries of an array |
|---|---|
{range_rows}

</details>

{exponents}

## Limits

- `period` is that of the default parameters.
- Initial conditions are drawn around one stored point: a system with several attractors shows few of them.
- The checks reject periodic motion whose period is below half the series; slower or quasi-periodic motion passes.
- Chaos makes trajectories on another type of processor depart from these after a while; their statistics agree.
"""

GALLERY = f"""![The first trajectory of each system, of at most {MAX_PANELS}]({GALLERY_FILE})

"""

SWITCHING = """## Parameters that switch

Every {steps_per_regime} points the parameters of a row jump, and the trajectory goes on from its state. Rows named
`...-abrupt` take a new regime each time; rows named `...-recurring` show {num_regimes} regimes once each, and then all
of them again and again, each time in another drawn order. Up to point {num_shared} the two are the same series. With
the parameters of each regime a trajectory of its own passed all checks; no stretch dies out or turns periodic.

In `generation`, `schedule` holds of each stretch its `first_step`, the number of its `regime`, `parameters`, the raw
state at its first point as `initial_condition`, and `lyapunov_time`: integrating these parameters from there, from time
`first_step` x `dt` on, gives its points, but for observation noise. The columns `parameters` and `initial_condition`
are those of the first stretch, and `lyapunov_time` is null.

"""

# Of exponent x period; below 0.02 a system is not clearly chaotic.
EXPONENT_BINS = (-np.inf, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, np.inf)
BAR_LENGTH = 30


def card_text(folder: Path, manifest: dict[str, Any]) -> str:
    """Return the card of the shards and, where it was drawn, the picture that lie in a folder."""
    statistics = read_statistics(folder / shard["file"] for shard in manifest["shards"])
    return render_card(manifest, statistics, has_gallery=(folder / GALLERY_FILE).is_file())


def render_card(manifest: dict[str, Any], statistics: RowStatistics, *, has_gallery: bool) -> str:
    """Return the text of README.md: front matter that names the data files, and measured counts."""
    systems, counts, config = manifest["systems"], manifest["counts"], manifest["config"]
    rows = Counter(dict.fromkeys(SPLITS, 0))
    for shard in manifest["shards"]:
        rows[shard["split"]] += shard["num_rows"]
    # A pattern without a row behind it makes load_dataset fail.
    splits = [split for split in SPLITS if rows[split]]
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    return TEMPLATE.format(
        front_matter=_front_matter(splits, counts["accepted"]),
        num_rows=counts["accepted"],
        num_systems=sum(entry["accepted"] > 0 for entry in systems.values()),
        pairs=_pairs_text(systems),
        num_points=config["integration"]["num_points"],
        num_periods=_number_text(config["integration"]["num_periods"]),
        split_rows="\n".join(_split_row(split, systems) for split in splits),
        first_split=splits[0],
        column_rows="\n".join(f"| `{name}` | {_type_name(name)} | {COLUMNS[name]} |" for name in FEATURES),
        switching=_switching_text(config.get("switching")),
        settings=yaml.safe_dump(config, sort_keys=False),
        versions=versions,
        fingerprint=manifest["fingerprint"],
        num_accepted=counts["accepted"],
        num_candidates=counts["candidates"],
        acceptance=counts["accepted"] / counts["candidates"],
        reason_rows="\n".join(
            f"| {reason} | {number} | {reason_text(reason)} |"
            for reason, number in sorted(counts["rejected"].items(), key=lambda entry: (-entry[1], entry[0]))
        ),
        empty_systems=_empty_systems(systems),
        system_table=_system_table(systems, sorted(counts["rejected"])),
        gallery=GALLERY if has_gallery else "",
        range_rows="\n".join(
            f"| {system} | {_range_text(ranges)} |" for system, ranges in sorted(statistics.parameter_ranges.items())
        ),
        exponents=_exponent_table(statistics.exponents),
    )


def _front_matter(splits: list[str], num_rows: int) -> str:
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    size = next((name for bound, name in bounds if num_rows < bound), "1M<n<10M")
    front_matter = {
        "license": "apache-2.0",
        "task_categories": ["time-series-forecasting"],
        "tags": ["dynamical-systems", "chaos", "time-series"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.arrow"} for split in splits],
            }
        ],
    }
    return yaml.safe_dump(front_matter, sort_keys=False)


def _number_text(number: float | list[float]) -> str:
    return " to ".join(format(end, "g") for end in (number if isinstance(number, list) else [number]))


def _split_row(split: str, systems: dict[str, Any]) -> str:
    entries = [entry for entry in systems.values() if entry["split"] == split]
    num_systems = sum(entry["accepted"] > 0 for entry in entries)
    candidates = sum(entry["candidates"] for entry in entries)
    return f"| {split} | {num_systems} | {candidates} | {sum(entry['accepted'] for entry in entries)} |"


def _pairs_text(systems: dict[str, Any]) -> str:
    num_pairs = sum("->" in name for name, entry in systems.items() if entry["accepted"])
    return f", {num_pairs} of them skew products of two," if num_pairs else ""


def _switching_text(switching: dict[str, Any] | None) -> str:
    if switching is None:
        return ""
    return SWITCHING.format(**switching, num_shared=switching["steps_per_regime"] * switching["num_regimes"])


def _type_name(column: str) -> str:
    feature = FEATURES.arrow_schema.field(column).type
    return str(feature).replace("list<item: ", "list<").replace("element: ", "")


def _empty_systems(systems: dict[str, Any]) -> str:
    empty = [name for name, entry in sorted(systems.items()) if not entry["accepted"]]
    if not empty:
        return "Every system has at least one trajectory."
    return f"No candidate of these systems was accepted: {', '.join(empty)}."


def _system_table(systems: dict[str, Any], reasons: list[str]) -> str:
    lines = [
        "| " + " | ".join(["system", "split", "candidates", "accepted", *reasons]) + " |",
        "|---" * (4 + len(reasons)) + "|",
    ]
    for name, entry in sorted(systems.items()):
        numbers = [entry["candidates"], entry["accepted"], *(entry["rejected"].get(reason, 0) for reason in reasons)]
        lines.append("| " + " | ".join([name, entry["split"], *map(str, numbers)]) + " |")
    return "\n".join(lines)


def _range_text(ranges: dict[str, tuple[float, float]]) -> str:
    texts = [
        f"{name} {low:.4g}" if low == high else f"{name} {low:.4g} to {high:.4g}"
        for name, (low, high) in sorted(ranges.items())
    ]
    return ", ".join(texts) or "none"


def _exponent_table(exponents: np.ndarray) -> str:
    if not exponents.size:
        return "No trajectory carries a Lyapunov time."
    counts = np.histogram(exponents, EXPONENT_BINS)[0]
    lines = [
        f"The {exponents.size} trajectories that carry a Lyapunov time, by largest exponent x period:",
        "",
        "| from | to | trajectories | |",
        "|---|---|---|---|",
    ]
    for low, high, count in zip(EXPONENT_BINS[:-1], EXPONENT_BINS[1:], counts, strict=True):
        bar = "█" * round(BAR_LENGTH * count / counts.max())
        lines.append(f"| {low:g} | {high:g} | {count} | {bar} |")
    return "\n".join(lines)
