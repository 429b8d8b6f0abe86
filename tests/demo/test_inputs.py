import numpy as np
import pytest

from hf_tsdyn.demo import inputs
from hf_tsdyn.demo.inputs import read_upload

WAVE = np.sin(np.arange(200)[:, None] * 0.1 + np.arange(3))


def written(file, content):
    file.write_bytes(content) if isinstance(content, bytes) else file.write_text(content)
    return file


def table(values, header=None):
    names = header or ",".join(f"c{channel}" for channel in range(values.shape[1]))
    return "\n".join([names, *(",".join(f"{value:.9g}" for value in row) for row in values)]) + "\n"


def npy_claiming(shape, descr="<f8"):
    """An NPY file whose header announces a shape, with three numbers behind it."""
    return npy_with(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


def npy_with(header):
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(24)


def test_a_csv_is_read_as_steps_of_channels(tmp_path):
    found = read_upload(written(tmp_path / "mine.csv", table(WAVE)))
    np.testing.assert_allclose(found.values, WAVE, atol=1e-5)
    assert (found.title, found.dt, found.lyapunov_time, found.remark) == ("mine.csv", 1.0, None, "")
    assert found.channel_names == ("c0", "c1", "c2")
    assert found.values.dtype == np.float32


@pytest.mark.parametrize(
    "name", ["time", "T", " time ", '"time"', "time (s)", "Time [ms]", "timestamp", "datetime", "date", "step"]
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_column_of_times_gives_the_time_step_and_is_no_channel(tmp_path, name, place):
    timed = np.insert(WAVE, place, 0.25 * np.arange(200), axis=1)
    header = ["x", "y", "z"]
    header.insert(place, name)
    found = read_upload(written(tmp_path / "mine.csv", table(timed, ",".join(header))))
    np.testing.assert_allclose(found.values, WAVE, atol=1e-5)
    assert found.channel_names == ("x", "y", "z")
    assert found.dt == pytest.approx(0.25)
    plain = name.strip('"')
    assert found.remark == f"{plain!r} holds its times, 0.25 apart."


def test_integers_that_count_steps_are_no_channel(tmp_path):
    rows = "".join(f"{step},{value:.4f}\n" for step, value in enumerate(WAVE[:, 0]))
    found = read_upload(written(tmp_path / "mine.csv", f"step,x\n{rows}"))
    assert (found.channel_names, found.values.shape, found.dt) == (("x",), (200, 1), 1.0)


def test_dates_are_found_under_any_name(tmp_path):
    rows = "".join(
        f"2024-01-01 {step // 60:02}:{step % 60:02}:00,{value:.4f}\n" for step, value in enumerate(WAVE[:, 0])
    )
    found = read_upload(written(tmp_path / "mine.csv", f"when,x\n{rows}"))
    assert (found.channel_names, found.dt) == (("x",), 60.0)
    assert found.remark == "'when' holds its times, 60 seconds apart."


def test_long_names_of_channels_are_cut(tmp_path):
    found = read_upload(written(tmp_path / "mine.csv", table(WAVE, f"{'x' * 500},b  c,d")))
    assert found.channel_names == ("x" * 20, "b c", "d")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_an_npy_is_read_in_any_type_of_numbers(tmp_path, dtype):
    values = (100 * WAVE).astype(dtype)
    np.save(tmp_path / "mine.npy", values)
    np.testing.assert_allclose(read_upload(tmp_path / "mine.npy").values, values.astype(np.float32))


def test_a_single_channel_keeps_its_axis(tmp_path):
    np.save(tmp_path / "mine.npy", WAVE[:, 0])
    assert read_upload(tmp_path / "mine.npy").values.shape == (200, 1)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('a file was executed')",)


def test_a_pickle_in_an_npy_is_refused_and_not_executed(tmp_path):
    np.save(tmp_path / "mine.npy", np.array([Trap()] * 100), allow_pickle=True)
    with pytest.raises(ValueError, match="NPY file of numbers"):
        read_upload(tmp_path / "mine.npy")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    {
        "words": ("mine.csv", table(WAVE).replace("\n0", "\nfour", 1), "four"),
        "no header": ("mine.csv", "\n".join(table(WAVE).splitlines()[1:]), "header"),
        "an empty file": ("mine.csv", "", "must hold values, found 0 bytes .*choose another"),
        "an empty line": ("mine.csv", "\n", "header row"),
        "zeros": ("mine.csv", bytes(500), "UTF-8"),
        "few steps": ("mine.csv", table(WAVE[:63]), "63 steps and 3 channels .*give a longer series"),
        "lying rows": ("mine.csv", table(WAVE[:, :2].T), "200 columns and 3 lines .*transpose it"),
        "two columns of times": ("mine.csv", table(WAVE, "t,x,Time (s)"), r"found \['t', 'Time \(s\)'\]"),
        "a long cell": ("mine.csv", table(WAVE) + "1,2," + "x" * 200_000, r"numbers in every one.*xx \.\.\. xx"),
        "a long name": ("mine.csv", "x" * 140_000 + "\n1\n", "row of names, found none"),
        "a counter": ("mine.csv", table(np.hstack([np.arange(200)[:, None], WAVE]), "year,x,y,z"), "call a column"),
        "names without one": ("mine.csv", "," + table(WAVE), "name every column"),
        "dates as words": ("mine.csv", "a,b\n" + "31/31/2024,1\n" * 99, "unambiguous format.*call a column"),
        "uneven times": (
            "mine.csv",
            "t,a\n" + "".join(f"{n + n // 50},{n % 7}\n" for n in range(99)),
            "give every step",
        ),
        "many steps": ("mine.csv", "x\n" + "1\n" * 50_002, "50,003 lines"),
        "many columns": ("mine.csv", "x" + "," * 5_000 + "\n", "5,001 columns"),
        "a wide row below": ("mine.csv", table(WAVE) + "," * 5_000, "5,001 columns"),
        "no npy": ("mine.npy", b"not numbers at all", "NPY file"),
        "an open bracket": ("mine.npy", npy_with("(((("), "found none; write it again"),
        "an open quote": ("mine.npy", npy_with("'''abc"), "found none; write it again"),
        "no type": (
            "mine.npy",
            npy_with("{'descr': (), 'fortran_order': False, 'shape': (3,), }"),
            "found none; write",
        ),
        "a true shape": ("mine.npy", npy_claiming((True,)), "mine.npy"),
        "keys of numbers": ("mine.npy", npy_with("{1: '<f8', 'fortran_order': False, 'shape': (3,), }"), "mine.npy"),
        "a huge claim": ("mine.npy", npy_claiming((10**15, 3)), "mine.npy"),
        "an impossible claim": ("mine.npy", npy_claiming((10**40, 3)), "mine.npy"),
        "a negative claim": ("mine.npy", npy_claiming((-1, 3)), "mine.npy"),
        "objects": ("mine.npy", npy_claiming((1, 3), "|O"), "mine.npy"),
        "another kind": ("mine.pt", b"PK", "mine.pt"),
    }.values(),
    ids=str,
)
def test_a_bad_file_gets_a_message_without_a_folder(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_upload(written(tmp_path / name, content))
    said = str(caught.value)
    assert len(said) < 700
    for word in (str(tmp_path), "time_column", "columns=", "pandas", "allow_pickle"):
        assert word not in said


def test_shapes_beyond_the_limits_get_a_message(tmp_path):
    for values in (np.zeros((80, 17)), np.zeros((2, 80, 3)), np.zeros((2, 2, 2, 80)), np.zeros((63, 2))):
        np.save(tmp_path / "mine.npy", values)
        with pytest.raises(ValueError, match=r"mine\.npy"):
            read_upload(tmp_path / "mine.npy")


def test_rows_and_columns_that_are_swapped_are_said_to_be(tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros((3, 3000)))
    with pytest.raises(ValueError, match=r"3 steps and 3,000 channels .*transpose it"):
        read_upload(tmp_path / "mine.npy")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda z: z * np.nan, "channel 'y' of 'mine.csv' must have values, found none"),
        (lambda z: z * 1e31, "channel 'y' .* up to 1e.30"),
        (lambda z: z + 1e8, "channel 'y' .* varies less than 32-bit numbers resolve; subtract its mean"),
    ],
    ids=["no values", "huge", "fine"],
)
def test_channels_that_numbers_of_32_bits_cannot_hold_are_refused(tmp_path, changed, message):
    values = WAVE.copy()
    values[:, 1] = changed(values[:, 1])
    with pytest.raises(ValueError, match=message):
        read_upload(written(tmp_path / "mine.csv", table(values, "x,y,z").replace("nan", "")))


