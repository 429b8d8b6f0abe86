"""Each way to spoil a checkpoint or a dataset is found."""

import hashlib
import json
import re
import shutil
import zlib

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

NAME = "alrnn-rossler"


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def change_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


CARD_MUTANTS = {
    "no licence": ("license: apache-2.0\n", "", "license must be an identifier of the Hub, found None"),
    "unknown licence": ("apache-2.0", "Apache License", "license must be .* found 'Apache License'"),
    "other licence": ("license: apache-2.0", "license: other", "must come with license_name and license_link"),
    "library": ("library_name: hf_tsdyn", "library_name: other", "library_name must be hf_tsdyn, found 'other'"),
    "task": ("pipeline_tag: time-series-forecasting\n", "", "pipeline_tag of .* must be time-series-forecasting"),
    "tags": ("- time-series\n", "", r"tags must name .*, found no \['time-series'\]"),
    "no metadata": ("---\n", "", "must begin with metadata that the Hub reads, found no lines between"),
    "broken metadata": ("license: apache-2.0", "license: [", "must begin with metadata that the Hub reads"),
    "broken results": ("    metrics:\n", "    metric:\n", "must begin with metadata that the Hub reads"),
    "number": (
        "value: 1.213",
        "value: 1.113",
        "divergence.* must be that of results.json, found 1.113 in",
    ),
    "metric": (
        "- type: spectrum_distance",
        "- type: speed",
        "that of results.json, found a metric that is not",
    ),
    "title": ("# alrnn-rossler\n", "# other\n", "title must be the model's name in its results, found 'other'"),
    "link": (
        "(figures/history.png)",
        "(figures/lost.png)",
        r"with it, found no \['figures/lost.png'\]",
    ),
    "link outside": ("(figures/history.png)", "(../other.png)", r"found no \['../other.png'\]"),
    "home": ("# alrnn-rossler\n", "# alrnn-rossler\n\nsee /home/someone/notes", "README.md must name no path"),
    "windows": ("# alrnn-rossler\n", "# alrnn-rossler\n\nC:\\Users\\me\\x", "README.md must name no path"),
    "token": (
        "# alrnn-rossler\n",
        f"# alrnn-rossler\n\nhf_{'a1' * 12}",
        "what looks like a Hugging Face token in line 57",
    ),
    "key": ("# alrnn-rossler\n", "# alrnn-rossler\n\nAKIAABCDEFGHIJKLMNOP", "what looks like an AWS key"),
    "private key": ("# alrnn-rossler\n", "# alrnn-rossler\n\n-----BEGIN RSA PRIVATE KEY-----", "like a private key"),
    "bearer": ("# alrnn-rossler\n", f"# alrnn-rossler\n\nAuthorization: Bearer {'x' * 24}", "like a bearer token"),
    "api key": ("# alrnn-rossler\n", f"# alrnn-rossler\n\nsk-proj-{'x' * 24}", "like an API key"),
}


@pytest.mark.parametrize(("old", "new", "found"), CARD_MUTANTS.values(), ids=CARD_MUTANTS)
def test_a_card_that_misleads_is_found(checkpoint, old, new, found, findings):
    replace(checkpoint / "README.md", old, new)
    assert re.search(found, "\n".join(findings(checkpoint)), re.DOTALL)
    assert "hf_a1" not in "\n".join(findings(checkpoint))


def no_model_index(folder):
    file = folder / "README.md"
    file.write_text(re.sub(r"model-index:\n.*?(?=---\n)", "", file.read_text(), flags=re.DOTALL))


