"""Masks as PNGs whose pixel values, or colours, are object ids.

A colour of DAVIS's palette is the id that it has there, black the background and any other colour
the id 256 + 0xRRGGBB: whatever the frame, two colours are never one id.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Optional, TypeVar

import cv2
import numpy as np
from PIL import Image

from .files import DataError
from .png import read_plain_png
from .remarks import Remark

_Read = TypeVar("_Read")

# by Pillow's name: palette, grey of 8, 1 and 16 bits, grey and colours with or without alpha
LABEL_MODES = ("P", "L", "1", "I;16", "I", "LA", "RGB", "RGBA")
_HIGHEST = 2**16 - 1
# Colours beyond those of the palette count from here.
_FIRST_COLOR = 256
# More ids than these in one mask are no objects, and each takes as much memory as the frame.
_MOST_OBJECTS = 1000
VOID = 255  # what many data sets write where nobody decided
_WHITE = _FIRST_COLOR + 0xFFFFFF
# A single thin id between others may be an object, such as a ring on a finger.
_FEWEST_RIMS = 2
# What JPEG adds to a value or takes from it is less; the values of masks that it spoils are farther
# apart.
_GAP = 32
# Greys that share 0 .. 255 evenly among no more objects than these are all objects.
_MOST_GREYS = 6


def read_labels(path: Path, ignore_id: Optional[int] = None) -> np.ndarray:
    """Return the ids in a mask, `ignore_id` as background.

    Args:
        path: A PNG of one of `LABEL_MODES`; transparent pixels of LA and RGBA are background.
        ignore_id: An id.

    Returns:
        [H, W], uint8 of palettes and 8-bit greys, uint16 of 16-bit greys, int32 of colours.

    Raises:
        ValueError: It has more ids than a frame has objects.
    """
    labels = read_plain_png(path)
    if labels is None:
        with Image.open(path) as image:
            labels = _ids_of(image)
    if labels.dtype != np.uint8 and len(np.unique(labels)) > _MOST_OBJECTS:
        raise ValueError(
            f"it has more than {_MOST_OBJECTS} values or colours, expected one per object: was it"
            " resized with interpolation, or saved as JPEG?"
        )
    if ignore_id is not None:
        labels[labels == ignore_id] = 0
    return labels


def _ids_of(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        values = np.array(image)
        if values.min() < 0 or values.max() > _HIGHEST:
            raise ValueError(f"it has values beyond {_HIGHEST}, expected 8 or 16 bits")
        return values.astype(np.uint16)
    if image.mode == "LA":
        values, alpha = (np.array(band) for band in image.split())
        return np.where(alpha > 0, values, np.uint8(0))
    if image.mode not in ("RGB", "RGBA"):
        return np.array(image.convert("P"))
    colors = np.array(image.convert("RGBA")).astype(np.int32)
    numbers = _numbers_of(colors)
    ids = np.where(numbers > 0, numbers + _FIRST_COLOR, 0)
    known, order = _numbers_of_palette()
    places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    ids = np.where(known[places] == numbers, order[places], ids)
    return np.where(colors[..., 3] > 0, ids, 0).astype(np.int32)


def _numbers_of(colors: np.ndarray) -> np.ndarray:
    """Return 0xRRGGBB of colours [..., 3 or more]."""
    return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]


@lru_cache(maxsize=1)
def _numbers_of_palette() -> tuple[np.ndarray, np.ndarray]:
    """Return the colours of DAVIS's palette as ascending numbers, and the ids of these."""
    colors = np.frombuffer(davis_palette(), np.uint8).reshape(256, 3).astype(np.int32)
    numbers = _numbers_of(colors)
    order = np.argsort(numbers)
    return numbers[order], order


@lru_cache(maxsize=1)
def davis_palette() -> bytes:
    """Return the palette of DAVIS and PASCAL VOC: the bits of an id, spread over three channels."""
    colors = np.zeros((256, 3), np.uint8)
    ids = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors.tobytes()


