import argparse
import importlib
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jsonargparse
import numpy as np
import pandas as pd
import pytest

from hf_tsdyn import ForecastPipeline
from training.ship_checkpoint import read_results, render_readme

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
SCRIPTS = re.findall(r"```bash\n(.*?)```", README.read_text(), re.DOTALL)
COMMANDS = list(
    dict.fromkeys(
        command
        for text in [*SCRIPTS, *re.findall(r"`([^`\n]+)`", README.read_text())]
        for command in re.findall(r"^python -m (?!pip )(.+)$", text, re.MULTILINE)
    )
)
"""What stands after `python -m`, in blocks and in sentences."""
CHECKPOINTS = {
    "training.evaluate_completion": "model_cards/dystformer-completion",
    "training.evaluate_series": "model_cards/dynonet-etth1-96",
    "training.evaluate_reconstruction": "model_cards/alrnn-lorenz63-p2",
}
"""A folder for what the README calls MODEL, ENCODER or runs/NAME, by command; of others, a forecaster's."""


class ParsedError(Exception):
    """Ends a command after its options were read."""


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_blocks_run_and_print_what_their_comments_say(block, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    for line in block.splitlines():
        if line.strip().startswith("print(") and "#" in line:
            assert line.rsplit("# ", 1)[1] in printed


def test_results_tables_are_those_of_the_results_files():
    names = re.findall(r"<!-- results (.*?) -->", README.read_text())
    assert names
    for name in names:
        results = read_results(ROOT / "model_cards" / "results" / f"{name}.json")
        assert render_readme(README.read_text(), name, results) == README.read_text()


def test_the_file_tree_names_every_module():
    text = README.read_text()
    for folder in ("hf_tsdyn", "data_generation", "training"):
        for file in (ROOT / folder).glob("*.py"):
            if not file.name.startswith("__"):
                assert file.name in text, file


@pytest.fixture
def stop_after_parsing(monkeypatch):
    """Let every command end where it has read its options."""
    for parser_class in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        parse = parser_class.parse_args

        def parse_alone(self, *arguments, parse=parse, **options):
            parse(self, *arguments, **options)
            raise ParsedError

        monkeypatch.setattr(parser_class, "parse_args", parse_alone)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_the_options_that_they_are_given(command, monkeypatch, request):
    """Loaders of settings are called as they are; a command without one runs until its options are read."""
    monkeypatch.chdir(ROOT)
    name, *options = shlex.split(command, comments=True)
    if not options:
        assert find_spec(name)
        return
    folder = CHECKPOINTS.get(name, "model_cards/dystformer-quickstart")
    options = [folder if re.fullmatch(r"MODEL|ENCODER|runs/[\w/-]+", word) else word for word in options]
    module = importlib.import_module(f"{name}.__main__" if name == "data_generation" else name)
    loaders = [getattr(module, each) for each in dir(module) if re.fullmatch(r"load(_\w+)?_(config|request)", each)]
    if loaders:
        (load,) = loaders
        load(options)
        return
    request.getfixturevalue("stop_after_parsing")
    monkeypatch.setattr(sys, "argv", [name, *options])
    with pytest.raises(ParsedError):
        module.main()


def test_what_make_is_asked_for_has_a_rule():
    asked = {
        goal
        for line in re.findall(r"(?:^|`)make ([a-z -]+)", README.read_text(), re.MULTILINE)
        for goal in line.split()
    }
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert asked
    assert asked <= set(rules)


@pytest.mark.slow
def test_the_guide_for_a_series_of_ones_own_runs(tmp_path):
    (script,) = (script for script in SCRIPTS if "finetune_series.yaml" in script)
    hours = np.arange(2000)
    channels = {name: np.sin(hours / 9 + phase) for name, phase in {"load": 0.0, "temperature": 1.0}.items()}
    dates = pd.date_range("2026-01-01", periods=len(hours), freq="h")
    table = pd.DataFrame({"date": dates} | channels)
    table.loc[100:120, "load"] = np.nan
    table.to_csv(tmp_path / "series.csv", index=False)
    short = ["--training.max_steps", "4", "--training.eval_steps", "2", "--training.save_steps", "2"]
    for command in script.splitlines():
        program, *words = shlex.split(command, comments=True)
        assert program == "python"
        words = [str(tmp_path / word) if word in ("series.csv", "MODEL") else word for word in words]
        words += short if "training.train" in words else []
        ran = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "MODEL" / "README.md").is_file()
    past = table[list(channels)].to_numpy(np.float32)
    forecast = ForecastPipeline.from_pretrained(tmp_path / "MODEL").predict(past, prediction_length=48)
    assert forecast.shape == (48, 2)
    assert np.isfinite(forecast).all()
