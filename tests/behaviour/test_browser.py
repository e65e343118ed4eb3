"""The dashboard in a real browser: what was drawn is what the page shows.

Run with `make browser`; needs chromium, chromium-driver and selenium.
"""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from chromium import find_browser, open_browser
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("train/composites", "val/composites")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    """SwanLab's files of a tiny run, or those of the run that SWANLOG names."""
    if os.environ.get("SWANLOG"):
        return Path(os.environ["SWANLOG"])
    folder = tmp_path_factory.mktemp("browser")
    arguments = [
        "visualizations.enabled=true", "visualizations.every_n_steps=2", "model.image_size=64",
        "visualizations.max_pending=100", "visualizations.max_overhead=1",
        "data.num_frames=3", "data.batch_size=1", "data.val_batch_size=1",
        "data.synthetic.num_val_clips=1", "trainer.max_steps=4", "trainer.val_check_interval=2",
        "trainer.validate_first=false", "trainer.enable_progress_bar=false",
        f"swanlab.log_dir={folder / 'swanlog'}", f"hydra.run.dir={folder / 'run'}",
    ]  # fmt: skip
    run = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return folder / "swanlog"


@pytest.fixture(scope="module")
def server(log_dir):
    """The address of `swanlab watch` as `make dashboard` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("swanlab"), "watch", str(log_dir)]
    process = subprocess.Popen(
        [*command, "-h", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: get(f"{address}/api/v1/project"), 60)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def experiment(server) -> dict:
    """The first experiment as the server describes it."""
    return json.loads(get(f"{server}/api/v1/project"))["data"]["experiments"][0]


def test_a_browser_without_selenium_is_a_failure_and_no_skip(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setitem(sys.modules, "selenium", None)
    with pytest.raises(ModuleNotFoundError, match="selenium"):
        find_browser()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    window = open_browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.quit()


@pytest.fixture(scope="module")
def page(browser, server, experiment, log_dir):
    """The experiment's chart page with the last sheet of every key loaded."""
    browser.get(f"{server}/experiment/{experiment['id']}/chart")
    wait_for(lambda: all(key in browser.page_source for key in KEYS), 90)
    for key in KEYS:
        wait_for(lambda key=key: last_sheet(browser, server, experiment, log_dir, key), 90)
    return browser


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def wait_for(condition, seconds: float):
    """Return what `condition` gives once it is true; errors count as not yet."""
    deadline, error = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (OSError, KeyError, IndexError, ValueError) as problem:
            error = problem
        time.sleep(0.3)
    raise AssertionError(f"not true within {seconds} s; last error: {error}")


def loaded_images(browser) -> list[str]:
    """Return the addresses of the sheets that the page shows: wide pictures, fully loaded."""
    return browser.execute_script(
        "return [...document.images].filter(i => i.complete && i.naturalWidth > 600)"
        ".map(i => i.src)"
    )


def shown_bytes(browser, address: str) -> bytes:
    """Return what the page's own <img> address gives inside the page."""
    encoded = browser.execute_async_script(
        "const done = arguments[1];"
        "fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => {"
        " let s = ''; for (const x of new Uint8Array(b)) s += String.fromCharCode(x);"
        " done(btoa(s)); }).catch(e => done('error ' + e));",
        address,
    )
    assert not encoded.startswith("error"), encoded
    return base64.b64decode(encoded)


def shown_pixels(browser, address: str) -> np.ndarray:
    """Return the pixels of the <img> itself, drawn to a canvas of its natural size."""
    encoded = browser.execute_script(
        "const i = [...document.images].find(i => i.src === arguments[0]);"
        "const c = document.createElement('canvas');"
        "c.width = i.naturalWidth; c.height = i.naturalHeight;"
        "c.getContext('2d').drawImage(i, 0, 0); return c.toDataURL('image/png');",
        address,
    )
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(encoded.split(",")[1]))).convert("RGB")
    )


def listed(server, experiment, key: str) -> list[dict]:
    """Return what the dashboard lists under a key: steps, files and captions."""
    tag = urllib.parse.quote(key, safe="")
    answer = get(f"{server}/api/v1/experiment/{experiment['id']}/tag/{tag}")
    return json.loads(answer)["data"]["list"]


def last_sheet(browser, server, experiment, log_dir, key: str) -> Optional[tuple[str, Path]]:
    """Return the address on the page and the file of a key's last sheet; None: not there yet."""
    (name,) = listed(server, experiment, key)[-1]["data"]
    (path,) = log_dir.glob(f"run-*/media/image/{name}")
    content = path.read_bytes()
    addresses = loaded_images(browser)
    return next(((a, path) for a in addresses if shown_bytes(browser, a) == content), None)


@pytest.mark.parametrize("key", KEYS)
def test_every_sheet_is_listed_with_its_step(server, experiment, key):
    items = listed(server, experiment, key)
    steps = [int(item["index"]) for item in items]
    assert steps == sorted(set(steps))
    assert len(steps) >= 2
    for item in items:
        caption = item["more"][0]["caption"]
        assert caption.startswith(f"{key.split('/')[0]} · step {item['index']} · ")


def test_the_page_shows_the_sheets_of_both_stages_as_they_were_drawn(
    page, server, experiment, log_dir
):
    for key in KEYS:
        address, path = last_sheet(page, server, experiment, log_dir, key)
        sheet = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(shown_pixels(page, address), sheet)


def test_the_page_names_the_step_of_every_sheet(page, server, experiment):
    address = loaded_images(page)[0]
    page.execute_script(
        "[...document.images].find(i => i.src === arguments[0]).scrollIntoView({block: 'center'})",
        address,
    )
    save_screenshot(page, "dashboard.png")
    text = page.execute_script("return document.body.innerText")
    for key in KEYS:
        last = listed(server, experiment, key)[-1]
        assert f"{key.split('/')[0]} · step {last['index']} · " in text


def test_an_opened_sheet_can_be_read(page):
    address = loaded_images(page)[0]
    find = "[...document.images].filter(i => i.src === arguments[0])"
    page.execute_script(f"{find}[0].click()", address)
    # the sheet's text is 14 px high at natural size
    scales = f"return {find}.map(i => i.getBoundingClientRect().width / i.naturalWidth)"
    wait_for(lambda: 14 * max(page.execute_script(scales, address)) >= 10, 20)
    save_screenshot(page, "opened.png")


def save_screenshot(page, name: str) -> None:
    """Keep a screenshot where SCREENSHOTS says."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        time.sleep(1)
        page.save_screenshot(str(Path(folder) / name))