def test_what_32_bits_resolve_and_a_channel_at_rest_are_read(tmp_path):
    values = WAVE.copy()
    values[:, 1], values[:, 2] = values[:, 1] + 1e4, 7
    found = read_upload(written(tmp_path / "mine.csv", table(values)))
    np.testing.assert_allclose(found.values, values, rtol=1e-6, atol=1e-5)


def test_a_series_that_never_changes_is_refused(tmp_path):
    np.save(tmp_path / "mine.npy", np.tile([1.0, 2.0], (100, 1)))
    with pytest.raises(ValueError, match=r"must change, found constant channels alone in 'mine\.npy'"):
        read_upload(tmp_path / "mine.npy")


def test_a_file_that_is_gone_is_asked_for_again(tmp_path):
    with pytest.raises(ValueError, match=r"gone .*upload it again") as caught:
        read_upload(tmp_path / "mine.npy")
    assert str(tmp_path) not in str(caught.value)


def test_a_file_above_the_size_limit_is_not_opened(tmp_path, monkeypatch):
    file = written(tmp_path / "mine.csv", table(WAVE))
    monkeypatch.setattr(inputs, "MAX_BYTES", file.stat().st_size)
    assert read_upload(file).values.shape == (200, 3)
    monkeypatch.setattr(inputs, "MAX_BYTES", file.stat().st_size - 1)
    monkeypatch.setattr(inputs, "read_series_file", None)
    with pytest.raises(ValueError, match="cut it"):
        read_upload(file)
