"""What the predictor is told about an object, and on which frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..checks import UserError


@dataclass(frozen=True)
class Prompt:
    """One prompt of one object on one frame: a mask, or a box, clicks, or a box with clicks.

    Attributes:
        frame: The frame's position in the video, from 0.
        object_id: The object.
        mask: [H, W] bool.
        box: x0, y0, x1, y1 in pixels of the video.
        points: [K, 2] (x, y) in pixels of the video.
        labels: [K] 1 positive, 0 negative.
    """

    frame: int
    object_id: int
    mask: Optional[np.ndarray] = None
    box: Optional[tuple[float, float, float, float]] = None
    points: Optional[np.ndarray] = None
    labels: Optional[np.ndarray] = None

    def __str__(self) -> str:
        return f"the prompt of object {self.object_id} on frame {self.frame}"


def check_prompts(prompts: Sequence[Prompt], num_frames: int, size: tuple[int, int]) -> None:
    """Refuse prompts that Meta's predictor would take and then answer with nonsense.

    Args:
        prompts: All prompts of a video.
        num_frames: Frames of the video.
        size: (height, width) of the frames.

    Raises:
        UserError: There is no prompt, an object has two on one frame, its first says only where it
            is not, or a prompt does not fit the video.
    """
    if not prompts:
        raise UserError("the video has no prompt: expected at least one object to track")
    seen: set[tuple[int, int]] = set()
    for prompt in prompts:
        if not 0 <= prompt.frame < num_frames:
            raise UserError(f"{prompt}: the video has the frames 0 to {num_frames - 1}")
        if (prompt.frame, prompt.object_id) in seen:
            raise UserError(f"{prompt} is given twice, expected one prompt per object and frame")
        seen.add((prompt.frame, prompt.object_id))
        _check_content(prompt, size)
    for prompt in first_prompts(prompts).values():
        if prompt.labels is not None and prompt.box is None and not prompt.labels.any():
            raise UserError(
                f"{prompt}: expected a positive point or a box in the first prompt of an object"
            )


def _check_content(prompt: Prompt, size: tuple[int, int]) -> None:
    if prompt.mask is not None:
        if prompt.box is not None or prompt.points is not None:
            raise UserError(f"{prompt} has a mask and a box or clicks, expected one or the other")
        _check_mask(prompt, prompt.mask, size)
    elif prompt.box is None and prompt.points is None:
        raise UserError(f"{prompt} is empty, expected a mask, a box or points with labels")
    if prompt.box is not None:
        _check_box(prompt, prompt.box, size)
    if (prompt.points is None) != (prompt.labels is None):
        raise UserError(f"{prompt} has points without labels or labels without points")
    if prompt.points is not None and prompt.labels is not None:
        _check_points(prompt, prompt.points, prompt.labels, size)


def _check_mask(prompt: Prompt, mask: np.ndarray, size: tuple[int, int]) -> None:
    if mask.shape != tuple(size):
        found = " x ".join(map(str, mask.shape[::-1]))
        raise UserError(
            f"{prompt}: the mask is {found} pixels, expected the video's {size[1]} x {size[0]}"
        )
    if not mask.any():
        raise UserError(f"{prompt}: the mask is empty")


def _check_box(
    prompt: Prompt, box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]):
        raise UserError(
            f"{prompt}: the box {list(box)} must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1"
            f" inside the video's {size[1]} x {size[0]} pixels"
        )


def _check_points(
    prompt: Prompt, points: np.ndarray, labels: np.ndarray, size: tuple[int, int]
) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 1 or len(points) != labels.size:
        raise UserError(f"{prompt}: expected one (x, y) and one label per point")
    if not set(labels.tolist()) <= {0, 1}:
        raise UserError(f"{prompt}: labels must be 1 (positive) or 0 (negative)")
    if (points < 0).any() or (points > (size[1], size[0])).any():
        raise UserError(f"{prompt}: a point lies outside the video's {size[1]} x {size[0]} pixels")


def first_prompts(prompts: Sequence[Prompt]) -> dict[int, Prompt]:
    """Return the earliest prompt of each object."""
    first: dict[int, Prompt] = {}
    for prompt in sorted(prompts, key=lambda prompt: prompt.frame):
        first.setdefault(prompt.object_id, prompt)
    return first
