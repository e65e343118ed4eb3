"""The visualisation's public functions: conversion, drawing, logging.

Read top to bottom: a batch and the model's outputs become frames, ground truth, probabilities and
prompts; those become a picture; the picture reaches whatever logger there is. Nothing here knows
Lightning, the logger is an argument, and nothing given is ever changed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from .config import VisualizationsConfig
from .official import video_rows
from .visualization.drawing.composite import create_composite_visualization
from .visualization.images import (  # noqa: F401 (they can be imported from here too)
    encode_png,
    log_gif,
    log_images,
    safe_log_image,
    takes_gifs,
)
from .visualization.prompts import PromptData, build_prompts_from_gt_first_frame
from .visualization.publisher import draw_sheets
from .visualization.reduction import denormalize
from .visualization.snapshot import SnapshotOptions, take_snapshot

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


def to_video_frames(batch: Any, video_idx: int) -> Tensor:
    """Return the frames of one video as they were before normalisation.

    Args:
        batch: ``BatchedVideoDatapoint``; ``img_batch`` is [T, B, 3, H, W], normalised with the
            statistics of ImageNet.
        video_idx: Position of the video in the batch.

    Returns:
        [T, 3, H, W] float32 in [0, 1], on the batch's device.

    Raises:
        TypeError: ``img_batch`` is no tensor, or `video_idx` no integer.
        ValueError: ``img_batch`` has another shape.
        IndexError: The batch has no such video.
    """
    _check_video(batch, video_idx)
    return denormalize(batch.img_batch[:, video_idx].detach()).float().div_(255)


def to_category_gt_masks(batch: Any, num_categories: Optional[int], video_idx: int) -> Tensor:
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
    masks = _field(batch, "masks", "[T, O, H, W]")
    layout = _field(batch, "obj_to_frame_idx", "[T, O, 2]")
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
        log.debug("%d objects beyond num_categories=%d left out", len(rows) - count, count)
    num_frames, _, height, width = masks.shape
    categories = torch.zeros(
        (num_frames, count, height, width), dtype=torch.bool, device=masks.device
    )
    rows = rows[:count]
    categories[:, : len(rows)] = masks.detach()[:, rows] > 0
    return categories


def extract_category_preds(
    outs_per_frame: Sequence[dict[str, Any]], key: str = "pred_masks_high_res"
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
    frames = []
    for t, outputs in enumerate(outs_per_frame):
        if not isinstance(outputs, Mapping):
            raise TypeError(
                f"outs_per_frame[{t}] must be a dictionary, got {type(outputs).__name__}"
            )
        if key not in outputs:
            known = ", ".join(map(str, outputs)) or "nothing"
            raise KeyError(f"outs_per_frame[{t}] has no {key!r}; it has {known}")
        if not isinstance(outputs[key], Tensor):
            raise TypeError(
                f"outs_per_frame[{t}][{key!r}] must be a torch.Tensor, "
                f"got {type(outputs[key]).__name__}"
            )
        logits = outputs[key].detach().float()
        if logits.ndim == 4 and logits.shape[1] == 1:
            logits = logits[:, 0]
        if logits.ndim != 3:
            raise ValueError(
                f"outs_per_frame[{t}][{key!r}] must have shape [C, 1, H, W], "
                f"got {list(outputs[key].shape)}"
            )
        if frames and logits.shape != frames[0].shape:
            raise ValueError(
                f"outs_per_frame[{t}][{key!r}] must have frame 0's shape "
                f"{list(frames[0].shape)}, got {list(logits.shape)}"
            )
        frames.append(torch.where(torch.isfinite(logits), logits.sigmoid(), 0.0))
    return torch.stack(frames)


def log_training_visualizations(
    pl_logger: Any,
    batch: Any,
    outs_per_frame: Sequence[dict[str, Any]],
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

    `VisualizationsMixin.maybe_log_visualizations` does the same in the background.

    Args:
        pl_logger: A Lightning logger, a list of them, or None.
        batch: See `take_snapshot`.
        outs_per_frame: See `take_snapshot`.
        stage: ``train`` or ``val``; the key is ``<stage>/composites``.
        step: Optimizer steps taken, the image's step on the dashboard.
        epoch: Epoch shown in the header.
        max_frames: Rows of a sheet.
        max_videos: Sheets, one per video.
        frame_stride: Every so manieth frame is drawn.
        num_categories: Categories drawn; None: the video's objects.
        panel_size: Longest side of a panel in pixels.
        obj_to_cat: Mask row of each prompt row, where prompts are components of categories.
        category_names: Names shown in the legend.

    Returns:
        True when a logger took the picture.

    Raises:
        ValueError: Batch and outputs do not fit each other, or an option makes no sense.
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
        stage=stage,
        step=step,
        epoch=epoch,
        videos=range(max_videos),
        options=SnapshotOptions(max_frames, frame_stride, num_categories, panel_size),
        obj_to_cat=obj_to_cat,
        category_names=category_names,
    )
    sheets, captions = draw_sheets(snapshot.clips(), panel_size)
    return safe_log_image(pl_logger, f"{stage}/composites", sheets, step, caption=captions)


def _field(batch: Any, name: str, shape: str) -> Tensor:
    value = getattr(batch, name, None)
    if not isinstance(value, Tensor):
        raise TypeError(f"batch.{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.ndim != shape.count(",") + 1:
        raise ValueError(f"batch.{name} must have shape {shape}, got {list(value.shape)}")
    return value


def _check_int(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")


def _check_video(batch: Any, video_idx: int) -> None:
    images = _field(batch, "img_batch", "[T, B, 3, H, W]")
    if images.shape[2] != 3:
        raise ValueError(
            f"batch.img_batch must have shape [T, B, 3, H, W], got {list(images.shape)}"
        )
    _check_int("video_idx", video_idx)
    num_videos = images.shape[1]
    if not 0 <= video_idx < num_videos:
        raise IndexError(f"video_idx must be in [0, {num_videos}), got {video_idx}")
