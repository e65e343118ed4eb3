"""How well masks agree: IoU of objects, and F of their boundaries.

F follows DAVIS 2017 (https://github.com/davisvideochallenge/davis2017-evaluation).
"""

import math
from collections.abc import Sequence
from typing import Union

import cv2
import numpy as np
import torch
from torch import Tensor

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal, as DAVIS has it

Mask = Union[np.ndarray, Tensor]


def boundary_f(pred: Mask, gt: Mask, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """Return F, the F-measure of the boundaries of two masks; 1 when both are empty.

    Boundary pixels match within a disk whose radius is `tolerance` of the image diagonal, rounded
    up, as in DAVIS. Boundaries follow its ``seg2bmap``: the pixels that differ from their
    neighbour to the right, below, or below to the right, so the image's edge is no boundary
    (and a mask that fills the image matches an empty one).

    Args:
        pred: [H, W] bool.
        gt: [H, W] bool.
        tolerance: A fraction of the diagonal; from 1 on, pixels.

    Raises:
        TypeError: A mask is not boolean.
        ValueError: The masks are not two-dimensional or differ in shape.
    """
    return boundary_f_and_nearness(*_as_mask_pair(pred, gt), tolerance)[0]


def object_means(values: Tensor, gt_areas: Tensor, prompted: Tensor) -> Tensor:
    """Return each object's mean over the frames that tell how it was tracked.

    Frames that received a prompt are left out. An object is not scored at all when no frame is
    left, when its ground truth is empty on every frame, or when it was prompted but is there on
    none of the prompted frames: the model was given an empty prompt then, and can only fail.
    Objects that no frame was prompted for are scored, since nothing is known of their prompts.

    Args:
        values: [T, O] one finite number per frame and object.
        gt_areas: [T, O] pixels of the ground truth.
        prompted: [T, O] bool, the frame received a prompt.

    Returns:
        [O] on the device of `values`, NaN for objects that are not scored. Nothing waits for it.
    """
    there = gt_areas > 0
    known = (there & prompted).any(0) | ~prompted.any(0)
    means = (values * ~prompted).sum(0) / (~prompted).sum(0)  # 0 / 0, NaN, when all were prompted
    return torch.where(there.any(0) & known, means, math.nan)


def object_ious(
    intersections: Tensor, unions: Tensor, gt_areas: Tensor, prompted: Tensor
) -> Tensor:
    """Return each object's IoU, as every mean IoU of this program averages it.

    A frame where neither mask has a pixel counts 1. See `object_means` for the rest.

    Args:
        intersections: [T, O] pixels of prediction and ground truth.
        unions: [T, O] pixels.
        gt_areas: [T, O] pixels.
        prompted: [T, O] bool, the frame received a prompt.

    Returns:
        [O] on the device of the counts, NaN for objects that are not scored.
    """
    ious = torch.where(unions > 0, intersections / unions.clamp(min=1), 1.0)
    return object_means(ious, gt_areas, prompted)


def object_ious_of_frame(pred_masks: Tensor, gt_masks: Tensor) -> Tensor:
    """Return each object's IoU on one frame, whatever its prompt: [O], NaN where it is not there.

    Args:
        pred_masks: [O, H, W] bool.
        gt_masks: [O, H, W] bool on the same device.
    """
    counts = (pred_masks & gt_masks, pred_masks | gt_masks, gt_masks)
    intersections, unions, gt_areas = (masks.sum((1, 2))[None] for masks in counts)
    return object_ious(intersections, unions, gt_areas, torch.zeros_like(unions, dtype=torch.bool))


def mean_iou(pred_masks: Tensor, gt_masks: Tensor, prompted: Sequence[bool]) -> Tensor:
    """Return the mean IoU of a batch as `VideoMetrics` counts it, without leaving the device.

    Args:
        pred_masks: [T, O, H, W] bool.
        gt_masks: [T, O, H, W] bool on the same device.
        prompted: T flags; prompted frames are left out.

    Returns:
        A scalar on the masks' device; NaN when no object is left to measure.
    """
    pairs = list(zip(pred_masks, gt_masks, strict=True))
    intersections = torch.stack([(pred & gt).sum((1, 2)) for pred, gt in pairs])
    unions = torch.stack([(pred | gt).sum((1, 2)) for pred, gt in pairs])
    gt_areas = gt_masks.sum((2, 3))
    # Not torch.tensor: a list would be copied to the device, which waits for it.
    flags = torch.stack([gt_masks.new_full(gt_masks.shape[1:2], flag) for flag in prompted])
    return object_ious(intersections, unions, gt_areas, flags).nanmean()


def copied_masks(gt_masks: Tensor, prompted: Sequence[bool]) -> Tensor:
    """Return what a tracker predicts that leaves each object where it was prompted last.

    A model that scores no more than this has learnt nothing of tracking. An object that has no
    pixel on a prompted frame was not prompted there.

    Args:
        gt_masks: [T, O, H, W] bool; not changed.
        prompted: T flags, True where the model was given a prompt.

    Returns:
        [T, O, H, W] bool on the same device; empty before an object's first prompt.
    """
    copied = torch.zeros_like(gt_masks)
    last = torch.zeros_like(gt_masks[0])
    for t, (masks, given) in enumerate(zip(gt_masks, prompted, strict=True)):
        if given:
            last = torch.where(masks.any((1, 2), keepdim=True), masks, last)
        copied[t] = last
    return copied


def _as_mask_pair(pred: Mask, gt: Mask) -> tuple[np.ndarray, np.ndarray]:
    pred, gt = _as_array("pred", pred), _as_array("gt", gt)
    if pred.shape != gt.shape:
        raise ValueError(
            f"pred and gt must agree in shape, got {list(pred.shape)} and {list(gt.shape)}"
        )
    return pred, gt


def _as_array(name: str, mask: Mask) -> np.ndarray:
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be bool, got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape [H, W], got {list(array.shape)}")
    return array


def boundary_f_and_nearness(
    pred: np.ndarray, gt: np.ndarray, tolerance: float = BOUNDARY_TOLERANCE
) -> tuple[float, bool]:
    """Return F, and whether every wrong pixel is as near the ground truth's outline."""
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*pred.shape))
    pred_boundary, gt_boundary = _boundary(pred), _boundary(gt)
    num_pred, num_gt = np.count_nonzero(pred_boundary), np.count_nonzero(gt_boundary)
    disk = _disk(int(radius))
    near_gt = cv2.dilate(gt_boundary, disk)
    is_near = not np.any((pred ^ gt) > near_gt)
    if num_pred == 0 or num_gt == 0:
        return float(num_pred == num_gt), is_near
    precision = np.count_nonzero(pred_boundary & near_gt) / num_pred
    recall = np.count_nonzero(gt_boundary & cv2.dilate(pred_boundary, disk)) / num_gt
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f, is_near


def _boundary(mask: np.ndarray) -> np.ndarray:
    """DAVIS's seg2bmap at full size, as uint8."""
    boundary = np.zeros(mask.shape, dtype=bool)
    boundary[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    boundary[:-1, :] |= mask[:-1, :] != mask[1:, :]
    boundary[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return boundary.astype(np.uint8)


def _disk(radius: int) -> np.ndarray:
    """A disk as skimage.morphology.disk makes it; cv2's ellipse has another outline."""
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)
