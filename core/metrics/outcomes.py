"""What became of each object on each frame: one outcome, from overlaps of masks within a video.

Definitions stand here alone (`classify`); the guide says them in plain words. `Findings` has all
that a validation tells of its objects. Nothing here knows how masks are predicted, or how outcomes
are drawn.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from ..config import FAILURES

# In the order in which they are tried, `returned` aside, which is a frame that is held.
OUTCOMES = (
    "unscored", "prompted", "absent", "false_alarm", "swapped", "lost", "returned", "held",
    "merged", "ragged", "drifting", "leaking", "partial",
)  # fmt: skip

# At half of the union a mask that covers two objects of one size would still pass for either.
HELD_IOU = 0.75
# Two predictions that agree this well are one mask.
MERGED_IOU = 0.9
# More than this share of a prediction on one other object: it is that object's.
SWAPPED_SHARE = 0.5
# IoU fell on so many frames running.
DRIFT_FRAMES = 3

# Elements of masks that are floats at a time: a few MB, however large the batch.
_MAX_FLOATS = 2**20

_CODES = {name: code for code, name in enumerate(OUTCOMES)}
_FAILURE_CODES = [_CODES[name] for name in FAILURES]


@dataclass(frozen=True)
class Overlaps:
    """What masks of a batch share, counted in pixels; [T, O] float64 on the CPU each.

    Attributes:
        gt_areas: Pixels of the ground truth.
        pred_areas: Pixels of the prediction.
        intersections: Pixels of both.
        on_others: Most pixels of the prediction that lie on one other object of the video.
        twin_ious: Highest IoU of the prediction with another prediction of the video; NaN where
            there is no other.
    """

    gt_areas: Tensor
    pred_areas: Tensor
    intersections: Tensor
    on_others: Tensor
    twin_ious: Tensor

    @property
    def ious(self) -> np.ndarray:
        """IoU [T, O], 1 where neither mask has a pixel."""
        gt, pred, own = (
            counts.numpy() for counts in (self.gt_areas, self.pred_areas, self.intersections)
        )
        unions = gt + pred - own
        return np.where(unions > 0, own / np.maximum(unions, 1), 1.0)


@dataclass(frozen=True)
class Told:
    """What goes with the outcomes of a batch; [T, O] on the CPU each.

    Attributes:
        frames: Frame numbers in the original video, int64.
        predicted_ious: The model's own estimate, float32, NaN where there is none.
        object_scores: Logits, likewise.
    """

    frames: np.ndarray
    predicted_ious: np.ndarray
    object_scores: np.ndarray

    @staticmethod
    def nothing(num_frames: int, num_objects: int) -> "Told":
        """Return frames numbered by position, and no estimates."""
        positions = np.repeat(np.arange(num_frames)[:, None], num_objects, 1)
        unknown = np.full((num_frames, num_objects), math.nan, np.float32)
        return Told(positions, unknown, unknown)


@dataclass(frozen=True)
class Track:
    """What became of one object on the T frames of a clip.

    Attributes:
        outcomes: [T] uint8, positions in `OUTCOMES`.
        frames: [T] frame numbers in the original video.
        ious: [T] float32; 1 where neither mask has a pixel, as in the metrics.
        predicted_ious: [T] float32, the model's own estimate, NaN where there is none.
        object_scores: [T] float32 logits, likewise.
        prompted: [T] bool, the frame received a prompt.
        gt_areas: [T] float32 pixels of the ground truth.
        pred_areas: [T] float32 pixels of the prediction.
        twin_ious: [T] float32, highest IoU with another prediction of the video; NaN where the
            object is alone in its video.
        category: Its index; -1: there are none.
    """

    outcomes: np.ndarray
    frames: np.ndarray
    ious: np.ndarray
    predicted_ious: np.ndarray
    object_scores: np.ndarray
    prompted: np.ndarray
    gt_areas: np.ndarray
    pred_areas: np.ndarray
    twin_ious: np.ndarray
    category: int = -1

    @property
    def first_frame(self) -> int:
        """The clip's first frame, as the original video numbers it."""
        return int(self.frames[0])

    @property
    def is_counted(self) -> np.ndarray:
        """[T] bool: frames that are scored, and were not prompted."""
        return self.outcomes > _CODES["prompted"]

    @property
    def is_failure(self) -> np.ndarray:
        """[T] bool."""
        return np.isin(self.outcomes, _FAILURE_CODES)

    @property
    def num_switches(self) -> int:
        """How often it began to be swapped with another object."""
        is_swapped = self.outcomes == _CODES["swapped"]
        return int(is_swapped[0]) + int((is_swapped[1:] & ~is_swapped[:-1]).sum())

    @property
    def num_until_failure(self) -> int:
        """Counted frames before the first failure; all of them where nothing fails."""
        fails = self.is_failure[self.is_counted]
        return int(fails.argmax()) if fails.any() else len(fails)


