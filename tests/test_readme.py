"""Code and commands of the README and of the guides beside it."""

import argparse
import importlib
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import jsonargparse
import numpy as np
import pandas as pd
import pytest

from training.__main__ import commands as commands_of_training

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / folder / "README.md" for folder in ("", "hf_tsdyn", "training", "data_generation", "model_cards")]
GUIDES += [ROOT / "model_cards" / "dynonet-study" / "README.md"]
TEXT = "\n".join(guide.read_text() for guide in GUIDES)
BLOCKS = [
    pytest.param(block, id=f"{guide.parent.name}-{number}")
    for guide in GUIDES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL))
]
INLINE = re.findall(r"`([^`\n]+)`", TEXT)
COMMANDS = list(
    dict.fromkeys(
        command.split("#")[0].strip()
        for text in [*re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL), *INLINE]
        for command in re.findall(r"^python -m (?!pip )(.+)$", text, re.MULTILINE)
    )
)
"""What stands after `python -m`, in blocks and in sentences."""
MODULES = list(dict.fromkeys(re.findall(r"\b((?:training|data_generation|hf_tsdyn)(?:\.\w+)*)", " ".join(COMMANDS))))
PREFIXES = {"training...": "training", "data_generation...": "data_generation"}
CHECKPOINTS = {
    "training.evaluate_completion": "model_cards/dystformer-completion",
    "training.evaluate_series": "model_cards/dynonet-etth1-96",
    "training.evaluate_reconstruction": "model_cards/alrnn-lorenz63-p2",
}
"""A folder for what guides call MODEL, ENCODER or runs/NAME, by command; of others, a forecaster's."""
OPTIONS = list(dict.fromkeys(text for text in INLINE if text.startswith("--")))
OTHER_PROGRAMS = ("--nproc_per_node",)


class ParsedError(Exception):
    """Ends a command after its options were read."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in that has the shipped checkpoints and a table, and nothing of the checkout's to write to."""
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    hours = np.arange(600)
    dates = pd.date_range("2026-01-01", periods=600, freq="h")
    table = pd.DataFrame({"date": dates, "load": np.sin(hours / 9), "heat": np.cos(hours / 9)})
    table.to_csv(tmp_path / "series.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.usefixtures("place")
def test_code_blocks_run_and_every_print_says_what_its_comment_does(block):
    printed = {}

    def note(*values):
        printed.setdefault(sys._getframe(1).f_lineno, []).append(" ".join(map(str, values)))

    exec(compile(block, "README.md", "exec"), {"print": note, "__name__": "block"})
    expected = {
        number: line.rsplit("  # ", 1)[1]
        for number, line in enumerate(block.splitlines(), start=1)
        if line.strip().startswith("print(")
    }
    assert {number: set(texts) for number, texts in printed.items()} == {n: {text} for n, text in expected.items()}


@pytest.fixture
def stop_after_parsing(monkeypatch):
    """Let every command end where it has read its options, with its parser."""
    for parser_class in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        parse = parser_class.parse_args

        def parse_alone(self, *arguments, parse=parse, **options):
            parse(self, *arguments, **options)
            raise ParsedError

        monkeypatch.setattr(parser_class, "parse_args", parse_alone)


def is_command(name):
    """Whether `python -m NAME` does anything."""
    spec = find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        spec = find_spec(f"{name}.__main__")
    return spec is not None and '\nif __name__ == "__main__":\n' in Path(spec.origin).read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_the_options_that_they_are_given(command, monkeypatch, request):
    """Loaders of settings are called as they are; a command without one runs until its options are read."""
    name, *options = shlex.split(command)
    name = PREFIXES.get(name, name)
    assert is_command(name), name
    if options:
        monkeypatch.chdir(ROOT)
        parse(name, options, monkeypatch, request)


def parse(name, options, monkeypatch, request):
    folder = CHECKPOINTS.get(name, "model_cards/dystformer-quickstart")
    options = [folder if re.fullmatch(r"MODEL|ENCODER|runs/[\w/-]+", word) else word for word in options]
    spec = find_spec(name)
    assert spec is not None
    module = importlib.import_module(f"{name}.__main__" if spec.submodule_search_locations else name)
    loaders = [getattr(module, each) for each in dir(module) if re.fullmatch(r"load(_\w+)?_(config|request)", each)]
    if loaders:
        (load,) = loaders
        load(options)
        return
    request.getfixturevalue("stop_after_parsing")
    monkeypatch.setattr(sys, "argv", [name, *options])
    with pytest.raises(ParsedError):
        module.main()


@pytest.fixture(scope="module")
def known_options():
    """A list of every option that the help of a command in the guides names."""
    found = set(OTHER_PROGRAMS)
    for name in (each for each in MODULES if is_command(each)):
        module = importlib.import_module(f"{name}.__main__" if find_spec(name).submodule_search_locations else name)
        with pytest.MonkeyPatch.context() as patch:
            for parser_class in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
                patch.setattr(parser_class, "parse_args", lambda self, *_, **__: found.update(names_of(self)) or stop())
            patch.setattr(sys, "argv", [name])
            if name != "training":
                with pytest.raises(ParsedError):
                    module.main()
    return found


def stop():
    raise ParsedError


def names_of(parser):
    return [option for action in parser._actions for option in action.option_strings]


@pytest.mark.parametrize("text", OPTIONS)
def test_options_in_sentences_are_those_of_a_command(text, known_options, monkeypatch, request):
    """Of a model, of adapters, of a series by name: those that no help names are taken where they are given."""
    words = shlex.split(text)
    given = [word for word in words if word.startswith("--")]
    unknown = [word for word in given if word not in known_options]
    if not unknown:
        return
    parents = [command for command in COMMANDS if "--config" in command]
    monkeypatch.chdir(ROOT)
    for command in parents:
        name, *options = shlex.split(command)
        try:
            parse(name, [*options, *words], monkeypatch, request)
        except SystemExit:
            continue
        return
    pytest.fail(f"no command of the guides takes {unknown}")


def test_what_make_is_asked_for_has_a_rule():
    asked = {goal for line in re.findall(r"(?:^|`)make ([a-z -]+)", TEXT, re.MULTILINE) for goal in line.split()}
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert asked
    assert asked <= set(rules)


def test_python_m_training_names_every_command_and_what_it_does():
    named = commands_of_training()
    assert {"training.train", "training.publish", "training.evaluate_checkpoint"} <= set(named)
    assert all(named.values())
    files = (ROOT / "training").glob("[!_]*.py")
    assert set(named) == {f"training.{file.stem}" for file in files if is_command(f"training.{file.stem}")}
