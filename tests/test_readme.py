import re
from pathlib import Path

import pytest

from training.ship_checkpoint import read_results, render_readme

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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
