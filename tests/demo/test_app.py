import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the demo needs gradio")
import gradio as gr

from hf_tsdyn.demo import app
from hf_tsdyn.demo.app import OPENING_MODEL, UPLOAD, build, chosen_trajectory, launch_options
from hf_tsdyn.demo.checkpoints import Checkpoint
from hf_tsdyn.demo.inputs import MAX_BYTES

LENGTHS = (1024, 512, 512)
SKIP = gr.skip()
CHECKPOINTS = {
    "other": Checkpoint(Path("other"), "alrnn", 3),
    OPENING_MODEL: Checkpoint(Path("opening"), "alrnn", 3),
    "seven": Checkpoint(Path("seven"), "dynonet", 7),
}


@pytest.fixture(scope="module")
def page(in_loop):
    return in_loop(lambda: build(CHECKPOINTS))


@pytest.fixture
def upload(tmp_path):
    """A function that writes waves of so many steps of two channels to a file of this name."""

    def write(num_steps, name="mine.csv"):
        waves = np.sin(np.arange(num_steps)[:, None] * [0.1, 0.17])
        np.savetxt(tmp_path / name, waves, delimiter=",", header="u,v", comments="")
        return str(tmp_path / name)

    return write


def offered(series, file, *, model="mean", lengths=LENGTHS):
    names = ("file", "lyapunov", "model", "origin", "context", "horizon", "status")
    return dict(zip(names, app._offer({}, series, file, model, *lengths), strict=True))


def control(page, name):
    return next(block for block in page.blocks.values() if getattr(block, "elem_id", None) == name)


def test_what_is_served_has_limits(page):
    options = launch_options()
    assert options.keys() <= inspect.signature(gr.Blocks.launch).parameters.keys()
    assert options["max_file_size"] == MAX_BYTES == 5 * 2**20
    assert (options["run_history"], options["share"], options["show_error"]) == (False, False, False)
    assert page._queue.max_size == 16
    assert page.delete_cache == (3600, 3600)
    assert page.analytics_enabled is False
    assert {each.api_visibility for each in page.fns.values()} == {"private"}
    assert page._queue.default_concurrency_limit == 1


def test_the_page_opens_with_a_model_whose_symbols_can_be_read(page, in_loop):
    model = control(page, "model")
    assert model.value == OPENING_MODEL
    assert "seven" not in [name for name, _ in model.choices]
    assert control(in_loop(lambda: build({})), "model").value == "persistence"
    assert [control(page, name).value for name in ("origin", "context", "horizon")] == list(LENGTHS)
    assert control(page, "origin").maximum == 4000


def test_an_upload_has_the_lyapunov_time_that_its_owner_knows(upload):
    file = upload(700)
    assert chosen_trajectory(UPLOAD, file).lyapunov_time is None
    assert chosen_trajectory(UPLOAD, file, 40).lyapunov_time == 40
    assert chosen_trajectory("Thomas", file, 40).lyapunov_time == pytest.approx(1 / 0.0349)
    with pytest.raises(ValueError, match="positive, found -3 steps"):
        chosen_trajectory(UPLOAD, file, -3)
    with pytest.raises(ValueError, match="upload a CSV"):
        chosen_trajectory(UPLOAD, None)


def test_a_lyapunov_time_is_in_steps_of_the_file(tmp_path):
    timed = np.stack([0.5 * np.arange(100), np.sin(np.arange(100))], axis=1)
    np.savetxt(tmp_path / "mine.csv", timed, delimiter=",", header="time,u", comments="")
    assert chosen_trajectory(UPLOAD, str(tmp_path / "mine.csv"), 40).lyapunov_time == pytest.approx(20)


@pytest.mark.parametrize(
    ("num_steps", "lengths"),
    [(64, (32, 32, 32)), (90, (32, 32, 48)), (700, (336, 336, 352)), (1400, (688, 512, 512)), (5000, LENGTHS)],
)
def test_sliders_fit_a_short_upload(upload, num_steps, lengths):
    found = offered(UPLOAD, upload(num_steps))
    assert tuple(found[name]["value"] for name in ("origin", "context", "horizon")) == lengths
    assert found["origin"]["maximum"] == num_steps - 32
    status = f"mine.csv: {num_steps:,} steps of 2 channels &#40;u, v&#41;."
    assert found["status"] == gr.update(value=status, elem_classes=[])
    answers = app._forecast({}, UPLOAD, upload(num_steps), None, "mean", *lengths)
    assert "problem" not in answers[0]["elem_classes"]
    assert answers[1] == gr.update(visible=True)


