"""Paths of a machine and secrets are found in every text that is published, and nothing else is taken for them."""

import re
import zlib

import pytest
import yaml

from training.publish_texts import PNG_BEGINNING, check_text, png_text, without_paths

PATHS = (
    *("path:/home/ann/x", "|/home/ann/x|", "{/home/ann/x}", "**/home/ann/x**", "host:/mnt/nfs/x", "cc -I/home/ann/inc"),
    *("C:/Users/me/x", r"C:\Users\me\x", r"\\server\share\x", r'"\\\\server\\share\\x"', "file:///home/ann/x"),
    *("~/x", "~/runs/x", "~ann/runs", "/root", "<img src=/mnt/x/y.png>", "a _/home/ann/x_", "/scratch/ann"),
)
NO_PATHS = (
    *("https://huggingface.co/a/b/c", "http://localhost:8888/lab/x", "s3://bucket/x/y", "and/or/both", "1/2/3"),
    *("2024/01/02", "data/**/x/y", "data/train-*.arrow", "../x/y", "./figures/x.png", "model_cards/home/x", "~1/2"),
    *(r"f:\mathbb{R}\to", r"a \\ \hline", "<details></details>/x", "x 2>/dev/null", "~T/4", "km/h/s"),
)
SECRETS = {
    f"see hf_{'a1' * 12}": "a Hugging Face token",
    f"x_hf_{'a1' * 12}": "a Hugging Face token",
    f"api_org_{'a' * 34}": "a Hugging Face token",
    f"ghp_{'a1' * 18}": "a GitHub token",
    f"github_pat_{'a1' * 20}": "a GitHub token",
    f"glpat-{'a1' * 10}": "a GitLab token",
    f"pypi-AgEIcHlwaS5vcmc{'a' * 30}": "a PyPI token",
    f"xoxb-{'1' * 12}-abcdef": "a Slack token",
    f"AIzaSy{'a1' * 16}": "an API key",
    f"eyJ{'a' * 20}.eyJ{'b' * 20}.{'c' * 30}": "a web token",
    "Authorization: Basic dXNlcjpwYXNzd29yZA==": "a login",
    "https://user:pass@host/x": "a login in an address",
    "postgres://me:hunter2@db": "a login in an address",
    f"token: {'a1' * 12}": "a token",
    "hub_token: abcdefghijk": "a password",
    "access_token=abcdefghijk": "a password",
    "secret_key: abcdefghijk": "a password",
    "password: hunter2hunter2": "a password",
    "DB_PASSWORD=hunter2hunter2": "a password",
    f"WANDB_API_KEY={'0a' * 20}": "a password",
    "OPENAI_API_KEY: abcdefghijklmnopq": "a password",
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG": "a password",
    '{"api_key": "abcdefghijk"}': "a password",
}
NO_SECRETS = (
    *("password: protected files are not read", "the password, an everyday word", "hub_token: null", "password: none"),
    *("api_key=os.environ['KEY']", "WANDB_API_KEY=$WANDB_API_KEY", "api_key: YOUR_API_KEY", "pad_token: '[PAD]'"),
    *("https://host:8080/x@y", "http://${USER}:${TOKEN}@host", "num_tokens: 123456789012345678901", "hf_tsdyn.models"),
)


def found(text):
    return [str(finding) for finding in check_text("x.md", f"Some words.\n{text}\nMore words.\n".encode())]


@pytest.mark.parametrize("text", PATHS)
def test_a_path_of_a_machine_is_found(text):
    (finding,) = found(text)
    assert "x.md must name no path of this machine" in finding


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_no_path_of_a_machine_is_not_found(text):
    assert found(text) == []


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_a_secret_is_found_and_not_quoted(text, kind):
    assert f"x.md must hold no secret, found what looks like {kind} in line 2;" in "\n".join(found(text))
    assert text not in "\n".join(found(text))


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_is_no_secret_is_not_found(text):
    assert found(text) == []


CUT = {
    "/home/ann smith/my runs/secret project/x.npy": "x.npy",
    "C:/Users/ann/x.npy": "x.npy",
    r"C:\Users\ann lee\x.npy": "x.npy",
    r"\\server\share\x.npy": "x.npy",
    "--data=DATA:/home/ann/z": "--data=DATA:z",
    "~ann/runs/x/": "x",
    "amazon/chronos": "amazon/chronos",
    "https://huggingface.co/a/b": "https://huggingface.co/a/b",
}


@pytest.mark.parametrize(("value", "cut"), CUT.items())
def test_a_path_in_settings_is_cut_to_its_last_part(value, cut):
    text = without_paths(yaml.safe_dump({"data": {"path": value, "more": [value, 1.0e-5, None]}}))
    assert yaml.safe_load(text) == {"data": {"path": cut, "more": [cut, 1.0e-5, None]}}
    assert found(text) == []


@pytest.mark.parametrize("value", ["--data=/home/ann lee/x y", "/home/ann/x and /home/ann/y", "a: ["])
def test_a_path_without_a_plain_end_stays_to_be_found(value):
    text = without_paths(f"path: {value}\n" if value == "a: [" else yaml.safe_dump({"path": value}))
    assert value in text


def test_settings_without_paths_keep_their_bytes_and_comments_with_paths_go():
    text = "seed:   0  # the first\n"
    assert without_paths(text) == text
    assert without_paths(text + "# from /home/ann/x\n") == "seed: 0\n"


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(*chunks):
    return b"".join(
        [PNG_BEGINNING, chunk(b"IHDR", bytes(13)), *chunks, chunk(b"IDAT", b"/home/ann/x"), chunk(b"IEND", b"")]
    )


def test_the_words_of_a_picture_are_read():
    words = png_text(png(chunk(b"tEXt", b"Comment\0at /home/ann"), chunk(b"iTXt", b"Title\0\0\0de\0\0gr\xc3\xbcn")))
    assert re.split(r"\n+", words) == ["Comment", "at /home/ann", "Title", "de", "grün"]
    assert png_text(png()) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "other contents"),
        (png()[:50], "cut short or damaged"),
        (png()[:-12], "cut short or damaged"),
        (png()[:-1] + b"x", "cut short or damaged"),
        (png() + b"x", "more after its end"),
        (png(chunk(b"zTXt", b"Comment\0\0x")), "zTXt, that may hold words"),
        (png(chunk(b"eXIf", b"x")), "eXIf, that may hold words"),
        (png(chunk(b"iTXt", b"Title\0\1\0\0\0x")), "compressed words"),
    ],
)
def test_a_picture_that_is_not_whole_or_hides_words_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        png_text(content)
