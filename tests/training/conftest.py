"""Training runs of seconds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.windows import RandomWindows, identity
from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from training.bilevel_options import BilevelOptions, carve_meta_split, meta_draws
from training.bilevel_trainer import BilevelTrainer
from training.publish import prepare
from training.train import freeze

CARDS = Path(__file__).parents[2] / "model_cards"
SHIPPED_RUN = "alrnn-rossler"
DATASET_CARD = """---
license: apache-2.0
task_categories:
- time-series-forecasting
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.arrow
---

# Trajectories
"""

MODEL = {
    "model_type": "dystformer",
    "context_length": 64,
    "prediction_length": 16,
    "patch_length": 8,
    "d_model": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "embedding": "linear",
}

DYNONET = {
    "num_channels": 2,
    "context_length": 32,
    "prediction_length": 8,
    "controller_hidden_size": 6,
    "controller_patch_length": 4,
    "worker_hidden_size": 3,
    "worker_context_length": 16,
    "worker_patch_length": 4,
    "trend_window": 5,
}


def _as_options(values, prefix):
    return [item for name, value in values.items() for item in (f"--{prefix}.{name}", str(value))]


@pytest.fixture
def without_matplotlib(monkeypatch):
    """An environment that has no matplotlib."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("matplotlib", "mpl_toolkits")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture
def dynonet_options():
    """Command-line options of a tiny DynoNet."""
    return ["--model.model_type", "dynonet", *_as_options(DYNONET, "model")]


@pytest.fixture
def start_options(oscillators, tmp_path):
    """Command-line options of a tiny run on the oscillators without those of the model, which `more` must name."""

    def options(*more, output="run"):
        training = {
            "output_dir": tmp_path / output,
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_steps": 4,
            "logging_steps": 4,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        protocol = {"context_length": 64, "horizons": "[8,20]"}
        arguments = [*_as_options(training, "training"), *_as_options(protocol, "evaluation.protocol")]
        return [*arguments, "--data.path", str(oscillators), "--evaluation.name", "toy", *more]

    return options


@pytest.fixture
def run_options(start_options):
    """Command-line options of a tiny new dystformer on the oscillators; later ones override earlier ones."""

    def options(*more, output="run"):
        return start_options(*_as_options(MODEL, "model"), *more, output=output)

    return options


@pytest.fixture
def assert_equal_weights():
    """A function that fails unless two checkpoint folders hold the same weights."""

    def check(one, other):
        a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []

    return check


@pytest.fixture
def stop_halfway():
    """A function that makes a finished run of 8 steps look as if it had been stopped after step 4 and a bit."""

    def stop(folder):
        for name in ("training_summary.json", "model.safetensors", "probe.safetensors"):
            (folder / name).unlink()
        for name in ("checkpoint-8", "adapter"):
            shutil.rmtree(folder / name, ignore_errors=name == "adapter")

    return stop


@pytest.fixture
def train_with_a_kill():
    """A function that trains in a process of its own, kills that at checkpoint 20 and runs the command again."""

    def train(options, folder):
        command = [sys.executable, "-m", "training.train", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint-20").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "training_summary.json").exists()
        subprocess.run(command, env=environment, check=True, capture_output=True)

    return train


@pytest.fixture
def train_in_two_processes():
    """A function that trains in two processes that average their gradients."""

    def train(options, *, port):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
        gloo = ("--training.ddp_backend", "gloo", "--training.per_device_train_batch_size", "2")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [*launch, "-m", "training.train", *options, *gloo]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    return train


@pytest.fixture
def waves(tmp_path):
    """A CSV file of two noisy waves over 800 hours."""
    rng = np.random.default_rng(0)
    steps = np.arange(800)
    values = np.stack([np.sin(0.3 * steps), np.cos(0.2 * steps)], axis=1) + 0.05 * rng.normal(size=(800, 2))
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=800, freq="h"), "u": values[:, 0]})
    frame.assign(v=values[:, 1]).to_csv(tmp_path / "waves.csv", index=False)
    return tmp_path / "waves.csv"


