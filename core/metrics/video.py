"""Validation metrics of video object segmentation: J, F, IoU and Dice per object and category.

J and F follow DAVIS 2017 (https://github.com/davisvideochallenge/davis2017-evaluation). One row of
numbers is kept per object, never a clip.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from .masks import boundary_f_and_nearness, object_means
from .outcomes import Overlaps, Told, Track, Tracks, classify, count_overlaps, tracks_of


class LossMean:
    """The mean of losses, which stay on their device until somebody asks."""

    def __init__(self) -> None:
        self._sums: Optional[Tensor] = None  # [3]: of those that are finite, their number, all

    def add(self, loss: Tensor) -> None:
        """Add a scalar; nothing waits for it."""
        loss = loss.detach().float()
        known = loss.isfinite()
        sums = torch.stack([torch.where(known, loss, 0.0), known.float(), torch.ones_like(loss)])
        self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums

    def state(self) -> list[float]:
        """Return what is kept, in plain types."""
        return [0.0, 0.0, 0.0] if self._sums is None else self._sums.tolist()

    def load(self, state: Sequence[float]) -> None:
        """Put back what `state` returned."""
        self._sums = torch.tensor(state)

    def take(self) -> tuple[float, int]:
        """Return the mean of the finite ones, NaN without any, and how many were not; forget."""
        total, num_finite, count = self.state()
        self._sums = None
        return total / num_finite if num_finite else math.nan, int(count - num_finite)


class VideoMetrics:
    """Accumulates one row per object and averages the rows, over all ranks when distributed.

    Attributes:
        rows: By video and object id the object's ``category``, ``J``, ``dice`` and, unless
            `boundary` is off, ``F``.
        tracks: By video and object id what became of every object on every frame, also of those
            that have no row; none where `boundary` is off.
        frame_ious: By video and object id of those that have a row: IoU on each frame, [T] float32,
            NaN where it received a prompt.
    """

    def __init__(self, boundary: bool = True) -> None:
        """Start without rows.

        Args:
            boundary: Compute F and outcomes too; F needs the masks on the CPU and most of the time.
        """
        self.boundary = boundary
        self.rows: dict[tuple[int, int], dict[str, float]] = {}
        self.tracks: dict[tuple[int, int], Track] = {}
        self.frame_ious: dict[tuple[int, int], np.ndarray] = {}

    def reset(self) -> None:
        """Start anew; what was handed out stays as it is."""
        self.rows, self.tracks, self.frame_ious = {}, {}, {}

    def update(
        self,
        pred_masks: Tensor,
        gt_masks: Tensor,
        prompted: Tensor,
        video_ids: Union[Tensor, Sequence[int]],
        object_ids: Union[Tensor, Sequence[int]],
        categories: Union[Tensor, Sequence[int], None] = None,
        told: Optional[Told] = None,
    ) -> None:
        """Add the objects of a batch of clips.

        Every number is the object's mean over the frames on which it was not prompted. A frame
        where neither mask has a pixel counts 1. Objects without a pixel in the ground truth of the
        clip are left out, and so are those that were prompted on every frame, or only where they
        have no pixel: an object that appears later was never shown to the model. YouTube-VOS
        prompts such an object where it first appears and scores it from there on; ``SAM2Train``
        prompts all objects on the first frame of a clip. An object seen before (the same video and
        object id) replaces its row.

        Args:
            pred_masks: [T, O, H, W] bool, any device; not changed.
            gt_masks: [T, O, H, W] bool on the same device; not changed.
            prompted: [T] or [T, O] bool, True where the model was given a prompt.
            video_ids: O ids; clips of one video that are to count apart need ids of their own.
            object_ids: O ids, unique within their video.
            categories: O category indices for the per-category means, or None.
            told: What goes with the outcomes; None: frames are numbered by position, and nothing
                is known of the model's estimates.

        Raises:
            TypeError: A mask is not boolean.
            ValueError: Shapes or lengths do not agree.
        """
        _check_masks(pred_masks, gt_masks)
        num_frames, num_objects = gt_masks.shape[:2]
        prompted = _for_each_object(prompted, num_frames, num_objects)
        video_ids = _as_ids("video_ids", video_ids, num_objects)
        object_ids = _as_ids("object_ids", object_ids, num_objects)
        categories = [-1] * num_objects if categories is None else categories
        categories = _as_ids("categories", categories, num_objects)
        if num_objects == 0:
            return

        overlaps = count_overlaps(pred_masks, gt_masks, video_ids) if self.boundary else None
        intersections, pred_areas, gt_areas = _counts(pred_masks, gt_masks, overlaps)
        total = pred_areas + gt_areas
        unions = total - intersections
        frame_ious = torch.where(unions > 0, intersections / unions.clamp(min=1), 1.0)
        ious = object_means(frame_ious, gt_areas, prompted)
        told_ious = frame_ious.masked_fill(prompted, math.nan).float().numpy()
        dices = torch.where(total == 0, 1.0, 2 * intersections / total.clamp(min=1))
        dices = object_means(dices, gt_areas, prompted)
        keys = list(zip(video_ids, object_ids, strict=True))
        scored = (~ious.isnan()).nonzero().flatten().tolist()
        for index in scored:
            self.rows[keys[index]] = {
                "category": categories[index],
                "J": ious[index].item(),
                "dice": dices[index].item(),
            }
            self.frame_ious[keys[index]] = told_ious[:, index].copy()
        if overlaps is None:
            return
        fs, near_outline = _boundaries(pred_masks.cpu(), gt_masks.cpu(), ~prompted, scored)
        for index, f in zip(scored, fs, strict=True):
            self.rows[keys[index]]["F"] = f
        flags = prompted.numpy()
        codes = classify(overlaps, flags, ~ious.isnan().numpy(), near_outline)
        told = told or Told.nothing(num_frames, num_objects)
        tracks = tracks_of(codes, overlaps, flags, told, categories)
        self.tracks.update(zip(keys, tracks, strict=True))

    def compute(self, category_names: Optional[Sequence[str]] = None) -> dict[str, float]:
        """Return the means over all objects of all ranks.

        With ``torch.distributed`` initialised this is a collective: every rank must call it, also
        one without rows. Objects that several ranks saw (a sampler that pads by repeating) count
        once. Afterwards `rows`, `tracks` and `frame_ious` hold the objects of all ranks.

        Args:
            category_names: Names for the keys, see `category_keys`; the same on every rank.

        Returns:
            ``iou`` and ``J`` (the same number), ``dice``, ``F`` and ``J&F`` unless `boundary` is
            off, and ``iou/NAME``, ``dice/NAME`` for every category seen; an empty dictionary when
            there are no rows.
        """
        self.rows, self.tracks, self.frame_ious = gather_rows(
            self.rows, self.tracks, self.frame_ious
        )
        rows = list(self.rows.values())
        if not rows:
            return {}
        result = {"iou": _mean(rows, "J"), "J": _mean(rows, "J"), "dice": _mean(rows, "dice")}
        if self.boundary:
            result["F"] = _mean(rows, "F")
            result["J&F"] = (result["J"] + result["F"]) / 2
        by_category = defaultdict(list)
        for row in rows:
            by_category[int(row["category"])].append(row)
        keys = category_keys(category_names or [], max(by_category) + 1)
        for category in sorted(by_category):
            if category >= 0:
                result[f"iou/{keys[category]}"] = _mean(by_category[category], "J")
                result[f"dice/{keys[category]}"] = _mean(by_category[category], "dice")
        return result


def as_csv(
    rows: dict[tuple[int, int], dict[str, float]],
    tracks: Tracks,
    clip_name: Callable[[int], str],
    object_names: Callable[[int], Optional[Mapping[int, str]]],
) -> str:
    """Return a table of `VideoMetrics.rows`, one line per object, by video and object id.

    Args:
        rows: See `VideoMetrics`.
        tracks: Likewise; the first frame of a clip without one stays empty.
        clip_name: Gives the name of a video by its id.
        object_names: Gives a video's object names by object id, None where there are none.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["video", "clip", "first_frame", "object", "name", "J", "F", "J&F", "dice"])
    for (video_id, object_id), row in sorted(rows.items()):
        name = (object_names(video_id) or {}).get(object_id, "")
        boundary = row.get("F", math.nan)
        scores = [row["J"], boundary, (row["J"] + boundary) / 2, row["dice"]]
        texts = ["" if math.isnan(score) else f"{score:.6f}" for score in scores]
        track = tracks.get((video_id, object_id))
        first_frame = "" if track is None else track.first_frame
        writer.writerow([clip_name(video_id), video_id, first_frame, object_id, name, *texts])
    return table.getvalue()


