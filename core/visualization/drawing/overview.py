"""The first panel of a sheet whose other panels show a window: the whole frame, with the window."""

import cv2
import numpy as np

from ..clip import Clip, CloseUp
from .paint import bounding_boxes, pack, paint_outlines

_DARK, _LIGHT = (25, 25, 25), (255, 255, 255)


def paint_overview(clip: Clip, close_up: CloseUp, index: int) -> np.ndarray:
    """Draw one whole frame: the window's outline, and outlines of what is predicted outside it.

    Args:
        clip: Of the whole frames.
        close_up: Of the same frames.
        index: Of the frame.

    Returns:
        [h, w] packed, of the size of `close_up.outside`.
    """
    height, width = close_up.outside.shape[-2:]
    image = clip.images[index]
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    top, bottom, left, right = _outline_of(clip, close_up, (height, width))
    image = image.copy()
    # A light line on a dark one is seen on any frame.
    cv2.rectangle(image, (left - 1, top - 1), (right + 1, bottom + 1), _DARK, 1)
    cv2.rectangle(image, (left, top), (right, bottom), _LIGHT, 1)
    masks = close_up.outside[index]
    boxes = sorted(bounding_boxes(masks), key=lambda box: clip.ids[box[0]])
    return paint_outlines(pack(image), masks, clip.colors, boxes)


def _outline_of(clip: Clip, close_up: CloseUp, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return first and last row, first and last column that the window reaches."""
    ends = []
    for part, full, small in zip(close_up.window.box, clip.model_size, size, strict=True):
        ends += [part.start * small // full, -(-part.stop * small // full) - 1]
    return ends[0], ends[1], ends[2], ends[3]
