"""What the card of a run on a series takes from its records."""

from types import SimpleNamespace

import pytest

from hf_tsdyn.models.dynonet import DynoNetConfig
from hf_tsdyn.models.dystformer import DystformerConfig
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesRow
from training import series_facts
from training.series_facts import render_card


@pytest.fixture
def results():
    facts = {
        "fingerprint": "ab12",
        "channel_names": ["u", "v"],
        "num_train_steps": 8640,
        "num_windows": {"test": {"8": 1000}},
    }
    header = {
        "models": ["toy"],
        "labels": {},
        "num_parameters": {"toy": 1234},
        "cpu_seconds": {},
        "claims": {},
        "protocol": {"confidence": 0.95},
        "datasets": {"waves": facts},
        "versions": {},
        "hardware": {"cpu": "a processor", "num_cores": 2, "accelerator": None},
        "git_revision": None,
    }
    return SeriesResults(header, [SeriesRow("toy", "waves", "test", 8, 0, name, 0.5) for name in ("mse", "mae")], [])


@pytest.fixture
def config():
    specialists = [{"kind": "low_rank", "rank": 2}, {"kind": "periodic"}]
    fields = {"num_channels": 2, "context_length": 96, "prediction_length": 8, "specialists": specialists}
    return DynoNetConfig(**fields, architectures=["DynoNetForPrediction"])


@pytest.fixture
def request_of(tmp_path):
    """A function (changes of the run) that returns a request of a checkpoint."""

    def make(evaluation=None, **run):
        own = {"name": "toy", "model_id": None, "study": None, "limits": ("One station.",)}
        own |= {"data_license": "Not ours.", "license": "apache-2.0"}
        training = {"per_device_train_batch_size": 64, "learning_rate": 0.002, "lr_scheduler_type": "cosine", "seed": 3}
        summary = {
            "dataset_fingerprint": "ab12",
            "num_parameters": 1234,
            "steps": 400,
            "best_step": 120,
            "cpu_seconds_of_last_launch": 30.0,
            "closed_form_cpu_seconds": 2.0,
            "versions": {"python": "3.11"},
            "hardware": {"cpu": "a processor", "accelerator": None},
        }
        records = {"data": {"series": {"months": [12, 4, 4]}}, "training": training} | run
        options = SimpleNamespace(**own | (evaluation or {}))
        return SimpleNamespace(checkpoint=tmp_path, evaluation=options, run_config=records, summary=summary)

    return make


def test_the_card_says_what_the_run_was(request_of, results, config):
    bilevel = {"mode": "lookahead", "meta_share": 0.2, "meta_batch_size": None}
    card = render_card(request_of(bilevel=bilevel, weight_averaging={"decay": 0.99}), results, config)
    expected = [
        "2 linear specialists in closed form and 2 tiny recurrent workers, one a channel, led by a controller",
        "| training | the first 8,640 steps: weights and scaler are fitted to them |",
        "| borders | 12 months of training, 4 of validation, 4 of test, of 30 days each |",
        "| start | closed form: low_rank (rank 2); periodic |",
        "| bilevel | mode lookahead, meta_share 0.2 |",
        "| weight averaging | decay 0.99 |",
        "| steps | 400 of 64 windows |",
        "| checkpoint | step 120, the best on the validation windows |",
        "| seed | 3 |",
        "| cost | 32 CPU seconds |",
        'from_pretrained("model_cards/toy")',
        "- It takes the 2 channels of that series",
        "- One station.",
        "apache-2.0, of the weights and this card. Not ours.",
    ]
    assert [text for text in expected if text not in card] == []
    assert "![" not in card
    assert "--start" not in card


def test_shares_stand_where_months_do_not(request_of, results, config):
    series = {"months": None, "validation_share": 0.1, "test_share": 0.2}
    card = render_card(request_of(data={"series": series}, closed_form_start=False), results, config)
    assert "the last 20% are the test, the 10% before them validation" in card
    assert "closed form: " not in card


def test_figures_that_are_there_are_shown(request_of, results, config, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "control.png").write_bytes(b"")
    card = render_card(request_of(), results, config)
    assert f"![{series_facts.CAPTIONS['control']}](figures/control.png)" in card
    assert card.count("![") == 1


def test_a_model_that_was_compared_with_its_start_says_so_in_its_commands(request_of, results, config):
    results.header["models"].append("start")
    assert "training.evaluate_series MODEL --data DATA --start START" in render_card(request_of(), results, config)


def test_a_study_is_shown_once_it_is_shipped(request_of, results, config, tmp_path, monkeypatch):
    monkeypatch.setattr(series_facts, "RESULTS_FOLDER", tmp_path)
    request = request_of({"study": "parts"})
    assert "What each part is worth" not in render_card(request, results, config)
    results.write(tmp_path / "parts.json")
    assert "What each part is worth" in render_card(request, results, config)


def test_a_model_of_any_channels_says_nothing_of_their_number(request_of, results):
    config = DystformerConfig(context_length=96, prediction_length=8, architectures=["DystformerForPrediction"])
    card = render_card(request_of(), results, config)
    assert "A model of type dystformer, trained on the past of waves" in card
    assert "channels of that series, in their order" not in card
    assert "It gives point forecasts" in card


def test_a_card_is_of_the_series_of_the_training(request_of, results, config):
    results.header["datasets"]["waves"]["fingerprint"] = "cd34"
    with pytest.raises(ValueError, match="fingerprint ab12, found results of 'waves', cd34"):
        render_card(request_of(), results, config)
