"""The page as a visitor meets it: a server of its own, and Chromium without a window or a network."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the demo needs gradio")
pytest.importorskip("selenium", reason="a browser is driven by selenium")
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]
CARDS = Path(__file__).parents[2] / "model_cards"
PATIENCE = 300.0
"""Seconds, on a machine that does other things too."""
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1500,1900"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server of the demo listens, on this machine alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    command = [sys.executable, "-m", "hf_tsdyn.demo", "--port", str(port), "--models", str(CARDS)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _answering(f"http://127.0.0.1:{port}", server, log)
        finally:
            server.terminate()
            server.wait(30)


def _answering(url: str, server: subprocess.Popen, log: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=10):
                return url
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, to which the names of other machines mean nothing."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.fixture
def browser(window: webdriver.Chrome, address: str) -> webdriver.Chrome:
    """The page, loaded, with the forecast that it opens with."""
    window.set_window_size(1500, 1900)
    window.get(address)
    _wait(window, lambda: _find(window, "#summary table"))
    return window


def _find(driver: webdriver.Chrome, selector: str):
    found = [each for each in driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]
    return found[0] if found else None


def _wait(driver: webdriver.Chrome, condition: Callable[[], object]) -> None:
    stale = (StaleElementReferenceException,)  # the page redraws itself under our hands
    WebDriverWait(driver, PATIENCE, 0.5, ignored_exceptions=stale).until(lambda _: condition())


def _text(driver: webdriver.Chrome, selector: str) -> str:
    element = _find(driver, selector)
    return element.text if element else ""


def _choose_model(driver: webdriver.Chrome, name: str) -> None:
    driver.find_element(By.CSS_SELECTOR, "#model input").click()
    _wait(driver, lambda: _option(driver, name))
    _option(driver, name).click()


def _option(driver: webdriver.Chrome, name: str):
    options = driver.find_elements(By.CSS_SELECTOR, "[role=option]")
    return next((each for each in options if each.text.strip().endswith(name)), None)


def _choose_series(driver: webdriver.Chrome, name: str) -> None:
    labels = driver.find_elements(By.CSS_SELECTOR, "#series label")
    next(each for each in labels if each.text.strip() == name).click()


def _forecast(driver: webdriver.Chrome, model: str) -> None:
    """Press the button, and wait until the table is that of this model and every figure of it is drawn."""
    driver.find_element(By.ID, "run").click()
    _wait(driver, lambda: model in _text(driver, "#summary table th:nth-child(2)"))


def _drawn(driver: webdriver.Chrome, name: str) -> bool:
    image = _find(driver, f"#{name} img")
    return image is not None and driver.execute_script("return arguments[0].naturalWidth", image) > 300


def _hosts(driver: webdriver.Chrome) -> set[str]:
    """Return what the page asked of whom, as far as Chromium's log of requests says."""
    entries = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    urls = [each["params"]["request"]["url"] for each in entries if each["method"] == "Network.requestWillBeSent"]
    assert urls
    return {urlsplit(url).hostname for url in urls if url.startswith("http")}


def _save_screenshot(driver: webdriver.Chrome, file: Path) -> None:
    height = driver.execute_script("return document.documentElement.scrollHeight")
    driver.set_window_size(1500, max(height + 150, 900))
    assert driver.save_screenshot(str(file))
    assert file.stat().st_size > 20_000


def test_a_dystformer_forecasts_lorenz_and_nothing_is_asked_of_other_machines(browser, tmp_path):
    _choose_model(browser, "dystformer-quickstart")
    number = browser.find_element(By.CSS_SELECTOR, "#origin input[type=number]")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("3000", Keys.TAB)
    _forecast(browser, "dystformer-quickstart")
    assert "saw the 512 steps before step 3,000" in _text(browser, "#status")
    for figure in ("phase", "channels", "error", "attractor"):
        _wait(browser, lambda figure=figure: _drawn(browser, figure))
    assert not _find(browser, "#graph img")
    assert "Lyapunov times" in _text(browser, "#summary")
    for row in ("median over 8 starts", "coverage of the 80 % interval", "state-space divergence"):
        assert row in _text(browser, "#summary")
    _save_screenshot(browser, tmp_path / "dystformer.png")
    _choose_series(browser, "Thomas")
    _wait(browser, lambda: "Thomas: 12,000 steps of 3 channels (x, y, z)" in _text(browser, "#status"))
    assert browser.find_element(By.CSS_SELECTOR, "#origin input[type=number]").get_attribute("value") == "3000"
    assert _hosts(browser) == {"127.0.0.1"}