def test_lengths_that_fit_are_left_alone():
    found = offered("Thomas", None, lengths=(2048, 1024, 2048))
    assert [found[name]["value"] for name in ("origin", "context", "horizon")] == [2048, 1024, 2048]
    assert offered("Thomas", None, lengths=(9000, 64, 64))["origin"] == gr.update(maximum=4000, value=1024)
    assert found["file"] == found["lyapunov"] == gr.update(visible=False)


def test_a_field_without_a_number_gets_a_message():
    assert "fill it in" in offered("Thomas", None, lengths=(None, 64, 64))["status"]["value"]
    assert "fill it in" in app._forecast({}, "Thomas", None, None, "mean", 64, None, 64)[0]["value"]


BAD = {
    "a long name": ("mine.csv", "x," + "y" * 140_000 + "\n1,2\n"),
    "brackets": ("mine.npy", "(((("),
    "quotes": ("mine.npy", "'''abc"),
    "no type": ("mine.npy", "{'descr': (), 'fortran_order': False, 'shape': (3,), }"),
    "a shape of truth": ("mine.npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }"),
    "keys of numbers": ("mine.npy", "{1: '<f8', 'fortran_order': False, 'shape': (3,), }"),
    "deep": ("mine.npy", "-" * 9000 + "1"),
    "markup": ("<img src=x onerror=alert(1)>.csv", "<b>,y\n1,2\n3,<script>\n"),
}


def written(file, content):
    if file.suffix == ".npy":
        header = content.ljust(117).encode() + b"\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24))
    else:
        file.write_text(content)
    return str(file)


@pytest.mark.parametrize(("name", "content"), BAD.values(), ids=BAD)
def test_a_bad_file_gets_a_message_and_nothing_else_changes(tmp_path, name, content, caplog):
    file = written(tmp_path / name, content)
    found = offered(UPLOAD, file)
    status = found["status"]
    assert status["elem_classes"] == ["problem"]
    assert "does not work yet" in status["value"]
    assert not set("<>") & set(status["value"])
    assert str(tmp_path) not in status["value"]
    assert len(status["value"]) < 1500
    assert [found[each] for each in ("model", "origin", "context", "horizon")] == [SKIP] * 4
    assert not caplog.records
    refused = app._forecast({}, UPLOAD, file, None, "mean", *LENGTHS)
    assert refused[0]["elem_classes"] == ["problem"]
    assert refused[1:] == [SKIP] * 9


def test_a_file_that_is_gone_is_asked_for_again(upload):
    file = upload(100)
    Path(file).unlink()
    assert "is gone" in offered(UPLOAD, file)["status"]["value"]


def test_no_file_yet_is_no_problem():
    found = offered(UPLOAD, None)
    assert found["status"]["elem_classes"] == []
    assert "5 MB" in found["status"]["value"]
    assert found["file"] == found["lyapunov"] == gr.update(visible=True)


def test_whatever_else_goes_wrong_the_page_lives_on_and_the_log_has_it(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("inner workings")

    monkeypatch.setattr(app, "chosen_trajectory", broken)
    told = [offered("Thomas", None)["status"], app._forecast({}, "Thomas", None, None, "mean", *LENGTHS)[0]]
    for status in told:
        assert status["elem_classes"] == ["problem"]
        assert "inner workings" not in status["value"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2


def test_what_a_model_refuses_is_said_in_words_of_the_page(turning, tmp_path, monkeypatch):
    turning.save_pretrained(tmp_path / "turning")
    found = {"turning": Checkpoint(tmp_path / "turning", "alrnn", 2)}
    message = app._forecast(found, "Thomas", None, None, "turning", *LENGTHS)[0]["value"]
    assert "turning forecasts series of 2 channels, found 3" in message

    class Choosy:
        def forecast(self, past_values, **_):
            raise ValueError("past_values must be otherwise, found as they are; change them.")

    monkeypatch.setattr(app, "load_model", lambda *_: Choosy())
    message = app._forecast({}, "Thomas", None, None, "choosy", *LENGTHS)[0]["value"]
    assert "the context must be otherwise" in message


def test_a_checkpoint_that_is_damaged_gets_a_message(turning, tmp_path):
    turning.save_pretrained(tmp_path / "turning")
    shutil.copy(tmp_path / "turning" / "config.json", tmp_path / "turning" / "model.safetensors")
    found = {"turning": Checkpoint(tmp_path / "turning", "alrnn", None)}
    status = app._forecast(found, "Thomas", None, None, "turning", *LENGTHS)[0]
    assert status["elem_classes"] == ["problem"]
    assert str(tmp_path) not in status["value"]
