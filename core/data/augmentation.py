"""Augmentation of training clips, drawn once per clip and the same for frames and masks.

Follows the official transforms (``training.dataset.transforms``, which needs torchvision): flip,
affine, colour jitter, grey.
"""

import math
from typing import Union

import numpy as np
from PIL import Image

from ..config import AugmentationConfig

# What official training fills the corners of a rotated frame with: the ImageNet mean.
FILL = (123, 116, 103)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def augment_clip(
    images: np.ndarray,
    masks: np.ndarray,
    config: AugmentationConfig,
    rng: np.random.Generator,
    aspect: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one clip; frames and masks move together.

    An affine transform that moves an object out of the first frame is left out, because an object
    without a first mask cannot be prompted.

    Args:
        images: uint8 RGB frames [T, S, S, 3]. Left alone.
        masks: bool [T, O, S, S]. Left alone.
        config: What to draw.
        rng: The only source of randomness.
        aspect: Width by height of the frames before they were made square, so that a rotation is
            one in the original picture.

    Returns:
        New frames uint8 [T, S, S, 3] and masks bool [T, O, S, S].
    """
    # drawn always, so that switching one part off does not change what the others draw
    flip, grey = rng.random() < config.horizontal_flip, rng.random() < config.grayscale
    angle = rng.uniform(-config.degrees, config.degrees)
    shear = rng.uniform(-config.shear, config.shear)
    factors = _draw_factors(config, rng)

    if flip:
        images, masks = images[:, :, ::-1], masks[..., ::-1]
    if config.degrees > 0 or config.shear > 0:
        matrix = _affine(images.shape[1], angle, shear, aspect)
        moved = _warp_masks(masks, matrix)
        if (moved[0].any((1, 2)) | ~masks[0].any((1, 2))).all():
            masks = moved
            images = np.stack(
                [_warp(frame, matrix, Image.Resampling.BILINEAR, FILL) for frame in images]
            )

    frames = []
    for image in images:
        per_frame = [_draw_factors(config, rng)] if config.jitter_per_frame else []
        frames.append(_colour(image, [factors, *per_frame], grey))
    return np.stack(frames), np.ascontiguousarray(masks)


def _draw_factors(
    config: AugmentationConfig, rng: np.random.Generator
) -> tuple[float, float, float]:
    def draw(amount: float) -> float:
        return rng.uniform(1 - amount, 1 + amount)

    # the order of the draws decides what each of them gets
    return draw(config.brightness), draw(config.contrast), draw(config.saturation)


def _affine(size: int, angle: float, shear: float, aspect: float) -> np.ndarray:
    """Return the [2, 3] map from output to input pixels, about the centre."""
    a, s = math.radians(angle), math.radians(shear)
    rotation = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    linear = rotation @ np.array([[1.0, math.tan(s)], [0.0, 1.0]])
    squash = np.diag([1.0 / aspect, 1.0])
    inverse = np.linalg.inv(squash @ linear @ np.linalg.inv(squash))
    centre = np.full(2, size / 2)
    return np.column_stack([inverse, centre - inverse @ centre])


def _warp(
    image: np.ndarray,
    matrix: np.ndarray,
    resample: Image.Resampling,
    fill: Union[int, tuple[int, ...]],
) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(
        picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix.ravel().tolist(),
            resample=resample,
            fillcolor=fill,
        )
    )


def _warp_masks(masks: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    warped = np.zeros(masks.shape, bool)
    for t, o in np.ndindex(masks.shape[:2]):
        if masks[t, o].any():
            warped[t, o] = (
                _warp(masks[t, o].astype(np.uint8), matrix, Image.Resampling.NEAREST, 0) > 0
            )
    return warped


def _colour(
    image: np.ndarray, factor_sets: list[tuple[float, float, float]], grey: bool
) -> np.ndarray:
    if not grey and all(factors == (1, 1, 1) for factors in factor_sets):
        return np.array(image)
    pixels = image.astype(np.float32)
    for brightness, contrast, saturation in factor_sets:
        pixels = np.clip(pixels * brightness, 0, 255)
        pixels = np.clip(pixels * contrast + (1 - contrast) * (pixels @ _LUMA).mean(), 0, 255)
        luma = (pixels @ _LUMA)[..., None]
        pixels = np.clip(pixels * saturation + (1 - saturation) * luma, 0, 255)
    if grey:
        pixels = np.repeat((pixels @ _LUMA)[..., None], 3, axis=-1)
    return np.rint(pixels).astype(np.uint8)
