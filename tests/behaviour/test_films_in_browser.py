"""Films of evaluations play in a real browser, from the page that shows them.

Run with `make browser`; needs chromium, chromium-driver and selenium.
"""

import time

import cv2
import numpy as np
import pytest
from chromium import open_browser
from videos import Disc, draw

from core.tracking.film import Film, overlay

pytestmark = pytest.mark.browser


@pytest.fixture
def browser(tmp_path):
    session = open_browser(tmp_path / "profile")
    yield session
    session.quit()


@pytest.mark.parametrize("size", [(61, 83), (360, 640)])
def test_a_film_plays_in_the_colours_that_were_drawn(browser, tmp_path, size):
    height, width = size
    radius = height / 5
    clip = draw(30, size, [Disc(1, (width / 3, height / 2), radius), Disc(2, (width / 2, 9), 5)])
    clip.images[:, :10] = (220, 30, 40)
    with Film(tmp_path / "films" / "a.mp4") as film:
        for image, labels in zip(clip.images, clip.labels, strict=True):
            film.add(overlay(image, {1: labels == 1}, {}))
    assert film.error is None
    page = tmp_path / "evaluation.html"
    page.write_text('<video src="films/a.mp4" muted></video>')
    browser.get(page.as_uri())
    browser.execute_script("document.querySelector('video').play()")
    deadline = time.monotonic() + 30
    while not browser.execute_script("return document.querySelector('video').currentTime > 0.3"):
        error = browser.execute_script("return document.querySelector('video').error?.message")
        assert error is None, error
        assert time.monotonic() < deadline, "the film does not move"
        time.sleep(0.1)
    found = browser.execute_script("const v = document.querySelector('video');"
                                   "return [v.videoWidth, v.videoHeight, v.duration]")  # fmt: skip
    assert found[:2] == [width + width % 2, height + height % 2]
    assert found[2] == pytest.approx(30 / 25, abs=0.1)
    # the page has a margin of 8 pixels; a film is painted a moment after it moves
    while True:
        color = pixel(browser, 8 + width // 2, 8 + 4)
        if color == pytest.approx([220, 30, 40], abs=6):
            break
        assert time.monotonic() < deadline, f"the film shows {color}"


def pixel(browser, x, y):
    png = np.frombuffer(browser.get_screenshot_as_png(), np.uint8)
    return cv2.imdecode(png, cv2.IMREAD_COLOR)[y, x, ::-1].tolist()
