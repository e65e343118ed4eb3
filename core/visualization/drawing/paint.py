"""Pixels: masks painted into frames with NumPy.

Frames are painted packed, one uint32 per RGBA pixel: selecting and mixing whole pixels is several
times faster than three channels at a time. Each byte is mixed on its own, so the byte order of the
machine does not matter.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Optional, Union

import cv2
import numpy as np

from ..arrays import as_array, as_bool
from ..palette import Color
from ..prompts import PromptData

# Blue, yellow and vermilion of Okabe and Ito's set, which stay apart in every common form of
# colour blindness.
HIT, MISSED, FALSE = (86, 180, 233), (240, 228, 66), (213, 94, 0)

# With so many masks it is faster to paint those that stand apart all at once.
_MANY = 8
# A mask inside its bounding box, the box, and a colour.
_Box = tuple[slice, slice]
_Paint = Union[np.uint32, np.ndarray]  # packed: one colour, or one per pixel
_Found = tuple[np.ndarray, _Box, Sequence[int]]
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
    """Tint masks half and draw their outlines one pixel wide, on a copy.

    Where outlines of several masks share a pixel they take turns along it, so that all of them stay
    visible. Pixels outside every mask keep their value.

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
    _paint_found(out, found, _mix_half)
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
    _paint_found(out, found, _mix_most, _hatching(*image.shape))
    return out


def paint_errors(image: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Colour hit, missed and false pixels over all objects, on a copy.

    What is missed or claimed falsely lies above what is hit. A pixel that one object misses and
    another claims falsely (a swap) is striped in both colours. They lie over the frame's brightness
    alone: its own hues would turn one into another.

    Args:
        image: [h, w] packed, left as it is.
        errors: [3, h, w] bool: hit, missed, false.

    Returns:
        [h, w] packed.
    """
    out = image.copy()
    boxes = bounding_boxes(errors.any(0)[None])
    if not boxes:
        return out
    ((_, box),) = boxes
    hit, missed, false = errors[(slice(None), *box)]
    swapped = missed & false
    turn = _hatching(*image.shape)[box]
    for mask, color in (
        (hit & ~missed & ~false, HIT),
        (missed & ~(swapped & turn), MISSED),
        (false & ~(swapped & ~turn), FALSE),
    ):
        _mix_grey(out[box], mask, color)
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
def _packed(color: Sequence[int]) -> np.uint32:
    return np.array([*color, 255], np.uint8).view(np.uint32)[0]


_OPAQUE = _packed((0, 0, 0))


def _mix_half(pixels: np.ndarray, mask: np.ndarray, paint: _Paint) -> None:
    half = np.uint32(0x7F7F7F7F)
    kept = (pixels[mask] >> np.uint32(1)) & half
    pixels[mask] = (kept + ((paint >> np.uint32(1)) & half)) | _OPAQUE


def _mix_most(pixels: np.ndarray, mask: np.ndarray, paint: _Paint) -> None:
    """Mix three quarters of the colour in."""
    quarter = np.uint32(0x3F3F3F3F)
    kept = (pixels[mask] >> np.uint32(2)) & quarter
    paint = np.uint32(3) * ((paint >> np.uint32(2)) & quarter)
    pixels[mask] = (kept + paint) | _OPAQUE


def _mix_grey(pixels: np.ndarray, mask: np.ndarray, color: Sequence[int]) -> None:
    """Mix three quarters of the colour into the pixels' brightness."""
    rgba = pixels[mask].view(np.uint8).reshape(-1, 4)
    grey = (rgba[:, 0] >> 2) + (rgba[:, 1] >> 1) + (rgba[:, 2] >> 2)
    shades = np.full((256, 4), 255, np.uint8)
    shades[:, :3] = np.arange(256)[:, None] // 4 + 3 * (np.array(color) // 4)
    pixels[mask] = shades.view(np.uint32)[grey, 0]


def _paint_found(
    out: np.ndarray,
    found: Sequence[_Found],
    mix: Callable[[np.ndarray, np.ndarray, _Paint], None],
    where: Optional[np.ndarray] = None,
) -> None:
    """Mix in masks where `where` is true, and draw their outlines."""
    if len(found) >= _MANY:
        found = _paint_apart(out, found, mix, where)
    for mask, box, color in found:
        mix(out[box], mask if where is None else mask & where[box], _packed(color))
    _draw_outlines(out, found)


def _paint_apart(
    out: np.ndarray,
    masks: Sequence[_Found],
    mix: Callable[[np.ndarray, np.ndarray, _Paint], None],
    where: Optional[np.ndarray],
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
    mixed = inside if where is None else inside & where
    mix(out, mixed, colors[labels[mixed]])
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
