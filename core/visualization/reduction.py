"""Reducing frames and masks to display size where they live, and counting pixels at full size.

On CPU NumPy does it plane by plane, on CUDA torch does it without waiting for the device. Masks and
counts are the same either way, frames up to the rounding of a sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..official import IMAGENET_MEAN, IMAGENET_STD
from .arrays import as_array, as_bool

# A quarter of all means of 2 x 2 bytes lies halfway between two, and devices sum differently. This
# part of a step rounds them all up: some five times what the order of a sum changes, and well below
# what lies between two means of 32 x 32 bytes.
_TIES_UP = 2**-12


@dataclass
class Grid:
    """How frames of one size are reduced to display size: [H, W] -> [h, w]."""

    height: int
    width: int
    factor: Optional[int]
    source: tuple[int, int]

    @staticmethod
    def fit(height: int, width: int, panel_size: int) -> "Grid":
        """Choose the display size: the longest side is at most `panel_size`, never enlarged."""
        ratio = max(height, width) / panel_size
        h = height if ratio <= 1 else max(1, round(height / ratio))
        w = width if ratio <= 1 else max(1, round(width / ratio))
        factor = height // h if height % h == 0 and width == w * (height // h) else None
        return Grid(h, w, factor, (height, width))

    def sample(self, masks: Tensor) -> Tensor:
        """Take the nearest pixel: [..., H, W] -> [..., h, w] in memory of its own."""
        if self.factor is not None:
            offset = self.factor // 2
            return masks[..., offset :: self.factor, offset :: self.factor].clone()
        ys, xs = self._centers(masks.device)
        return masks.index_select(-2, ys).index_select(-1, xs)

    def sample_array(self, mask: np.ndarray, out: np.ndarray) -> None:
        """Do what `sample` does with one mask [H, W] bool, into `out` [h, w] bool."""
        if self.factor is None:
            ys, xs = (index.numpy() for index in self._centers(torch.device("cpu")))
            out[:] = mask.take(ys, -2).take(xs, -1)
            return
        offset = self.factor // 2
        rows = mask[offset :: self.factor]
        if self.factor == 2 and rows.strides[1] == 1:
            # Two pixels read as one number: more than a byte's worth where the second one is set.
            np.greater(rows.view("<u2"), 255, out=out)
        else:
            out[:] = rows[:, offset :: self.factor]

    def _centers(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the source pixels under the centres of the display pixels."""
        (height, width), (h, w) = self.source, (self.height, self.width)
        ys = (2 * torch.arange(h, device=device) + 1) * height // (2 * h)
        xs = (2 * torch.arange(w, device=device) + 1) * width // (2 * w)
        return ys, xs

    def average(self, images: Tensor) -> Tensor:
        """Take the mean over each display pixel's area: [N, 3, H, W] -> [N, 3, h, w] float32."""
        if self.factor is None:
            return F.interpolate(images.float(), size=(self.height, self.width), mode="area")
        return F.avg_pool2d(images.float(), self.factor)

    def average_array(self, plane: np.ndarray, out: np.ndarray) -> None:
        """Do what `average` does with one [H, W], into `out` [h, w] float32."""
        if self.factor is None:
            out[:] = self.average(torch.from_numpy(plane)[None, None])[0, 0].numpy()
            return
        if self.factor == 1:
            out[:] = plane
            return
        plane = plane.astype(np.float32, copy=False)
        # Read straight through, a plane is in the cache in half the time that the steps of
        # shrinking it would take to bring it there.
        cv2.norm(plane, cv2.NORM_INF)
        factor = self.factor
        while factor % 2 == 0 and factor > 2:
            # OpenCV halves several times faster than it takes any other mean.
            factor //= 2
            halved = (plane.shape[1] // 2, plane.shape[0] // 2)
            plane = cv2.resize(plane, halved, interpolation=cv2.INTER_AREA)
        cv2.resize(plane, (self.width, self.height), dst=out, interpolation=cv2.INTER_AREA)


def display_images(img_batch: Tensor, frames: list[int], videos: list[int], grid: Grid) -> Tensor:
    """Return the sampled frames, still normalised: [T', V, 3, h, w] float32."""
    if not videos:
        return torch.zeros((len(frames), 0, 3, grid.height, grid.width))
    sampled = torch.stack([img_batch[t, video] for t in frames for video in videos])
    return grid.average(sampled).unflatten(0, (len(frames), len(videos)))


def display_images_on_cpu(
    img_batch: Tensor, frames: list[int], videos: list[int], grid: Grid
) -> np.ndarray:
    """Do what `display_images` does, plane by plane with NumPy.

    A plane stays in the cache this way, and torch's thread pool, which has to wait for every core,
    is not woken for work this small.
    """
    out = np.empty((len(frames), len(videos), 3, grid.height, grid.width), np.float32)
    for position, t in enumerate(frames):
        for slot, video in enumerate(videos):
            image = as_array(img_batch[t, video])
            for channel in range(3):
                grid.average_array(image[channel], out[position, slot, channel])
    return out


def denormalize(images: Tensor) -> Tensor:
    """Undo the normalisation of frames.

    Args:
        images: [..., 3, H, W] float, left as it is.

    Returns:
        [..., 3, H, W] uint8, rounded to the nearest and clamped; NaN becomes 0.
    """
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.mul(images[..., channel, :, :], std * 255, out=out[..., channel, :, :])
        out[..., channel, :, :] += mean * 255
    return out.nan_to_num_(0.0, 255.0, 0.0).round_().clamp_(0, 255).to(torch.uint8)


def denormalize_array(images: np.ndarray) -> np.ndarray:
    """Undo the normalisation of frames at display size, on the calling thread alone.

    Torch would start threads beside those of training.

    Args:
        images: [..., 3, h, w] float32, left as it is.

    Returns:
        [..., 3, h, w] uint8, rounded to the nearest, halves up, and clamped; NaN becomes 0. Means
        of bytes come out the same whatever device took them.
    """
    out = np.empty(images.shape, np.uint8)
    for index in np.ndindex(images.shape[:-2]):
        mean, std = IMAGENET_MEAN[index[-1]], IMAGENET_STD[index[-1]]
        values = np.clip(images[index], -mean / std, (1 - mean) / std)
        cv2.convertScaleAbs(values, dst=out[index], alpha=std * 255, beta=mean * 255 + _TIES_UP)
    return out


def reduce_masks(
    masks: Tensor,
    outs_per_frame: Sequence[dict[str, Any]],
    frames: list[int],
    measured: list[int],
    grid: Grid,
) -> dict[str, Tensor]:
    """Threshold, count pixels at full size and reduce, frame by frame to bound the memory."""
    parts: dict[str, list[Tensor]] = {
        name: []
        for name in (
            "gt_masks", "pred_masks", "intersections", "gt_areas", "pred_areas", "lowest", "highest"
        )
    }  # fmt: skip
    for t in measured:
        gt = masks[t] if masks.dtype == torch.bool else masks[t] > 0
        logits = outs_per_frame[t]["pred_masks_high_res"].detach()[:, 0]
        pred = (logits > 0) & (logits < math.inf)
        lowest, highest = _value_range(logits)
        if t in frames:
            parts["gt_masks"].append(grid.sample(gt))
            parts["pred_masks"].append(grid.sample(pred))
        parts["intersections"].append((gt & pred).sum((1, 2)))
        parts["gt_areas"].append(gt.sum((1, 2)))
        parts["pred_areas"].append(pred.sum((1, 2)))
        parts["lowest"].append(lowest)
        parts["highest"].append(highest)
    stacked = {name: torch.stack(values) for name, values in parts.items()}
    # NaN is lowest and highest of whatever holds it, and compares false.
    finite = (stacked.pop("lowest") > -math.inf) & (stacked.pop("highest") < math.inf)
    unions = stacked["gt_areas"] + stacked["pred_areas"] - stacked["intersections"]
    return stacked | {"unions": unions, "non_finite": ~finite}


def _value_range(logits: Tensor) -> tuple[Tensor, Tensor]:
    if logits.numel() == 0:
        return logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    return torch.aminmax(logits.flatten(1), dim=1)


def reduce_masks_on_cpu(
    masks: Tensor,
    outs_per_frame: Sequence[dict[str, Any]],
    frames: list[int],
    measured: list[int],
    rows: Sequence[int],
    grid: Grid,
) -> dict[str, np.ndarray]:
    """Do what `reduce_masks` does to the rows of interest, mask by mask with NumPy.

    See `display_images_on_cpu`.
    """
    size = (len(measured), len(rows))
    gt_areas, pred_areas, intersections = (np.zeros(size, np.int64) for _ in range(3))
    non_finite = np.zeros(size, bool)
    drawn = {
        name: np.empty((len(frames), len(rows), grid.height, grid.width), bool)
        for name in ("gt_masks", "pred_masks")
    }
    all_gt = as_array(masks)
    pred = np.empty(all_gt.shape[2:], bool)
    position_of = {t: position for position, t in enumerate(frames)}
    for index, t in enumerate(measured):
        all_logits = as_array(outs_per_frame[t]["pred_masks_high_res"].detach())[:, 0]
        for slot, row in enumerate(rows):
            gt, logits = as_bool(all_gt[t, row]), all_logits[row]
            is_finite = _is_finite(logits)
            np.greater(logits, 0, out=pred)
            if not is_finite:
                non_finite[index, slot] = True
                pred &= np.isfinite(logits)
            gt_areas[index, slot] = gt_area = _area(gt)
            pred_areas[index, slot] = pred_area = _area(pred)
            differing = cv2.norm(gt.view(np.uint8), pred.view(np.uint8), cv2.NORM_L1)
            intersections[index, slot] = (gt_area + pred_area - differing) / 2
            if t in position_of:
                grid.sample_array(gt, drawn["gt_masks"][position_of[t], slot])
                grid.sample_array(pred, drawn["pred_masks"][position_of[t], slot])
    return drawn | {
        "gt_areas": gt_areas,
        "pred_areas": pred_areas,
        "intersections": intersections,
        "unions": gt_areas + pred_areas - intersections,
        "non_finite": non_finite,
    }


def _area(mask: np.ndarray) -> float:
    """Count the pixels of a mask [H, W] bool; a sum of bytes takes OpenCV a third of the time."""
    return cv2.sumElems(mask.view(np.uint8))[0]


def sample_masks_on_cpu(masks: Tensor, grid: Grid) -> np.ndarray:
    """Reduce masks [K, H, W], true where positive, to display size: [K, h, w] bool."""
    drawn = np.empty((len(masks), grid.height, grid.width), bool)
    for mask, out in zip(as_array(masks), drawn, strict=True):
        grid.sample_array(as_bool(mask), out)
    return drawn


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are; a sum in double precision tells, it cannot overflow."""
    if values.dtype == np.float32:
        return math.isfinite(cv2.sumElems(values)[0])
    return bool(np.isfinite(values).all())
