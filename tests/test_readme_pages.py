"""Links, tables, module lists and claims of the README, of the guides beside it and of the cards."""

import re
from pathlib import Path

import pytest

from data_generation.systems import TEST_SYSTEMS
from hf_tsdyn.leaderboard import read_boards
from hf_tsdyn.leaderboard_criteria import overall_ranks
from hf_tsdyn.results import EvaluationResults, verdict
from training.result_tables import RESULTS, names_in, read_results, render_tables

ROOT = Path(__file__).parents[1]
PACKAGES = ("hf_tsdyn", "training", "data_generation")
README = ROOT / "README.md"
CARDS = sorted((ROOT / "model_cards").rglob("*.md"))
PAGES = [README, *(ROOT / name / "README.md" for name in PACKAGES), *CARDS]
GUIDES = [page for page in PAGES if page.parent in (ROOT, ROOT / "model_cards", ROOT / "model_cards" / "dynonet-study")]
GUIDES += [ROOT / name / "README.md" for name in PACKAGES]
FOLDERS = (*PACKAGES, "model_cards", "tests")


def read(name):
    return read_results(ROOT / RESULTS / f"{name}.json")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page):
    """What `page.md#...` may name: headings in small letters, signs left out, spaces as hyphens."""
    titles = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_and_anchor_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    for link in (each for each in links if not re.match(r"https?://|mailto:", each)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("package", PACKAGES)
def test_the_list_of_modules_names_every_module_and_no_other(package):
    tree = (ROOT / package / "README.md").read_text().split("## Modules")[1].split("```")[1]
    named = re.findall(r"(?<![\w./])([\w/]+)\.py\b", tree)
    files = {file.relative_to(ROOT / package).with_suffix("").as_posix() for file in (ROOT / package).rglob("*.py")}
    assert len(named) == len(set(named))
    assert set(named) <= files
    assert {name for name in files if not re.search(r"/|__", name)} <= set(named)
    folders = set(re.findall(r"^([\w/]+)/ ", tree, re.MULTILINE))
    assert all((ROOT / package / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_in_sentences_are_there(page):
    names = re.findall(r"`([^`\n]+)`", without_code(page.read_text()))
    paths = [path for name in names for path in re.findall(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]*", name)]
    missing = [path for path in paths if "NAME" not in path and not list(ROOT.glob(path.rstrip("/.")))]
    missing += [name for name in names if re.fullmatch(r"\w+\.yaml", name) and not list(ROOT.glob(f"*/configs/{name}"))]
    assert missing == []


def test_the_readme_lists_every_folder_of_the_checkout():
    listed = re.findall(r"^- \[?`?(\w+)", README.read_text().split("## Files")[1], re.MULTILINE)
    folders = {file.parent for pattern in ("*/*.py", "*/*.md") for file in ROOT.glob(pattern)}
    assert set(listed) == {folder.name for folder in folders if not folder.name.startswith(".")}


def test_the_contents_name_every_section():
    text = README.read_text()
    contents = next(line for line in text.splitlines() if " · " in line)
    sections = re.findall(r"\(#([^)]+)\)", contents)
    titles = re.findall(r"^## (.+)$", without_code(text), re.MULTILINE)
    assert sections == [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    assert text.splitlines().index("```python") < 40
    assert 200 <= len(text.splitlines()) <= 280


@pytest.mark.parametrize(
    "page", [page for page in PAGES if names_in(page.read_text())], ids=lambda page: page.parent.name
)
def test_tables_are_those_of_the_results_files(page):
    assert render_tables(page.read_text(), read) == page.read_text()


def test_every_place_for_a_table_is_whole():
    for page in PAGES:
        places = re.findall(r"<!-- results (.*) -->", page.read_text())
        assert names_in(page.read_text()) == [name for place in places for name in place.split()]
    assert names_in(README.read_text()) == ["online-anchored", "dystformer-quickstart", "dystformer-pretrained"]


def test_models_in_one_table_were_scored_on_the_same_windows():
    first, second = (read(f"dystformer-{name}") for name in ("quickstart", "pretrained"))
    for entry in ("dataset", "protocol", "baselines"):
        assert first.header[entry] == second.header[entry]
    rows = [{row for row in each.summary if row.model in first.header["baselines"]} for each in (first, second)]
    assert rows[0] == rows[1]


def test_what_the_readme_says_of_parroting():
    results = EvaluationResults.read(ROOT / RESULTS / "dystformer-quickstart.json")
    said = {
        (row.metric, row.horizon): verdict(row)
        for row in results.differences
        if (row.model, row.baseline) == ("dystformer-quickstart", "parroting")
    }
    text = " ".join(README.read_text().split("## Results")[1].split())
    assert "has a lower sMAPE than `dystformer-quickstart` at every horizon, and the paired differences say so" in text
    assert {said["smape", horizon] for horizon in (64, 128, 256)} == {"worse"}
    assert "in mean absolute error the model is ahead at 256 steps, and at 64 and 128 the difference is unde" in text
    assert [said["normalised_mae", horizon] for horizon in (64, 128, 256)] == ["undecided", "undecided", "better"]
    for horizon in (64, 128, 256):
        medians = [results.summary_of(n, "smape", horizon).median for n in ("parroting", "dystformer-quickstart")]
        assert medians[0] < medians[1]


def test_what_the_readme_says_of_the_leaderboard():
    board = read_boards(ROOT / RESULTS)[0]
    order = list(overall_ranks(board))
    trained = [model for model in order if board.models[model]["num_parameters"]]
    fitted = [model for model in order if model not in trained]
    ahead = [model for model in fitted if order.index(model) < order.index(trained[0])]
    assert "come behind most of what is fitted to the context alone" in README.read_text()
    assert len(ahead) > len(fitted) / 2


def test_how_many_systems_the_readme_says_are_held_out():
    assert f"the {len(TEST_SYSTEMS)} systems that no training saw" in README.read_text()