@pytest.fixture
def new_trainer(waves, tmp_path):
    """A function of settings that returns a trainer of a new network on the waves, with an optimizer."""

    def build(training=(), network=(), frozen=(), **options):
        options = BilevelOptions(**options)
        torch.manual_seed(0)
        model = DynoNetForPrediction(DynoNetConfig(**DYNONET | dict(network)))
        freeze(model, frozen)
        source = SeriesDataset(waves, "train", context_length=32)
        front, meta = carve_meta_split(options, source, context_length=32, seed=0)
        drawn = {"context_length": 32, "prediction_length": 8, "num_windows": 64, "seed": 0, "augmentations": None}
        settings = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "logging_steps": 2}
        settings |= {"label_names": ["future_values"], "remove_unused_columns": False, "dataloader_pin_memory": False}
        settings |= {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "weight_decay": 0.0}
        trainer = BilevelTrainer(
            options=options,
            meta_windows=None if meta is None else RandomWindows(meta, **meta_draws(drawn)),
            model=model,
            args=TrainingArguments(output_dir=str(tmp_path / "run"), **(settings | dict(training))),
            train_dataset=RandomWindows(front, **drawn),
            data_collator=identity,
        )
        trainer.create_optimizer()
        return trainer

    return build


FSNET = {"model_type": "fsnet", "hidden_size": 4, "representation_size": 8, "num_hidden_layers": 0}
FSNET |= {"num_memory_slots": 4, "controller_size": 4, "memory": "fixed", "trigger_threshold": 1.0}


@pytest.fixture
def day_file(tmp_path):
    """A CSV file of 160 hours of a daily wave with noise."""
    rng = np.random.default_rng(0)
    hours = np.arange(160)
    values = 20 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * rng.normal(size=160).cumsum()
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=160, freq="h"), "OT": values, "other": 0.5})
    frame.to_csv(tmp_path / "day.csv", index=False)
    return tmp_path / "day.csv"


@pytest.fixture
def network_file(tmp_path):
    """The file of a run of two steps, which names no series."""
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "use_cpu": True}
    content = {
        "model": FSNET,
        "data": {"path": "elsewhere.csv"},
        "training": {"output_dir": str(tmp_path / "unused"), **training},
        "evaluation": {"name": "toy"},
    }
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "network.yaml"


@pytest.fixture
def online_study(day_file, network_file, tmp_path):
    """A function that writes a study and returns its command line."""

    def options(*more, **changes):
        gradient = {"kind": "gradient", "options": {"learning_rate": 1e-3}}
        methods = {
            "persistence": {"learner": {"kind": "persistence"}, "seeds": [0]},
            "ridge": {"learner": {"kind": "ridge", "options": {"penalty": 1.0}}, "seeds": [0]},
            "frozen": {"start": "memory", "learner": {"kind": "frozen"}, "label": "frozen network"},
            "ogd": {"start": "memory", "learner": gradient, "memory_off": "ogd-off"},
            "ogd-off": {"start": "memory", "learner": gradient, "model": {"memory": "none"}, "protocols": ["delayed"]},
        }
        series = {"columns": ["OT"], "validation_share": 0.2, "test_share": 0.25}
        content = {
            "name": "toy-online",
            "datasets": {"day": str(day_file)},
            "streams": {"day": {"context_length": 24, "series": series}},
            "settings": {"day": [4]},
            "pretrained": {"memory": {"config": str(network_file)}},
            "methods": methods,
            "roles": {"reference": "ogd", "persistence": "persistence", "ridge": "ridge"},
            "seeds": [0],
            "num_resamples": 20,
            "output_dir": str(tmp_path / "study"),
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return ["--config", str(tmp_path / "study.yaml"), *more]

    return options


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a shipped checkpoint with its results, as the folder of a finished run has them."""
    folder = shutil.copytree(CARDS / SHIPPED_RUN, tmp_path / SHIPPED_RUN)
    shutil.copyfile(CARDS / "results" / f"{SHIPPED_RUN}.json", folder / "results.json")
    return folder


@pytest.fixture
def dataset(tmp_path, write_dataset):
    folder = write_dataset(tmp_path / "chaos", [{"target": np.zeros((2, 5), np.float32), "split": "train"}])
    (folder / "README.md").write_text(DATASET_CARD)
    return folder


@pytest.fixture
def findings():
    """A function that returns what keeps a folder from being published, as text."""

    def found(folder, **options):
        return [str(finding) for finding in prepare(folder, **options)[1]]

    return found
