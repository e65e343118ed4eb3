"""SAM 2 for training, with prompts only for objects that are there.

Import it after `core.official.import_sam2`: it needs the package ``sam2``.
"""

from types import FunctionType
from typing import Any, Optional

from torch import Tensor
from training.model import sam2 as official

# SAM 2's own label of a click that is none.
_PADDING = -1


def sample_box_points(masks: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Sample the corners of noisy boxes, as the official function does; empty masks get padding.

    Args:
        masks: [O, 1, H, W] bool.
        *args: See ``sam2.modeling.sam2_utils.sample_box_points``.
        **options: The same.

    Returns:
        [O, 2, 2] corners (x, y) in pixels, and [O, 2] labels, 2 and 3. The row of an empty mask has
        the label -1.
    """
    points, labels = official.sample_box_points(masks, *args, **options)
    return _padded(points, labels, _is_empty(masks))


def get_next_point(
    gt_masks: Tensor, pred_masks: Optional[Tensor], method: str
) -> tuple[Tensor, Tensor]:
    """Sample one click per object, as the official function does, but none without a reason.

    An object that is not there is clicked only where it is falsely predicted.

    Args:
        gt_masks: [O, 1, H, W] bool.
        pred_masks: The same shape; None: the click is sampled from the ground truth alone.
        method: ``uniform`` or ``center``.

    Returns:
        [O, 1, 2] clicks (x, y) in pixels, and [O, 1] labels: 1 positive, 0 negative, -1 padding.
    """
    points, labels = official.get_next_point(gt_masks, pred_masks, method)
    nothing_to_click = _is_empty(gt_masks)
    if pred_masks is not None:
        nothing_to_click = nothing_to_click & _is_empty(pred_masks)
    return _padded(points, labels, nothing_to_click)


def _is_empty(masks: Tensor) -> Tensor:
    return ~masks.flatten(1).any(1)


def _padded(points: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    return (
        points.masked_fill(rows[:, None, None], 0.0),
        labels.masked_fill(rows[:, None], _PADDING),
    )


def _with_own_sampling(method: Any) -> Any:
    """Return a method of Meta's that finds the functions above where it looks for Meta's.

    Meta's module stays as it is for everybody else who uses it.
    """
    own = {"sample_box_points": sample_box_points, "get_next_point": get_next_point}
    return FunctionType(
        method.__code__,
        {**method.__globals__, **own},
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )


class SAM2TrainPresent(official.SAM2Train):
    """``SAM2Train`` that prompts an object only on frames where it has a pixel.

    Officially, an object that is absent on a frame that is prompted gets a meaningless box or a
    click on the background (facebookresearch/sam2#470). Here its row is padding, and correction
    clicks go only to what is falsely predicted. Everything else is the official code, and as many
    random numbers are drawn, so the initial prompts of other objects are the same bit for bit.
    """

    prepare_prompt_inputs = _with_own_sampling(official.SAM2Train.prepare_prompt_inputs)
    _iter_correct_pt_sampling = _with_own_sampling(official.SAM2Train._iter_correct_pt_sampling)
