"""The palette: which colour belongs to which object."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from .prompts import UNASSIGNED

Color = tuple[int, int, int]

# Hand-picked to stay apart from each other, all shades of each (`shades_of`) too; further entries
# continue around the colour wheel.
_PICKED = (
    (230, 25, 75), (60, 180, 75), (67, 99, 216), (255, 225, 25), (245, 130, 49), (143, 32, 181),
    (94, 250, 255), (236, 44, 224), (191, 239, 69), (250, 190, 212), (0, 128, 128),
    (203, 180, 241), (154, 99, 36), (255, 250, 200), (128, 0, 0), (170, 255, 195), (128, 128, 0),
    (255, 180, 130), (20, 24, 118), (120, 120, 120), (0, 90, 40), (90, 40, 100), (255, 100, 130),
    (0, 180, 255),
)  # fmt: skip
NEUTRAL = (205, 205, 205)
# Of the 256 grey levels of a frame so many stay visible through a mask.
_NUM_SHADES = 64

# Two colours that are closer in CIELAB (CIE76) are taken for one in thin outlines.
_MIN_DISTANCE = 10.0
# So many entries after its own are looked at for an id that needs another one.
_MAX_STEPS = 256
# There are not many more colours that far apart.
_MAX_APART = 256


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


@lru_cache(maxsize=1024)
def shades_of(color: Color) -> np.ndarray:
    """Return what a colour becomes over each of the 256 grey levels: [256, 3] uint8.

    The hue stays, whatever lies below: all channels are moved up or down by the same amount, a
    quarter of the level's distance to mid grey. Channels near 0 and 255 are first moved inwards, so
    that they have room for it.
    """
    room = _NUM_SHADES // 2
    base = np.clip(color, room, 255 - room)
    levels = np.arange(256)[:, None] * _NUM_SHADES // 256
    return (base + levels - room).astype(np.uint8)


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
    taken = np.zeros((0, 3), np.float32)
    for number in sorted(ids)[:_MAX_APART]:
        if _are_free([number], taken)[0]:
            entry_of[number] = number
            taken = np.vstack([taken, _lab(number)])
        else:
            displaced.append(number)
    for number in displaced:
        following = range(number + 1, number + 1 + _MAX_STEPS)
        free = np.flatnonzero(_are_free(following, taken))
        if free.size:
            entry_of[number] = following[int(free[0])]
            taken = np.vstack([taken, _lab(entry_of[number])])
    return tuple(category_color(entry_of.get(number, number)) for number in ids)


def _are_free(entries: Sequence[int], taken: np.ndarray) -> np.ndarray:
    """Return which entries of the palette are far enough from all colours taken [N, 3]."""
    labs = np.stack([_lab(entry) for entry in entries])
    distances = np.linalg.norm(labs[:, None] - taken[None], axis=-1)
    return (distances >= _MIN_DISTANCE).all(1)


@lru_cache(maxsize=4096)
def _lab(entry: int) -> np.ndarray:
    """Return an entry of the palette as CIELAB coordinates."""
    pixel = np.array([[category_color(entry)]], np.float32) / 255
    return cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0]
