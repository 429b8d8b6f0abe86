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
    return "\n".join([names, *(",".join(f"{value:.6f}" for value in row) for row in values)]) + "\n"


def npy_claiming(shape, descr="<f8"):
    """An NPY file whose header announces a shape, with three numbers behind it."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(24)


def test_a_csv_is_read_as_steps_of_channels(tmp_path):
    found = read_upload(written(tmp_path / "mine.csv", table(WAVE)))
    np.testing.assert_allclose(found.values, WAVE, atol=1e-5)
    assert (found.title, found.dt, found.lyapunov_time) == ("mine.csv", 1.0, None)
    assert found.values.dtype == np.float32


def test_a_column_of_times_gives_the_time_step_and_is_no_channel(tmp_path):
    timed = np.hstack([0.25 * np.arange(200)[:, None], WAVE])
    found = read_upload(written(tmp_path / "mine.csv", table(timed, "time,x,y,z")))
    assert found.values.shape == (200, 3)
    assert found.dt == pytest.approx(0.25)


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
        "an empty file": ("mine.csv", "", "bytes"),
        "zeros": ("mine.csv", bytes(500), "UTF-8"),
        "few steps": ("mine.csv", table(WAVE[:63]), "63 steps"),
        "many steps": ("mine.csv", "x\n" + "1\n" * 50_002, "50,003 lines"),
        "many columns": ("mine.csv", "x" + "," * 5_000 + "\n", "5,001 columns"),
        "a wide row below": ("mine.csv", table(WAVE) + "," * 5_000, "5,001 columns"),
        "no npy": ("mine.npy", b"not numbers at all", "NPY file"),
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
    assert str(tmp_path) not in str(caught.value)


def test_shapes_beyond_the_limits_get_a_message(tmp_path):
    for values in (np.zeros((80, 17)), np.zeros((2, 80, 3)), np.zeros((2, 2, 2, 80)), np.zeros((63, 2))):
        np.save(tmp_path / "mine.npy", values)
        with pytest.raises(ValueError, match=r"mine\.npy"):
            read_upload(tmp_path / "mine.npy")


def test_a_file_above_the_size_limit_is_not_opened(tmp_path, monkeypatch):
    file = written(tmp_path / "mine.csv", table(WAVE))
    monkeypatch.setattr(inputs, "MAX_BYTES", file.stat().st_size)
    assert read_upload(file).values.shape == (200, 3)
    monkeypatch.setattr(inputs, "MAX_BYTES", file.stat().st_size - 1)
    monkeypatch.setattr(inputs, "read_series_file", None)
    with pytest.raises(ValueError, match="cut it"):
        read_upload(file)
