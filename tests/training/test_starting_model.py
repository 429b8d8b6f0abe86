import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn import DystformerForPrediction
from training.run_config import split_revision
from training.train import main


def test_training_starts_from_a_checkpoint_with_changed_settings(
    run_options, start_options, assert_equal_weights, tmp_path
):
    main(run_options(output="first"))
    changes = ["--model", '{"loss": "mae"}', "--training.learning_rate", "0.0"]
    main(start_options("--checkpoint", str(tmp_path / "first"), *changes, output="second"))
    assert_equal_weights(tmp_path / "first", tmp_path / "second")
    assert DystformerForPrediction.from_pretrained(tmp_path / "second").config.loss == "mae"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", '{"num_hidden_layers": 2}'], "may change no weight of the checkpoint"),
        (["--model", '{"prediction_length": 32}'], "may change no weight of the checkpoint"),
        (["--model", '{"channel_attention": false}'], "may change no weight of the checkpoint"),
        (["--task", "masked_modeling"], r"may change no weight .* \(encoder_checkpoint\)"),
        (["--model", '{"loss": "mea"}'], "loss"),
        (["--model", '{"model_type": "patchtst"}'], "model_type must be the checkpoint's, 'dystformer'"),
    ],
)
def test_a_checkpoint_keeps_its_weights(run_options, start_options, tmp_path, options, message):
    main(run_options("--training.max_steps", "1", output="first"))
    with pytest.raises(SystemExit, match=message):
        main(start_options("--checkpoint", str(tmp_path / "first"), *options, output="second"))


@pytest.mark.parametrize("name", ["checkpoint", "encoder_checkpoint"])
def test_a_start_that_is_not_there_is_named(start_options, capsys, name):
    with pytest.raises(SystemExit):
        main(start_options(f"--{name}", "./nowhere"))
    assert f"{name} must be a folder or a Hub name, found nothing at './nowhere'" in capsys.readouterr().err


def test_a_start_on_the_hub_may_be_pinned_and_a_folder_keeps_its_name(tmp_path):
    assert split_revision("acme/toy") == ("acme/toy", {})
    assert split_revision("acme/toy@0123abc") == ("acme/toy", {"revision": "0123abc"})
    (tmp_path / "run@home").mkdir()
    assert split_revision(str(tmp_path / "run@home")) == (str(tmp_path / "run@home"), {})


def test_a_run_starts_from_one_model(run_options, start_options, tmp_path, capsys):
    main(run_options(output="first"))
    first = str(tmp_path / "first")
    with pytest.raises(SystemExit):
        main(start_options("--checkpoint", first, "--encoder_checkpoint", first, output="second"))
    assert "must start from one model" in capsys.readouterr().err


def test_a_forecaster_starts_from_the_encoder_of_a_masked_model(run_options, start_options, tmp_path):
    main(run_options("--task", "masked_modeling", output="masked"))
    changes = ["--model", '{"pooling_type": "max", "prediction_length": 24}', "--training.learning_rate", "0.0"]
    main(start_options("--encoder_checkpoint", str(tmp_path / "masked"), *changes, output="forecaster"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("masked", "forecaster"))
    backbone = {name for name in after if name.startswith("model.")}
    assert backbone == {name for name in before if name.startswith("model.")}
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    model = DystformerForPrediction.from_pretrained(tmp_path / "forecaster")
    assert model.config.pooling_type == "max"
    assert after["head.projection.weight"].shape == (24, 32)
    assert after["head.projection.weight"].std() > 0


def test_an_encoder_keeps_its_shapes(run_options, start_options, tmp_path):
    main(run_options("--training.max_steps", "1", output="first"))
    with pytest.raises(SystemExit, match="encoder"):
        main(
            start_options(
                "--encoder_checkpoint", str(tmp_path / "first"), "--model", '{"ffn_dim": 64}', output="second"
            )
        )