class LabelMap(Mapping[int, np.ndarray]):
    """{object id: bool mask [H, W]} of objects that share no pixel, as one array.

    The objects come in the order in which their first pixels do.

    Args:
        labels: Ids [H, W] of whole numbers, 0 the background.

    Attributes:
        numbers: uint8 or uint16 [H, W], 0 the background.
    """

    def __init__(self, labels: np.ndarray) -> None:
        """See the class."""
        if labels.dtype == np.uint8:
            self.numbers = labels
            self._numbers = {key: key for key in _values_in_order(labels) if key != 0}
        else:
            keys, numbers = np.unique(labels, return_inverse=True)
            # so that the background is 0 whatever the lowest id is
            first = int(keys[0] != 0)
            self.numbers = (numbers.reshape(labels.shape) + first).astype(np.uint16)
            ids = {int(key): number for number, key in enumerate(keys, first)}
            ids.pop(0, None)
            order = sorted(ids, key=lambda key: int((self.numbers.ravel() == ids[key]).argmax()))
            self._numbers = {key: ids[key] for key in order}

    def number_of(self, object_id: int) -> int:
        """Return what stands for an object in `numbers`."""
        return self._numbers[object_id]

    def __getitem__(self, object_id: int) -> np.ndarray:
        return self.numbers == self._numbers[object_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._numbers


def _values_in_order(labels: np.ndarray) -> list[int]:
    """Return the values in a mask of 8 bits in the order in which their first pixels come.

    Before the first pixel of a value lies one of another value: only such places are looked at.
    """
    flat = labels.ravel()
    places = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    first = np.full(256, len(flat))
    first[flat[places[::-1]]] = places[::-1]
    values = np.argsort(first, kind="stable")
    return values[: np.count_nonzero(first < len(flat))].tolist()


def _values_of(labels: np.ndarray) -> np.ndarray:
    """Return the values in a mask of 8 or 16 bits, ascending, much faster than by sorting."""
    return np.flatnonzero(_histogram(labels))


def _histogram(labels: np.ndarray) -> np.ndarray:
    size = np.iinfo(labels.dtype).max + 1
    return cv2.calcHist([labels], [0], None, [size], [0, size]).ravel()


def ids_present(masks: Mapping[int, np.ndarray]) -> dict[int, bool]:
    """Return {object id: whether it has a pixel}, in the order of `masks`."""
    if isinstance(masks, LabelMap):
        return dict.fromkeys(masks, True)
    return {key: bool(mask.any()) for key, mask in masks.items()}


def read_palette_masks(path: Path, ignore_id: Optional[int] = None) -> LabelMap:
    """Return {object id: bool mask [H, W]} of a PNG whose values are object ids, 0 the background.

    The objects come in the order in which their first pixels do, as with the official
    ``PalettisedPNGSegmentLoader``: which of them a training clip follows is drawn from this order.
    """
    return LabelMap(read_labels(path, ignore_id))


def read_mask(
    read: Callable[[Path, Optional[int]], _Read], path: Path, ignore_id: Optional[int] = None
) -> _Read:
    """Return what `read_labels` or `read_palette_masks` does.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return read(path, ignore_id)
    except Exception as error:  # Pillow raises many kinds at damaged files
        raise DataError(f"mask {path} cannot be read: {error}") from error


def remarks_on_labels(labels: np.ndarray, path: Path, per_object: bool) -> list[Remark]:
    """Return whether a mask's values look as if not all of them were ids.

    Args:
        labels: [H, W], as `read_labels` returns them.
        path: Its file.
        per_object: Every value above 0 is one and the same object.
    """
    steps = _steps_of_colors(labels) if labels.dtype == np.int32 else labels
    values = _values_of(steps)
    values = values[values > 0]
    taken = "part of the object" if per_object else "an object"
    void = _void_in(labels, steps, values)
    if _has_rims(steps, values) or (steps.dtype == np.uint8 and _is_scattered(values)):
        text = (
            "the mask has values in between, as if it was resized with interpolation or saved as"
            f" JPEG, and each value counts as {taken}: resize masks with nearest neighbour, as PNG"
        )
    elif void is not None:
        what = {VOID: "value 255", _WHITE: "white"}[void]
        text = (
            f"the mask has {what} beside other ids, and it counts as {taken}; if it marks pixels"
            f" to ignore, set data.ignore_id={void}"
        )
    else:
        return []
    return [Remark(str(path), text)]


def _steps_of_colors(labels: np.ndarray) -> np.ndarray:
    """Return numbers that have a mix of two colours between these, and 0 for the background.

    Greys, if there is nothing else, are uint8 as in a grey mask; others are uint16, their rank.
    """
    ids, places = np.unique(labels, return_inverse=True)
    numbers, order = _numbers_of_palette()
    of_palette = numbers[np.argsort(order)]
    colors = np.where(ids < _FIRST_COLOR, of_palette[ids.clip(max=VOID)], ids - _FIRST_COLOR)
    greys = colors & 0xFF
    if (colors == greys * 0x010101).all():
        steps = greys.astype(np.uint8)
    else:
        ranks = np.searchsorted(np.union1d(colors, [0]), colors)
        steps = ranks.astype(np.uint16)
    return steps[places].reshape(labels.shape)


def _void_in(labels: np.ndarray, steps: np.ndarray, values: np.ndarray) -> Optional[int]:
    """Return the id in a mask that looks like no object; None: there is none."""
    if labels.dtype != np.int32:
        return VOID if has_void(values) else None
    if steps.dtype == np.uint8:
        return _WHITE if has_void(values) else None
    present = (key for key in (VOID, _WHITE) if (labels == key).any())
    return next(present, None) if len(values) > 1 else None


def has_void(ids: np.ndarray) -> bool:
    """Return whether 255 among the ids of a mask or a video, ascending, looks like no object.

    It does beside other ids, as many data sets mark pixels that nobody decided. Alone, as one of a
    few greys at equal steps, or below higher ids, it is an object.
    """
    return len(ids) > 1 and ids[-1] == VOID and not _are_greys(ids)


def is_white(ids: np.ndarray) -> bool:
    """Return whether the only id of a mask or a video is white, as a grey or as a colour."""
    return len(ids) == 1 and ids[0] in (VOID, _WHITE)


def _has_rims(labels: np.ndarray, ids: np.ndarray) -> bool:
    """Return whether most ids are thin rims between lower and higher ones."""
    if len(ids) <= _FEWEST_RIMS:
        return False
    window = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(labels, window), cv2.dilate(labels, window)
    between = (low < labels) & (labels < high)
    # histograms, because sorting all pixels takes longer than everything else
    num_pixels, num_between = (_histogram(part)[ids] for part in (labels, labels * between))
    solid = np.isin(ids, _values_of(labels * (low == high)))
    num_rims = int((~solid & (2 * num_between > num_pixels)).sum())
    return num_rims >= _FEWEST_RIMS and 2 * num_rims >= len(ids)


def _is_scattered(ids: np.ndarray) -> bool:
    """Return whether values lie close around a few ones and around 0, as JPEG leaves them."""
    values = np.concatenate([[0], ids.astype(int)])
    groups = np.split(values, np.flatnonzero(np.diff(values) > _GAP) + 1)
    return len(groups) > 1 and all(0 < group[-1] - group[0] <= _GAP for group in groups)


def _are_greys(ids: np.ndarray) -> bool:
    """Return whether ids are steps of equal size up to 255, some left out: 85, 170, 255."""
    for num_steps in range(2, _MOST_GREYS + 1):
        step = VOID / num_steps
        nearest = np.rint(ids / step) * step
        if (np.abs(ids - nearest) <= 1).all() and (nearest > 0).all():
            return True
    return False
