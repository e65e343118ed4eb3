"""Reducing frames to display size, counting masks' pixels and packing masks, where they live.

On CPU NumPy does it plane by plane, or frame by frame where planes are small; on CUDA torch does it
without waiting for the device. Reducing masks is left to the worker. Masks and counts are the same
either way, frames up to the rounding of a sum.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Optional, Protocol, TypeVar, Union

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..official import IMAGENET_MEAN, IMAGENET_STD, Batch, Prompting
from .arrays import above, as_array, as_bool, copy_array
from .coverage import Axis, cover_array

# A quarter of all means of 2 x 2 bytes lies halfway between two, and devices sum differently. This
# part of a step rounds them all up: some five times what the order of a sum changes, and well below
# what lies between two means of 32 x 32 bytes.
_TIES_UP = 2**-12

# With planes of at most so many pixels a call costs more than what it does: fewer calls take less
# time, though whole planes are packed and not the boxes that hold masks.
_SMALL = 2**16


@dataclass(frozen=True)
class Grid:
    """How frames of one size are reduced to display size: [H, W] -> [h, w]."""

    rows: Axis
    columns: Axis

    @staticmethod
    def fit(
        height: int, width: int, panel_size: int, original: Optional[tuple[int, int]] = None
    ) -> "Grid":
        """Choose the display size: the longest side is at most `panel_size`, never enlarged.

        Args:
            height: H of the frames.
            width: W of the frames.
            panel_size: In pixels.
            original: (height, width) of the video, whose aspect panels get; None: the frames' own.
        """
        original_height, original_width = original or (height, width)
        aspect = original_width / original_height
        w = min(width, height * aspect, panel_size, panel_size * aspect)
        return Grid(
            Axis(height, max(1, round(w / aspect))), Axis(width, max(1, min(width, round(w))))
        )

    @property
    def source(self) -> tuple[int, int]:
        """(H, W)."""
        return self.rows.source, self.columns.source

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.rows.panel, self.columns.panel

    @property
    def keeps_size(self) -> bool:
        """Whether nothing is reduced."""
        return self.source == self.size

    def average(self, frames: Sequence[Tensor]) -> Tensor:
        """Take the mean over each display pixel's area: T times [3, H, W] -> [T, 3, h, w] float32.

        Frame by frame, to bound the memory.
        """
        axes = [
            (dim, _parts(axis, frames[0].device))
            for dim, axis in ((-1, self.columns), (-2, self.rows))
            if axis.source != axis.panel
        ]
        averages = []
        for frame in frames:
            average = frame.float()
            for dim, parts in axes:
                average = _average_along(average, dim, parts)
            averages.append(average)
        return torch.stack(averages)

    def average_array(self, plane: np.ndarray, out: np.ndarray) -> None:
        """Do what `average` does with one plane [H, W], into `out` [h, w] float32."""
        if self.keeps_size:
            out[:] = plane
            return
        plane = plane.astype(np.float32, copy=False)
        # Read straight through, a plane is in the cache in half the time that the steps of
        # shrinking it would take to bring it there.
        cv2.norm(plane, cv2.NORM_INF)
        (height, width), (h, w) = self.source, self.size
        while height % (2 * h) == 0 and width % (2 * w) == 0 and height > 2 * h and width > 2 * w:
            # OpenCV halves several times faster than it takes any other mean.
            height, width = height // 2, width // 2
            plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
        cv2.resize(plane, (w, h), dst=out, interpolation=cv2.INTER_AREA)


def _parts(axis: Axis, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return the source pixels that the h panel pixels reach, and which parts of them these are.

    Each panel pixel reaches so many source pixels at most; there are as many pairs [h], [h].
    """
    edges = torch.arange(axis.panel + 1, device=device) * axis.source
    first = edges[:-1] // axis.panel
    parts = []
    for offset in range(-(-axis.source // axis.panel) + 1):
        start = (first + offset) * axis.panel
        part = torch.minimum(edges[1:], start + axis.panel) - torch.maximum(edges[:-1], start)
        weights = part.clamp_min(0).float() / axis.source
        parts.append(((first + offset).clamp_max(axis.source - 1), weights))
    return parts


def _average_along(image: Tensor, dim: int, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros((), device=image.device)
    for pixels, weights in parts:
        taken = image.index_select(dim, pixels)
        total = total + taken * (weights[:, None] if dim == -2 else weights)
    return total


@dataclass(frozen=True)
class Window:
    """A part of the frames, in model pixels, that is drawn larger; it has the frames' aspect.

    Attributes:
        left: Of its first column.
        top: Of its first row.
        grid: How what is in it is reduced to display size.
        enlarge: How many pixels of the sheet each of those gets, per side.
    """

    left: int
    top: int
    grid: Grid
    enlarge: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.grid.source

    @property
    def box(self) -> tuple[slice, slice]:
        """Its rows and columns of the frame."""
        height, width = self.size
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True)
class Choice:
    """What of a batch is kept.

    Attributes:
        videos: Positions in the batch.
        frames: Positions in the clip of the T' frames drawn.
        measured: Positions in the clip of the M frames whose pixels are counted, the drawn ones
            among them.
        scored: Positions in the clip of the measured frames that the mean IoU is of.
        grids: How the frames of each video are reduced.
        num_categories: Categories of each video; None: all its objects.
        zoomed: Positions in the clip of the S frames, drawn ones, of which small objects are drawn
            larger; empty: they are not.
        panel_size: Longest side of a panel.
        originals: (height, width) of each original video whose aspect panels have, or None.
        rounds: Numbers of the rounds of clicks that the frames are, of a clip of one frame; empty:
            they are frames.
    """

    videos: list[int]
    frames: list[int]
    measured: list[int]
    scored: list[int]
    grids: list[Grid]
    num_categories: Optional[int] = None
    zoomed: Sequence[int] = ()
    panel_size: int = 256
    originals: Sequence[Optional[tuple[int, int]]] = ()
    rounds: Sequence[int] = ()

    def distinct(self, frames: Sequence[int]) -> Sequence[int]:
        """Return which of some frames have pixels of their own: all rounds are of one frame."""
        return frames[:1] if self.rounds else frames


# Where a batch lives both kinds occur: what is reduced on CPU is an array in memory of its own.
Either = Union[Tensor, np.ndarray]
Kind = TypeVar("Kind", bound=Either)


@dataclass
class Counts(Generic[Kind]):
    """Pixels of R mask rows on the M measured frames, at full size.

    Attributes:
        gt_areas: [M, R] pixels.
        pred_areas: [M, R] pixels.
        intersections: [M, R] pixels.
        non_finite: [M, R] bool, the logits hold NaN or inf.
    """

    gt_areas: Kind
    pred_areas: Kind
    intersections: Kind
    non_finite: Kind


@dataclass
class Drawn:
    """Ground truth, prediction and errors of one video at display size.

    Attributes:
        gt: [T', R, h, w] bool.
        pred: [T', R, h, w] bool, logits > 0; non-finite logits are false.
        errors: [T', 3, h, w] bool, where any object of the video is hit, missed or claimed
            falsely, compared at full size.
    """

    gt: np.ndarray
    pred: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class Crop:
    """A mask [H, W] as a copy of the box that holds it; the worker reduces it.

    Attributes:
        rows: Of the box.
        columns: Of the box.
        bits: Its pixels, eight to a byte.
    """

    rows: slice
    columns: slice
    bits: np.ndarray

    @staticmethod
    def of(mask: np.ndarray) -> "Crop":
        """Copy from [H, W] bool."""
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        rows, columns = slice(top, top + height), slice(left, left + width)
        return Crop(rows, columns, np.packbits(mask[rows, columns]))

    def write(self, out: np.ndarray) -> np.ndarray:
        """Write the mask into `out` [H, W] bool, empty before, and return the box written."""
        box = out[self.rows, self.columns]
        box[:] = np.unpackbits(self.bits, count=box.size).view(bool).reshape(box.shape)
        return box


@dataclass(frozen=True)
class KeptMasks:
    """Masks of R rows on the T' drawn frames, at full size; the worker reduces them.

    Attributes:
        gt: T' lists of R.
        pred: Likewise.
    """

    gt: list[list[Crop]]
    pred: list[list[Crop]]

    def draw(self, rows: np.ndarray, grid: Grid) -> Drawn:
        """Reduce the masks of a video, whose rows these are, and compare them."""
        return self._draw(rows, range(len(self.gt)), grid.source, (slice(None), slice(None)), grid)

    def draw_window(
        self, rows: np.ndarray, positions: Sequence[int], size: tuple[int, int], window: Window
    ) -> Drawn:
        """Do the same with what is in a window of frames of a size, at some of the T' positions."""
        return self._draw(rows, positions, size, window.box, window.grid)

    def _draw(
        self,
        rows: np.ndarray,
        positions: Sequence[int],
        size: tuple[int, int],
        part: tuple[slice, slice],
        grid: Grid,
    ) -> Drawn:
        shape = (len(positions), len(rows), *grid.size)
        drawn = Drawn(
            np.empty(shape, bool),
            np.empty(shape, bool),
            np.empty((len(positions), 3, *grid.size), bool),
        )
        gt, pred = np.zeros(size, bool), np.zeros(size, bool)
        for t, position in enumerate(positions):
            all_gt, all_pred = self.gt[position], self.pred[position]
            errors = np.zeros((3, *size), bool)
            for slot, row in enumerate(rows.tolist()):
                boxes = all_gt[row].write(gt), all_pred[row].write(pred)
                cover_array(gt[part], grid.rows, grid.columns, drawn.gt[t, slot])
                cover_array(pred[part], grid.rows, grid.columns, drawn.pred[t, slot])
                ys, xs = _around(all_gt[row], all_pred[row])
                _compare(gt[ys, xs], pred[ys, xs], errors[:, ys, xs])
                for box in boxes:
                    box[:] = False
            for kind, out in zip(errors, drawn.errors[t], strict=True):
                cover_array(kind[part], grid.rows, grid.columns, out)
        return drawn

    def predicted_outside(
        self, rows: np.ndarray, positions: Sequence[int], window: Window, grid: Grid
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is predicted outside a window: [S, R, h, w] bool, and [S, R] pixels.

        Args:
            rows: R, of a video.
            positions: S, of the T' frames.
            window: What is left out.
            grid: How the whole frame is reduced.
        """
        reduced = np.zeros((len(positions), len(rows), *grid.size), bool)
        counts = np.zeros(reduced.shape[:2], np.int64)
        pred = np.zeros(grid.source, bool)
        for t, position in enumerate(positions):
            for slot, row in enumerate(rows.tolist()):
                box = self.pred[position][row].write(pred)
                pred[window.box] = False
                counts[t, slot] = np.count_nonzero(box)
                cover_array(pred, grid.rows, grid.columns, reduced[t, slot])
                box[:] = False
        return reduced, counts


@dataclass
class Packed(Generic[Kind]):
    """What is left to the worker to cut, of a batch on CUDA and of small planes on the CPU.

    Masks have eight of their H * W pixels to a byte, N bytes each.

    Attributes:
        gt: [T', R, N] uint8.
        pred: [T', R, N] uint8.
        mask_prompts: [K, N] uint8 each, by the frame's position in the clip.
        frames: [S, 3, H, W] uint8 of each video, what windows are cut from, one for all rounds;
            empty where no frame can have one.
    """

    gt: Kind
    pred: Kind
    mask_prompts: dict[int, Kind]
    frames: dict[int, Kind]


def _unpack(bits: np.ndarray, size: tuple[int, int]) -> list[Crop]:
    """Cut masks of `size` (H, W), [K, N] uint8, to the boxes that hold them."""
    count = size[0] * size[1]
    return [
        Crop.of(np.unpackbits(of_mask, count=count).view(bool).reshape(size)) for of_mask in bits
    ]


def _around(one: Crop, other: Crop) -> tuple[slice, slice]:
    """Return the box that holds both masks."""
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in ((one.rows, other.rows), (one.columns, other.columns))
    )
    return rows, columns


def _compare(gt: np.ndarray, pred: np.ndarray, errors: np.ndarray) -> None:
    """Add where one object is hit, missed and claimed falsely to `errors` [3, ...] bool."""
    errors[0] |= gt & pred
    errors[1] |= gt > pred
    errors[2] |= pred > gt


def compare_masks(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Return where any of C objects is hit, missed and claimed falsely.

    Args:
        gt: [C, h, w] bool.
        pred: [C, h, w] bool.

    Returns:
        [3, h, w] bool.
    """
    errors = np.zeros((3, *gt.shape[1:]), bool)
    for own_gt, own_pred in zip(gt, pred, strict=True):
        _compare(own_gt, own_pred, errors)
    return errors


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

    Dictionaries of frames hold those drawn that have such a thing, by position in the clip, those
    of videos have their places among those chosen: panels may differ in size.

    Attributes:
        num_videos: B of the batch.
        rows: The R rows of the batch that `counts` and `masks` hold; None: all of them.
        row_videos: [O] the video of each row of the batch.
        identifiers: See `core.official.object_identifiers`.
        images: [T', 3, h, w] float32 of each video, still normalised; one for all rounds.
        counts: Of the rows kept.
        masks: Of the rows kept.
        clicks: Of all prompt rows.
        initial_clicks: Likewise, where `clicks` may not begin with them.
        boxes: [K, 4] float each, x0, y0, x1, y1 in model pixels.
        mask_prompts: K masks each.
        predicted_ious: [O, M] each, the model's estimate for each of M masks per object.
        object_scores: [O, 1] logits each.
        obj_to_cat: [K] the mask row of each prompt row, where the caller knows it.
        are_components: The outputs tell that prompt rows are not the rows of masks.
        prompting: How each of the T frames was prompted.
        prompts_told: The outputs have a field for prompts, if only an empty one.
        first_labels: [K, P] of the clicks that rounds begin with; None: there are no rounds.
        close_ups: [S, 3, h, w] float32, still normalised, what the window of a video shows, once
            for all rounds; of the videos that have one.
        packed: What `unpacked` makes masks and mask prompts of; None: they are there.
    """

    num_videos: int
    rows: Optional[list[int]]
    row_videos: Kind
    identifiers: Kind
    images: dict[int, Kind]
    counts: Counts[Kind]
    masks: KeptMasks
    clicks: dict[int, Clicks[Kind]]
    initial_clicks: dict[int, Clicks[Kind]]
    boxes: dict[int, Kind]
    mask_prompts: dict[int, list[Crop]]
    predicted_ious: dict[int, Kind]
    object_scores: dict[int, Kind]
    obj_to_cat: Optional[Kind]
    are_components: bool
    prompting: list[Prompting]
    prompts_told: bool
    first_labels: Optional[Kind] = None
    close_ups: dict[int, Kind] = field(default_factory=dict)
    packed: Optional[Packed[Kind]] = None

    def unpacked(self: "Reduced[np.ndarray]", size: tuple[int, int]) -> "Reduced[np.ndarray]":
        """Return the same with the masks of `size` (H, W) that were packed; for the host."""
        if self.packed is None:
            return self
        gt, pred = (
            [_unpack(bits, size) for bits in kind] for kind in (self.packed.gt, self.packed.pred)
        )
        prompts = {t: _unpack(bits, size) for t, bits in self.packed.mask_prompts.items()}
        return dataclasses.replace(self, masks=KeptMasks(gt, pred), mask_prompts=prompts)


@dataclass
class Kept(Generic[Kind]):
    """What is kept of masks: see the fields of `Reduced`."""

    counts: Counts[Kind]
    masks: KeptMasks
    mask_prompts: dict[int, list[Crop]]
    packed: Optional[Packed[Kind]] = None


class Reduction(Protocol):
    """Reduces a batch where it lives: `OnCpu`, `OnCpuSmall` or `OnDevice`."""

    @property
    def rows(self) -> Optional[list[int]]:
        """Rows of the batch that are kept; None: all of them."""

    def take(self, values: Tensor) -> Any:
        """Keep something small, such as clicks or scores, as it is."""

    def images(self, img_batch: Tensor) -> Any:
        """Reduce the chosen frames of [T, B, 3, H, W]: `Reduced.images`."""

    def keep(self, batch: Batch, logits: Sequence[Tensor], mask_prompts: dict[int, Tensor]) -> Kept:
        """Threshold masks, count pixels at full size and keep what the worker reduces.

        Args:
            batch: Ground truth and, on CUDA, frames are read.
            logits: T times [O, H, W].
            mask_prompts: [K, H, W] each, true where positive, by position in the clip.
        """


def choose_reduction(
    batch: Batch, logits: Sequence[Tensor], choice: Choice
) -> Union["OnCpu", "OnDevice"]:
    """Return the reduction for where a batch and its logits live; one on a device is enough."""
    layout = batch.obj_to_frame_idx.detach()
    for tensor in (batch.img_batch, batch.masks, layout, *logits):
        if not tensor.is_cpu:
            return OnDevice(choice, tensor.device)
    row_videos = as_array(layout)[0, :, 1].tolist()
    rows = [row for row, video in enumerate(row_videos) if video in choice.videos]
    if rows and not choice.zoomed and batch.masks.shape[2] * batch.masks.shape[3] <= _SMALL:
        return OnCpuSmall(choice, rows)
    return OnCpu(choice, rows)


@dataclass(frozen=True)
class OnDevice:
    """Reduces and packs with torch, without waiting for the device.

    All rows are kept: which of them belong to a video is only known on the device. What lives
    elsewhere, because a host has moved outputs or left a batch behind, is copied there by frames.
    """

    choice: Choice
    device: torch.device
    rows: Optional[list[int]] = None

    def take(self, values: Tensor) -> Tensor:
        """See `Reduction.take`; `to_host` copies it with everything else."""
        return values if values.is_cpu else self._here(values)

    def _here(self, values: Tensor) -> Tensor:
        if values.device == self.device:
            return values
        # Pinned memory would be read later, when its owner may have changed it.
        owned = values.clone() if values.is_pinned() else values
        return owned.to(device=self.device, non_blocking=True)

    def images(self, img_batch: Tensor) -> dict[int, Tensor]:
        """See `Reduction.images`."""
        choice = self.choice
        frames = choice.distinct(choice.frames)
        return {
            slot: grid.average([self._here(img_batch[t, video]) for t in frames])
            for slot, (video, grid) in enumerate(zip(choice.videos, choice.grids, strict=True))
        }

    def keep(
        self, batch: Batch, logits: Sequence[Tensor], mask_prompts: dict[int, Tensor]
    ) -> Kept[Tensor]:
        """See `Reduction.keep`; frame by frame, to bound the memory."""
        choice, masks = self.choice, batch.masks.detach()
        counts, ranges, packed = [], [], []
        for t in choice.measured:
            gt, frame_logits = self._here(masks[t]), self._here(logits[t])
            gt, pred = gt if gt.dtype == torch.bool else gt > 0, above(frame_logits)
            if t in choice.frames:
                packed.append((_pack(gt), _pack(pred)))
            counts.append(torch.stack([mask.sum((1, 2)) for mask in (gt, pred, gt & pred)]))
            ranges.append(torch.stack(_value_range(frame_logits)))
        gt_areas, pred_areas, intersections = torch.stack(counts, 1).unbind()
        lowest, highest = torch.stack(ranges, 1).unbind()
        # NaN is lowest and highest of whatever holds it, and compares false.
        finite = (lowest > -math.inf) & (highest < math.inf)
        gts, preds = (torch.stack(kind) for kind in zip(*packed, strict=True))
        return Kept(
            Counts(gt_areas, pred_areas, intersections, ~finite),
            KeptMasks([], []),
            {},
            Packed(
                gts,
                preds,
                {t: _pack(self._here(given) > 0) for t, given in mask_prompts.items()},
                self._frames(batch.img_batch.detach()),
            ),
        )

    def _frames(self, img_batch: Tensor) -> dict[int, Tensor]:
        """Return `Packed.frames`: as bytes they take a quarter of the memory."""
        zoomed = self.choice.distinct(self.choice.zoomed)
        return {
            slot: torch.stack([denormalize(self._here(img_batch[t, video])) for t in zoomed])
            for slot, video in enumerate(self.choice.videos if zoomed else ())
        }


def _pack(masks: Tensor) -> Tensor:
    """Pack [K, H, W] bool as `np.packbits` does: [K, N] uint8."""
    bits = masks.flatten(1)
    if bits.shape[1] % 8:
        bits = F.pad(bits, (0, -bits.shape[1] % 8))
    places = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)
    return (bits.unflatten(1, (-1, 8)) * places).sum(2, dtype=torch.uint8)


def _value_range(logits: Tensor) -> tuple[Tensor, Tensor]:
    if logits.numel() == 0:
        return logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    lowest, highest = torch.aminmax(logits.flatten(1), dim=1)
    return lowest, highest


@dataclass(frozen=True)
class OnCpu:
    """Reads plane by plane with NumPy, only the rows of the chosen videos.

    A plane stays in the cache this way, and torch's thread pool, which has to wait for every core,
    is not woken for work this small.
    """

    choice: Choice
    rows: list[int]

    def take(self, values: Tensor) -> np.ndarray:
        """See `Reduction.take`."""
        return copy_array(values)

    def images(self, img_batch: Tensor) -> dict[int, np.ndarray]:
        """See `Reduction.images`."""
        return _average_videos(img_batch, self.choice)

    def keep(
        self, batch: Batch, logits: Sequence[Tensor], mask_prompts: dict[int, Tensor]
    ) -> Kept[np.ndarray]:
        """See `Reduction.keep`; windows are found before training goes on: no frame is kept."""
        frames, measured = self.choice.frames, self.choice.measured
        shape = (len(measured), len(self.rows))
        areas = np.zeros((3, *shape), np.int64)
        counts = Counts(areas[0], areas[1], areas[2], np.zeros(shape, bool))
        kept = KeptMasks([[] for _ in frames], [[] for _ in frames])
        all_gt = as_array(batch.masks.detach())
        buffer = np.empty(all_gt.shape[2:], bool)
        position_of = {t: position for position, t in enumerate(frames)}
        for index, t in enumerate(measured):
            frame_logits = as_array(logits[t])
            for slot, row in enumerate(self.rows):
                gt = as_bool(all_gt[t, row])
                pred, is_finite = _above(frame_logits[row], buffer)
                counts.non_finite[index, slot] = not is_finite
                counts.gt_areas[index, slot] = gt_area = _area(gt)
                counts.pred_areas[index, slot] = pred_area = _area(pred)
                differing = cv2.norm(gt.view(np.uint8), pred.view(np.uint8), cv2.NORM_L1)
                counts.intersections[index, slot] = (gt_area + pred_area - differing) / 2
                if t in position_of:
                    kept.gt[position_of[t]].append(Crop.of(gt))
                    kept.pred[position_of[t]].append(Crop.of(pred))
        prompts = {
            t: [Crop.of(as_bool(mask)) for mask in as_array(given)]
            for t, given in mask_prompts.items()
        }
        return Kept(counts, kept, prompts)


@dataclass(frozen=True)
class OnCpuSmall(OnCpu):
    """Does what `OnCpu` does where planes are small and have no window, frame by frame."""

    def keep(
        self, batch: Batch, logits: Sequence[Tensor], mask_prompts: dict[int, Tensor]
    ) -> Kept[np.ndarray]:
        """See `Reduction.keep`."""
        frames, measured = self.choice.frames, self.choice.measured
        rows = _as_slice(self.rows)
        all_gt = as_array(batch.masks.detach())
        non_finite = np.zeros((len(measured), len(self.rows)), bool)
        pred = np.empty((*non_finite.shape, *all_gt.shape[2:]), bool)
        gts = np.empty((*non_finite.shape, -(-pred[0, 0].size // 8)), np.uint8)
        for index, t in enumerate(measured):
            frame_logits = as_array(logits[t])[rows]
            if _is_finite(frame_logits.reshape(len(frame_logits), -1)):
                np.greater(frame_logits, 0, out=pred[index])
            else:
                pred[index] = above(frame_logits)
                non_finite[index] = ~np.isfinite(frame_logits).all((1, 2))
            gts[index] = _pack_array(as_bool(all_gt[t, rows]))
        preds = _pack_array(pred)
        gt_areas, pred_areas, intersections = map(_count_bits, (gts, preds, gts & preds))
        counts = Counts(gt_areas, pred_areas, intersections, non_finite)
        if frames != measured:
            drawn = [measured.index(t) for t in frames]
            gts, preds = gts[drawn], preds[drawn]
        prompts = {t: _pack_array(as_bool(as_array(given))) for t, given in mask_prompts.items()}
        return Kept(counts, KeptMasks([], []), {}, Packed(gts, preds, prompts, {}))


def _as_slice(rows: list[int]) -> Union[slice, list[int]]:
    """Return the same rows, where they follow each other, as what NumPy takes without a copy."""
    followed = rows == list(range(rows[0], rows[-1] + 1))
    return slice(rows[0], rows[-1] + 1) if followed else rows


def _pack_array(masks: np.ndarray) -> np.ndarray:
    """Do what `_pack` does: [..., H, W] bool to [..., N] uint8."""
    return np.packbits(masks.reshape(*masks.shape[:-2], -1), axis=-1)


def _count_bits(packed: np.ndarray) -> np.ndarray:
    """Count the pixels of masks [..., N] uint8: [...] int64."""
    words = packed.view(np.uint64) if packed.shape[-1] % 8 == 0 else packed
    return np.bitwise_count(words).sum(-1, np.int64)


def _average_videos(img_batch: Tensor, choice: Choice) -> dict[int, np.ndarray]:
    return {
        slot: _average_frames(img_batch[:, video], choice.distinct(choice.frames), grid)
        for slot, (video, grid) in enumerate(zip(choice.videos, choice.grids, strict=True))
    }


def average_windows(
    img_batch: Tensor, choice: Choice, windows: dict[int, Window]
) -> dict[int, np.ndarray]:
    """Reduce what the windows of videos show of [T, B, 3, H, W] on the CPU: `Reduced.close_ups`."""
    close_ups = {}
    for slot, window in windows.items():
        rows, columns = window.box
        images = img_batch[:, choice.videos[slot], :, rows, columns]
        frames = choice.distinct(choice.zoomed)
        close_ups[slot] = _average_frames(images, frames, window.grid)
    return close_ups


def average_kept_windows(
    frames: dict[int, np.ndarray], windows: dict[int, Window]
) -> dict[int, np.ndarray]:
    """Do the same with frames of bytes, `Packed.frames`."""
    close_ups = {}
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    for slot, window in windows.items():
        rows, columns = window.box
        images = (frames[slot][..., rows, columns] / np.float32(255) - mean) / std
        close_ups[slot] = _average_frames(torch.from_numpy(images), range(len(images)), window.grid)
    return close_ups


def _average_frames(images: Tensor, frames: Sequence[int], grid: Grid) -> np.ndarray:
    """Reduce some frames of [T, 3, H, W]: [T', 3, h, w] float32."""
    if grid.keeps_size:
        return as_array(images)[list(frames)].astype(np.float32, copy=False)
    out = np.empty((len(frames), 3, *grid.size), np.float32)
    for position, t in enumerate(frames):
        image = as_array(images[t])
        for channel in range(3):
            grid.average_array(image[channel], out[position, channel])
    return out


def draw_mask(crop: Crop, grid: Grid) -> np.ndarray:
    """Reduce one kept mask: [h, w] bool."""
    mask = np.zeros(grid.source, bool)
    crop.write(mask)
    return reduce_masks(mask, grid)


def draw_mask_window(crop: Crop, size: tuple[int, int], window: Window) -> np.ndarray:
    """Reduce what a window shows of one kept mask [H, W]: [h, w] bool."""
    mask = np.zeros(size, bool)
    crop.write(mask)
    return reduce_masks(mask[window.box], window.grid)


def reduce_masks(masks: np.ndarray, grid: Grid) -> np.ndarray:
    """Reduce [..., H, W] bool: [..., h, w] bool."""
    out = np.empty((*masks.shape[:-2], *grid.size), bool)
    for index in np.ndindex(masks.shape[:-2]):
        cover_array(masks[index], grid.rows, grid.columns, out[index])
    return out


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
