"""The README's guides, followed from start to end."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_tsdyn import ForecastPipeline
from hf_tsdyn.data import TrajectoryDataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SECTIONS = dict(
    re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
)
SHORT = ["--training.max_steps", "4", "--training.eval_steps", "2", "--training.save_steps", "2"]


def code(section, language):
    (block,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return block


def follow(script, folder, *more):
    """Run the commands of a script; the files that it names lie in `folder`. `more` goes to the first command."""
    names = "series.csv", "table.csv", "MODEL", "DATA"
    for number, command in enumerate(script.splitlines()):
        program, *words = shlex.split(command, comments=True)
        assert program == "python"
        words = [str(folder / word) if word in names else word for word in words]
        words += more if number == 0 else ()
        path = os.pathsep.join([str(folder), str(ROOT)])
        environment = os.environ | {"PYTHONPATH": path}
        ran = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture
def table(tmp_path):
    """Two channels of which one has a gap, and a column of words."""
    hours = np.arange(2000)
    dates = pd.date_range("2026-01-01", periods=len(hours), freq="h")
    content = pd.DataFrame({"date": dates, "load": np.sin(hours / 9), "heat": np.cos(hours / 9), "note": "a word"})
    content.loc[100:120, "load"] = np.nan
    for name in ("series.csv", "table.csv"):
        content.to_csv(tmp_path / name, index=False)
    return content


@pytest.mark.parametrize("section", ["A series of your own", "DynoNet"])
def test_the_guides_for_a_series_of_ones_own(section, table, tmp_path):
    follow(code(section, "bash"), tmp_path, *SHORT)
    assert (tmp_path / "MODEL" / "README.md").is_file()
    past = table[["load", "heat"]].to_numpy(np.float32)
    forecast = ForecastPipeline.from_pretrained(tmp_path / "MODEL").predict(past, prediction_length=48)
    assert forecast.shape == (48, 2)
    assert np.isfinite(forecast).all()


def test_the_shortest_series_is_as_long_as_the_guide_says(table, tmp_path):
    (length,) = re.findall(r"about (\d+) steps are the least", SECTIONS["A series of your own"])
    train = code("A series of your own", "bash").splitlines()[0]
    table.head(int(length)).to_csv(tmp_path / "series.csv", index=False)
    follow(train, tmp_path, *SHORT)
    table.head(int(length) - 10).to_csv(tmp_path / "series.csv", index=False)
    with pytest.raises(AssertionError, match="must have the 320 steps of a window"):
        follow(train, tmp_path, *SHORT)


def test_the_guide_for_a_system_of_ones_own(tmp_path):
    (tmp_path / "mysystems.py").write_text(code("Add a system", "python"))
    follow(code("Add a system", "bash"), tmp_path, "--splits.train.num_parameter_sets", "5", "--jobs", "1")
    dataset = TrajectoryDataset(tmp_path / "DATA", "train")
    assert len(dataset) >= 2
    assert {trajectory.system for trajectory in dataset} == {"mysystems:band"}
