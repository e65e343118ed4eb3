"""The visualisation's public functions: conversion, drawing, logging.

Read top to bottom: a batch and the model's outputs become frames, ground truth, probabilities and
prompts; those become a picture; the picture reaches whatever logger there is. Nothing here knows
Lightning, the logger is an argument, and nothing given is ever changed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, List, Optional  # noqa: UP035 (the plan's signatures)

import numpy as np
import torch
from torch import Tensor

from .config import VisualizationsConfig
from .official import Batch, FrameOutputs, batch_field, frames_of, tensor, video_rows
from .visualization.drawing.composite import create_composite_visualization
from .visualization.images import (  # noqa: F401 (they can be imported from here too)
    encode_png,
    log_gif,
    log_images,
    safe_log_image,
    takes_gifs,
)
from .visualization.prompts import PromptData, check_prompt_type, implied_prompts
from .visualization.publisher import draw_sheets
from .visualization.reduction import denormalize
from .visualization.snapshot import Moment, SnapshotOptions, take_snapshot
from .words import counted

__all__ = [
    "PromptData",
    "build_prompts_from_gt_first_frame",
    "create_composite_visualization",
    "extract_category_preds",
    "log_training_visualizations",
    "safe_log_image",
    "to_category_gt_masks",
    "to_video_frames",
]

log = logging.getLogger(__name__)


def to_video_frames(batch: Batch, video_idx: int) -> Tensor:
    """Return the frames of one video as they were before normalisation.

    Args:
        batch: ``BatchedVideoDatapoint``; ``img_batch`` is [T, B, 3, H, W], normalised with the
            statistics of ImageNet.
        video_idx: Position of the video in the batch.

    Returns:
        [T, 3, H, W] float32 in [0, 1], on the batch's device.

    Raises:
        TypeError: ``img_batch`` is no tensor or holds bytes, or `video_idx` is no integer.
        ValueError: ``img_batch`` has another shape.
        IndexError: The batch has no such video.
    """
    _check_video(batch, video_idx)
    return denormalize(batch.img_batch[:, video_idx].detach()).float().div_(255)


def to_category_gt_masks(batch: Batch, num_categories: Optional[int], video_idx: int) -> Tensor:
    """Return the ground truth of one video, one mask slot per category.

    The k-th row of the video is category k, in both batch layouts.

    Args:
        batch: ``BatchedVideoDatapoint`` with ``masks`` [T, O, H, W].
        num_categories: C; slots beyond the video's rows stay empty, rows beyond C are left out.
            None: as many as the video has rows.
        video_idx: Position of the video in the batch.

    Returns:
        [T, C, H, W] bool in memory of its own, on the batch's device.

    Raises:
        TypeError: A field of the batch is no tensor, or a number no integer.
        ValueError: A field has another shape, or `num_categories` is less than 1.
        IndexError: The batch has no such video.
    """
    _check_video(batch, video_idx)
    masks = batch_field(batch, "masks", "[T, O, H, W]")
    layout = batch_field(batch, "obj_to_frame_idx", "[T, O, 2]")
    if layout.shape != (*masks.shape[:2], 2) or len(layout) == 0:
        raise ValueError(
            f"batch.obj_to_frame_idx must have shape [{len(masks)} >= 1, {masks.shape[1]}, 2] like "
            f"batch.masks, got {list(layout.shape)}"
        )
    if num_categories is not None:
        _check_int("num_categories", num_categories)
        if num_categories < 1:
            raise ValueError(f"num_categories must be None or at least 1, got {num_categories}")
    rows = video_rows(batch, video_idx)
    count = len(rows) if num_categories is None else num_categories
    if len(rows) > count:
        left_out = counted(len(rows) - count, "object does", "objects do")
        log.debug("%s not fit into num_categories=%d: left out", left_out, count)
    num_frames, _, height, width = masks.shape
    categories = torch.zeros(
        (num_frames, count, height, width), dtype=torch.bool, device=masks.device
    )
    rows = rows[:count]
    categories[:, : len(rows)] = masks.detach()[:, rows] > 0
    return categories


def extract_category_preds(
    outs_per_frame: Sequence[Mapping[str, Any]], key: str = "pred_masks_high_res"
) -> Tensor:
    """Return the predicted probabilities of all rows of a batch.

    Rows are those of ``batch.masks``: with several videos select one's with
    ``preds[:, batch.obj_to_frame_idx[0, :, 1] == video_idx]``.

    Args:
        outs_per_frame: T outputs of ``SAM2Train``; `key` holds logits [C, 1, H, W] or [C, H, W].
        key: Which logits; the default is SAM 2's final prediction.

    Returns:
        [T, C, H, W] float32 in [0, 1]; a mask is where it is strictly above 0.5. Non-finite logits
        become 0.

    Raises:
        TypeError: `outs_per_frame` is no sequence of dictionaries, or the logits are no tensor.
        KeyError: A frame has no such output.
        ValueError: There is no frame, the logits hold several masks per object, or the frames
            differ in shape.
    """
    if not isinstance(outs_per_frame, (list, tuple)):
        raise TypeError(
            f"outs_per_frame must be a list of dictionaries, got {type(outs_per_frame).__name__}"
        )
    if len(outs_per_frame) == 0:
        raise ValueError("outs_per_frame must hold at least one frame, got none")
    frames: list[Tensor] = []
    for t, outputs in enumerate(outs_per_frame):
        logits = _logits(outputs, f"outs_per_frame[{t}]", key)
        if frames and logits.shape != frames[0].shape:
            raise ValueError(
                f"outs_per_frame[{t}][{key!r}] must have frame 0's shape "
                f"{list(frames[0].shape)}, got {list(logits.shape)}"
            )
        frames.append(torch.where(torch.isfinite(logits), logits.sigmoid(), 0.0))
    return torch.stack(frames)


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
    shape = "[T >= 1, C, H, W]"
    if len(tensor(gt_masks_tchw, "gt_masks_tchw", shape)) == 0:
        raise ValueError(f"gt_masks_tchw must have shape {shape}, got {list(gt_masks_tchw.shape)}")
    check_prompt_type(prompt_type)
    return implied_prompts(gt_masks_tchw[0], prompt_type)


def log_training_visualizations(  # noqa: PLR0913 (the plan fixes it)
    pl_logger: Any,
    batch: Batch,
    outs_per_frame: Sequence[FrameOutputs],
    *,
    stage: str,
    step: int,
    epoch: int = 0,
    max_frames: int = 4,
    max_videos: int = 1,
    frame_stride: int = 1,
    num_categories: Optional[int] = None,
    panel_size: int = 256,
    obj_to_cat: Optional[Sequence[int]] = None,
    category_names: Optional[Sequence[str]] = None,
) -> bool:
    """Draw the first videos of a batch and log them at once, on the calling thread.

    `VisualizationsMixin.maybe_log_visualizations` does the same in the background. Panels show
    whole frames here: the setting ``zoom`` is the hook's.

    Args:
        pl_logger: A Lightning logger, a list of them, or None.
        batch: See `take_snapshot`.
        outs_per_frame: See `take_snapshot`.
        stage: ``train`` or ``val``; the key is ``<stage>/composites``.
        step: Optimizer steps taken, the image's step on the dashboard.
        epoch: Epoch shown in the header.
        max_frames: Rows of a sheet.
        max_videos: Sheets, one per video.
        frame_stride: Every n-th frame is drawn.
        num_categories: Categories drawn; None: the video's objects.
        panel_size: Longest side of a panel in pixels.
        obj_to_cat: The mask row of each prompt row, where these are components of categories; see
            `take_snapshot`.
        category_names: Names shown in the legend.

    Returns:
        True when a logger took the picture.

    Raises:
        TypeError: A tensor of the batch or of the outputs is missing.
        ValueError: Batch, outputs and `obj_to_cat` do not fit each other, or an option makes no
            sense.
    """
    if not isinstance(stage, str) or not stage:
        raise ValueError(f"stage must be a name such as train or val, got {stage!r}")
    VisualizationsConfig(
        max_frames=max_frames,
        max_videos=max_videos,
        frame_stride=frame_stride,
        num_categories=num_categories,
        panel_size=panel_size,
    )
    snapshot = take_snapshot(
        batch,
        outs_per_frame,
        Moment(stage, step, epoch, category_names=category_names),
        SnapshotOptions(max_frames, frame_stride, num_categories, panel_size, zoom="off"),
        range(max_videos),
        obj_to_cat,
    )
    if snapshot.fault is not None:
        raise ValueError(snapshot.fault)
    sheets, captions = draw_sheets(snapshot.clips(), panel_size)
    return safe_log_image(pl_logger, f"{stage}/composites", sheets, step, caption=captions)


def _logits(outputs: Any, name: str, key: str) -> Tensor:
    """Return the logits of one frame: [C, H, W] float32."""
    if not isinstance(outputs, Mapping):
        raise TypeError(f"{name} must be a dictionary, got {type(outputs).__name__}")
    if key not in outputs:
        known = ", ".join(map(str, outputs)) or "nothing"
        raise KeyError(f"{name} has no {key!r}; it has {known}")
    logits = outputs[key]
    if isinstance(logits, Tensor) and logits.ndim == 3:
        return logits.detach().float()
    return tensor(logits, f"{name}[{key!r}]", "[C, 1, H, W]").detach().float()[:, 0]


def _check_int(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")


def _check_video(batch: Batch, video_idx: int) -> None:
    num_videos = frames_of(batch).shape[1]
    _check_int("video_idx", video_idx)
    if not 0 <= video_idx < num_videos:
        raise IndexError(f"video_idx must be in [0, {num_videos}), got {video_idx}")
