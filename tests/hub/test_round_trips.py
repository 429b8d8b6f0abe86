"""What is pushed to a Hub comes back in new processes to the bit, and offline from their caches alone.

The Hub is that of `hub_server.py`; the client is the real one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.models import ARCHITECTURES

pytestmark = pytest.mark.slow

CARD = Path(__file__).parents[2] / "model_cards" / "alrnn-lorenz63-p2"

SETTINGS = {
    "seed": 5,
    "systems": ["Lorenz", "Rossler", "Chen", "SprottB", "DoubleGyre"],
    "splits": {"train": {"num_parameter_sets": 2}, "validation": {"num_parameter_sets": 1}},
    "integration": {"num_points": 128, "num_periods": 10, "transient_periods": 10},
    "validity": {"checks": ["outlier"]},
    "jobs": 1,
}


PUSH_MODELS = """
import hf_tsdyn
from transformers import AutoModelForTimeSeriesPrediction

result = [
    {
        name: AutoModelForTimeSeriesPrediction.from_pretrained(folder).push_to_hub(f"acme/{name}").oid
        for name, folder in folders.items()
    }
    for folders in given
]
"""

FORECAST = """
from types import SimpleNamespace
import torch
from hf_tsdyn import DystformerForPrediction, ForecastPipeline
from training.starting_model import build_model
from transformers import AutoModelForTimeSeriesPrediction

revisions, past_values = given
past_values = torch.tensor(past_values)
newest, pinned = {}, {}
for name, revision in revisions.items():
    model = AutoModelForTimeSeriesPrediction.from_pretrained(f"acme/{name}")
    newest[name] = model.forecast(past_values, prediction_length=11).tolist()
    pipeline = ForecastPipeline.from_pretrained(f"acme/{name}", revision=revision)
    pinned[name] = pipeline.predict(past_values, prediction_length=11).tolist()
revision = revisions["dystformer"]
older = DystformerForPrediction.from_pretrained("acme/dystformer", revision=revision).state_dict()
name = f"acme/dystformer@{revision}"
for whole, encoder in ((name, None), (None, name)):
    start = SimpleNamespace(task="forecast", start=name, checkpoint=whole, encoder_checkpoint=encoder, model={})
    started = build_model(start).state_dict()
    same = {name for name in older if torch.equal(older[name], started[name])}
    assert same == set(older) if whole else same >= {name for name in older if name.startswith("model.")}
result = [newest, pinned]
"""


@pytest.fixture
def past_values(generator):
    """(batch, time, channels) that every tiny model can be asked about."""
    return torch.randn(2, 70, 3, generator=generator).cumsum(1)


@pytest.fixture
def pushed(tiny_configs, tmp_path, past_values):
    """A function that saves a tiny model of each architecture and returns their folders and forecasts by name."""

    def save(seed):
        torch.manual_seed(seed)
        folders, forecasts = {}, {}
        for name in sorted(ARCHITECTURES):
            model = ARCHITECTURES[name](tiny_configs[name]).eval()
            folders[name] = tmp_path / str(seed) / name
            model.save_pretrained(folders[name])
            forecasts[name] = model.forecast(past_values, prediction_length=11).tolist()
        return folders, forecasts

    return save


def test_models_of_every_architecture_come_back_by_name_and_by_revision(hub, home, tmp_path, pushed, past_values):
    folders, forecasts = zip(pushed(0), pushed(1), strict=True)
    revisions = hub.run_code(PUSH_MODELS, home, *folders)
    for name, older in revisions[0].items():
        assert hub.commits(f"models/acme/{name}")[:2] == [revisions[1][name], older]
        assert forecasts[0][name] != forecasts[1][name]
    (tmp_path / "empty").mkdir()
    asked = [FORECAST, tmp_path / "empty", revisions[0], past_values.tolist()]
    assert hub.run_code(*asked, token=None) == [forecasts[1], forecasts[0]]
    assert hub.run_code(*asked, token=None, offline=True) == [forecasts[1], forecasts[0]]


LOAD_DATASETS = """
import re
from pathlib import Path
from datasets import load_dataset
from huggingface_hub import snapshot_download
from hf_tsdyn.data.trajectories import TrajectoryDataset

online, splits = given
values = lambda rows: {row["item_id"]: row["target"] for row in rows}
data = load_dataset("acme/data")
result = [{split: values(data[split]) for split in data}]
if online:
    card = Path(snapshot_download("acme/data", repo_type="dataset"), "README.md").read_text()
    for block in re.findall(r"```python\\n(.*?)```", card, re.DOTALL):
        exec(block, names := {})
    row = names["trajectory"]
    assert values(load_dataset("acme/data")["train"])[row.item_id] == row.values.tolist()
    result += [{split: values(rows) for split, rows in load_dataset("acme/data", streaming=True).items()}]
    data.push_to_hub("acme/parquet")
