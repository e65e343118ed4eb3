"""One frame as a row of panels, from arrays alone."""

import math
from collections.abc import Sequence
from typing import List, Optional  # noqa: UP035 (the plan's signatures)

import numpy as np
import torch

from ..clip import Clip
from ..prompts import PromptData
from .sheet import render_sheet


def create_composite_visualization(
    image: "np.ndarray | torch.Tensor",
    gt_mask: "np.ndarray | torch.Tensor | None",
    pred_mask: "np.ndarray | torch.Tensor | None",
    prompts: Optional[List[PromptData]] = None,  # noqa: UP006
    title: str = "Training Sample",
    num_categories: int = 13,
) -> np.ndarray:
    """Draw one frame as a row of panels: image, ground truth, prompts, prediction, errors.

    Args:
        image: [3, H, W] (or [H, W, 3]), uint8 or float in [0, 1] (values outside are clamped).
        gt_mask: [C, H, W] bool, or positive inside; None: no ground truth.
        pred_mask: [C, H, W] bool, or probabilities that count when strictly above 0.5; None: no
            prediction.
        prompts: Prompts in pixels of `image`; a mask prompt has the image's size.
        title: Text above the row.
        num_categories: At most so many categories are drawn.

    Returns:
        [h, w, 3] uint8, contiguous and owned by the caller. The inputs are left as they are.

    Raises:
        TypeError: An argument is neither array nor tensor, or a prompt is no `PromptData`.
        ValueError: A shape does not fit, or `num_categories` is less than 1.
    """
    pixels = _as_pixels(image)
    height, width = pixels.shape[:2]
    _check_categories(num_categories)
    prompts = [] if prompts is None else prompts
    _check_prompts(prompts, (height, width))
    gt = _as_masks(gt_mask, "gt_mask", (height, width), 0.0)
    pred = _as_masks(pred_mask, "pred_mask", (height, width), 0.5)
    count = min(max(len(gt), len(pred)), num_categories)
    gt, pred = (_with_categories(masks, count) for masks in (gt, pred))
    intersections = (gt & pred).sum((1, 2))[None]
    gt_areas, pred_areas = gt.sum((1, 2))[None], pred.sum((1, 2))[None]
    unknown = np.full((1, count), math.nan, np.float32)
    clip = Clip(
        stage="",
        epoch=0,
        step=0,
        name=title,
        frame_positions=[0],
        frame_numbers=[0],
        images=pixels[None],
        gt_masks=gt[None],
        pred_masks=pred[None],
        intersections=intersections,
        unions=gt_areas + pred_areas - intersections,
        gt_areas=gt_areas,
        pred_areas=pred_areas,
        predicted_ious=unknown,
        object_scores=unknown,
        non_finite=np.zeros((1, count), bool),
        prompts=[[p for p in prompts if p.obj_id < num_categories]],
        prompted=np.zeros(1, bool),
        mask_prompted=np.zeros(1, bool),
        model_size=(height, width),
        mean_iou=math.nan,
    )
    return render_sheet(
        clip,
        header=[title],
        has_truth=gt_mask is not None,
        has_prediction=pred_mask is not None,
    )


def _as_pixels(image: "np.ndarray | torch.Tensor") -> np.ndarray:
    """Return [H, W, 3] uint8 of its own memory."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be an array or tensor, got {type(image).__name__}")
    if image.ndim == 3 and image.shape[0] == 3:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape [3, H, W], got {list(image.shape)}")
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        image = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return np.array(image, order="C")


def _as_masks(
    masks: "np.ndarray | torch.Tensor | None", name: str, size: tuple[int, int], threshold: float
) -> np.ndarray:
    """Return [C, H, W] bool."""
    if masks is None:
        return np.zeros((0, *size), bool)
    if isinstance(masks, torch.Tensor):
        masks = masks.detach().cpu()
        masks = (masks.float() if masks.is_floating_point() else masks).numpy()
    if not isinstance(masks, np.ndarray):
        raise TypeError(f"{name} must be an array or tensor, got {type(masks).__name__}")
    if masks.ndim != 3 or masks.shape[1:] != size:
        raise ValueError(
            f"{name} must have shape [C, {size[0]}, {size[1]}] like image, got {list(masks.shape)}"
        )
    if masks.dtype == bool:
        return masks
    with np.errstate(invalid="ignore"):
        return (masks > threshold) & np.isfinite(masks)


def _check_categories(num_categories: int) -> None:
    if isinstance(num_categories, bool) or not isinstance(num_categories, (int, np.integer)):
        raise TypeError(f"num_categories must be an int, got {type(num_categories).__name__}")
    if num_categories < 1:
        raise ValueError(f"num_categories must be at least 1, got {num_categories}")


def _check_prompts(prompts: Sequence[PromptData], size: tuple[int, int]) -> None:
    if not isinstance(prompts, (list, tuple)):
        raise TypeError(f"prompts must be a list of PromptData, got {type(prompts).__name__}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, PromptData):
            raise TypeError(f"prompts must hold PromptData, got {type(prompt).__name__}")
        if prompt.prompt_type == "mask" and tuple(prompt.mask.shape) != size:
            raise ValueError(
                f"prompts[{index}].mask must have shape [{size[0]}, {size[1]}] like image, "
                f"got {list(prompt.mask.shape)}"
            )


def _with_categories(masks: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((count, *masks.shape[1:]), bool)
    out[: len(masks)] = masks[:count]
    return out
