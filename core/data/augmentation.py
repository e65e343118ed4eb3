"""Augmentation of training clips, drawn once per clip and the same for frames and masks.

Follows the official transforms (``training.dataset.transforms``, which needs torchvision): flip,
affine, colour jitter, grey, mosaic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Optional

import cv2
import numpy as np
from PIL import Image

from ..config import AugmentationConfig
from .warp import Movement, moved_out, warp_frame, warp_masks

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Colour:
    """Factors of a frame's colours; `hue` is a turn of the colour circle in [-0.5, 0.5]."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class Mosaic:
    """A grid of small copies of a frame; the objects to track are in one of them.

    Attributes:
        flips: [rows, columns] bool, the mirrored copies.
        target: (row, column) of the copy with the objects.
    """

    flips: np.ndarray
    target: tuple[int, int]


@dataclass(frozen=True)
class Variation:
    """What was drawn for a clip.

    Attributes:
        movement: Of all frames and masks.
        colour: Of all frames.
        grey: Whether the clip is grey.
        frame_colours: Of each frame, after those of all; none: nothing per frame.
        mosaic: None: no mosaic.
    """

    movement: Movement = field(default_factory=Movement)
    colour: Colour = field(default_factory=Colour)
    grey: bool = False
    frame_colours: list[Colour] = field(default_factory=list)
    mosaic: Optional[Mosaic] = None


@dataclass(frozen=True)
class MaskedFrame:
    """A frame to be varied.

    Attributes:
        image: uint8 RGB [h, w, 3], which may have been shrunk when it was decoded.
        size: (width, height) of the original.
        masks: {object id: bool mask}, of the original's size.
        ignored: bool of that size, regions that nobody annotated; None: the format marks none.
    """

    image: np.ndarray
    size: tuple[int, int]
    masks: Mapping[int, np.ndarray]
    ignored: Optional[np.ndarray] = None


def draw_variation(
    config: AugmentationConfig, num_frames: int, rng: np.random.Generator
) -> Variation:
    """Draw how a clip is varied; `rng` is the only source of randomness."""
    # All but those per frame are drawn always, so that switching one of them off does not change
    # what the others draw.
    flip, grey = rng.random() < config.horizontal_flip, rng.random() < config.grayscale
    angle = rng.uniform(-config.degrees, config.degrees)
    shear = rng.uniform(-config.shear, config.shear)
    of_clip = config.brightness, config.contrast, config.saturation
    colours = [_draw_colour(of_clip, rng)]
    if config.jitter_per_frame:
        own = config.frame_brightness, config.frame_contrast, config.frame_saturation
        of_frame = tuple(
            for_clip if amount is None else amount
            for amount, for_clip in zip(own, of_clip, strict=True)
        )
        colours += [_draw_colour(of_frame, rng) for _ in range(num_frames)]
    scale = rng.uniform(config.scale_min, config.scale_max)
    x = rng.uniform(-config.translate_x, config.translate_x)
    y = rng.uniform(-config.translate_y, config.translate_y)
    hues = rng.uniform(-config.hue, config.hue, num_frames + 1)
    colours = [replace(colour, hue=float(hue)) for colour, hue in zip(colours, hues, strict=False)]
    movement = Movement(flip, angle, shear, scale, (x, y))
    return Variation(movement, colours[0], grey, colours[1:], _draw_mosaic(config, rng))


def _draw_colour(amounts: Iterable[float], rng: np.random.Generator) -> Colour:
    """Draw factors, of brightness, contrast and saturation in this order, around 1."""
    return Colour(*(rng.uniform(1 - amount, 1 + amount) for amount in amounts))


def _draw_mosaic(config: AugmentationConfig, rng: np.random.Generator) -> Optional[Mosaic]:
    rows, columns = config.mosaic_rows, config.mosaic_columns
    drawn = rng.random() < config.mosaic
    target = int(rng.integers(rows)), int(rng.integers(columns))
    flips = (rng.random((rows, columns)) < 0.5) & config.mosaic_flip
    return Mosaic(flips, target) if drawn else None


