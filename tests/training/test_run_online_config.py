import re
from pathlib import Path

import pytest
import yaml

from training.online_cells import build_cells, starts_of
from training.online_config import load_online_config
from training.online_learners import check_options
from training.online_starts import check_start

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "training" / "configs").glob("online_*.yaml"))
GRADIENT = {"start": "memory", "learner": {"kind": "gradient", "options": {"learning_rate": 0.001}}}
METHODS = {
    "persistence": {"learner": {"kind": "persistence"}, "seeds": [0]},
    "ridge": {"learner": {"kind": "ridge"}, "seeds": [0]},
    "recursive": {"learner": {"kind": "recursive_least_squares"}, "seeds": [0], "frozen": "ridge"},
    "frozen": {"start": "memory", "learner": {"kind": "frozen"}},
    "ogd": GRADIENT | {"memory_off": "off"},
    "off": GRADIENT | {"model": {"memory": "none"}, "protocols": ["delayed"]},
    "mixture": {"learner": {"kind": "mixture", "members": ["persistence", "ogd"]}},
}


@pytest.fixture
def write_study(tmp_path):
    """A function that writes a study of things that are not there and returns its command line."""

    def write(**changes):
        content = {
            "name": "toy-online",
            "datasets": {"day": "day.csv"},
            "streams": {"day": {"context_length": 24}},
            "settings": {"day": [4]},
            "pretrained": {"memory": {"config": "network.yaml"}},
            "methods": METHODS,
            "seeds": [0, 1],
            "output_dir": str(tmp_path / "study"),
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return ["--config", str(tmp_path / "study.yaml")]

    return write


REFUSED = {
    "unknown kind": ({"methods": {"a": {"learner": {"kind": "oracle"}}}}, "oracle"),
    "no start": ({"methods": {"a": {"learner": {"kind": "frozen"}}}}, "must start from a network"),
    "a start too many": ({"methods": {"a": GRADIENT | {"learner": {"kind": "ridge"}}}}, "must not start"),
    "unknown start": ({"methods": {"a": GRADIENT | {"start": "none"}}}, "must start from one of"),
    "a leaky choice": (
        {"methods": {"a": {**GRADIENT, "learner": {"kind": "gradient", "options": {"learning_rate": "chosen"}}}}},
        "delayed replay",
    ),
    "copies with delay": ({"methods": {"a": {"learner": {"kind": "copy_last"}}}}, "copy_last"),
    "a mixture of nothing": ({"methods": {"a": {"learner": {"kind": "mixture"}}}}, "must have members"),
    "a mixture with a ridge": (
        {"methods": METHODS | {"a": {"learner": {"kind": "mixture", "members": ["ridge", "ogd"]}}}},
        "no mixture or ridge",
    ),
    "a member twice": (
        {"methods": METHODS | {"a": {"learner": {"kind": "mixture", "members": ["persistence"] * 2}}}},
        "must be different",
    ),
    "a member of another protocol": (
        {
            "methods": METHODS
            | {
                "copy": {"learner": {"kind": "copy_last"}, "protocols": ["immediate"]},
                "a": {"learner": {"kind": "mixture", "members": ["copy", "ogd"]}},
            }
        },
        r"must be able to serve its protocols.*'copy'",
    ),
    "equal seeds": ({"methods": {"a": GRADIENT | {"seeds": [1, 1]}}}, "different numbers"),
    "unknown role": ({"roles": {"persistence": "nobody"}}, "nobody"),
    "unknown place": ({"settings": {"night": [4]}}, "night"),
    "streams of others": ({"streams": {}}, "streams must say"),
    "no checkpoint": ({"checkpoint_every": 0}, "checkpoint_every"),
    "unknown key": ({"surprise": 1}, "surprise"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_break_a_rule_are_refused(case, write_study, capsys):
    changes, message = REFUSED[case]
    with pytest.raises(SystemExit):
        load_online_config(write_study(**changes))
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_the_own_frozen_network_has_the_same_start_and_nothing_changed(write_study):
    config = load_online_config(write_study())
    assert [config.frozen_of(name) for name in config.methods] == [None, None, "ridge", None] + 3 * ["frozen"]
    assert [config.has_draws(name) for name in config.methods] == 3 * [False] + 4 * [True]
    assert len(build_cells(config)) == 3 * 2 + 2 * 2 * 2 + 2 + 2 * 2


def test_a_correction_that_is_told_not_to_learn_has_no_frozen_network(write_study):
    correction = {"start": "memory", "learner": {"kind": "recursive_correction", "options": {"learns": False}}}
    config = load_online_config(write_study(methods=METHODS | {"control": correction}))
    assert config.frozen_of("control") is None
    assert [name for name, method in config.methods.items() if not method.learns] == [
        "persistence",
        "ridge",
        "frozen",
        "control",
    ]


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.name)
def test_every_committed_study_resolves(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_online_config(["--config", str(file)])
    assert file.stem == config.name.replace("-", "_")
    cells = build_cells(config)
    assert len({cell.folder for cell in cells}) == len(cells)
    starts = {}
    for cell in cells:
        check_options(config, cell.method)
        for name, start in starts_of(config, cell).items():
            fields = starts.setdefault((name, start.dataset, start.horizon), (start, []))[1]
            fields += [each.model for each in config.team_of(cell.method).values() if each.model not in fields]
    for start, fields in starts.values():
        check_start(start, fields)