Tracks = Mapping[tuple[int, int], Track]


@dataclass(frozen=True)
class Strip:
    """A track with the words for its object.

    Attributes:
        video: Name of the video.
        object_id: In the data set.
        name: Of the object; may be empty.
        track: What became of it.
        clip: The clip's number in the validation.
    """

    video: str
    object_id: int
    name: str
    track: Track
    clip: int = 0


@dataclass(frozen=True)
class AtDistance:
    """IoU of all objects that were tracked for the same number of frames.

    Attributes:
        distance: Frames since the last prompt; 0: the frame itself received it.
        num: Objects and frames that were counted.
        lower: IoU that a quarter of them stays below.
        median: That half of them stay below.
        upper: That three quarters stay below.
    """

    distance: int
    num: int
    lower: float
    median: float
    upper: float


@dataclass(frozen=True)
class Findings:
    """What a validation found: what pictures, tables, the run book and advice are made of.

    Attributes:
        strips: Every object, with its outcomes, IoU, the model's own estimate and its object score
            on every frame; `shares` gives the share of each outcome.
        by_distance: IoU by frames since the last prompt.
        before: The same at the run's first validation; None: this is the first.
        copied: What copying the prompted masks scores; `core.metrics.masks.copied_masks`.
    """

    strips: list[Strip]
    by_distance: list[AtDistance]
    before: Optional[list[AtDistance]]
    copied: list[AtDistance]


def count_overlaps(pred_masks: Tensor, gt_masks: Tensor, video_ids: Sequence[int]) -> Overlaps:
    """Count what predictions share with ground truths and with each other, within each video.

    Args:
        pred_masks: [T, O, H, W] bool, any device; not changed.
        gt_masks: [T, O, H, W] bool on the same device; not changed.
        video_ids: O ids; objects of different videos form no pair.
    """
    num_frames, num_objects = gt_masks.shape[:2]
    counts = torch.zeros((5, num_frames, num_objects), dtype=torch.float64)
    ids = np.asarray(video_ids)
    for video_id in np.unique(ids):
        rows = torch.from_numpy(np.flatnonzero(ids == video_id))
        picked = rows.to(gt_masks.device)
        for t in range(num_frames):
            counts[:, t, rows] = _pairs(pred_masks[t].flatten(1), gt_masks[t].flatten(1), picked)
    return Overlaps(*counts)