def mean_ious_by(
    rows: Mapping[tuple[int, int], dict[str, float]], group_of: Callable[[int], Optional[str]]
) -> dict[str, float]:
    """Return the mean IoU of the objects of each group of clips, in the order of their numbers.

    Args:
        rows: See `VideoMetrics`.
        group_of: Gives the group of a video by its id; None: it is in none.
    """
    groups = defaultdict(list)
    for (video_id, _), row in sorted(rows.items()):
        groups[group_of(video_id)].append(row)
    return {name: _mean(found, "J") for name, found in groups.items() if name is not None}


def category_keys(names: Sequence[str], count: int) -> list[str]:
    """Return `count` distinct names of categories that may stand in a metric's key.

    Letters and digits of any script, dots, dashes and underscores stay; anything else, slashes and
    blanks among it, becomes one underscore. A category without a name is ``category_<index>``, and
    so is one whose name has nothing but dots and underscores; a name that was taken gets its index.

    Args:
        names: In the order of the categories; may be shorter or longer than `count`.
        count: Number of categories.
    """
    keys: list[str] = []
    for index in range(count):
        name = re.sub(r"[^\w.-]+", "_", names[index]) if index < len(names) else ""
        key = name if name.strip("._") else f"category_{index}"
        while key in keys:
            key += f"_{index}"
        keys.append(key)
    return keys


