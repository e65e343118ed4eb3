"""Pages of run books, opened from their files in Chromium without a network."""

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from books import page_of
from chromium import open_browser
from PIL import Image


class Page:
    """A run book's page in a browser."""

    def __init__(self, browser, folder):
        self.browser = browser
        self._folder = folder

    def show(self, book: dict) -> dict:
        return self.open(page_of(book), book)

    def open(self, html: str, book: dict) -> dict:
        path = self._folder / "run.html"
        path.write_text(html, encoding="utf-8")
        return self.visit(path, book)

    def visit(self, path: Path, book: dict) -> dict:
        self._address = path.as_uri()
        self.browser.get("about:blank")
        self.browser.get_log("browser"), self.browser.get_log("performance")
        self.browser.get(self._address)
        if any(run["clips"] for run in book["runs"]):
            self.wait("return book.framesReady()")
        return book

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, script: str, *arguments, seconds: float = 20):
        deadline = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < deadline, f"not true in time: {script}"
            time.sleep(0.02)
        return value

    def state(self, name: str):
        return self.run("return book.state()[arguments[0]]", name)

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def find_all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map(e => e.textContent.toWellFormed())",
            selector,
        )

    def button(self, text: str):
        return self.browser.find_element("xpath", f"//button[starts-with(., '{text}')]")

    def click(self, place: list[float]) -> None:
        """Click with the mouse at a place of the window."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.browser)
        actions.w3c_actions.pointer_action.move_to_location(*map(round, place))
        actions.w3c_actions.pointer_action.click()
        actions.perform()

    def press(self, keys: str) -> None:
        self.find("body").send_keys(keys)

    def layer(self, shape, kind: str, **options) -> np.ndarray:
        """Return what a panel paints, [h, w, 4] uint8; without the frame unless it is asked for."""
        text = self.run("return book.layer(arguments[0], arguments[1])", kind, options)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(*shape, 4)

    def canvas(self, index: int, shape=None) -> np.ndarray:
        """Return a visible panel, [h, w, 4] uint8; with `shape` the centre of each frame pixel."""
        text = self.run(
            "return document.querySelectorAll('#panels canvas')[arguments[0]].toDataURL()", index
        )
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))))
        if shape is None:
            return pixels
        factor = pixels.shape[0] // shape[0]
        assert pixels.shape[:2] == (shape[0] * factor, shape[1] * factor)
        return pixels[factor // 2 :: factor, factor // 2 :: factor]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses asked for since the page was opened, other than its own and data."""
        found = []
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [
            url
            for url in found
            if url.split("#")[0] != self._address and not url.startswith("data:")
        ]


@pytest.fixture(scope="session")
def chromium_window(tmp_path_factory):
    window = open_browser(
        tmp_path_factory.mktemp("profile"),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        logs={"browser": "ALL", "performance": "ALL"},
    )
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1366, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    # Without it a click may come while the page still scrolls.
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
    yield window
    window.quit()


@pytest.fixture
def page(chromium_window, tmp_path):
    return Page(chromium_window, tmp_path)