def _pairs(preds: Tensor, gts: Tensor, rows: Tensor) -> Tensor:
    """Return the five counts of `Overlaps` of some rows of one frame: [5, N] float64 on the CPU."""
    num_rows = len(rows)
    with_gt, with_pred = preds.new_zeros((2, num_rows, num_rows), dtype=torch.float32)
    gt_areas = preds.new_zeros(num_rows, dtype=torch.float32)
    step = max(_MAX_FLOATS // num_rows, 1)
    # Half precision, in which validation may run, counts no further than a few hundred.
    with torch.autocast(preds.device.type, enabled=False):
        for start in range(0, preds.shape[1], step):
            pred = preds[:, start : start + step][rows].float()
            gt = gts[:, start : start + step][rows].float()
            with_gt += pred @ gt.T
            with_pred += pred @ pred.T
            gt_areas += gt.sum(1)
    # Single precision counts exactly to 2 ** 24, more pixels than a mask has, and MPS has no
    # double; a ratio needs it, to be compared with a threshold.
    gt_areas, with_gt, with_pred = (each.cpu().double() for each in (gt_areas, with_gt, with_pred))
    intersections, pred_areas = with_gt.diagonal().clone(), with_pred.diagonal().clone()
    unions = pred_areas[:, None] + pred_areas[None] - with_pred
    ious = (with_pred / unions.clamp(min=1)).fill_diagonal_(0)
    others = with_gt.fill_diagonal_(0)
    twin_ious = ious.amax(1) if num_rows > 1 else ious.amax(1) * math.nan
    return torch.stack([gt_areas, pred_areas, intersections, others.amax(1), twin_ious])


def classify(
    overlaps: Overlaps, prompted: np.ndarray, is_scored: np.ndarray, near_outline: np.ndarray
) -> np.ndarray:
    """Return the one outcome of each object on each frame.

    The first that holds: ``unscored``, the metrics leave the object out; ``prompted``.

    Without ground truth: ``absent``, nothing is predicted; ``swapped``, more than half of the
    prediction lies on one other object; ``false_alarm``.

    With ground truth: ``swapped``, its own object is untouched and more than half of the prediction
    lies on one other; ``lost``, untouched; ``returned``, IoU of 0.75 or more right after a frame
    that was lost or swapped; ``held``, IoU of 0.75 or more; ``merged``, IoU of 0.9 or more with
    another prediction; ``swapped``, more pixels on one other object than on its own; ``ragged``,
    all wrong pixels are near the outline; ``drifting``, IoU fell on three frames running, the
    object there on all; ``leaking``, more false than missed pixels; ``partial``.

    Args:
        overlaps: Of the masks.
        prompted: [T, O] bool.
        is_scored: [O] bool.
        near_outline: [T, O] bool, every wrong pixel is within F's tolerance of the outline.

    Returns:
        [T, O] uint8, positions in `OUTCOMES`.
    """
    gt, pred, own, on_others, twin_ious = (counts.numpy() for counts in vars(overlaps).values())
    ious = overlaps.ious
    there, predicted, touched = gt > 0, pred > 0, own > 0
    mostly_on_other = on_others > SWAPPED_SHARE * pred
    is_held = ious >= HELD_IOU
    rules = [
        ("unscored", np.broadcast_to(~is_scored, gt.shape)),
        ("prompted", prompted),
        ("absent", ~there & ~predicted),
        ("swapped", ~there & mostly_on_other),
        ("false_alarm", ~there),
        ("swapped", ~touched & mostly_on_other),
        ("lost", ~touched),
        ("held", is_held),
        ("merged", twin_ious >= MERGED_IOU),
        ("swapped", on_others > own),
        ("ragged", near_outline),
        ("drifting", _fell(np.where(there, ious, math.nan))),
        ("leaking", pred > gt),
    ]
    codes = np.select(
        [holds for _, holds in rules], [_CODES[name] for name, _ in rules], _CODES["partial"]
    ).astype(np.uint8)
    was_elsewhere = np.isin(codes[:-1], [_CODES["lost"], _CODES["swapped"]])
    codes[1:][was_elsewhere & (codes[1:] == _CODES["held"])] = _CODES["returned"]
    return codes


def tracks_of(
    codes: np.ndarray,
    overlaps: Overlaps,
    prompted: np.ndarray,
    told: Told,
    categories: Sequence[int],
) -> list[Track]:
    """Return one track per object, of memory of its own.

    Args:
        codes: [T, O], see `classify`.
        overlaps: Of the masks.
        prompted: [T, O] bool.
        told: What goes with them.
        categories: O indices, -1 where there are none.
    """
    ious = overlaps.ious.astype(np.float32)
    return [
        Track(
            outcomes=codes[:, k].copy(),
            frames=told.frames[:, k].copy(),
            ious=ious[:, k].copy(),
            predicted_ious=told.predicted_ious[:, k].copy(),
            object_scores=told.object_scores[:, k].copy(),
            prompted=prompted[:, k].copy(),
            gt_areas=_column(overlaps.gt_areas, k),
            pred_areas=_column(overlaps.pred_areas, k),
            twin_ious=_column(overlaps.twin_ious, k),
            category=category,
        )
        for k, category in enumerate(categories)
    ]


def _column(counts: Tensor, k: int) -> np.ndarray:
    return counts[:, k].numpy().astype(np.float32)


def shares(tracks: Iterable[Track]) -> dict[str, float]:
    """Return the share of each outcome among the frames that count, of all objects together.

    Those are frames of scored objects that received no prompt: `unscored` and `prompted` are left
    out, and the others add up to 1. Empty where no frame counts.
    """
    codes = [track.outcomes[track.is_counted] for track in tracks]
    counted = np.concatenate(codes) if codes else np.zeros(0, np.uint8)
    if len(counted) == 0:
        return {}
    counts = np.bincount(counted, minlength=len(OUTCOMES))
    first = _CODES["prompted"] + 1
    return {OUTCOMES[k]: int(counts[k]) / len(counted) for k in range(first, len(OUTCOMES))}


def scored_tracks(tracks: Tracks) -> list[Track]:
    """Return the tracks of scored objects, by video and object id."""
    return [track for _, track in sorted(tracks.items()) if track.is_counted.any()]


def iou_by_distance(objects: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[AtDistance]:
    """Return how good masks are that many frames after the last prompt, by distance.

    Args:
        objects: Of each scored object its IoU [T], NaN where it is not known, and [T] bool, whether
            the frame received a prompt. Frames before the first of them are left out.

    Returns:
        In the order of the distances; nothing where no frame is behind a prompt.
    """
    found: dict[int, list[float]] = {}
    for ious, prompted in objects:
        distance: Optional[int] = None
        for iou, is_prompted in zip(ious.tolist(), prompted.tolist(), strict=True):
            if is_prompted:
                distance = 0
            elif distance is not None:
                distance += 1
            if distance is not None and not math.isnan(iou):
                found.setdefault(distance, []).append(iou)
    if not any(found):
        return []
    return [
        AtDistance(distance, len(ious), *np.percentile(ious, [25, 50, 75]).tolist())
        for distance, ious in sorted(found.items())
    ]


def failure_scalars(tracks: Tracks, category_keys: Sequence[str]) -> dict[str, float]:
    """Return what a dashboard shows of the outcomes.

    Args:
        tracks: By video and object id.
        category_keys: A key for each category; those without a scored object get nothing.

    Returns:
        ``failures/KIND``, the share of each of `FAILURES`; ``identity_switches``, how often an
        object began to be swapped; ``frames_until_failure``, the mean number of frames tracked
        before the first failure, all frames where there is none. Each with ``/NAME`` behind it for
        a category. Empty where no frame counts.
    """
    scored = scored_tracks(tracks)
    values = _scalars(scored, "")
    for index, key in enumerate(category_keys):
        values |= _scalars([track for track in scored if track.category == index], f"/{key}")
    return values


def strips_of(
    tracks: Tracks,
    clip_name: Callable[[int], str],
    object_names: Callable[[int], Optional[Mapping[int, str]]],
) -> list[Strip]:
    """Return the tracks with the words for their objects, by video and object id.

    Args:
        tracks: By video and object id.
        clip_name: Gives the name of a video by its id.
        object_names: Gives a video's object names by object id, None where there are none.
    """
    return [
        Strip(
            clip_name(video_id),
            object_id,
            (object_names(video_id) or {}).get(object_id, ""),
            track,
            clip=video_id,
        )
        for (video_id, object_id), track in sorted(tracks.items())
    ]


def frames_csv(strips: Iterable[Strip]) -> str:
    """Return a table with one line per object and frame."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        "video,clip,first_frame,object,name,frame,outcome,iou,predicted_iou,object_score,"
        "prompted".split(",")
    )
    for strip in strips:
        track = strip.track
        columns = zip(
            track.frames.tolist(),
            [OUTCOMES[code] for code in track.outcomes],
            map(_six_digits, track.ious),
            map(_six_digits, track.predicted_ious),
            map(_six_digits, track.object_scores),
            ["true" if flag else "false" for flag in track.prompted],
            strict=True,
        )
        who = [strip.video, strip.clip, track.first_frame, strip.object_id, strip.name]
        writer.writerows([*who, *column] for column in columns)
    return table.getvalue()


def _scalars(scored: Sequence[Track], suffix: str) -> dict[str, float]:
    if not scored:
        return {}
    found = shares(scored)
    values = {f"failures/{name}": found[name] for name in FAILURES}
    values["identity_switches"] = float(sum(track.num_switches for track in scored))
    values["frames_until_failure"] = sum(track.num_until_failure for track in scored) / len(scored)
    return {name + suffix: value for name, value in values.items()}


def _fell(ious: np.ndarray) -> np.ndarray:
    """Return [T, O] bool: IoU fell on this frame and the ones before it."""
    fell = np.zeros(ious.shape, bool)
    falls = ious[1:] < ious[:-1]  # false where either is NaN
    for t in range(DRIFT_FRAMES, len(ious)):
        fell[t] = falls[t - DRIFT_FRAMES : t].all(0)
    return fell


def _six_digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
