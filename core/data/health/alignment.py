"""Whether masks lie on what they outline: where the edges of the frame are, seen from theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np

from ..readers.label_maps import LabelMap

# Frames are looked at this large, and masks moved by so many of their pixels.
SIDE, REACH = 384, 24
# An edge that is stronger counts as much as this, as a multiple of the mean.
_STRONGEST = 6.0
# Masks are said to be shifted by no less than this many pixels ...
_FEWEST_PIXELS = 3
# ... to where the edges are stronger by this much, in units of the frame's mean edge, ...
_STRONGER = 0.35
# ... and where they lie now there is no more than this share of that.
_SHARE_NOW = 0.5


@dataclass(frozen=True)
class Shift:
    """By how much the masks of a video would have to be moved, as a share of the frame's width.

    Attributes:
        x: To the right.
        y: Down, also as a share of the width.
        share: Frames that say so, of those that were looked at.
    """

    x: float
    y: float
    share: float


def shrink_to_side(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) at which a frame of a size is looked at: never enlarged."""
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def edge_map(grey: np.ndarray, masks: Mapping[int, np.ndarray]) -> Optional[np.ndarray]:
    """Return how strong the frame's edges are below the masks' outlines, for each move of these.

    Args:
        grey: uint8 [h, w], of the size that `shrink_to_side` gives.
        masks: Of the frame, at their own size.

    Returns:
        float32 [2 REACH + 1, 2 REACH + 1], the move (x, y) at [y + REACH, x + REACH], in units of
        the frame's mean edge above or below it; None where frame or masks have no edge.
    """
    outlines = _outlines(masks, (grey.shape[1], grey.shape[0]))
    num_pixels = int(outlines.sum())
    smooth = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)
    edges = cv2.magnitude(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    mean = float(edges.mean())
    if not num_pixels or mean < 1:
        return None
    edges = np.minimum(edges / mean, _STRONGEST) - 1
    padded = cv2.copyMakeBorder(edges, *(REACH,) * 4, cv2.BORDER_CONSTANT, value=0)
    return cv2.matchTemplate(padded, outlines, cv2.TM_CCORR) / num_pixels


def _outlines(masks: Mapping[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels on both sides of where a mask ends, as float32 [h, w]."""
    if isinstance(masks, LabelMap):
        maps = [masks.numbers]
    else:
        maps = [mask.view(np.uint8) for mask in masks.values()]
    outlines = np.zeros(size[::-1], bool)
    for found in maps:
        small = cv2.resize(found, size, interpolation=cv2.INTER_NEAREST)
        across, down = small[:, 1:] != small[:, :-1], small[1:] != small[:-1]
        # an edge lies between two pixels
        outlines[:, 1:] |= across
        outlines[:, :-1] |= across
        outlines[1:] |= down
        outlines[:-1] |= down
    return outlines.astype(np.float32)


def find_shift(maps: list[np.ndarray], width: int) -> Optional[Shift]:
    """Return by how much the masks of a video are shifted, None where they are not.

    Args:
        maps: `edge_map` of some of its frames.
        width: Of the frames that they were made of.
    """
    if not maps:
        return None
    mean = np.mean(maps, axis=0)
    x, y = _peak(mean)
    if max(abs(x), abs(y)) < _FEWEST_PIXELS or max(abs(x), abs(y)) == REACH:
        return None
    stronger = float(mean[y + REACH, x + REACH] - np.median(mean))
    agree = [np.abs(np.subtract(_peak(each), (x, y))).max() <= 2 for each in maps]
    if not _is_better(stronger, strength(mean)) or 2 * sum(agree) < len(agree):
        return None
    return Shift(x / width, y / width, sum(agree) / len(agree))


def find_offset(own: list[float], others: dict[int, list[float]]) -> Optional[int]:
    """Return to which other frame the masks of a video belong, None where it is their own.

    Args:
        own: `strength` of masks and their frames.
        others: The same with the frames that many places behind theirs, or before them (< 0).
    """
    for offset, values in others.items():
        if not values:
            continue
        agree = [other > mine for other, mine in zip(values, own, strict=True)]
        if _is_better(float(np.mean(values)), float(np.mean(own))) and 2 * sum(agree) > len(agree):
            return offset
    return None


def strength(edges: np.ndarray) -> float:
    """Return how much stronger the edges are where the outlines are than elsewhere."""
    near = edges[REACH - 1 : REACH + 2, REACH - 1 : REACH + 2]
    return float(near.max() - np.median(edges))


def _is_better(there: float, here: float) -> bool:
    return there >= _STRONGER and here <= _SHARE_NOW * there


def _peak(edges: np.ndarray) -> tuple[int, int]:
    """Return the move (x, y) to the strongest edges."""
    y, x = np.unravel_index(int(edges.argmax()), edges.shape)
    return int(x) - REACH, int(y) - REACH
