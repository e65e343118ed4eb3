"""Any tensor or array as pixels or masks."""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

AnyArray = TypeVar("AnyArray", Tensor, np.ndarray)


def as_array(tensor: Tensor) -> np.ndarray:
    """View a CPU tensor; NumPy knows no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def copy_array(tensor: Tensor) -> np.ndarray:
    """Copy a tensor of any device to memory of its own."""
    return np.array(as_array(tensor if tensor.is_cpu else tensor.cpu()))


def as_bool(masks: np.ndarray) -> np.ndarray:
    """Return masks as bool, true where positive; those that are bool as they are."""
    return masks if masks.dtype == bool else masks > 0


def above(values: AnyArray, threshold: float = 0.0) -> AnyArray:
    """Return where values are finite and above a threshold: of logits, what counts as a mask."""
    return (values > threshold) & (values < math.inf)


def to_array(value: Any, name: str) -> np.ndarray:
    """Return an array, or a tensor of any device and type, as an array.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be an array or tensor, got {type(value).__name__}")
    return value


def rgb(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as every logger takes them.

    Args:
        pixels: [h, w, 3], or [h, w, 1] for grey: bytes, or floats in [0, 1]; values outside are
            clamped, NaN is black.

    Returns:
        [h, w, 3] uint8, contiguous, in memory of its own.
    """
    if pixels.dtype != np.uint8:
        if np.issubdtype(pixels.dtype, np.integer):
            pixels = pixels.clip(0, 255)
        else:
            pixels = np.nan_to_num(pixels.astype(np.float32)).clip(0, 1) * 255
        pixels = np.rint(pixels).astype(np.uint8)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")


def masks(value: Any, name: str, size: tuple[int, int], threshold: float) -> np.ndarray:
    """Return masks, or values that count as a mask above a threshold, as [C, H, W] bool.

    Args:
        value: [C, H, W] array or tensor.
        name: What messages call it.
        size: (H, W) of the image that the masks belong to.
        threshold: For values that are not bool.

    Raises:
        TypeError: It is neither array nor tensor.
        ValueError: It has another shape.
    """
    array = to_array(value, name)
    if array.ndim != 3 or array.shape[1:] != size:
        raise ValueError(
            f"{name} must have shape [C, {size[0]}, {size[1]}] like image, got {list(array.shape)}"
        )
    return array if array.dtype == bool else above(array, threshold)
