"""Frames that look the same, whatever their size and compression: a difference hash, then a look.

The hash says of each of 64 places whether it is brighter than its left neighbour. What it finds is
compared as small pictures: many frames of one operation or one street have similar hashes.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_WIDTH, _HEIGHT = 36, 32
_COLUMNS, _ROWS = 9, 8
# Of its 64 places a frame and its like may differ in so many.
_MOST_DIFFERENT = 8
# How alike the small pictures are, as their correlation.
_ALIKE = 0.985
# Frames that vary by less, in grey levels, look like many others: black ones, a fog.
_FLAT = 6.0
_AT_ONCE = 1024


@dataclass(frozen=True)
class Thumbnail:
    """A frame, made small.

    Attributes:
        video: Its video.
        place: Which of its annotated frames.
        pixels: uint8 [32, 36].
    """

    video: int
    place: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two frames that look the same, by their indices, and how alike they are, at most 1."""

    first: int
    second: int
    likeness: float


def shrink(grey: np.ndarray) -> np.ndarray:
    """Return a frame uint8 [h, w] as a `Thumbnail` keeps it."""
    return cv2.resize(grey, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """Return the difference hash of what `shrink` returns, as bool [64]."""
    small = cv2.resize(pixels.astype(np.float32), (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)
    return (small[:, 1:] > small[:, :-1]).ravel()


def find_pairs(first: list[np.ndarray], second: list[np.ndarray]) -> list[Pair]:
    """Return which frames look the same as one of others, of each the one that is most alike.

    Args:
        first: Frames as `shrink` returns them.
        second: The others.

    Returns:
        At most one pair for each of `first`, in their order.
    """
    if not first or not second:
        return []
    hashes, others = (_signs(frames) for frames in (first, second))
    looks, other_looks = (_normalised(frames) for frames in (first, second))
    pairs = []
    for start in range(0, len(first), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        # the sum of products of signs is 64 minus two for each place that differs
        near = hashes[part] @ others.T >= 64 - 2 * _MOST_DIFFERENT
        likeness = np.where(near, looks[part] @ other_looks.T, -1)
        best = likeness.argmax(1)
        for k in np.flatnonzero(likeness.max(1) >= _ALIKE).tolist():
            pairs.append(Pair(start + k, int(best[k]), float(likeness[k, best[k]])))
    return pairs


def _signs(frames: list[np.ndarray]) -> np.ndarray:
    return np.stack([difference_hash(frame) for frame in frames]).astype(np.float32) * 2 - 1


def _normalised(frames: list[np.ndarray]) -> np.ndarray:
    """Return frames as vectors whose products are correlations; flat ones are like nothing."""
    vectors = np.stack(frames).reshape(len(frames), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    flat = vectors.std(1) < _FLAT
    vectors[flat] = 0
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
