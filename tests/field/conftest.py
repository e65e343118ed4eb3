"""Folders whose names have none of the words that messages are searched for."""

import math

import pytest
from pycocotools import mask as mask_utils


@pytest.fixture
def folder(tmp_path_factory):
    """Return an empty folder."""
    path = tmp_path_factory.mktemp("x") / "set"
    path.mkdir()
    return path


@pytest.fixture
def tmp_path(tmp_path_factory):
    """Return pytest's folder of the test under a name that is not the test's."""
    return tmp_path_factory.mktemp("y")


@pytest.fixture(autouse=True)
def no_endless_polygons(monkeypatch):
    """Fail where pycocotools would work for hours on a polygon, out of reach of any time limit."""
    rasterize = mask_utils.frPyObjects

    def guarded(objects, height, width):
        if isinstance(objects, list):
            numbers = [x for polygon in objects if isinstance(polygon, list) for x in polygon]
            numbers = [x for x in numbers if isinstance(x, float)]
            if any(not math.isfinite(x) or abs(x) > 1e6 for x in numbers):
                pytest.fail("a polygon that would hang pycocotools was given to it")
        return rasterize(objects, height, width)

    monkeypatch.setattr(mask_utils, "frPyObjects", guarded)
