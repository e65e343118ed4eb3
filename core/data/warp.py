"""Frames and masks from the size of their files to the model's, in one step.

Flip, affine and resize are one map from the pixels of the square that the model sees to those of
the file. What the map would shrink is smoothed or averaged first, as the official pipeline does by
``antialias=True``; masks take the nearest pixel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from .readers.label_maps import LabelMap

# What official training fills the corners of a rotated frame with: the ImageNet mean.
FILL = (123, 116, 103)
# How many pixels into one ask for smoothing; for averaging before it, and what that leaves to do.
_SMOOTH, _AVERAGE, _LEFT = 1.5, 3.0, 2.0
# Of the official triangle, less what taking two pixels smooths, by pixels into one.
_SIGMA = 0.44


@dataclass(frozen=True)
class Movement:
    """How a clip's frames and masks move, the same for all of them; flip first.

    Attributes:
        flip: Mirrored or not.
        angle: Degrees.
        shear: Degrees, along x.
        scale: Factor on the picture's size.
        translate: (x, y) as parts of the original width and height.
    """

    flip: bool = False
    angle: float = 0.0
    shear: float = 0.0
    scale: float = 1.0
    translate: tuple[float, float] = (0.0, 0.0)

    @property
    def is_affine(self) -> bool:
        """Whether more than a flip is asked for."""
        return (self.angle, self.shear, self.scale, self.translate) != (0.0, 0.0, 1.0, (0.0, 0.0))

    def without_affine(self) -> "Movement":
        """Return the flip alone."""
        return Movement(self.flip)


def needed_side(side: int, movement: Movement) -> int:
    """Return the fewest pixels that a frame may be decoded to along any axis."""
    return math.ceil(side * max(1.0, movement.scale))


def warp_frame(
    image: np.ndarray, movement: Movement, side: int, original_size: tuple[int, int]
) -> np.ndarray:
    """Move one frame and make it square.

    Args:
        image: uint8 RGB [h, w, 3]. Left alone.
        movement: How it moves.
        side: S.
        original_size: (width, height) of the frame, which a decoder may have shrunk: a rotation is
            one in the original picture.

    Returns:
        uint8 [S, S, 3], which may be `image` itself where nothing changes.
    """
    image = _average(image, _shrinks(image, movement, side, original_size))
    image = _smooth(image, _shrinks(image, movement, side, original_size))
    if not movement.is_affine:
        if image.shape[:2] != (side, side):
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
        return cv2.flip(image, 1) if movement.flip else image
    matrix = _source_map(_size_of(image), movement, side, original_size)
    return _warp(image, matrix, (side, side), cv2.INTER_LINEAR, FILL)


def warp_masks(
    masks: Mapping[int, np.ndarray], object_ids: list[int], movement: Movement, side: int
) -> np.ndarray:
    """Move the masks of one frame and make them square.

    Objects never overlap in a `LabelMap`, which is moved in one go, and may in other masks. An
    object that falls between the nearest pixels is there where it covers half a pixel or more, as
    the official resize has it.

    Args:
        masks: {object id: bool mask [h, w]}. Left alone.
        object_ids: The objects to return; absent ones stay empty.
        movement: How they move.
        side: S.

    Returns:
        bool [O, S, S].
    """
    moved = np.zeros((len(object_ids), side, side), bool)
    if isinstance(masks, LabelMap):
        numbers = _warp_labels(masks.numbers, movement, side)
        for mask, object_id in zip(moved, object_ids, strict=True):
            if object_id in masks:
                np.equal(numbers, masks.number_of(object_id), out=mask)
    for mask, object_id in zip(moved, object_ids, strict=True):
        if object_id in masks and not (isinstance(masks, LabelMap) and mask.any()):
            _warp_mask(masks[object_id], movement, mask)
    return moved


def moved_out(
    masks: Mapping[int, np.ndarray], object_ids: list[int], movement: Movement, side: int
) -> bool:
    """Return whether an affine moves an object out of the frame: it could not be prompted."""
    if not movement.is_affine:
        return False
    moved = warp_masks(masks, object_ids, movement, side)
    missing = [key for key, mask in zip(object_ids, moved, strict=True) if not mask.any()]
    return bool(warp_masks(masks, missing, movement.without_affine(), side).any())


def _size_of(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _source_map(
    size: tuple[int, int], movement: Movement, side: int, original_size: tuple[int, int]
) -> np.ndarray:
    """Return the [3, 3] map from the square's pixels to those of a picture of `size`.

    Coordinates count from the corner: the middle of the first pixel is (0.5, 0.5).
    """
    a, s = math.radians(movement.angle), math.radians(movement.shear)
    rotation = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    inverse = np.linalg.inv(movement.scale * rotation @ np.array([[1.0, math.tan(s)], [0.0, 1.0]]))
    original, centre = np.array(original_size, float), np.array(original_size) / 2
    affine = np.eye(3)
    affine[:2, :2] = inverse
    affine[:2, 2] = centre - inverse @ (centre + np.array(movement.translate) * original)
    mirror = np.diag([-1.0 if movement.flip else 1.0, 1.0, 1.0])
    mirror[0, 2] = original[0] if movement.flip else 0.0
    to_original = np.diag([original[0] / side, original[1] / side, 1.0])
    to_stored = np.diag([size[0] / original[0], size[1] / original[1], 1.0])
    return to_stored @ mirror @ affine @ to_original


def _warp(
    image: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    interpolation: int,
    fill: tuple[int, ...],
) -> np.ndarray:
    """Return a picture of `size` whose pixels `matrix` finds in `image`."""
    centred = matrix[:2].copy()
    # OpenCV counts from the middle of the first pixel
    centred[:, 2] += matrix[:2, :2].sum(1) / 2 - 0.5
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, centred, size, flags=flags, borderValue=fill)


def _shrinks(
    image: np.ndarray, movement: Movement, side: int, original_size: tuple[int, int]
) -> tuple[float, float]:
    """Return how many pixels of the picture go into one of the square, along x and along y."""
    matrix = _source_map(_size_of(image), movement, side, original_size)
    across, down = np.linalg.norm(matrix[:2, :2], axis=1)
    return float(across), float(down)


def _average(image: np.ndarray, shrinks: tuple[float, float]) -> np.ndarray:
    """Shrink by areas what is to be shrunk a lot."""
    size = tuple(
        max(1, round(length / (shrink / _LEFT))) if shrink >= _AVERAGE else length
        for length, shrink in zip(_size_of(image), shrinks, strict=True)
    )
    if size == _size_of(image):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _smooth(image: np.ndarray, shrinks: tuple[float, float]) -> np.ndarray:
    """Smooth along the axes that are shrunk, so that nothing finer than the square is left."""
    sizes, sigmas = zip(*(_kernel(shrink) for shrink in shrinks), strict=True)
    if sizes == (1, 1):
        return image
    return cv2.GaussianBlur(
        image, sizes, sigmaX=sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REPLICATE
    )


def _kernel(shrink: float) -> tuple[int, float]:
    """Return (pixels, standard deviation) of the smoothing along an axis."""
    if shrink < _SMOOTH:
        return 1, 1.0
    return 2 * math.ceil(shrink) - 1, _SIGMA * shrink


def _nearest(length: int, side: int) -> np.ndarray:
    """Return the pixels of an axis that those of the square take."""
    return ((np.arange(side) + 0.5) * length / side).astype(np.intp)


def _warp_labels(numbers: np.ndarray, movement: Movement, side: int) -> np.ndarray:
    size = _size_of(numbers)
    if movement.is_affine:
        matrix = _source_map(size, movement, side, size)
        return _warp(numbers, matrix, (side, side), cv2.INTER_NEAREST, (0,))
    rows = numbers[_nearest(size[1], side)]
    columns = _nearest(size[0], side)
    return rows[:, columns[::-1] if movement.flip else columns]


def _warp_mask(mask: np.ndarray, movement: Movement, moved: np.ndarray) -> None:
    """Fill `moved` [S, S] from a mask [h, w], inside the box around the object."""
    pixels = mask.view(np.uint8)
    box = cv2.boundingRect(pixels)
    if box[2] == 0:
        return
    if movement.is_affine:
        _warp_affine(pixels, box, movement, moved)
    else:
        _take_nearest(mask, box, movement.flip, moved)
    if not moved.any():
        moved[:] = _covered(pixels, movement, len(moved))


def _take_nearest(mask: np.ndarray, box: Sequence[int], flip: bool, moved: np.ndarray) -> None:
    x, y, width, height = box
    columns, rows = (_nearest(length, len(moved)) for length in _size_of(mask))
    left, right = np.searchsorted(columns, (x, x + width))
    top, bottom = np.searchsorted(rows, (y, y + height))
    into = moved[:, ::-1] if flip else moved
    into[top:bottom, left:right] = mask[rows[top:bottom]][:, columns[left:right]]


def _warp_affine(
    pixels: np.ndarray, box: Sequence[int], movement: Movement, moved: np.ndarray
) -> None:
    side, size = len(moved), _size_of(pixels)
    x, y, width, height = box
    matrix = _source_map(size, movement, side, size)
    corners = np.array([(x, y), (x + width, y), (x, y + height), (x + width, y + height)])
    places = np.linalg.inv(matrix) @ np.column_stack([corners, np.ones(4)]).T
    left, top = np.floor(places[:2].min(1)).clip(0, side).astype(int)
    right, bottom = np.ceil(places[:2].max(1)).clip(0, side).astype(int)
    if right <= left or bottom <= top:
        return
    to_square, to_box = np.eye(3), np.eye(3)
    to_square[:2, 2], to_box[:2, 2] = (left, top), (-x, -y)
    part = _warp(
        pixels[y : y + height, x : x + width],
        to_box @ matrix @ to_square,
        (int(right - left), int(bottom - top)),
        cv2.INTER_NEAREST,
        (0,),
    )
    moved[top:bottom, left:right] = part > 0


def _covered(pixels: np.ndarray, movement: Movement, side: int) -> np.ndarray:
    """Return the pixels [S, S] that a mask covers half, moved at its own size before."""
    if movement.is_affine:
        size = _size_of(pixels)
        to_square = np.diag([side / size[0], side / size[1], 1.0])
        matrix = _source_map(size, movement, side, size) @ to_square
        pixels = _warp(pixels, matrix, size, cv2.INTER_NEAREST, (0,))
    elif movement.flip:
        pixels = cv2.flip(pixels, 1)
    picture = Image.fromarray(pixels * np.uint8(255))
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)) >= 128
