"""What shows a series is published where settings and results can be read and both allow it, and nowhere else."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.publish import how_to_load, prepare

CARDS = Path(__file__).parents[2] / "model_cards"
ALLOWED = "  ship_weights: true\n"


def settings_say(text):
    def change(folder):
        file = folder / "run_config.yaml"
        assert ALLOWED in file.read_text()
        file.write_text(file.read_text().replace(ALLOWED, text))

    return change


def settings_are(content):
    return lambda folder: (folder / "run_config.yaml").write_text(content)


def results_say(value):
    def change(folder):
        settings_say("")(folder)
        results = json.loads((folder / "results.json").read_text())
        results["header"]["evaluation"]["ship_weights"] = value
        (folder / "results.json").write_text(json.dumps(results))

    return change


KEPT_BACK = {
    "settings": settings_say("  ship_weights: false\n"),
    "a string": settings_say('  ship_weights: "true"\n'),
    "zero": settings_say("  ship_weights: 0\n"),
    "null": settings_say("  ship_weights: null\n"),
    "results": results_say(False),
    "a string in results": results_say("true"),
    "results without settings": lambda folder: (folder / "results.json").write_text("{}"),
    "results that are none": lambda folder: (folder / "results.json").write_text("["),
    "header that is none": lambda folder: (folder / "results.json").write_text('{"header": {"evaluation": 5}}'),
}
UNKNOWN = {
    "none": lambda folder: (folder / "run_config.yaml").unlink(),
    "no YAML": settings_are("a: ["),
    "no text": lambda folder: (folder / "run_config.yaml").write_bytes(b"# \xff\nevaluation: {}\n"),
    "a list": settings_are("- evaluation\n"),
    "no evaluation": settings_are("seed: 0\n"),
    "null": settings_are("evaluation: null\n"),
    "a list of settings": settings_are("evaluation: [1]\n"),
    "too deep": settings_are("[" * 500),
}


@pytest.mark.parametrize("change", KEPT_BACK.values(), ids=KEPT_BACK)
def test_weights_pictures_and_probe_are_kept_back_unless_both_allow_them(checkpoint, change):
    change(checkpoint)
    bundle, findings = prepare(checkpoint)
    found = "\n".join(map(str, findings))
    assert "must both let its weights be published, by evaluation.ship_weights, found model.safetensors" in found
    assert "must both let figures show its series" in found
    assert "['figures/reconstruction.png', 'figures/spectra.png']" in found
    assert "probe.safetensors" not in bundle.files
    assert "probe.safetensors" in bundle.left


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_settings_that_cannot_be_read_are_found_and_allow_nothing(checkpoint, change):
    change(checkpoint)
    bundle, findings = prepare(checkpoint)
    assert "run_config.yaml must be YAML of a run's settings, with its evaluation" in "\n".join(map(str, findings))
    assert "probe.safetensors" not in bundle.files


def test_settings_that_say_nothing_allow_it(checkpoint):
    settings_say("")(checkpoint)
    bundle, findings = prepare(checkpoint)
    assert findings == []
    assert {"model.safetensors", "probe.safetensors"} <= set(bundle.files)


def test_what_a_run_without_weights_left_is_not_uploaded_or_found(tmp_path):
    folder = shutil.copytree(CARDS / "alrnn-ecg", tmp_path / "alrnn-ecg")
    shutil.copyfile(CARDS / "results" / "alrnn-ecg.json", folder / "results.json")
    save_file({"past_values": torch.zeros(1, 8, 2)}, folder / "probe.safetensors")
    bundle, findings = prepare(folder)
    assert findings == []
    assert bundle.left == ("probe.safetensors",)
    assert how_to_load(bundle, "a/b", "c") == 'transformers.AutoConfig.from_pretrained("a/b", revision="c")'
    shutil.copyfile(CARDS / "alrnn-rossler" / "figures" / "spectra.png", folder / "figures" / "spectra.png")
    (found,) = prepare(folder)[1]
    assert re.search(r"figures show its series.* found \['figures/spectra.png'\]", str(found))