def test_an_alrnn_shows_its_symbol_graph(browser, tmp_path):
    assert "alrnn-lorenz63-p2" in _text(browser, "#summary")  # which the page opens with
    for figure in ("phase", "channels", "error", "attractor", "graph", "regions"):
        _wait(browser, lambda figure=figure: _drawn(browser, figure))
    assert "linear regions visited" in _text(browser, "#summary")
    _save_screenshot(browser, tmp_path / "alrnn.png")


def test_a_bad_file_gets_a_message_and_a_good_one_a_forecast(browser, tmp_path):
    bad, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    bad.write_text("x,y\n1,2\n3,four\n")
    time_ahead = np.arange(700)[:, None] / 8
    waves = np.sin(time_ahead * [1.0, 0.7]) + np.cos(time_ahead * 0.31)
    timed = np.hstack([time_ahead, waves])
    np.savetxt(good, timed, delimiter=",", header="time (s),u,<b>v$^", comments="")
    _choose_series(browser, "a file of mine")
    _wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#file input[type=file]"))
    browser.find_element(By.CSS_SELECTOR, "#file input[type=file]").send_keys(str(bad))
    _wait(browser, lambda: "four" in _text(browser, "#status"))
    assert str(tmp_path) not in browser.page_source
    assert "gradio/" not in _text(browser, "#status")
    _save_screenshot(browser, tmp_path / "bad.png")
    browser.find_element(By.CSS_SELECTOR, "#file button[aria-label*=emove], #file button[aria-label*=lear]").click()
    _wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#file input[type=file]"))
    browser.find_element(By.CSS_SELECTOR, "#file input[type=file]").send_keys(str(good))
    _wait(browser, lambda: "700 steps of 2 channels (u, <b>v$^). 'time (s)' holds its" in _text(browser, "#status"))
    _choose_model(browser, "parroting")
    _forecast(browser, "parroting")
    _wait(browser, lambda: _drawn(browser, "phase"))
    assert "time is in steps" in _text(browser, "#status")
    _save_screenshot(browser, tmp_path / "uploaded.png")
    browser.find_element(By.CSS_SELECTOR, "#lyapunov input").send_keys(Keys.CONTROL, "a")
    browser.find_element(By.CSS_SELECTOR, "#lyapunov input").send_keys("100")
    browser.find_element(By.ID, "run").click()
    _wait(browser, lambda: "Lyapunov times" in _text(browser, "#summary"))
    _save_screenshot(browser, tmp_path / "uploaded-in-lyapunov-times.png")


def test_what_is_wrong_is_said_and_the_last_forecast_stays(browser, tmp_path):
    number = browser.find_element(By.CSS_SELECTOR, "#origin input[type=number]")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("128", Keys.TAB)
    browser.find_element(By.ID, "run").click()
    _wait(browser, lambda: "start later, or shorten the context" in _text(browser, "#status"))
    assert _find(browser, "#summary table")
    assert _drawn(browser, "phase")
    _save_screenshot(browser, tmp_path / "refused.png")


def test_on_a_small_screen_figures_are_wide_enough_to_read(browser, tmp_path):
    browser.set_window_size(500, 900)
    _wait(browser, lambda: browser.find_element(By.CSS_SELECTOR, "#channels img").size["width"] >= 600)
    figure, image = (
        browser.find_element(By.CSS_SELECTOR, each).location["x"] for each in ("#channels", "#channels img")
    )
    assert image >= figure  # what is left of it, nobody could scroll to
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(500, height)
    assert browser.save_screenshot(str(tmp_path / "small.png"))
