"""Text in pictures, in the font of the sheets, which has every script."""

from typing import Optional

import numpy as np

from ..visualization.drawing.text import LINE, advance, pixels_of_word, text_width, words
from ..visualization.palette import Color

_PADDING = 3
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def write_text(
    image: np.ndarray,
    x: int,
    y: int,
    text: str,
    color: Optional[Color] = None,
    ground: Optional[Color] = None,
    scale: int = 1,
) -> None:
    """Write a line into an image, in place; what lies outside of it is left out.

    Args:
        image: uint8 RGB [H, W, 3].
        x: Left end of the line.
        y: Its upper end.
        text: One line.
        color: Of the text; None: black or white, whichever stands out from `ground`.
        ground: Fills the line first; None: the text stands on the image.
        scale: Enlarges the line by a whole number.
    """
    cover = _coverage(text).repeat(scale, 0).repeat(scale, 1)
    height, width = cover.shape
    part = image[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    cover = cover[max(0, -y) :, max(0, -x) :][: part.shape[0], : part.shape[1], None]
    if ground is not None:
        part[:] = ground
    if color is None:
        color = _BLACK if ground is None or _brightness(ground) > 128 else _WHITE
    part[:] = np.round(part * (1 - cover) + np.array(color) * cover).astype(np.uint8)


def label_size(text: str, scale: int = 1) -> tuple[int, int]:
    """Return (height, width) of what `write_text` fills."""
    return LINE * scale, (text_width(text) + 2 * _PADDING) * scale


def _coverage(text: str) -> np.ndarray:
    """Return how much of each pixel of a line the text covers, in [0, 1]."""
    height, width = label_size(text)
    cover, pen = np.zeros((height, width), np.float32), float(_PADDING)
    for word in words(text):
        ys, xs, amount = pixels_of_word(word)
        columns = xs + round(pen)
        inside = (columns >= 0) & (columns < width)
        np.maximum.at(cover, (ys[inside], columns[inside]), amount[inside, 0] / 255)
        pen += advance(word)
    return cover


def _brightness(color: Color) -> float:
    return float(np.dot(color, (0.299, 0.587, 0.114)))
