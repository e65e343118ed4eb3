"""One frame as a row of panels, from arrays alone."""

from collections.abc import Sequence
from typing import List, Optional  # noqa: UP035 (the plan's signatures)

import numpy as np
import torch

from ..arrays import masks, rgb, to_array
from ..clip import Clip, ClipFrame, Masks, Scores
from ..prompts import PromptData
from ..reduction import compare_masks
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
    gt, pred = (
        None if given is None else masks(given, name, (height, width), threshold)
        for given, name, threshold in ((gt_mask, "gt_mask", 0.0), (pred_mask, "pred_mask", 0.5))
    )
    counts = [len(found) for found in (gt, pred) if found is not None]
    count = min(max(counts, default=0), num_categories)
    gt, pred = _with_categories(gt, count), _with_categories(pred, count)
    drawn = [prompt for prompt in prompts if prompt.obj_id < num_categories]
    clip = Clip(
        name=title,
        frames=[ClipFrame(prompts=drawn)],
        images=pixels[None],
        model_size=(height, width),
        gt=_of_one_frame(gt),
        pred=_of_one_frame(pred),
        scores=_compare(gt, pred),
        errors=None if gt is None or pred is None else compare_masks(gt, pred)[None],
        ids=list(range(count)),
    )
    return render_sheet(clip)


def _as_pixels(image: "np.ndarray | torch.Tensor") -> np.ndarray:
    """Return [H, W, 3] uint8 of its own memory."""
    pixels = to_array(image, "image")
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"image must have shape [3, H, W], got {list(pixels.shape)}")
    return rgb(pixels)


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
        mask = prompt.mask if prompt.prompt_type == "mask" else None
        if mask is not None and tuple(mask.shape) != size:
            raise ValueError(
                f"prompts[{index}].mask must have shape [{size[0]}, {size[1]}] like image, "
                f"got {list(mask.shape)}"
            )


def _with_categories(found: Optional[np.ndarray], count: int) -> Optional[np.ndarray]:
    """Return [count, H, W] bool: further masks are left out, missing ones empty."""
    if found is None:
        return None
    out = np.zeros((count, *found.shape[1:]), bool)
    out[: len(found)] = found[:count]
    return out


def _of_one_frame(found: Optional[np.ndarray]) -> Optional[Masks]:
    return None if found is None else Masks(found[None], found.sum((1, 2))[None])


def _compare(gt: Optional[np.ndarray], pred: Optional[np.ndarray]) -> Optional[Scores]:
    if gt is None or pred is None:
        return None
    return Scores((gt & pred).sum((1, 2))[None], (gt | pred).sum((1, 2))[None])
