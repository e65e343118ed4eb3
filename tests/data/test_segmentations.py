"""RLEs and polygons: those of pycocotools are read alike, malformed ones refused."""

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from core.data import DataError
from core.data.readers.segmentations import decode_polygons, decode_rle, rle_size


def encoded(mask) -> dict:
    return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))


def checkerboard(height, width) -> np.ndarray:
    return np.indices((height, width)).sum(0) % 2 == 1


def blob(height, width) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - height / 2, x - width / 3) < height / 3


MASKS = {
    "empty": np.zeros((7, 5), bool),
    "full": np.ones((7, 5), bool),
    "one pixel": np.eye(1, 35, 17, dtype=bool).reshape(7, 5),
    "checkerboard": checkerboard(9, 8),
    "blob": blob(480, 854),
    "noise": np.random.default_rng(0).random((61, 47)) < 0.5,
    "long runs": np.repeat([[True], [False], [True]], (1, 3000, 999), axis=0).repeat(50, 1),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_compressed_rles_are_those_of_pycocotools(mask):
    size = mask.shape[::-1]
    as_bytes = encoded(mask)
    as_text = {**as_bytes, "counts": as_bytes["counts"].decode()}
    assert np.array_equal(decode_rle(as_bytes, size, "it"), mask)
    assert np.array_equal(decode_rle(as_text, size, "it"), mask)


def test_runs_go_down_the_columns():
    rle = {"size": [2, 3], "counts": [1, 3, 2]}
    expected = [[False, True, False], [True, True, False]]
    assert decode_rle(rle, (3, 2), "it").tolist() == expected


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ("x", "is not an RLE"),
        ({"counts": [6]}, "is not an RLE"),
        ({"size": [2, 3]}, "is not an RLE"),
        ({"size": [2.0, 3.0], "counts": [6]}, "is not an RLE"),
        ({"size": [3, 2], "counts": [6]}, "is 2 x 3 pixels, expected its frame's 3 x 2"),
        ({"size": [2, 3], "counts": [5]}, "damaged RLE, expected runs of 6 pixels in all"),
        ({"size": [2, 3], "counts": [8, -2]}, "damaged RLE, expected runs of 6 pixels in all"),
        ({"size": [2, 3], "counts": [2**70]}, "damaged RLE, expected numbers or a text"),
        ({"size": [2, 3], "counts": [True]}, "damaged RLE, expected numbers or a text"),
        ({"size": [2, 3], "counts": None}, "damaged RLE, expected numbers or a text"),
        ({"size": [2, 3], "counts": "\udc80"}, "damaged RLE: its `counts` are cut or have other"),
        ({"size": [2, 3], "counts": ""}, "damaged RLE, expected runs of 6 pixels in all"),
        ({"size": [2, 3], "counts": "P"}, "`counts` are cut"),
        ({"size": [2, 3], "counts": " "}, "`counts` are cut"),
        ({"size": [2, 3], "counts": "é"}, "`counts` are cut"),
        ({"size": [2, 3], "counts": "o" * 50 + "0"}, "`counts` are cut"),
    ],
)
def test_malformed_rles_are_refused(rle, message):
    with pytest.raises(DataError, match=f"^it .*{message}"):
        decode_rle(rle, (3, 2), "it")


def test_the_size_of_an_rle_is_width_and_height():
    assert rle_size({"size": [2, 3]}) == (3, 2)
    for value in (None, [[1, 2]], {}, {"size": 3}, {"size": [2]}, {"size": ["2", "3"]}):
        assert rle_size(value) is None


def test_polygons_are_united():
    mask = decode_polygons([[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]], (8, 8), "it")
    expected = np.zeros((8, 8), bool)
    expected[:2, :2] = expected[4:6, 4:6] = True
    assert np.array_equal(mask, expected)


def test_polygons_may_leave_the_frame():
    mask = decode_polygons([[-20, -20, 4, -20, 4, 3, -20, 3]], (8, 8), "it")
    assert mask[:3, :4].all()
    assert mask.sum() == 12


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ("x", "expected an RLE or a list of polygons"),
        ([1, 2, 3, 4, 5, 6], "expected an RLE or a list of polygons"),
        ([[0, 0, 2, 0, 2, 2, 0]], "7 coordinates, expected an even number"),
        ([[0, 0, 2, 0, 2, 2], [1]], "1 coordinates, expected an even number"),
        ([[0, 0, 2, 0]], "no polygon of three points"),
        ([], "no polygon of three points"),
        ([[0, 0, 2, 0, 2, float("nan")]], "not a number or far outside"),
        ([[0, 0, 2, 0, 2, float("-inf")]], "not a number or far outside"),
        ([[0, 0, 2, 0, 2, 10**400]], "not a number or far outside"),
        ([[0, 0, 2, 0, 2, 161]], "not a number or far outside"),
        ([[0, 0, 2, 0, 2, "2"]], "not a number or far outside"),
        ([[0, 0, 2, 0, 2, True]], "not a number or far outside"),
    ],
)
def test_malformed_polygons_are_refused(polygons, message):
    with pytest.raises(DataError, match=f"it .*{message}"):
        decode_polygons(polygons, (8, 8), "it")
