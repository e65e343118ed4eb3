"""Prompts as data: what a frame's objects were prompted with, read from SAM 2's own outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from ..official import tensor

PROMPT_KINDS = ("point", "bbox", "mask")
POSITIVE, NEGATIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 1, 0, 2, 3
PADDING = -1
UNASSIGNED = -1


@dataclass
class PromptData:
    """One prompt of one object on one frame.

    Attributes:
        prompt_type: ``point``, ``bbox`` or ``mask``.
        obj_id: Category index of the object in its video, which is also its colour; -1 when the
            prompt cannot be assigned to a category (drawn in a neutral colour).
        points: [K, 2] clicks (x, y) in model pixels; needed by ``point``.
        labels: [K] 1 positive, 0 negative, -1 padding, which is never drawn; needed by ``point``.
        bbox: [4] x0, y0, x1, y1 in model pixels; needed by ``bbox``.
        mask: [H, W], true or positive inside; needed by ``mask``.
        rounds: [K] correction round of each click, 0 for the initial prompt; None: all initial.

    Raises:
        TypeError: A field that must be a tensor is none, or `obj_id` is no integer.
        ValueError: The type is unknown, `obj_id` is below -1, or the type's own tensor is missing
            or has another shape.
    """

    prompt_type: str
    obj_id: int
    points: Optional[Tensor] = None
    labels: Optional[Tensor] = None
    bbox: Optional[Tensor] = None
    mask: Optional[Tensor] = None
    rounds: Optional[Tensor] = None

    def __post_init__(self) -> None:
        for name in ("points", "labels", "bbox", "mask", "rounds"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if isinstance(self.obj_id, bool) or not isinstance(self.obj_id, (int, np.integer)):
            raise TypeError(f"obj_id must be an int, got {type(self.obj_id).__name__}")
        if self.obj_id < UNASSIGNED:
            raise ValueError(f"obj_id must be at least {UNASSIGNED}, got {self.obj_id}")
        check_prompt_type(self.prompt_type)
        if self.prompt_type == "point":
            self._check_clicks()
        elif self.prompt_type == "bbox":
            tensor(self._own("bbox"), "bbox", "[4]")
        else:
            tensor(self._own("mask"), "mask", "[H, W]")

    def _check_clicks(self) -> None:
        points, labels = self._own("points"), self._own("labels")
        tensor(points, "points", "[K, 2]")
        tensor(labels, "labels", f"[{len(points)}] like points")
        if self.rounds is not None:
            tensor(self.rounds, "rounds", f"[{len(points)}] like points")

    def _own(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"a {self.prompt_type!r} prompt needs {name}, got None")
        return value


def check_prompt_type(prompt_type: Any) -> None:
    """Raise ValueError unless it is one of `PROMPT_KINDS`."""
    if not isinstance(prompt_type, str) or prompt_type not in PROMPT_KINDS:
        raise ValueError(
            f"prompt_type must be one of {', '.join(PROMPT_KINDS)}, got {prompt_type!r}"
        )


def implied_prompts(masks: Tensor, prompt_type: str) -> list[PromptData]:
    """Return the prompts that the ground truth of one frame implies.

    Args:
        masks: [C, H, W] bool (or positive inside), left as it is.
        prompt_type: ``point`` (see `implied_click`), ``bbox`` (around the mask's pixels, inclusive
            coordinates, as in `sam2.utils.misc.mask_to_box`) or ``mask``.

    Returns:
        One prompt per category that is present, in order.
    """
    imply = {"point": implied_click, "bbox": _implied_box, "mask": _implied_mask}[prompt_type]
    present = [(k, mask) for k, mask in enumerate(masks.detach() > 0) if mask.any()]
    return [imply(mask, category) for category, mask in present]


def implied_click(mask: Tensor, category: int, scale: Optional[Tensor] = None) -> PromptData:
    """Return a click on the pixel of a mask that is nearest to the mask's centre of mass.

    Args:
        mask: [H, W] bool, not empty.
        category: Whose click it is.
        scale: [2] model pixels per pixel of the mask; None: they are the same.
    """
    ys, xs = torch.nonzero(mask, as_tuple=True)
    pixels = torch.stack([xs, ys], dim=1).float()
    nearest = (pixels - pixels.mean(0)).square().sum(1).argmin()
    points = pixels[nearest : nearest + 1]
    if scale is not None:
        points = (points + 0.5) * scale - 0.5
    return PromptData("point", category, points=points, labels=torch.ones(1, dtype=torch.int32))


def _implied_box(mask: Tensor, category: int) -> PromptData:
    ys, xs = torch.nonzero(mask, as_tuple=True)
    box = torch.stack([xs.min(), ys.min(), xs.max(), ys.max()]).float()
    return PromptData("bbox", category, bbox=box)


def _implied_mask(mask: Tensor, category: int) -> PromptData:
    return PromptData("mask", category, mask=mask.clone())


def prompts_from_clicks(
    coords: np.ndarray, labels: np.ndarray, num_initial: int, obj_id: int
) -> list[PromptData]:
    """Turn one row of SAM 2's ``point_inputs`` into prompts: a box, clicks, or both.

    Labels follow SAM 2: 1 positive, 0 negative, 2 and 3 the box corners, -1 padding.

    Args:
        coords: [P, 2] float (x, y) in model pixels.
        labels: [P] int.
        num_initial: How many of the P columns belong to the initial prompt; every one after them is
            one correction round.
        obj_id: Category index, or -1.
    """
    prompts = []
    top_left = np.flatnonzero(labels == BOX_TOP_LEFT)
    bottom_right = np.flatnonzero(labels == BOX_BOTTOM_RIGHT)
    for start, end in zip(top_left, bottom_right, strict=False):
        prompts.append(box_prompt(np.concatenate([coords[start], coords[end]]), obj_id))
    clicks = np.flatnonzero((labels == POSITIVE) | (labels == NEGATIVE))
    if len(clicks):
        rounds = np.maximum(clicks - num_initial + 1, 0)
        prompts.append(
            PromptData(
                "point",
                obj_id,
                points=torch.from_numpy(coords[clicks].astype(np.float32)),
                labels=torch.from_numpy(labels[clicks].astype(np.int32)),
                rounds=torch.from_numpy(rounds.astype(np.int32)),
            )
        )
    return prompts


def box_prompt(box: np.ndarray, obj_id: int) -> PromptData:
    """Return x0, y0, x1, y1 in model pixels, [4], as a prompt."""
    return PromptData("bbox", obj_id, bbox=torch.from_numpy(box.astype(np.float32)))


def count_lost(labels: np.ndarray, prompts: Sequence[PromptData]) -> int:
    """Count the columns of a row of ``point_inputs`` that `prompts_from_clicks` made nothing of.

    These are corners of a box without the other corner, and labels that SAM 2 does not know.
    """
    num_used = sum(
        2 if prompt.points is None else len(prompt.points)
        for prompt in prompts
        if prompt.prompt_type != "mask"
    )
    return int((labels != PADDING).sum()) - num_used


def count_undrawable(prompts: Sequence[PromptData], size: tuple[int, int]) -> int:
    """Count the clicks and boxes of which nothing lies on a frame of `size` (H, W)."""
    return sum(int((~_is_drawable(prompt, size)).sum()) for prompt in prompts)


def has_drawable(prompts: Sequence[PromptData], size: tuple[int, int]) -> bool:
    """Return whether any click, box or mask lies on a frame of `size` (H, W)."""
    return any(bool(_is_drawable(prompt, size).any()) for prompt in prompts)


def _is_drawable(prompt: PromptData, size: tuple[int, int]) -> Tensor:
    """Return for each click of a prompt, or its one box or mask, whether it can be seen: [K]."""
    if prompt.mask is not None:
        return torch.ones(1, dtype=torch.bool)
    if prompt.bbox is not None:
        corners = prompt.bbox.reshape(2, 2)
        least, most = corners.amin(0), corners.amax(0)
        limits = torch.tensor([size[1], size[0]]) - 0.5
        beside = ((most < -0.5) | (least > limits)).any()
        around = ((least < -0.5) & (most > limits)).all()
        return (corners.isfinite().all() & ~beside & ~around)[None]
    if prompt.points is None or prompt.labels is None:
        return torch.zeros(0, dtype=torch.bool)
    # A click that is padding is nothing that could be missed.
    return on_frame(prompt.points, size) | (prompt.labels == PADDING)


def on_frame(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which of [K, 2] points (x, y) lie on a frame of `size` (H, W): [K] bool."""
    limits = torch.tensor([size[1], size[0]]) - 0.5
    return ((points >= -0.5) & (points <= limits)).all(1)
