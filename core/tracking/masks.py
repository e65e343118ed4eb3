"""Masks as PNGs, laid out as public evaluators and challenge servers expect them.

A video whose objects have ids 1 to 254 gets ``FRAME.png``, whose values are the ids. With other
ids, or where a pixel may belong to several objects, it gets ``OBJECT/FRAME.png`` with values 0
and 1, as SA-V has it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.readers.label_maps import davis_palette

# 0 is the background and 255 what evaluators do not count.
_PALETTE_IDS = range(1, 255)


def fits_palette(object_ids: Collection[int], overlapping: bool) -> bool:
    """Return whether one PNG per frame can hold all objects of a video."""
    return not overlapping and all(key in _PALETTE_IDS for key in object_ids)


def write_masks(
    folder: Path,
    name: str,
    masks: Mapping[int, np.ndarray],
    object_ids: Collection[int],
    per_object: bool,
    size: tuple[int, int],
) -> None:
    """Write the masks of one frame.

    Args:
        folder: The video's folder.
        name: The frame's file name without its suffix.
        masks: {object id: bool [H, W]}; objects that are missing are written as empty.
        object_ids: All objects of the video.
        per_object: One folder per object; see `fits_palette`.
        size: (height, width).
    """
    if per_object:
        for key in object_ids:
            mask = masks.get(key, np.zeros(size, bool))
            _save(folder / f"{key:03d}" / f"{name}.png", mask.astype(np.uint8))
        return
    labels = np.zeros(size, np.uint8)
    for key, mask in masks.items():
        labels[mask] = key
    _save(folder / f"{name}.png", labels)


def read_masks(
    folder: Path, name: str, object_ids: Collection[int], per_object: bool
) -> dict[int, np.ndarray]:
    """Return {object id: bool [H, W]} of what `write_masks` wrote."""
    if per_object:
        return {key: _load(folder / f"{key:03d}" / f"{name}.png") > 0 for key in object_ids}
    labels = _load(folder / f"{name}.png")
    return {key: labels == key for key in object_ids}


def delete_masks(folder: Path) -> None:
    """Delete what `write_masks` wrote to a folder; other videos may have folders in it."""
    for path in (*folder.glob("*.png"), *folder.glob("[0-9]*/*.png")):
        if path.is_file():
            path.unlink()


def _load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(davis_palette())
    image.save(path, compress_level=1)
