"""Reducing frames and masks to display size where they live, and counting pixels at full size.

On CPU NumPy does it plane by plane, on CUDA torch does it without waiting for the device. Masks and
counts are the same either way, frames up to the rounding of a sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Optional, Protocol, TypeVar, Union

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..official import IMAGENET_MEAN, IMAGENET_STD, Batch, Prompting
from .arrays import above, as_array, as_bool

# A quarter of all means of 2 x 2 bytes lies halfway between two, and devices sum differently. This
# part of a step rounds them all up: some five times what the order of a sum changes, and well below
# what lies between two means of 32 x 32 bytes.
_TIES_UP = 2**-12


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Choice:
    """What of a batch is kept.

    Attributes:
        videos: Positions in the batch.
        frames: Positions in the clip of the T' frames drawn.
        measured: Positions in the clip of the M frames whose pixels are counted, the drawn ones
            among them.
        grid: How frames are reduced.
        num_categories: Categories of each video; None: all its objects.
    """

    videos: list[int]
    frames: list[int]
    measured: list[int]
    grid: Grid
    num_categories: Optional[int] = None


# Where a batch lives both kinds occur: what is reduced on CPU is an array in memory of its own.
Either = Union[Tensor, np.ndarray]
Kind = TypeVar("Kind", bound=Either)


@dataclass
class ReducedMasks(Generic[Kind]):
    """Ground truth and prediction of R mask rows.

    Attributes:
        gt: [T', R, h, w] bool at display size.
        pred: [T', R, h, w] bool at display size, logits > 0; non-finite logits are false.
        gt_areas: [M, R] pixels at full size.
        pred_areas: [M, R] pixels.
        intersections: [M, R] pixels.
        non_finite: [M, R] bool, the logits hold NaN or inf.
    """

    gt: Kind
    pred: Kind
    gt_areas: Kind
    pred_areas: Kind
    intersections: Kind
    non_finite: Kind


@dataclass
class Clicks(Generic[Kind]):
    """The clicks of K prompt rows on one frame.

    Attributes:
        coords: [K, P, 2] float (x, y) in model pixels.
        labels: [K, P] as SAM 2 has them.
        num_initial: How many of the P columns are the initial prompt.
    """

    coords: Kind
    labels: Kind
    num_initial: int

    def begins_with(self: "Clicks[np.ndarray]", other: "Clicks[np.ndarray]") -> bool:
        """Return whether the first columns are those of `other`; for copies on the host."""
        count = other.labels.shape[1]
        return np.array_equal(self.labels[:, :count], other.labels) and np.array_equal(
            self.coords[:, :count], other.coords, equal_nan=True
        )


@dataclass
class Reduced(Generic[Kind]):
    """What is kept of a batch: small, first where the batch lives, then on the host.

    Dictionaries hold those of the drawn frames that have such a thing, by position in the clip.

    Attributes:
        num_videos: B of the batch.
        rows: The R rows of the batch that `masks` holds; None: all of them.
        row_videos: [O] the video of each row of the batch.
        identifiers: See `core.official.object_identifiers`.
        images: [T', V, 3, h, w] float32, still normalised.
        masks: Of the rows kept.
        clicks: Of all prompt rows.
        initial_clicks: Likewise, where `clicks` may not begin with them.
        boxes: [K, 4] float each, x0, y0, x1, y1 in model pixels.
        mask_prompts: [K, h, w] bool each.
        predicted_ious: [O, M] each, the model's estimate for each of M masks per object.
        object_scores: [O, 1] logits each.
        obj_to_cat: [K] the mask row of each prompt row, where the caller knows it.
        are_components: The outputs tell that prompt rows are not the rows of masks.
        prompting: How each of the T frames was prompted.
        prompts_told: The outputs have a field for prompts, if only an empty one.
    """

    num_videos: int
    rows: Optional[list[int]]
    row_videos: Kind
    identifiers: Kind
    images: Kind
    masks: ReducedMasks[Kind]
    clicks: dict[int, Clicks[Kind]]
    initial_clicks: dict[int, Clicks[Kind]]
    boxes: dict[int, Kind]
    mask_prompts: dict[int, Kind]
    predicted_ious: dict[int, Kind]
    object_scores: dict[int, Kind]
    obj_to_cat: Optional[Kind]
    are_components: bool
    prompting: list[Prompting]
    prompts_told: bool


class Reduction(Protocol):
    """Reduces a batch where it lives: `OnCpu` or `OnDevice`."""

    @property
    def rows(self) -> Optional[list[int]]:
        """Rows of the batch that are kept; None: all of them."""

    def images(self, img_batch: Tensor) -> Either:
        """Reduce the chosen frames of [T, B, 3, H, W]: [T', V, 3, h, w] float32."""

    def masks(self, masks: Tensor, logits: Sequence[Tensor]) -> ReducedMasks:
        """Threshold, count pixels at full size and reduce; [T, O, H, W] and T times [O, H, W]."""

    def mask_prompts(self, masks: Tensor) -> Either:
        """Reduce masks [K, H, W], true where positive: [K, h, w] bool."""


def choose_reduction(batch: Batch, logits: Sequence[Tensor], choice: Choice) -> Reduction:
    """Return the reduction for where a batch and its logits live."""
    layout = batch.obj_to_frame_idx.detach()
    if not all(tensor.is_cpu for tensor in (batch.img_batch, batch.masks, layout, *logits)):
        return OnDevice(choice)
    videos = layout[0, :, 1].tolist()
    return OnCpu(choice, [row for row, video in enumerate(videos) if video in choice.videos])


@dataclass(frozen=True)
class OnDevice:
    """Reduces with torch, without waiting for the device.

    All rows are kept: which of them belong to a video is only known on the device.
    """

    choice: Choice
    rows: Optional[list[int]] = None

    def images(self, img_batch: Tensor) -> Tensor:
        """See `Reduction.images`."""
        frames, videos, grid = self.choice.frames, self.choice.videos, self.choice.grid
        if not videos:
            return torch.zeros((len(frames), 0, 3, grid.height, grid.width))
        sampled = torch.stack([img_batch[t, video] for t in frames for video in videos])
        return grid.average(sampled).unflatten(0, (len(frames), len(videos)))

    def masks(self, masks: Tensor, logits: Sequence[Tensor]) -> ReducedMasks[Tensor]:
        """See `Reduction.masks`; frame by frame, to bound the memory."""
        drawn, counts, ranges = [], [], []
        for t in self.choice.measured:
            gt = masks[t] if masks.dtype == torch.bool else masks[t] > 0
            pred = above(logits[t])
            if t in self.choice.frames:
                drawn.append(torch.stack([self.choice.grid.sample(mask) for mask in (gt, pred)]))
            counts.append(torch.stack([mask.sum((1, 2)) for mask in (gt, pred, gt & pred)]))
            ranges.append(torch.stack(_value_range(logits[t])))
        drawn_gt, drawn_pred = torch.stack(drawn, 1).unbind()
        gt_areas, pred_areas, intersections = torch.stack(counts, 1).unbind()
        lowest, highest = torch.stack(ranges, 1).unbind()
        # NaN is lowest and highest of whatever holds it, and compares false.
        finite = (lowest > -math.inf) & (highest < math.inf)
        return ReducedMasks(drawn_gt, drawn_pred, gt_areas, pred_areas, intersections, ~finite)

    def mask_prompts(self, masks: Tensor) -> Tensor:
        """See `Reduction.mask_prompts`."""
        return self.choice.grid.sample(masks) > 0


def _value_range(logits: Tensor) -> tuple[Tensor, Tensor]:
    if logits.numel() == 0:
        return logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    lowest, highest = torch.aminmax(logits.flatten(1), dim=1)
    return lowest, highest


@dataclass(frozen=True)
class OnCpu:
    """Reduces plane by plane with NumPy, only the rows of the chosen videos.

    A plane stays in the cache this way, and torch's thread pool, which has to wait for every core,
    is not woken for work this small.
    """

    choice: Choice
    rows: list[int]

    def images(self, img_batch: Tensor) -> np.ndarray:
        """See `Reduction.images`."""
        frames, videos, grid = self.choice.frames, self.choice.videos, self.choice.grid
        out = np.empty((len(frames), len(videos), 3, grid.height, grid.width), np.float32)
        for position, t in enumerate(frames):
            for slot, video in enumerate(videos):
                image = as_array(img_batch[t, video])
                for channel in range(3):
                    grid.average_array(image[channel], out[position, slot, channel])
        return out

    def masks(self, masks: Tensor, logits: Sequence[Tensor]) -> ReducedMasks[np.ndarray]:
        """See `Reduction.masks`."""
        frames, measured, grid = self.choice.frames, self.choice.measured, self.choice.grid
        counted, drawn = (len(measured), len(self.rows)), (len(frames), len(self.rows))
        reduced = ReducedMasks(
            gt=np.empty((*drawn, grid.height, grid.width), bool),
            pred=np.empty((*drawn, grid.height, grid.width), bool),
            gt_areas=np.zeros(counted, np.int64),
            pred_areas=np.zeros(counted, np.int64),
            intersections=np.zeros(counted, np.int64),
            non_finite=np.zeros(counted, bool),
        )
        all_gt = as_array(masks)
        buffer = np.empty(all_gt.shape[2:], bool)
        position_of = {t: position for position, t in enumerate(frames)}
        for index, t in enumerate(measured):
            frame_logits = as_array(logits[t])
            for slot, row in enumerate(self.rows):
                gt = as_bool(all_gt[t, row])
                pred, is_finite = _above(frame_logits[row], buffer)
                reduced.non_finite[index, slot] = not is_finite
                reduced.gt_areas[index, slot] = gt_area = _area(gt)
                reduced.pred_areas[index, slot] = pred_area = _area(pred)
                differing = cv2.norm(gt.view(np.uint8), pred.view(np.uint8), cv2.NORM_L1)
                reduced.intersections[index, slot] = (gt_area + pred_area - differing) / 2
                if t in position_of:
                    grid.sample_array(gt, reduced.gt[position_of[t], slot])
                    grid.sample_array(pred, reduced.pred[position_of[t], slot])
        return reduced

    def mask_prompts(self, masks: Tensor) -> np.ndarray:
        """See `Reduction.mask_prompts`."""
        grid = self.choice.grid
        drawn = np.empty((len(masks), grid.height, grid.width), bool)
        for mask, out in zip(as_array(masks), drawn, strict=True):
            grid.sample_array(as_bool(mask), out)
        return drawn


def _above(logits: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return what `above` does, and whether all logits are finite; then one comparison will do."""
    if _is_finite(logits):
        return np.greater(logits, 0, out=out), True
    return above(logits), False


def _area(mask: np.ndarray) -> float:
    """Count the pixels of a mask [H, W] bool; a sum of bytes takes OpenCV a third of the time."""
    return cv2.sumElems(mask.view(np.uint8))[0]


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are; a sum in double precision tells, it cannot overflow."""
    if values.dtype == np.float32:
        return math.isfinite(cv2.sumElems(values)[0])
    return bool(np.isfinite(values).all())


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
