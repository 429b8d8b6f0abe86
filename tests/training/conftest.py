"""A training run of seconds."""

import pytest


@pytest.fixture
def run_options(oscillators, tmp_path):
    """Command-line options of a tiny dystformer on the oscillators; later ones override earlier ones."""

    def options(*more, output="run"):
        model = {
            "model_type": "dystformer",
            "context_length": 64,
            "prediction_length": 16,
            "d_model": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "ffn_dim": 32,
            "embedding": "linear",
        }
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
        arguments = [item for name, value in model.items() for item in (f"--model.{name}", str(value))]
        arguments += [item for name, value in training.items() for item in (f"--training.{name}", str(value))]
        arguments += ["--data.path", str(oscillators), "--evaluation.name", "toy"]
        arguments += ["--evaluation.protocol.context_length", "64", "--evaluation.protocol.horizons", "[8,20]"]
        return [*arguments, *more]

    return options