def _check_masks(pred_masks: Tensor, gt_masks: Tensor) -> None:
    for name, masks in (("pred_masks", pred_masks), ("gt_masks", gt_masks)):
        if masks.dtype != torch.bool:
            raise TypeError(f"{name} must be bool, got {masks.dtype}")
        if masks.ndim != 4:
            raise ValueError(f"{name} must have shape [T, O, H, W], got {list(masks.shape)}")
    if pred_masks.shape != gt_masks.shape:
        raise ValueError(
            "pred_masks and gt_masks must agree in shape, "
            f"got {list(pred_masks.shape)} and {list(gt_masks.shape)}"
        )


def _counts(
    pred_masks: Tensor, gt_masks: Tensor, overlaps: Optional[Overlaps]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels of both masks, prediction and ground truth: [T, O] float64 on the CPU each."""
    if overlaps is not None:
        return overlaps.intersections, overlaps.pred_areas, overlaps.gt_areas
    masks = (pred_masks & gt_masks, pred_masks, gt_masks)
    intersections, pred_areas, gt_areas = (each.flatten(2).sum(2).cpu().double() for each in masks)
    return intersections, pred_areas, gt_areas


def _boundaries(
    pred_masks: Tensor, gt_masks: Tensor, is_measured: Tensor, objects: Sequence[int]
) -> tuple[list[float], np.ndarray]:
    """Return each object's mean F, and [T, O] bool: all wrong pixels are near the outline."""
    means, near_outline = [], np.zeros(is_measured.shape, bool)
    preds, gts = pred_masks.numpy(), gt_masks.numpy()
    for index in objects:
        scores = []
        for t in is_measured[:, index].nonzero().flatten().tolist():
            f, near_outline[t, index] = boundary_f_and_nearness(preds[t, index], gts[t, index])
            scores.append(f)
        means.append(sum(scores) / len(scores))
    return means, near_outline


def _for_each_object(prompted: Tensor, num_frames: int, num_objects: int) -> Tensor:
    """Return [T, O] bool on the CPU, of flags per frame or per frame and object."""
    prompted = torch.as_tensor(prompted, dtype=torch.bool).cpu()
    if prompted.shape not in ((num_frames,), (num_frames, num_objects)):
        raise ValueError(
            f"prompted must have shape [{num_frames}] or [{num_frames}, {num_objects}], "
            f"got {list(prompted.shape)}"
        )
    return prompted[:, None].expand(-1, num_objects) if prompted.ndim == 1 else prompted


def _as_ids(name: str, values: Union[Tensor, Sequence[int]], num_objects: int) -> list[int]:
    ids = [int(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
    if len(ids) != num_objects:
        raise ValueError(f"{name} must have one entry per object ({num_objects}), got {len(ids)}")
    return ids


def _mean(rows: list[dict[str, float]], name: str) -> float:
    # fsum and a fixed order of rows: every rank gets the same number, bit for bit.
    return math.fsum(row[name] for row in rows) / len(rows)


def gather_rows(*tables: dict[tuple[int, int], Any]) -> list[dict[tuple[int, int], Any]]:
    """Return each table with the entries of all ranks; of those of one object the first stays.

    With ``torch.distributed`` initialised this is a collective.
    """
    ranks: list[Any] = [tables]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, tables)
    merged: list[dict[tuple[int, int], Any]] = [{} for _ in tables]
    for rank in ranks:
        for table, share in zip(merged, rank, strict=True):
            for key, entry in share.items():
                table.setdefault(key, entry)
    return merged
