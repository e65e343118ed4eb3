"""Pixels: the palette, and masks painted into frames with NumPy.

Frames are painted packed, one uint32 per RGBA pixel: selecting and mixing whole pixels is several
times faster than three channels at a time. Each byte is mixed on its own, so the byte order of the
machine does not matter.
"""

import colorsys
from collections.abc import Iterable, Sequence
from typing import Optional

import cv2
import numpy as np

from core.prompts import UNASSIGNED, PromptData

# Hand-picked to stay apart from each other; further categories continue around the colour wheel.
_PALETTE = (
    (230, 25, 75), (60, 180, 75), (67, 99, 216), (255, 225, 25), (245, 130, 49), (145, 30, 180),
    (66, 212, 244), (240, 50, 230), (191, 239, 69), (250, 190, 212), (0, 128, 128),
    (220, 190, 255), (154, 99, 36), (255, 250, 200), (128, 0, 0), (170, 255, 195), (128, 128, 0),
    (255, 180, 130), (0, 0, 117), (120, 120, 120), (0, 90, 40), (90, 40, 100), (255, 100, 130),
    (0, 180, 255),
)  # fmt: skip
NEUTRAL = (205, 205, 205)
# Blue, yellow and vermilion of Okabe and Ito's set, which stay apart in every common form of
# colour blindness.
HIT, MISSED, FALSE = (86, 180, 233), (240, 228, 66), (213, 94, 0)