folder = snapshot_download("acme/data", repo_type="dataset")
result += [{split: {row.item_id: row.values.tolist() for row in TrajectoryDataset(folder, split)} for split in splits}]
data = load_dataset("acme/parquet")
result += [{split: values(data[split]) for split in data}]
"""


def test_a_dataset_comes_back_whole_streamed_and_as_parquet(hub, home, tmp_path):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    options = ["--config", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "data")]
    done = hub.run(["-m", "data_generation", *options, "--push-to-hub", "acme/data"], home)
    assert f"uploaded   {hub.url}/datasets/acme/data" in done.stdout, done.stderr
    expected = {
        split: {row.item_id: row.values.tolist() for row in TrajectoryDataset(tmp_path / "data", split)}
        for split in ("train", "validation", "test")
    }
    (tmp_path / "empty").mkdir()
    assert hub.run_code(LOAD_DATASETS, tmp_path / "empty", True, list(expected)) == [expected] * 4
    assert hub.run_code(LOAD_DATASETS, tmp_path / "empty", False, list(expected), offline=True) == [expected] * 3
    assert any(file.endswith(".parquet") for file in hub.files("datasets/acme/parquet"))


TRAINING = {
    "model": {
        "model_type": "dystformer",
        "context_length": 64,
        "prediction_length": 16,
        "patch_length": 8,
        "d_model": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "embedding": "linear",
    },
    "training": {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "push_to_hub": True,
        "hub_model_id": "acme/run",
    },
    "evaluation": {"name": "toy", "protocol": {"context_length": 64, "horizons": [8, 20]}},
}

REPEAT_PROBE = """
import numpy as np
from safetensors.numpy import load_file
from hf_tsdyn import ForecastPipeline

name, probe, revision = given
probe = load_file(probe)
pipeline = ForecastPipeline.from_pretrained(name, revision=revision)
result = pipeline.predict(probe["past_values"], prediction_length=probe["forecast"].shape[1]).tolist()
"""


def test_a_training_run_pushes_what_it_saved_and_nothing_that_executes(hub, home, tmp_path, oscillators):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(TRAINING))
    folders = ["--data.path", str(oscillators), "--training.output_dir", str(tmp_path / "run")]
    done = hub.run(["-m", "training.train", "--config", str(tmp_path / "run.yaml"), *folders], home)
    assert done.returncode == 0, done.stderr
    files = hub.files("models/acme/run")
    assert files >= {"config.json", "model.safetensors", "README.md"}
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle"))]
    assert_probe_comes_back(hub, tmp_path, "acme/run", tmp_path / "run" / "probe.safetensors")


def test_a_shipped_card_is_published_in_one_commit(hub, home, tmp_path):
    done = hub.run(["-m", "training.publish", str(CARD), "--repo", "acme/card"], home)
    assert done.returncode == 0, done.stderr
    newest, _ = hub.commits("models/acme/card")  # the Hub's own makes the repository
    assert newest in done.stdout
    kept = {str(file.relative_to(CARD)) for file in CARD.rglob("*") if file.is_file()}
    assert hub.files("models/acme/card") == kept | {".gitattributes", "results.json"}
    assert_probe_comes_back(hub, tmp_path, "acme/card", CARD / "probe.safetensors")


LOAD_PRIVATE = """
from hf_tsdyn import ForecastPipeline

name, revision = given
try:
    ForecastPipeline.from_pretrained(name, revision=revision)
    result = "loaded"
except OSError as error:
    result = str(error)
"""


def test_a_private_repository_is_for_those_with_a_token_and_a_branch_leaves_main_alone(hub, home, tmp_path):
    other = CARD.with_name("alrnn-rossler")
    for folder, options in ((CARD, []), (other, ["--revision", "trial"])):
        done = hub.run(["-m", "training.publish", str(folder), "--repo", "acme/secret", "--private", *options], home)
        assert done.returncode == 0, done.stderr
    assert hub.read("api/models/acme/secret")["private"] is True
    assert len(hub.commits("models/acme/secret")) == 2
    assert hub.commits("models/acme/secret", "trial")[1:] == hub.commits("models/acme/secret")
    (tmp_path / "reader").mkdir()
    assert hub.run_code(LOAD_PRIVATE, tmp_path / "reader", "acme/secret", "trial", token=hub.read_token) == "loaded"
    (tmp_path / "stranger").mkdir()
    said = hub.run_code(LOAD_PRIVATE, tmp_path / "stranger", "acme/secret", "main", token=None)
    assert "acme/secret is not a local folder and is not a valid model identifier" in said
    done = hub.run(["-m", "training.publish", str(CARD), "--repo", "acme/open"], home)
    done = hub.run(["-m", "training.publish", str(CARD), "--repo", "acme/open", "--private"], home)
    assert "found a repository that everybody sees; make it private there" in done.stderr
    assert len(hub.commits("models/acme/open")) == 2


def assert_probe_comes_back(hub, tmp_path, name, probe):
    """Fail unless a repository's model forecasts a probe as it is written there, to the bit, in a new process."""
    (tmp_path / "empty").mkdir()
    revision = hub.commits(f"models/{name}")[0]
    found = hub.run_code(REPEAT_PROBE, tmp_path / "empty", name, probe, revision, token=None)
    np.testing.assert_array_equal(np.array(found, np.float32), load_file(probe)["forecast"])