def spoil_tensors(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def huge_header(folder):
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def linked_figure(folder):
    (folder / "figures" / "history.png").unlink()
    (folder / "figures" / "history.png").symlink_to("/etc/hostname")


def linked_card(folder):
    shutil.move(folder / "README.md", folder.parent / "secret.md")
    (folder / "README.md").symlink_to(folder.parent / "secret.md")


def linked_figures(folder):
    shutil.move(folder / "figures", folder.parent / "figures")
    (folder / "figures").symlink_to(folder.parent / "figures")


def cut_figure(folder):
    file = folder / "figures" / "history.png"
    file.write_bytes(file.read_bytes()[:5000])


def figure_with_a_token(folder):
    file, words = folder / "figures" / "history.png", b"tEXtComment\0hf_" + b"a1" * 12
    chunk = (len(words) - 4).to_bytes(4, "big") + words + zlib.crc32(words).to_bytes(4, "big")
    content = file.read_bytes()
    file.write_bytes(content[:33] + chunk + content[33:])


def metadata_with_a_path(folder):
    tensors = load_file(folder / "probe.safetensors")
    save_file(tensors, folder / "probe.safetensors", metadata={"made_in": "/home/someone/runs"})


def other_summary(results):
    next(row for row in results["summary"] if row["model"] == NAME and row["metric"] == "prediction_error")[
        "median"
    ] *= 1.2


FOLDER_MUTANTS = {
    "no card": (lambda folder: (folder / "README.md").unlink(), "must have a card, README.md, found none"),
    "no results on the card": (no_model_index, "must have results, in model-index, found none"),
    "no results file": (lambda folder: (folder / "results.json").unlink(), "come from must be uploaded, found no"),
    "broken results": (
        lambda folder: (folder / "results.json").write_text("{}"),
        "must be a results file",
    ),
    "results of others": (
        lambda folder: change_json(folder / "results.json", lambda results: results["header"].update(models=["other"])),
        r"title must be the model's name in its results, found 'alrnn-rossler', where the results are of \['other'\]",
    ),
    "summary": (lambda folder: change_json(folder / "results.json", other_summary), "must be the median over the rows"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "must hold model.safetensors, found none"),
    "weights not allowed": (
        lambda folder: replace(folder / "run_config.yaml", "ship_weights: true", "ship_weights: false"),
        "must both let its weights be published",
    ),
    "huge header": (huge_header, "must be a whole safetensors file"),
    "pickle as weights": (
        lambda folder: torch.save({"a": torch.zeros(1)}, folder / "model.safetensors"),
        "must be a whole safetensors file",
    ),
    "tensor missing": (
        spoil_tensors(lambda tensors: tensors.popitem()),
        "must hold the tensors of config.json",
    ),
    "tensor added": (
        spoil_tensors(lambda tensors: tensors.update(other=torch.zeros(2))),
        r"'other': \(2,\) in place",
    ),
    "path in metadata": (metadata_with_a_path, "metadata of probe.safetensors must name no path"),
    "pickled figure": (
        lambda folder: torch.save({}, folder / "figures" / "x.pt"),
        "must hold code that loading runs|figures/x.pt, a kind that pickles",
    ),
    "pickle named as a picture": (
        lambda folder: torch.save({}, folder / "figures" / "x.png"),
        "figures/x.png must be an image, found other contents",
    ),
    "photograph": (
        lambda folder: (folder / "figures" / "x.jpg").write_bytes(b"\xff\xd8\xff"),
        "a figure must be .png, found figures/x.jpg",
    ),
    "picture cut short": (cut_figure, "figures/history.png must be an image, found one that is cut short or damaged"),
    "token in a picture": (
        figure_with_a_token,
        "text in figures/history.png must hold no secret, found .* Hugging Face",
    ),
    "nested configuration": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "config.json must be the configuration of a model of hf_tsdyn, found no JSON object",
    ),
    "script as a figure": (lambda folder: (folder / "figures" / "x.py").touch(), "a figure must be .png"),
    "link": (linked_figure, "figures/history.png must be a file of the folder itself, found a link"),
    "linked card": (linked_card, "README.md must be a file of the folder itself, found a link"),
    "linked folder": (linked_figures, "figures/history.png must be a file of the folder itself, found a link"),
    "no text": (lambda folder: (folder / "training_summary.json").write_bytes(b"\x80\x04"), "must be UTF-8 text"),
    "path in a record": (
        lambda folder: change_json(folder / "training_summary.json", lambda each: each.update(at="/home/ann/runs/x")),
        r"training_summary.json must name no path of this machine, found '/home/ann/runs/x'",
    ),
    "token in the settings": (
        lambda folder: replace(folder / "run_config.yaml", "seed: 0", "hub_token: abcdefghijk"),
        "run_config.yaml must hold no secret, found what looks like a password in line",
    ),
    "no configuration": (lambda folder: (folder / "config.json").write_text("[]"), "found no JSON object"),
    "code": (
        lambda folder: change_json(folder / "config.json", lambda each: each.update(auto_map={"AutoConfig": "x.C"})),
        "must name no code to be loaded with it, found auto_map",
    ),
    "other architecture": (
        lambda folder: change_json(folder / "config.json", lambda each: each.update(architectures=["BertModel"])),
        r"found model_type 'alrnn' with architectures \['BertModel'\]",
    ),
    "other type": (
        lambda folder: change_json(folder / "config.json", lambda each: each.update(model_type="dynonet")),
        "found model_type 'dynonet' with architectures",
    ),
    "unknown field": (
        lambda folder: change_json(folder / "config.json", lambda each: each.update(latnet_dim=1)),
        r"must hold fields of ALRNNConfig, found \['latnet_dim'\]",
    ),
    "a model without end": (
        lambda folder: change_json(folder / "config.json", lambda each: each.update(hidden_size=2**40)),
        "from_pretrained must take the checkpoint, found that it refuses it",
    ),
    "impossible field": (
        lambda folder: change_json(folder / "config.json", lambda each: each.update(hidden_size="many")),
        "found one that does not load",
    ),
}


