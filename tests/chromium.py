"""Headless Chromium for tests."""

import shutil
from pathlib import Path

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1500,1100",
)  # fmt: skip


def find_browser():
    """Return selenium's webdriver and both programs; skip where the programs are missing alone."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed: `make browser` as root does it")
    from selenium import webdriver

    return webdriver, chromium, driver


def open_browser(profile: Path, *flags: str, logs=None):
    """Start Chromium with a profile of its own; `logs` says which of its logs can be read."""
    webdriver, chromium, driver = find_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    if logs:
        options.set_capability("goog:loggingPrefs", logs)
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    window.set_page_load_timeout(120)
    window.set_script_timeout(60)
    return window