def category_color(category: int) -> tuple[int, int, int]:
    """Return the colour of a category: RGB in 0..255, the same in every panel, step and run."""
    if category == UNASSIGNED:
        return NEUTRAL
    if category < len(_PALETTE):
        return _PALETTE[category]
    turn = category - len(_PALETTE)
    hue = (turn * 0.618034) % 1.0  # the golden angle never comes back to the same hue
    saturation, value = ((0.9, 0.75), (0.5, 0.95), (0.75, 0.5))[turn % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


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


def paint_masks(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Tint masks half and draw their outlines one pixel wide, on a copy.

    Where outlines of several masks share a pixel they take turns along it, so that all of them stay
    visible. Pixels outside every mask keep their value.

    Args:
        image: [h, w] packed, left as it is.
        masks: [C, h, w] bool; mask k has the colour of category k.

    Returns:
        [h, w] packed.
    """
    found = [(k, mask, box) for k, mask in enumerate(masks) if (box := _bounding_box(mask))]
    out = image.copy()
    for category, mask, box in found:
        _mix_half(out[box], mask[box], category_color(category))
    _draw_outlines(out, ((mask, box, category_color(k)) for k, mask, box in found))
    return out


def paint_mask_prompts(image: np.ndarray, prompts: Sequence[PromptData]) -> np.ndarray:
    """Draw mask prompts hatched and outlined, to be told apart from predictions, on a copy.

    Args:
        image: [h, w] packed, left as it is.
        prompts: Those with a mask [h, w] are drawn.

    Returns:
        [h, w] packed.
    """
    masks = [
        ((p.mask.detach() > 0).cpu().numpy(), p.obj_id) for p in prompts if p.prompt_type == "mask"
    ]
    found = [
        (mask, box, category_color(obj_id))
        for mask, obj_id in masks
        if (box := _bounding_box(mask))
    ]
    out = image.copy()
    for mask, box, color in found:
        _mix_most(out[box], mask[box] & stripes(mask[box].shape, box), color)
    _draw_outlines(out, found)
    return out


def paint_errors(image: np.ndarray, gt_masks: np.ndarray, pred_masks: np.ndarray) -> np.ndarray:
    """Colour hit, missed and false pixels over all objects, on a copy.

    A pixel that one object misses and another claims falsely (a swap) is striped in both colours.
    They lie over the frame's brightness alone: its own hues would turn one into another.

    Args:
        image: [h, w] packed, left as it is.
        gt_masks: [C, h, w] bool.
        pred_masks: [C, h, w] bool.

    Returns:
        [h, w] packed.
    """
    out = image.copy()
    hit, missed, false = (np.zeros(image.shape, bool) for _ in range(3))
    for gt, pred in zip(gt_masks, pred_masks, strict=True):
        box = _bounding_box(gt | pred)
        if box is not None:
            gt, pred = gt[box], pred[box]
            both = gt & pred
            hit[box] |= both
            missed[box] |= gt ^ both
            false[box] |= pred ^ both
    box = _bounding_box(hit | missed | false)
    if box is None:
        return out
    hit, missed, false = hit[box], missed[box], false[box]
    swapped = missed & false
    turn = stripes(hit.shape, box)
    for mask, color in (
        (hit & ~missed & ~false, HIT),
        (missed & ~(swapped & turn), MISSED),
        (false & ~(swapped & ~turn), FALSE),
    ):
        _mix_grey(out[box], mask, color)
    return out


def stripes(shape: Sequence[int], box: Optional[tuple[slice, slice]] = None) -> np.ndarray:
    """Return diagonal stripes three pixels wide as [h, w] bool, in phase with the whole panel."""
    top, left = (box[0].start, box[1].start) if box else (0, 0)
    return np.add.outer(np.arange(shape[0]) + top, np.arange(shape[1]) + left) % 6 < 3


def _bounding_box(mask: np.ndarray) -> Optional[tuple[slice, slice]]:
    ys = np.flatnonzero(mask.any(1))
    if len(ys) == 0:
        return None
    rows = slice(int(ys[0]), int(ys[-1]) + 1)
    xs = np.flatnonzero(mask[rows].any(0))
    return rows, slice(int(xs[0]), int(xs[-1]) + 1)


def _packed(color: Sequence[int]) -> np.uint32:
    return np.array([*color, 255], np.uint8).view(np.uint32)[0]


_OPAQUE = _packed((0, 0, 0))


def _mix_half(pixels: np.ndarray, mask: np.ndarray, color: Sequence[int]) -> None:
    half = np.uint32(0x7F7F7F7F)
    kept = (pixels[mask] >> np.uint32(1)) & half
    pixels[mask] = (kept + ((_packed(color) >> np.uint32(1)) & half)) | _OPAQUE


def _mix_most(pixels: np.ndarray, mask: np.ndarray, color: Sequence[int]) -> None:
    """Mix three quarters of the colour in."""
    quarter = np.uint32(0x3F3F3F3F)
    kept = (pixels[mask] >> np.uint32(2)) & quarter
    paint = np.uint32(3) * ((_packed(color) >> np.uint32(2)) & quarter)
    pixels[mask] = (kept + paint) | _OPAQUE


def _mix_grey(pixels: np.ndarray, mask: np.ndarray, color: Sequence[int]) -> None:
    """Mix three quarters of the colour into the pixels' brightness."""
    rgba = pixels[mask].view(np.uint8).reshape(-1, 4)
    grey = (rgba[:, 0] >> 2) + (rgba[:, 1] >> 1) + (rgba[:, 2] >> 2)
    shades = np.full((256, 4), 255, np.uint8)
    shades[:, :3] = np.arange(256)[:, None] // 4 + 3 * (np.array(color) // 4)
    pixels[mask] = shades.view(np.uint32)[grey, 0]


def _draw_outlines(
    out: np.ndarray,
    masks: Iterable[tuple[np.ndarray, tuple[slice, slice], Sequence[int]]],
) -> None:
    turns = np.zeros(out.shape, np.uint8)
    for mask, box, color in masks:
        inside = mask[box]
        padded = np.zeros((inside.shape[0] + 2, inside.shape[1] + 2), bool)
        padded[1:-1, 1:-1] = inside
        interior = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        ys, xs = np.nonzero(inside & ~interior)
        before = turns[box][ys, xs]
        phase = (ys + xs + box[0].start + box[1].start) // 3
        mine = phase % (before + 1) == before
        out[box][ys[mine], xs[mine]] = _packed(color)
        turns[box][ys, xs] += 1
