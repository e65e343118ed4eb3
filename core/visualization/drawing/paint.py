"""Pixels: masks painted into frames with NumPy.

Frames are painted packed, one uint32 per RGBA pixel: selecting whole pixels is several times faster
than three channels at a time. A painted pixel is looked up: each colour has one shade for each grey
level of what lies below.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Optional

import cv2
import numpy as np

from ..arrays import as_array, as_bool
from ..palette import Color, shades_of
from ..prompts import PromptData

# Blue, yellow and vermilion of Okabe and Ito's set, which stay apart in every common form of
# colour blindness.
HIT, MISSED, FALSE = (86, 180, 233), (240, 228, 66), (213, 94, 0)

# With so many masks it is faster to paint those that stand apart all at once.
_MANY = 8
# A mask inside its bounding box, the box, and a colour.
_Box = tuple[slice, slice]
_Found = tuple[np.ndarray, _Box, Color]
# Positions of masks that are not empty, with their boxes.
Boxes = list[tuple[int, _Box]]


def pack(image: np.ndarray) -> np.ndarray:
    """Turn [h, w, 3] uint8 into [h, w] uint32 of its own memory, opaque."""
    return convert_colors(image, cv2.COLOR_RGB2RGBA, 4).view(np.uint32)[..., 0]


def convert_colors(image: np.ndarray, code: int, num_channels: int) -> np.ndarray:
    """Return OpenCV's colour conversion of an image: [h, w, num_channels] uint8 of its own memory.

    OpenCV gives larger pieces than these to a pool of threads, which would have to wait for the
    cores that training holds.
    """
    out = np.empty((*image.shape[:2], num_channels), np.uint8)
    rows = max(1, 2**16 // image.shape[1])
    for top in range(0, len(image), rows):
        cv2.cvtColor(image[top : top + rows], code, dst=out[top : top + rows])
    return out


def paint_masks(
    image: np.ndarray,
    masks: np.ndarray,
    colors: Sequence[Color],
    boxes: Optional[Boxes] = None,
) -> np.ndarray:
    """Fill masks with shades of their colours and draw their outlines one pixel wide, on a copy.

    A filled pixel has the hue of its mask's colour; of what lies below, other masks included, the
    brightness alone shows through. Where outlines of several masks share a pixel they take turns
    along it, so that all of them stay visible. Pixels outside every mask keep their value.

    Args:
        image: [h, w] packed, left as it is.
        masks: [C, h, w] bool.
        colors: Of each mask that is not empty.
        boxes: What `bounding_boxes` says of them, in the order in which they are painted; None: in
            their own order.

    Returns:
        [h, w] packed.
    """
    out = image.copy()
    boxes = bounding_boxes(masks) if boxes is None else boxes
    found = [(masks[k][box], box, colors[k]) for k, box in boxes]
    _paint_found(out, found)
    return out


def paint_outlines(
    image: np.ndarray, masks: np.ndarray, colors: Sequence[Color], boxes: Boxes
) -> np.ndarray:
    """Draw the outlines alone that `paint_masks` draws, on a copy: [h, w] packed."""
    out = image.copy()
    _draw_outlines(out, [(masks[k][box], box, colors[k]) for k, box in boxes])
    return out


def paint_mask_prompts(
    image: np.ndarray, prompts: Sequence[PromptData], colors: Sequence[Color]
) -> np.ndarray:
    """Draw mask prompts hatched and outlined, to be told apart from predictions, on a copy.

    Args:
        image: [h, w] packed, left as it is.
        prompts: Those with a mask [h, w] are drawn.
        colors: Of each prompt.

    Returns:
        [h, w] packed.
    """
    out = image.copy()
    given = [
        (prompt.mask, color)
        for prompt, color in zip(prompts, colors, strict=True)
        if prompt.prompt_type == "mask" and prompt.mask is not None
    ]
    if not given:
        return out
    # Compared by NumPy: torch would wait for threads that training keeps busy.
    masks = np.stack([as_bool(as_array(mask.detach().cpu())) for mask, _ in given])
    found = [(masks[k][box], box, given[k][1]) for k, box in bounding_boxes(masks)]
    _paint_found(out, found, _hatching(*image.shape))
    return out


def paint_errors(image: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Colour hit, missed and false pixels over all objects, on a copy.

    What is missed or claimed falsely lies above what is hit. A pixel that one object misses and
    another claims falsely (a swap) is striped in both colours. As in a mask, only the frame's
    brightness shows through.

    Args:
        image: [h, w] packed, left as it is.
        errors: [3, h, w] bool: hit, missed, false.

    Returns:
        [h, w] packed.
    """
    out = image.copy()
    boxes = bounding_boxes(errors.max(0)[None])
    if not boxes:
        return out
    ((_, (rows, columns)),) = boxes
    hit, missed, false = errors[:, rows, columns]
    swapped = missed & false
    turn = _hatching(*image.shape)[rows, columns]
    grey = _brightness(image[rows, columns])
    for mask, color in (
        (hit & ~missed & ~false, HIT),
        (missed & ~(swapped & turn), MISSED),
        (false & ~(swapped & ~turn), FALSE),
    ):
        _fill(out[rows, columns], mask, color, grey)
    return out


