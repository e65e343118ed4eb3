"""Pictures of what was found: frames with their masks, as files that a page can hold."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ...visualization.drawing.paint import bounding_boxes, pack, paint_masks, paint_outlines
from ...visualization.palette import colors_of
from ..readers.frames import AnnotatedFrame
from ..readers.reader import Reader
from .problems import View

# The longest side of a picture, and by how much a spot is enlarged at most.
_SIDE, _MOST_ENLARGED = 420, 12
# Thin outlines keep their colours.
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 86,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
# Around objects that are pointed at.
_MARGIN = 5
_INNER, _OUTER = (255, 255, 255), (0, 0, 0)


def draw(view: View, reader: Reader) -> bytes:
    """Return one view as a JPEG.

    Args:
        view: What to show.
        reader: That of its split.

    Raises:
        DataError: A file is not usable.
    """
    frames = reader.video(view.video).frames
    image = np.asarray(reader.image(frames[view.place + view.frame]))
    masks = _masks_of(view, reader, frames[view.place])
    (x, y, w, h), factor = _window(view, image.shape[1], image.shape[0])
    size = max(1, round(w * factor)), max(1, round(h * factor))
    by_area = cv2.INTER_AREA if factor <= 1 else cv2.INTER_NEAREST
    small = cv2.resize(image[y : y + h, x : x + w], size, interpolation=by_area)
    keys = sorted(masks)
    parts = np.zeros((len(keys), size[1], size[0]), bool)
    for k, key in enumerate(keys):
        inside = masks[key][y : y + h, x : x + w].view(np.uint8) * np.uint8(255)
        # whatever is there stays visible, however thin
        parts[k] = cv2.resize(inside, size, interpolation=by_area) > 0
    parts = np.stack([_move(part, view.shift) for part in parts]) if len(keys) else parts
    painted = _paint(small, parts, keys, view.masks)
    if view.spot is None:
        _point_at(painted, parts, keys, view.objects)
    done, data = cv2.imencode(".jpg", painted[..., ::-1], _JPEG)
    assert done
    return data.tobytes()


def _masks_of(view: View, reader: Reader, frame: AnnotatedFrame) -> Mapping[int, np.ndarray]:
    if view.masks == "none":
        return {}
    masks = reader.masks(view.video, frame)
    if view.spot is None:
        return masks
    # others would lie over what is enlarged
    return {key: masks[key] for key in view.objects if key in masks}


def _window(view: View, width: int, height: int) -> tuple[tuple[int, int, int, int], float]:
    """Return the (x, y, w, h) that is shown, and how much larger than in the frame."""
    if view.spot is None:
        return (0, 0, width, height), _factor(width, height, _SIDE)
    w, h = min(2 * view.reach, width), min(2 * view.reach, height)
    x = min(max(view.spot[0] - w // 2, 0), width - w)
    y = min(max(view.spot[1] - h // 2, 0), height - h)
    return (x, y, w, h), _factor(w, h, _SIDE / 1.5)


def _factor(width: int, height: int, side: float) -> float:
    """Return by how much a part is enlarged, by whole pixels, or reduced."""
    factor = side / max(width, height)
    return factor if factor < 1 else float(min(int(factor), _MOST_ENLARGED))


def _move(mask: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    if shift == (0.0, 0.0):
        return mask
    width = mask.shape[1]
    right, down = (round(amount * width) for amount in shift)
    by = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(mask.view(np.uint8), by, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0


def _paint(image: np.ndarray, masks: np.ndarray, keys: Sequence[int], how: str) -> np.ndarray:
    """Return a frame with its masks, uint8 RGB [h, w, 3]."""
    packed = pack(np.ascontiguousarray(image))
    if keys:
        paint = paint_outlines if how == "outlines" else paint_masks
        packed = paint(packed, masks, colors_of(tuple(keys)), bounding_boxes(masks))
    return np.ascontiguousarray(packed.view(np.uint8).reshape(*packed.shape, 4)[..., :3])


def _point_at(
    image: np.ndarray, masks: np.ndarray, keys: Sequence[int], objects: Sequence[int]
) -> None:
    """Draw a frame around each of some objects."""
    for k, (rows, columns) in bounding_boxes(masks) if len(keys) else []:
        if keys[k] not in objects:
            continue
        corner = columns.start - _MARGIN, rows.start - _MARGIN
        other = columns.stop - 1 + _MARGIN, rows.stop - 1 + _MARGIN
        cv2.rectangle(image, corner, other, _OUTER, 3)
        cv2.rectangle(image, corner, other, _INNER, 1)
