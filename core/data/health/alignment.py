"""Whether masks lie on what they outline: where the edges of the frame are, seen from theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np

from ..readers.label_maps import LabelMap

# Frames are looked at this large, and masks moved by so many of their pixels.
SIDE, REACH = 384, 24
_CENTRE = slice(REACH - 1, REACH + 2)
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


def edges_of(grey: np.ndarray) -> np.ndarray:
    """Return how strong the edges of a frame are.

    Args:
        grey: uint8 [h, w], of any size.

    Returns:
        float32 of the size that `shrink_to_side` gives, in units of the mean edge, above or below
        it; all 0 where there is none.
    """
    size = shrink_to_side((grey.shape[1], grey.shape[0]))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (3, 3), 0).astype(np.float32)
    edges = cv2.magnitude(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    mean = float(edges.mean())
    if mean < 1:
        return np.zeros_like(edges)
    return np.minimum(edges / mean, _STRONGEST) - 1


def outlines_of(masks: Mapping[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels on both sides of where a mask ends, as float32 [h, w].

    Args:
        masks: At their own size.
        size: (w, h), of `edges_of`.
    """
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


def edge_map(edges: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Return how strong the edges below outlines are, for each move of these.

    Args:
        edges: What `edges_of` returns.
        outlines: What `outlines_of` returns, not all 0.

    Returns:
        float32 [2 REACH + 1, 2 REACH + 1], the move (x, y) at [y + REACH, x + REACH].
    """
    padded = cv2.copyMakeBorder(edges, *(REACH,) * 4, cv2.BORDER_CONSTANT, value=0)
    return cv2.matchTemplate(padded, outlines, cv2.TM_CCORR) / outlines.sum()


def strength(edges: np.ndarray, outlines: np.ndarray) -> float:
    """Return how strong the edges are where the outlines are, or a pixel beside: see `edge_map`."""
    padded = np.pad(edges, 1)
    y, x = np.nonzero(outlines)
    return max(float(padded[y + down, x + right].mean()) for down, right in np.ndindex(3, 3))


def find_shift(maps: list[np.ndarray], width: int) -> Optional[Shift]:
    """Return by how much the masks of a video are shifted, None where they are not.

    Args:
        maps: `edge_map`s of some of its frames.
        width: Of the frames that they were made of.
    """
    if not maps:
        return None
    mean = np.mean(maps, axis=0)
    x, y = _peak(mean)
    if max(abs(x), abs(y)) < _FEWEST_PIXELS or max(abs(x), abs(y)) == REACH:
        return None
    stronger, now = float(mean.max()), float(mean[_CENTRE, _CENTRE].max())
    agree = [np.abs(np.subtract(_peak(each), (x, y))).max() <= 2 for each in maps]
    if not _is_better(stronger, now) or 2 * sum(agree) < len(agree):
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


def _is_better(there: float, here: float) -> bool:
    return there >= _STRONGER and here <= _SHARE_NOW * there


def _peak(edges: np.ndarray) -> tuple[int, int]:
    """Return the move (x, y) to the strongest edges."""
    y, x = np.unravel_index(int(edges.argmax()), edges.shape)
    return int(x) - REACH, int(y) - REACH