def stripes(shape: Sequence[int]) -> np.ndarray:
    """Return diagonal stripes three pixels wide as [h, w] bool."""
    return np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 6 < 3


@lru_cache(maxsize=4)
def _hatching(height: int, width: int) -> np.ndarray:
    return stripes((height, width))


def bounding_boxes(masks: np.ndarray) -> Boxes:
    """Return position and box of each of the masks [C, h, w] that is not empty."""
    height, width = masks.shape[1:]
    # Several pixels at a time: eight, where the width allows it.
    size = next(size for size in (8, 4, 2, 1) if width % size == 0)
    packed = np.ascontiguousarray(masks).view(f"u{size}")
    ys = np.bitwise_or.reduce(packed, 2) != 0
    xs = np.bitwise_or.reduce(packed, 1).view(bool)
    tops, lefts = ys.argmax(1).tolist(), xs.argmax(1).tolist()
    bottoms = (height - ys[:, ::-1].argmax(1)).tolist()
    rights = (width - xs[:, ::-1].argmax(1)).tolist()
    return [
        (k, (slice(tops[k], bottoms[k]), slice(lefts[k], rights[k])))
        for k in np.flatnonzero(ys.any(1)).tolist()
    ]


@lru_cache(maxsize=1024)
def _packed(color: Color) -> np.uint32:
    return np.array([*color, 255], np.uint8).view(np.uint32)[0]


@lru_cache(maxsize=1024)
def _shades(color: Color) -> np.ndarray:
    """Return the packed shades of a colour, one for each grey level."""
    return pack(shades_of(color)[None])[0]


def _brightness(pixels: np.ndarray) -> np.ndarray:
    """Return the grey level [h, w] uint8 of packed pixels."""
    rgba = pixels.view(np.uint8).reshape(*pixels.shape, 4)
    return convert_colors(rgba, cv2.COLOR_RGBA2GRAY, 1)[..., 0]


def _fill(pixels: np.ndarray, mask: np.ndarray, color: Color, grey: np.ndarray) -> None:
    """Put the shades of a colour over grey levels [h, w] into the pixels of a mask."""
    # Looking up every pixel is faster than selecting those of the mask first.
    np.copyto(pixels, _shades(color).take(grey), where=mask)


def _paint_found(
    out: np.ndarray, found: Sequence[_Found], where: Optional[np.ndarray] = None
) -> None:
    """Fill masks where `where` is true, one over the other, and draw their outlines."""
    if len(found) >= _MANY:
        found = _paint_apart(out, found, where)
    for mask, box, color in found:
        filled = mask if where is None else mask & where[box]
        _fill(out[box], filled, color, _brightness(out[box]))
    _draw_outlines(out, found)


def _paint_apart(
    out: np.ndarray, masks: Sequence[_Found], where: Optional[np.ndarray]
) -> list[_Found]:
    """Do what `_paint_found` does to all masks that share no pixel, at once; return the others."""
    labels = np.zeros(out.shape, np.uint8 if len(masks) < 256 else np.int32)
    crossing = np.zeros(len(masks) + 1, bool)
    for label, (mask, box, _) in enumerate(masks, start=1):
        area = labels[box]
        if area.any():
            under = area[mask]
            crossing[under] = True
            crossing[label] = under.any()
        np.putmask(area, mask, label)
    crossing[0] = False  # no mask
    if crossing.any():
        labels[crossing[labels]] = 0
    colors = np.array([0, *(_packed(color) for _, _, color in masks)], np.uint32)
    inside = labels > 0
    filled = inside if where is None else inside & where
    shades = np.stack([_shades(color) for _, _, color in masks])
    out[filled] = shades[labels[filled] - 1, _brightness(out)[filled]]
    edges = inside.copy()
    edges[1:-1, 1:-1] = False
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        change = labels[one] != labels[other]
        edges[one] |= change
        edges[other] |= change
    edges &= inside
    out[edges] = colors[labels[edges]]
    return [found for found, crosses in zip(masks, crossing[1:], strict=True) if crosses]


def _draw_outlines(out: np.ndarray, masks: Sequence[_Found]) -> None:
    if not masks:
        return
    width = out.shape[1]
    found = []
    for mask, (rows, columns), _ in masks:
        padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
        padded[1:-1, 1:-1] = mask
        interior = padded[:-2, 1:-1] & padded[2:, 1:-1]
        interior &= padded[1:-1, :-2]
        interior &= padded[1:-1, 2:]
        inside = np.flatnonzero(mask > interior)
        skipped = width - mask.shape[1]
        found.append(
            inside + inside // mask.shape[1] * skipped + rows.start * width + columns.start
        )
    pixels = np.concatenate(found)
    colors = np.array([_packed(color) for _, _, color in masks]).repeat([len(p) for p in found])
    # How many masks before this one have their outline on the same pixel.
    order = np.argsort(pixels, kind="stable")
    starts = np.flatnonzero(np.diff(pixels[order], prepend=-1))
    before = np.empty(len(pixels), np.int64)
    before[order] = np.arange(len(pixels)) - starts.repeat(np.diff(starts, append=len(pixels)))
    ys, xs = np.divmod(pixels, width)
    mine = (ys + xs) // 3 % (before + 1) == before
    out.reshape(-1)[pixels[mine]] = colors[mine]
