"""The palette: which colour belongs to which object."""

import colorsys
import math
from collections.abc import Collection
from functools import lru_cache

import cv2
import numpy as np

from .prompts import UNASSIGNED

Color = tuple[int, int, int]

# Hand-picked to stay apart from each other; further entries continue around the colour wheel.
_PICKED = (
    (230, 25, 75), (60, 180, 75), (67, 99, 216), (255, 225, 25), (245, 130, 49), (145, 30, 180),
    (66, 212, 244), (240, 50, 230), (191, 239, 69), (250, 190, 212), (0, 128, 128),
    (220, 190, 255), (154, 99, 36), (255, 250, 200), (128, 0, 0), (170, 255, 195), (128, 128, 0),
    (255, 180, 130), (0, 0, 117), (120, 120, 120), (0, 90, 40), (90, 40, 100), (255, 100, 130),
    (0, 180, 255),
)  # fmt: skip
NEUTRAL = (205, 205, 205)

# Two colours that are closer in CIELAB (CIE76) are taken for one in thin outlines.
_MIN_DISTANCE = 10.0
# So many entries after its own are looked at for an id that needs another one.
_MAX_STEPS = 256


@lru_cache(maxsize=4096)
def category_color(category: int) -> Color:
    """Return an entry of the palette: RGB in 0..255, the same in every panel, step and run."""
    if category == UNASSIGNED:
        return NEUTRAL
    if category < len(_PICKED):
        return _PICKED[category]
    turn = category - len(_PICKED)
    # The golden angle comes back to the same hue only after half a million turns. Whole numbers
    # keep it exact for ids of any size.
    hue = turn * 618_034 % 1_000_000 / 1_000_000
    saturation, value = ((0.9, 0.75), (0.5, 0.95), (0.75, 0.5))[turn % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=256)
def colors_of(ids: tuple[int, ...]) -> tuple[Color, ...]:
    """Return the colours of the objects of one sheet, no two of them alike.

    Each id has the palette's entry of its number. Where two would be closer than delta-E 10
    (CIELAB, CIE76), the larger takes the next entry after its own that is free: as far from every
    other colour of the sheet. With more ids than there are such colours it keeps its own.

    Args:
        ids: Distinct, from 0.
    """
    entry_of: dict[int, int] = {}
    displaced = []
    for number in sorted(ids):
        if _is_free(number, entry_of.values()):
            entry_of[number] = number
        else:
            displaced.append(number)
    for number in displaced:
        following = range(number + 1, number + 1 + _MAX_STEPS)
        taken = list(entry_of.values())
        entry_of[number] = next((k for k in following if _is_free(k, taken)), number)
    return tuple(category_color(entry_of[number]) for number in ids)


def _is_free(entry: int, taken: Collection[int]) -> bool:
    """Return whether an entry of the palette is far enough from the ones that are taken."""
    lab = _lab(entry)
    return all(math.dist(lab, _lab(other)) >= _MIN_DISTANCE for other in taken)


@lru_cache(maxsize=4096)
def _lab(entry: int) -> tuple[float, ...]:
    """Return an entry of the palette as CIELAB coordinates."""
    pixel = np.array([[category_color(entry)]], np.float32) / 255
    return tuple(cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0].tolist())
