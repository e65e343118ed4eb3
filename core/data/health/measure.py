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
_SPECK_OF_OBJECT = 0.1
# Where OpenCV's tree of outlines has the one around.
_PARENT = 3
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
        area = cv2.countNonZero(part)
        specks, holes, spot = _find_slips(part, limit, area)
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


def _find_slips(part: np.ndarray, limit: int, area: int) -> tuple[int, int, tuple[int, int]]:
    """Return how many specks and holes a mask [h, w] has, and where the first of them is."""
    outlines, tree = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    slips: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for k, outline in enumerate(outlines if len(outlines) > 1 else ()):  # as good as never
        x, y, w, h = cv2.boundingRect(outline)
        if max(w, h) > limit + 2:
            continue
        inside = np.zeros((h, w), np.uint8)
        cv2.drawContours(inside, outlines, k, 1, cv2.FILLED, offset=(-x, -y))
        is_hole = tree[0, k, _PARENT] >= 0
        own = part[y : y + h, x : x + w] != is_hole
        count = cv2.countNonZero(inside * own)
        if count <= limit and (is_hole or count < _SPECK_OF_OBJECT * area):
            slips[is_hole].append((x + w // 2, y + h // 2))
    specks, holes = slips[False], slips[True]
    return len(specks), len(holes), ([*specks, *holes] or [(0, 0)])[0]


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
