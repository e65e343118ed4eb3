"""The page of an evaluation in a real browser: its films play, its table sorts.

Run with `make browser`; needs chromium, chromium-driver and selenium.
"""

import math
import time

import cv2
import numpy as np
import pytest
from chromium import open_browser
from videos import Disc, draw

from core.evaluate.page import build_page
from core.evaluate.protocols import ObjectScore
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
    browser.get(write_page(tmp_path, {"a": []}, ["a"]).as_uri())
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
    # a film is painted a moment after it moves
    where = browser.execute_script("const box = document.querySelector('video')"
                                   ".getBoundingClientRect(); return [box.x, box.y]")  # fmt: skip
    while True:
        color = pixel(browser, round(where[0]) + width // 2, round(where[1]) + 4)
        if color == pytest.approx([220, 30, 40], abs=6):
            break
        assert time.monotonic() < deadline, f"the film shows {color}"


def test_the_table_of_objects_is_sorted_by_what_is_clicked(browser, tmp_path):
    scores = {
        "cat": [ObjectScore(1, "", 0, 8, 0.5, 0.7, 1, 1, 0, 0)],
        "<b>dog</b>": [
            ObjectScore(2, "tail", 3, 5, math.nan, math.nan, 1, 1, 0, 0),
            ObjectScore(10, "", None, 9, 0.2, 0.1, 1, 1, 0, 0),
        ],
    }
    browser.get(write_page(tmp_path, scores, []).as_uri())
    assert browser.title == "Evaluation of best.pt"
    assert numbers(browser, 1) == ["10", "1", "2"]  # the worst J&F first, none at all last
    assert numbers(browser, 7) == ["0.150", "0.600", "–"]
    for column, objects in (("object", ["1", "2", "10"]), ("object", ["10", "2", "1"])):
        browser.find_element("xpath", f"//th/button[text()='{column}']").click()
        assert numbers(browser, 1) == objects
    browser.find_element("xpath", "//th/button[text()='first frame']").click()
    assert numbers(browser, 3) == ["0", "3", "–"]
    assert "<b>dog</b>" in numbers(browser, 0)


def numbers(browser, column):
    cells = browser.find_elements("css selector", f"tbody td:nth-child({column + 1})")
    return [cell.text for cell in cells]


def write_page(out, objects, worst):
    summary = {
        "weights": "runs/best.pt",
        "objects": 3,
        "videos": 2,
        "prompt": "mask",
        "counts": "every frame",
        "notes": [],
        "not_scored": {},
        "J&F": None,
        "J": 0.5,
        "F": 0.7,
    }
    path = out / "evaluation.html"
    path.write_text(build_page(out, summary, objects, worst))
    return path


def pixel(browser, x, y):
    png = np.frombuffer(browser.get_screenshot_as_png(), np.uint8)
    return cv2.imdecode(png, cv2.IMREAD_COLOR)[y, x, ::-1].tolist()
