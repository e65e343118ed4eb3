"""Numbers of the masks of one frame: where each object is, how large, and in which pieces."""

from collections.abc import Iterator, Mapping

import cv2
import numpy as np

from ..readers.label_maps import LabelMap

# One line per object and frame; `place` counts the annotated frames of the video, `x`, `y`, `w` and
# `h` are the box of its pixels, (`spot_x`, `spot_y`) the first of its specks or holes.
ROW = np.dtype(
    [(name, np.int64 if name == "object" else np.int32) for name in (
        "place", "object", "area", "x", "y", "w", "h", "specks", "holes", "spot_x", "spot_y",
    )]
)  # fmt: skip
# A part of no more pixels is a slip of the pen: 16 in a frame of 854 x 480.
_SPECK_SHARE = 4e-5
_SMALLEST_LIMIT = 4
# It is small beside the object, too.
_SPECK_OF_PART = 0.1
# Two masks of one frame that share more than this are of one object.
SAME_IOU = 0.8

_Box = tuple[int, int, int, int]


def speck_limit(width: int, height: int) -> int:
    """Return the most pixels that a speck or a hole has in a frame of a size."""
    return max(_SMALLEST_LIMIT, round(_SPECK_SHARE * width * height))


def measure(masks: Mapping[int, np.ndarray], place: int) -> list[tuple]:
    """Return one `ROW` for each object that is in a frame.

    Args:
        masks: {object id: bool [H, W]}, all of one size.
        place: The frame.
    """
    rows = []
    for key, part, (x, y, w, h), limit in _parts(masks):
        specks, holes, spot = _find_slips(part, limit)
        area = cv2.countNonZero(part)
        rows.append((place, key, area, x, y, w, h, specks, holes, x + spot[0], y + spot[1]))
    return rows


def _parts(masks: Mapping[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray, _Box, int]]:
    """Yield id, mask inside its box as bytes [h, w], box and `speck_limit` of what is not empty."""
    if isinstance(masks, LabelMap):
        numbers = masks.numbers
        limit = speck_limit(numbers.shape[1], numbers.shape[0])
        occupied = numbers if numbers.dtype == np.uint8 else (numbers > 0).view(np.uint8)
        left, top, width, height = cv2.boundingRect(occupied)
        numbers = numbers[top : top + height, left : left + width]
        for key in masks:
            mask = (numbers == masks.number_of(key)).view(np.uint8)
            x, y, w, h = cv2.boundingRect(mask)
            yield key, mask[y : y + h, x : x + w], (left + x, top + y, w, h), limit
        return
    for key, found in masks.items():
        mask = found.view(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        if w:
            limit = speck_limit(mask.shape[1], mask.shape[0])
            yield key, mask[y : y + h, x : x + w], (x, y, w, h), limit


def _find_slips(part: np.ndarray, limit: int) -> tuple[int, int, tuple[int, int]]:
    """Return how many specks and holes a mask [h, w] has, and where the first of them is."""
    outlines, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if len(outlines) == 1:  # as almost always
        return 0, 0, (0, 0)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    areas = pieces[1:, cv2.CC_STAT_AREA]
    specks = pieces[1:][(areas <= limit) & (areas < _SPECK_OF_PART * areas.max())]
    # what is outside reaches the added rim, which makes it larger than any hole
    outside = np.pad(1 - part, 1, constant_values=1)
    _, _, around, _ = cv2.connectedComponentsWithStats(outside, connectivity=4)
    around = around[1:]
    inner = around[:, cv2.CC_STAT_LEFT] > 0
    holes = around[inner & (around[:, cv2.CC_STAT_AREA] <= limit)]
    if len(specks):
        return len(specks), len(holes), _middle(specks[0])
    if len(holes):
        x, y = _middle(holes[0])
        return 0, len(holes), (x - 1, y - 1)
    return 0, 0, (0, 0)


def _middle(piece: np.ndarray) -> tuple[int, int]:
    x = piece[cv2.CC_STAT_LEFT] + piece[cv2.CC_STAT_WIDTH] // 2
    y = piece[cv2.CC_STAT_TOP] + piece[cv2.CC_STAT_HEIGHT] // 2
    return int(x), int(y)


def find_overlaps(
    masks: Mapping[int, np.ndarray], rows: list[tuple]
) -> list[tuple[int, int, int, float]]:
    """Return (place, object, object, IoU) of the masks of a frame that are almost the same.

    Args:
        masks: As given to `measure`; those of a `LabelMap` share no pixel.
        rows: What it returned.
    """
    if isinstance(masks, LabelMap) or len(rows) < 2:
        return []
    found = np.array(rows, ROW)
    # a small box cannot be that much of a large one
    first, second = np.nonzero(np.triu(box_ious(found[:, None], found[None]) >= SAME_IOU / 2, 1))
    overlaps = []
    for a, b in zip(found[first], found[second], strict=True):
        one, other = masks[int(a["object"])], masks[int(b["object"])]
        iou = float((one & other).sum() / (one | other).sum())
        if iou >= SAME_IOU:
            overlaps.append((int(a["place"]), int(a["object"]), int(b["object"]), iou))
    return overlaps


def box_ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of the boxes of `ROW`s, which broadcast against each other."""
    width = np.minimum(a["x"] + a["w"], b["x"] + b["w"]) - np.maximum(a["x"], b["x"])
    height = np.minimum(a["y"] + a["h"], b["y"] + b["h"]) - np.maximum(a["y"], b["y"])
    # of large frames the areas exceed 32 bits
    shared = width.clip(0).astype(np.int64) * height.clip(0)
    areas = a["w"].astype(np.int64) * a["h"] + b["w"].astype(np.int64) * b["h"]
    return shared / (areas - shared)
