"""Prompts as data: what a frame's objects were prompted with, read from SAM 2's own outputs."""

from dataclasses import dataclass
from typing import List, Optional  # noqa: UP035 (the plan's signatures)

import numpy as np
import torch
from torch import Tensor

PROMPT_KINDS = ("point", "bbox", "mask")
POSITIVE, NEGATIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING = 1, 0, 2, 3, -1
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
        if not isinstance(self.prompt_type, str) or self.prompt_type not in PROMPT_KINDS:
            raise ValueError(
                f"prompt_type must be one of {', '.join(PROMPT_KINDS)}, got {self.prompt_type!r}"
            )
        if self.prompt_type == "point":
            points = self._own_tensor("points")
            labels = self._own_tensor("labels")
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(f"points must have shape [K, 2], got {list(points.shape)}")
            if labels.shape != points.shape[:1]:
                raise ValueError(
                    f"labels must have shape [{len(points)}] like points, got {list(labels.shape)}"
                )
            if self.rounds is not None and self.rounds.shape != points.shape[:1]:
                raise ValueError(
                    f"rounds must have shape [{len(points)}] like points, "
                    f"got {list(self.rounds.shape)}"
                )
        elif self.prompt_type == "bbox":
            bbox = self._own_tensor("bbox")
            if bbox.shape != (4,):
                raise ValueError(f"bbox must have shape [4], got {list(bbox.shape)}")
        else:
            mask = self._own_tensor("mask")
            if mask.ndim != 2:
                raise ValueError(f"mask must have shape [H, W], got {list(mask.shape)}")

    def _own_tensor(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"a {self.prompt_type!r} prompt needs {name}, got None")
        return value


def build_prompts_from_gt_first_frame(gt_masks_tchw: Tensor, prompt_type: str) -> List[PromptData]:  # noqa: UP006
    """Build the prompts that the first frame's ground truth implies.

    Used where a model's outputs do not tell which prompts it was given. A click sits on the mask
    pixel nearest to the mask's centre of mass; a box encloses the mask's pixels (inclusive
    coordinates, as in `sam2.utils.misc.mask_to_box`). A category that is empty on the first frame
    gets no prompt.

    Args:
        gt_masks_tchw: [T, C, H, W] bool (or positive inside), left as it is.
        prompt_type: ``point``, ``bbox`` or ``mask``.

    Returns:
        One prompt per category that is present on the first frame, in order.

    Raises:
        TypeError: `gt_masks_tchw` is no tensor.
        ValueError: It has another rank, no frame, or the type is unknown.
    """
    if not isinstance(gt_masks_tchw, Tensor):
        raise TypeError(f"gt_masks_tchw must be a torch.Tensor, got {type(gt_masks_tchw).__name__}")
    if gt_masks_tchw.ndim != 4 or gt_masks_tchw.shape[0] == 0:
        raise ValueError(
            f"gt_masks_tchw must have shape [T >= 1, C, H, W], got {list(gt_masks_tchw.shape)}"
        )
    if not isinstance(prompt_type, str) or prompt_type not in PROMPT_KINDS:
        raise ValueError(
            f"prompt_type must be one of {', '.join(PROMPT_KINDS)}, got {prompt_type!r}"
        )
    prompts = []
    for category, mask in enumerate(gt_masks_tchw[0].detach() > 0):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        if len(xs) == 0:
            continue
        if prompt_type == "mask":
            prompts.append(PromptData("mask", category, mask=mask.clone()))
        elif prompt_type == "bbox":
            box = torch.stack([xs.min(), ys.min(), xs.max(), ys.max()]).float()
            prompts.append(PromptData("bbox", category, bbox=box))
        else:
            pixels = torch.stack([xs, ys], dim=1).float()
            nearest = (pixels - pixels.mean(0)).square().sum(1).argmin()
            prompts.append(
                PromptData(
                    "point",
                    category,
                    points=pixels[nearest : nearest + 1],
                    labels=torch.ones(1, dtype=torch.int32),
                )
            )
    return prompts


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
        box = np.concatenate([coords[start], coords[end]]).astype(np.float32)
        prompts.append(PromptData("bbox", obj_id, bbox=torch.from_numpy(box)))
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
