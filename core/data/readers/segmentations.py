"""Masks in JSON files, RLE or polygons, checked before pycocotools draws them.

pycocotools takes much of what is malformed for a mask: half of it, another one or none.
"""

from typing import Any, NoReturn, Optional, Union

import numpy as np
from pycocotools import mask as mask_utils

from .files import DataError, check_mask_size

# a run of more characters is longer than any frame
_MOST_CHARACTERS = 7
# Polygons may leave the frame, but not by so many frames: their pixels are drawn one by one.
_FARTHEST = 10


def rle_size(rle: Any) -> Optional[tuple[int, int]]:
    """Return the (width, height) that an RLE tells, None if it tells none."""
    size = rle.get("size") if isinstance(rle, dict) else None
    if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        return None
    return size[1], size[0]


def decode_rle(rle: Any, frame_size: tuple[int, int], where: str) -> np.ndarray:
    """Decode an RLE.

    Args:
        rle: A mapping of `size`, [height, width], and `counts`: runs of pixels, column by column,
            as a list or in COCO's compressed form.
        frame_size: (width, height) that it must have.
        where: What the mask is called in messages.

    Returns:
        bool [H, W].

    Raises:
        DataError: It is malformed or has another size.
    """
    size = rle_size(rle)
    if size is None or "counts" not in rle:
        _refuse(where, "is not an RLE, expected a mapping of `size` and `counts`")
    check_mask_size(size, frame_size, where)
    runs = _runs(rle["counts"], where)
    num_pixels = size[0] * size[1]
    if (runs < 0).any() or runs.sum() != num_pixels:
        _refuse(where, f"is a damaged RLE, expected runs of {num_pixels} pixels in all")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size).T


def _runs(counts: Union[list, str, bytes], where: str) -> np.ndarray:
    """Return the lengths of the runs, int64 [N]."""
    if isinstance(counts, list) and all(type(n) is int and abs(n) < 2**31 for n in counts):
        return np.array(counts, np.int64)
    if isinstance(counts, str):
        counts = counts.encode(errors="surrogatepass")  # to be refused below
    if not isinstance(counts, bytes):
        _refuse(where, "is a damaged RLE, expected numbers or a text as its `counts`")
    if not counts:
        return np.zeros(0, np.int64)
    values = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = values & 32 == 0  # each run is written as groups of five bits, the lowest first
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(starts, append=len(values))
    if ((values < 0) | (values > 63)).any() or not last[-1] or lengths.max() > _MOST_CHARACTERS:
        _refuse(where, "is a damaged RLE: its `counts` are cut or have other characters")
    places = 5 * (np.arange(len(values)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((values & 31) << places, starts)
    runs -= np.where(values[last] & 16, 1 << 5 * lengths, 0)
    # the fourth run and those that follow are differences from the last but one
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def is_missing(segmentation: Any) -> bool:
    """Return whether an annotation has no mask, which is something else than a malformed one.

    Tools leave polygons of no, one or two points behind.
    """
    if not isinstance(segmentation, list):
        return segmentation is None
    return all(
        isinstance(polygon, list)
        and len(polygon) in (0, 2, 4)
        and all(type(x) in (int, float) for x in polygon)
        for polygon in segmentation
    )


def decode_polygons(polygons: Any, frame_size: tuple[int, int], where: str) -> np.ndarray:
    """Draw the union of polygons.

    Polygons of one or two points beside others are left out: tools leave them behind.

    Args:
        polygons: Lists of coordinates x0, y0, x1, y1, ...
        frame_size: (width, height) of the frame.
        where: What the mask is called in messages.

    Returns:
        bool [H, W].

    Raises:
        DataError: They are malformed, or none has three points.
    """
    if not isinstance(polygons, list) or not all(isinstance(item, list) for item in polygons):
        _refuse(where, "is malformed, expected an RLE or a list of polygons")
    limit = _FARTHEST * sum(frame_size)
    for polygon in polygons:
        if len(polygon) % 2:
            _refuse(where, f"has a polygon of {len(polygon)} coordinates, expected an even number")
        # not finite ones are far outside too
        if not all(type(x) in (int, float) and abs(x) <= limit for x in polygon):
            _refuse(where, "has a polygon with a coordinate that is not a number or far outside")
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawn:
        _refuse(where, "has no polygon of three points, expected at least one")
    width, height = frame_size
    rle = mask_utils.merge(mask_utils.frPyObjects(drawn, height, width))
    return mask_utils.decode(rle).astype(bool)


def fault_of_polygons(segmentation: Any, mask: np.ndarray) -> Optional[str]:
    """Return what is wrong with polygons that can be drawn, after "polygons that"; None: nothing.

    Args:
        segmentation: What `decode_polygons` drew, or an RLE.
        mask: What it made of it.
    """
    if not isinstance(segmentation, list):
        return None
    if all(0 <= x <= 1 for polygon in segmentation for x in polygon):
        return "have coordinates from 0 to 1 only, as if they were shares of the frame"
    return None if mask.any() else "cover no pixel of the frame"


def _refuse(where: str, fault: str) -> NoReturn:
    raise DataError(f"{where} {fault}")
