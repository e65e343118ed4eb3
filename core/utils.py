"""The visualisation's public functions: conversion, drawing, logging.

Read top to bottom: a batch and the model's outputs become frames, ground truth, probabilities and
prompts; those become a picture; the picture reaches whatever logger there is. Nothing here knows
Lightning, the logger is an argument, and nothing given is ever changed.
"""

import inspect
import io
import logging
import struct
from collections.abc import Mapping, Sequence
from typing import Any, List, Optional  # noqa: UP035 (the plan's signatures)

import numpy as np
import torch
from isal import isal_zlib
from PIL import Image
from torch import Tensor

from core.config import VisualizationsConfig
from core.prompts import PromptData, build_prompts_from_gt_first_frame
from core.reduction import denormalize
from core.render import create_composite_visualization, mean_iou_words, render_sheet
from core.sheet import Clip
from core.snapshot import (
    SnapshotOptions,
    take_snapshot,
    video_rows,
)

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

# SwanLab drops images and videos beyond this size without a word to the caller.
_MAX_SWANLAB_BYTES = 10 * 2**20


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


def draw_sheets(clips: Sequence[Clip], panel_size: int) -> tuple[List[np.ndarray], List[str]]:  # noqa: UP006
    """Return one sheet and one caption per clip."""
    sheets = [render_sheet(clip, panel_size=panel_size) for clip in clips]
    return sheets, [_caption(clip) for clip in clips]


def safe_log_image(
    pl_logger: Any,
    key: str,
    image: Any,
    step: Optional[int] = None,
    *,
    caption: Any = None,
) -> bool:
    """Log an image and never raise.

    Args:
        pl_logger: SwanLab's, W&B's or TensorBoard's Lightning logger, anything else with a
            ``log_image(key, images, step)`` of theirs, a list of loggers, or None.
        key: Name on the dashboard, e.g. ``train/composites``.
        image: One image or a list: [h, w, 3] uint8; also [3, h, w], grey [h, w], bool, and floats
            in [0, 1], as arrays or tensors. Left as it is.
        step: Step on the dashboard.
        caption: One text, or a list with one per image.

    Returns:
        True when at least one logger took the image; False, with one warning in the log where
        something failed, otherwise.
    """
    try:
        logged, error = _log_to_each(pl_logger, key, image, step, caption)
    except Exception as refused:
        logged, error = False, refused
    if error is not None:
        log.warning("logging the image %r failed", key, exc_info=error)
    return logged


def log_images(
    pl_logger: Any, key: str, image: Any, step: Optional[int] = None, caption: Any = None
) -> bool:
    """Do what `safe_log_image` does and raise what goes wrong.

    Of a list of loggers every one is tried; the first error is raised after the last.
    """
    logged, error = _log_to_each(pl_logger, key, image, step, caption)
    if error is not None:
        raise error
    return logged


def _log_to_each(
    pl_logger: Any, key: str, image: Any, step: Optional[int], caption: Any
) -> tuple[bool, Optional[Exception]]:
    """Return whether a logger took the image, and the first error of one that did not."""
    images = [_as_image(item) for item in (image if isinstance(image, (list, tuple)) else [image])]
    if not images:
        raise ValueError("image must hold at least one image, got an empty list")
    captions = caption if isinstance(caption, (list, tuple)) else [caption] * len(images)
    captions = ["" if text is None else str(text) for text in captions]
    if len(captions) != len(images):
        raise ValueError(
            f"caption must have one text per image ({len(images)}), got {len(captions)}"
        )
    if step is not None:
        step = int(step)
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
    loggers = pl_logger if isinstance(pl_logger, (list, tuple)) else [pl_logger]
    logged, first_error = False, None
    for logger in loggers:
        try:
            logged |= _log_to(logger, key, images, step, captions)
        except Exception as error:
            first_error = first_error or error
    return logged, first_error