@pytest.mark.parametrize(("spoil", "found"), FOLDER_MUTANTS.values(), ids=FOLDER_MUTANTS)
def test_a_folder_that_misleads_or_harms_is_found(checkpoint, spoil, found, findings):
    assert findings(checkpoint) == []
    spoil(checkpoint)
    assert re.search(found, "\n".join(findings(checkpoint, repo="acme/toy")))


def other_columns(folder):
    file, table = folder / "data/train-00000.arrow", pa.table({"x": [1]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    change_json(folder / "manifest.json", lambda each: each["shards"][0].update(sha256=digest))


DATASET_MUTANTS = {
    "changed": (lambda folder: (folder / "data/train-00000.arrow").write_bytes(b"x"), "must have the bytes that"),
    "missing": (lambda folder: (folder / "data/train-00000.arrow").unlink(), "must list the files of data/"),
    "added": (lambda folder: (folder / "data/extra.arrow").touch(), r"found \['data/extra.arrow'\] in one of the two"),
    "no card": (lambda folder: (folder / "README.md").unlink(), "must have a card"),
    "licence": (lambda folder: replace(folder / "README.md", "apache-2.0", "mine"), "license must be an identifier"),
    "task": (lambda folder: replace(folder / "README.md", "- time-series", "- other"), "task_categories must hold"),
    "files": (
        lambda folder: replace(folder / "README.md", "data/train-*", "data/test-*"),
        "configs must name",
    ),
    "no configs": (
        lambda folder: replace(folder / "README.md", "configs:", "others:"),
        "configs must name the files of each split, found none without files",
    ),
    "configs of another form": (
        lambda folder: replace(folder / "README.md", "configs:", "configs: [5]\nothers:"),
        "configs must name the files of each split, found none without files",
    ),
    "columns": (other_columns, r"must have the columns of trajectories, found \['x'\]"),
    "path": (
        lambda folder: change_json(folder / "manifest.json", lambda each: each.update(config="/home/ann/y")),
        "manifest.json must name no path of this machine",
    ),
}


@pytest.mark.parametrize(("spoil", "found"), DATASET_MUTANTS.values(), ids=DATASET_MUTANTS)
def test_a_dataset_that_misleads_is_found(dataset, spoil, found, findings):
    assert findings(dataset) == []
    spoil(dataset)
    assert re.search(found, "\n".join(findings(dataset)))