def vary_clip(
    frames: Iterable[MaskedFrame],
    num_frames: int,
    object_ids: list[int],
    variation: Variation,
    side: int,
    *,
    marks_regions: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Make frames and masks square, varied; they move together.

    An affine transform, or a mosaic, by which an object is gone from the first frame is left out,
    because an object without a first mask cannot be prompted.

    Args:
        frames: The clip, read one by one and left alone.
        num_frames: T.
        object_ids: The O objects.
        variation: What to do.
        side: S.
        marks_regions: The frames have regions to ignore, which move along.

    Returns:
        New frames uint8 [T, S, S, 3] and masks bool [T, O, S, S]; regions to ignore are one mask
        more, the last.
    """
    num_objects = len(object_ids)
    images = np.empty((num_frames, side, side, 3), np.uint8)
    masks = np.empty((num_frames, num_objects + marks_regions, side, side), bool)
    movement = variation.movement
    for t, frame in enumerate(frames):
        if t == 0 and moved_out(frame.masks, object_ids, movement, side):
            movement = movement.without_affine()
        image = warp_frame(frame.image, movement, side, frame.size)
        images[t] = _recolour(image, variation, t)
        masks[t, :num_objects] = warp_masks(frame.masks, object_ids, movement, side)
        if marks_regions and frame.ignored is not None:
            masks[t, num_objects:] = warp_masks({0: frame.ignored}, [0], movement, side)
    if variation.mosaic is not None:
        _lay_mosaic(images, masks, variation.mosaic)
    return images, masks


def augment_clip(
    images: np.ndarray,
    masks: np.ndarray,
    config: AugmentationConfig,
    rng: np.random.Generator,
    side: Optional[int] = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one clip; see `vary_clip`.

    Args:
        images: uint8 RGB frames [T, h, w, 3]. Left alone.
        masks: bool [T, O, h, w]. Left alone.
        config: What to draw.
        rng: The only source of randomness.
        side: S; None: h, for square frames.

    Returns:
        New frames uint8 [T, S, S, 3] and masks bool [T, O, S, S].
    """
    num_frames, num_objects, height, width = masks.shape
    frames = (
        MaskedFrame(image, (width, height), dict(enumerate(of_frame)))
        for image, of_frame in zip(images, masks, strict=True)
    )
    variation = draw_variation(config, num_frames, rng)
    return vary_clip(frames, num_frames, list(range(num_objects)), variation, side or height)


def _recolour(image: np.ndarray, variation: Variation, t: int) -> np.ndarray:
    """Return frame `t` in other colours, in the order of official fine-tuning."""
    image = _jitter(image, variation.colour)
    if variation.grey:
        image = cv2.transform(image, np.tile(_LUMA, (3, 1)))
    return _jitter(image, variation.frame_colours[t]) if variation.frame_colours else image


def _jitter(image: np.ndarray, colour: Colour) -> np.ndarray:
    if colour.brightness != 1:
        image = cv2.LUT(image, _to_bytes(_LEVELS * colour.brightness))
    if colour.contrast != 1:
        mean = np.dot(cv2.mean(image)[:3], _LUMA)
        image = cv2.LUT(image, _to_bytes(_LEVELS * colour.contrast + (1 - colour.contrast) * mean))
    if colour.saturation != 1:
        grey = np.tile(_LUMA, (3, 1))
        image = cv2.transform(image, np.eye(3) * colour.saturation + (1 - colour.saturation) * grey)
    return image if colour.hue == 0 else _turn_hue(image, colour.hue)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def _turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the colour circle, whose 256 steps bytes hold."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _lay_mosaic(images: np.ndarray, masks: np.ndarray, mosaic: Mosaic) -> None:
    """Replace frames and masks by mosaics, unless an object of the first frame is gone then."""
    laid = np.zeros_like(masks)
    rows, columns = _cells(mosaic, masks.shape[-1])[mosaic.target]
    flip = mosaic.flips[mosaic.target]
    size = columns.stop - columns.start, rows.stop - rows.start
    for t, o in np.argwhere(masks.any((2, 3))):
        small = _shrink(masks[t, o].view(np.uint8) * np.uint8(255), size) >= 128
        laid[t, o, rows, columns] = small[:, ::-1] if flip else small
    if (masks[0].any((1, 2)) & ~laid[0].any((1, 2))).any():
        return
    masks[:] = laid
    for image in images:
        whole = image.copy()
        for cell, (rows, columns) in _cells(mosaic, len(image)).items():
            size = columns.stop - columns.start, rows.stop - rows.start
            small = _shrink(whole, size)
            image[rows, columns] = small[:, ::-1] if mosaic.flips[cell] else small


def _cells(mosaic: Mosaic, side: int) -> dict[tuple[int, int], tuple[slice, slice]]:
    """Return {(row, column): its pixels}."""
    tops, lefts = (np.arange(count + 1) * side // count for count in mosaic.flips.shape)
    return {
        (row, column): (slice(tops[row], tops[row + 1]), slice(lefts[column], lefts[column + 1]))
        for row, column in np.ndindex(*mosaic.flips.shape)
    }


def _shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