def log_gif(
    pl_logger: Any, key: str, frames: Sequence[np.ndarray], step: int, caption: str = ""
) -> bool:
    """Log frames [h, w, 3] uint8 as a GIF to every logger that `takes_gifs`.

    Returns:
        True when a logger took it; False when there is none, or the GIF is larger than it takes.
    """
    loggers = pl_logger if isinstance(pl_logger, (list, tuple)) else [pl_logger]
    loggers = [logger for logger in loggers if takes_gifs(logger)]
    if not loggers:
        return False
    import swanlab

    buffer = io.BytesIO()
    first, *rest = [Image.fromarray(frame).quantize(128) for frame in frames]
    first.save(buffer, "gif", save_all=True, append_images=rest, duration=250, loop=0)
    if len(buffer.getvalue()) > _MAX_SWANLAB_BYTES:
        return False
    for logger in loggers:
        video = swanlab.Video(buffer.getvalue(), caption=caption)
        logger.experiment.log({key: video}, step=int(step))
    return True


def takes_gifs(logger: Any) -> bool:
    """Return whether `log_gif` has a way to this logger: SwanLab's alone takes encoded bytes."""
    return _is_swanlab(logger)


def _log_to(
    logger: Any, key: str, images: list[np.ndarray], step: Optional[int], captions: list[str]
) -> bool:
    if logger is None:
        return False
    if hasattr(logger, "log_image"):
        payload = images
        if _is_swanlab(logger):
            payload = [
                _as_swanlab_image(item, text) for item, text in zip(images, captions, strict=True)
            ]
        offered = {"step": step, "caption": captions}
        logger.log_image(key, payload, **_accepted(logger.log_image, offered))
        return True
    experiment = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):
        for index, item in enumerate(images):
            name = key if len(images) == 1 else f"{key}/{index}"
            experiment.add_image(name, item, step, dataformats="HWC")
        return True
    return False


def _is_swanlab(logger: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "swanlab" for kind in type(logger).__mro__)


def _accepted(function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Keep the keywords that a logger's method knows: older versions know fewer."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return offered
    return {name: value for name, value in offered.items() if name in parameters}


def _as_swanlab_image(image: np.ndarray, caption: str) -> Any:
    """Hand SwanLab a finished PNG: its own encoding takes over ten times as long."""
    import swanlab

    wrapped = swanlab.Image(np.zeros((1, 1, 3), np.uint8), caption=caption)
    if not isinstance(getattr(wrapped, "buffer", None), io.BytesIO):
        return swanlab.Image(image, caption=caption)
    wrapped.buffer = io.BytesIO(encode_png(image))
    if len(wrapped.buffer.getvalue()) > _MAX_SWANLAB_BYTES:
        return swanlab.Image(image, caption=caption, file_type="jpg")
    return wrapped


def encode_png(image: np.ndarray) -> bytes:
    """Encode [h, w, 3] uint8 as PNG (ISO/IEC 15948), without loss.

    The rows' filter is always "sub": looking for the best one takes longer than all the rest.
    """
    height, width = image.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1  # "sub": each pixel minus the one to its left
    rows[:, 1:4] = image[:, 0]
    np.subtract(image[:, 1:], image[:, :-1], out=rows[:, 4:].reshape(height, width - 1, 3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", isal_zlib.crc32(name + data))
        for name, data in chunks
    )


def _as_image(image: Any) -> np.ndarray:
    """Return [h, w, 3] uint8, contiguous, in memory of its own."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be an array or tensor, got {type(image).__name__}")
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(f"image must have shape [h, w, 3], got {list(image.shape)}")
    if image.dtype != np.uint8:
        if np.issubdtype(image.dtype, np.integer):
            image = image.clip(0, 255)
        else:
            image = np.nan_to_num(image.astype(np.float32)).clip(0, 1) * 255
        image = np.rint(image).astype(np.uint8)
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)), order="C")


def _caption(clip: Clip) -> str:
    return f"{clip.stage} · step {clip.step} · {clip.name} · {mean_iou_words(clip)}"


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
