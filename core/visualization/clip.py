"""Clip: what a sheet shows of one video, built from a snapshot; all that the renderer sees."""

import dataclasses
import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar

import numpy as np
import torch

from ..metrics.masks import object_ious
from ..words import counted
from .palette import Color, category_color, colors_of
from .prompts import (
    PromptData,
    box_prompt,
    count_lost,
    count_undrawable,
    has_drawable,
    implied_click,
    on_frame,
    prompts_from_clicks,
)
from .reduction import (
    Choice,
    Drawn,
    Grid,
    Reduced,
    Window,
    denormalize_array,
    draw_mask,
    draw_mask_window,
)
from .rounds import Round, read_first_prompt
from .rows import Rows, assign_prompts, clicks_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """When in a training something was drawn, and what things are called there.

    Attributes:
        stage: ``train`` or ``val``.
        step: Optimizer steps taken.
        epoch: Lightning's epoch, from 0.
        clip_name: Gives the name of a data set video by its id in the metadata.
        object_names: Gives a video's object names by object id.
        category_names: Names of the categories in the category layout.
        original_sizes: (height, width) of each original video of the batch; None: what the batch's
            ``metadata.frame_orig_size`` tells, where it can be read without waiting.
        remark: What is wrong with the training, for the notes of a sheet.
        weights: What the module calls the weights that it has, where it has several sets of them.
    """

    stage: str
    step: int
    epoch: int = 0
    clip_name: Optional[Callable[[int], str]] = None
    object_names: Optional[Callable[[int], Optional[dict[int, str]]]] = None
    category_names: Optional[Sequence[str]] = None
    original_sizes: Optional[Sequence[Optional[tuple[int, int]]]] = None
    remark: str = ""
    weights: Optional[str] = None


@dataclass
class Masks:
    """Ground truth or prediction of C categories on T frames.

    Attributes:
        masks: [T, C, h, w] bool, reduced to display size.
        areas: [T, C] pixels at full size.
        non_finite: [T, C] bool, the logits hold NaN or inf there; None: they are not known.
    """

    masks: np.ndarray
    areas: np.ndarray
    non_finite: Optional[np.ndarray] = None


@dataclass
class Scores:
    """How well prediction and ground truth of C categories agree on T frames.

    Attributes:
        intersections: [T, C] pixels at full size.
        unions: [T, C] pixels.
        predicted_ious: [T, C] the model's own IoU estimate, NaN where there is none; None: no model
            is known.
        object_scores: [T, C] object score logits, likewise.
    """

    intersections: np.ndarray
    unions: np.ndarray
    predicted_ious: Optional[np.ndarray] = None
    object_scores: Optional[np.ndarray] = None

    @property
    def ious(self) -> np.ndarray:
        """[T, C] IoU of prediction and ground truth at full size; NaN where both are empty."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.unions > 0, self.intersections / self.unions, np.nan)


@dataclass
class ClipFrame:
    """Which frame a row of a sheet shows, and how it was prompted.

    Attributes:
        position: In the clip.
        number: In the original video.
        prompts: Coordinates in model pixels; `obj_id` is the category's position in the batch.
        prompted: From the start.
        clicked: By clicks or a box, corrections included, if only in another video of the batch.
        mask_prompted: By a mask, which is then the prediction itself.
        prompts_unassigned: Prompt rows that belong to no known video and are not drawn.
        prompts_undrawable: Clicks and boxes that are not finite, lie outside the frame or lack a
            corner.
        round: Of clicks on a clip of one frame, after which the row shows it; None: it is a frame
            of a longer clip.
    """

    position: int = 0
    number: int = 0
    prompts: list[PromptData] = field(default_factory=list)
    prompted: bool = False
    clicked: bool = False
    mask_prompted: bool = False
    prompts_unassigned: int = 0
    prompts_undrawable: int = 0
    round: Optional[Round] = None

    @property
    def was_prompted(self) -> bool:
        """Whether it received any prompt."""
        return self.prompted or self.clicked or bool(self.prompts)


@dataclass
class Clip:
    """One video, ready to be drawn; T drawn frames, C categories, CPU memory only.

    A clip of one frame has a frame per round of clicks, all of the same number.

    Attributes:
        name: The video's name, or what identifies it; printable, on one line.
        frames: T, those drawn.
        images: [T, h, w, 3] uint8, reduced to display size.
        model_size: (H, W) of the model's frames, in whose pixels prompts are.
        ids: What tells the categories on a sheet, and their order there: object ids of the data
            set, or positions where there are none. Empty categories beyond the video's rows have
            no id.
        gt: Ground truth; None where there is none.
        pred: Prediction; None where there is none.
        scores: None unless there are both.
        errors: [T, 3, h, w] bool, where any object is hit, missed and claimed falsely, compared at
            full size; None unless there are both.
        moment: When in a training it was drawn; None: it is of no training, its name tells all.
        mean_iou: The metrics' mean IoU (`core.metrics.masks.object_ious`) of the C categories, over
            the frames that are scored and received no prompt, or after the last round; NaN when
            nothing is left.
        num_scored_frames: Frames that `mean_iou` covers.
        num_unprompted_frames: Frames of the whole clip that received no prompt.
        prompts_elsewhere: Frame numbers of the frames that are not drawn and received prompts.
        prompts_implied: The outputs tell no prompts; those shown follow from the ground truth.
        not_prompted: Categories that the caller's `obj_to_cat` does not name.
        category_names: C names, or None.
        num_left_out: Objects of the video beyond C.
        baseline_ious: [T, C] IoUs at the first validation of the run, NaN where there is none;
            None: no such validation is known, or it is this one.
        close_up: What a sheet shows larger, where objects are small; None: the whole frames.
    """

    name: str
    frames: list[ClipFrame]
    images: np.ndarray
    model_size: tuple[int, int]
    ids: list[int]
    gt: Optional[Masks]
    pred: Optional[Masks]
    scores: Optional[Scores] = None
    errors: Optional[np.ndarray] = None
    moment: Optional[Moment] = None
    mean_iou: float = math.nan
    num_scored_frames: int = 0
    num_unprompted_frames: int = 0
    prompts_elsewhere: list[int] = field(default_factory=list)
    prompts_implied: bool = False
    not_prompted: frozenset[int] = frozenset()
    category_names: Optional[list[str]] = None
    num_left_out: int = 0
    baseline_ious: Optional[np.ndarray] = None
    close_up: Optional["CloseUp"] = None

    @property
    def colors(self) -> tuple[Color, ...]:
        """The colour of each category that has an id."""
        return colors_of(tuple(self.ids))

    def id_of(self, category: int) -> int:
        """Return a category's id; one without an id is known by its position."""
        return self.ids[category] if 0 <= category < len(self.ids) else category

    def color_of(self, category: int) -> Color:
        """Return a category's colour, the neutral one for -1."""
        if 0 <= category < len(self.ids):
            return self.colors[category]
        return category_color(category)

    @property
    def prompts_missing(self) -> list[int]:
        """Numbers of the frames that are said to be prompted and have no prompt to draw."""
        return [
            frame.number
            for frame in self.frames
            if frame.prompted and not has_drawable(frame.prompts, self.model_size)
        ]

    @property
    def prompts_unassigned(self) -> int:
        """Prompt rows of its frames that belong to no known video."""
        return self._last_or_all([frame.prompts_unassigned for frame in self.frames])

    @property
    def prompts_undrawable(self) -> int:
        """Clicks and boxes of its frames that cannot be drawn."""
        return self._last_or_all([frame.prompts_undrawable for frame in self.frames])

    def _last_or_all(self, counts: list[int]) -> int:
        """Add up what frames have; the last round has the prompts of those before."""
        return sum(counts[-1:] if self.is_of_rounds else counts)

    @property
    def is_of_rounds(self) -> bool:
        """Whether its frames are the rounds of a clip of one frame."""
        return any(frame.round is not None for frame in self.frames)

    @property
    def num_categories(self) -> int:
        """C."""
        found = [masks for masks in (self.gt, self.pred) if masks is not None]
        return found[0].masks.shape[1] if found else 0

    def prompts(self) -> list[PromptData]:
        """Return the prompts of all drawn frames."""
        return [prompt for frame in self.frames for prompt in frame.prompts]

    def select(self, positions: Sequence[int]) -> "Clip":
        """Return the clip with only the drawn frames at `positions` of its lists and arrays."""
        index = list(positions)
        left_out = [
            frame.number
            for i, frame in enumerate(self.frames)
            if i not in index and frame.round is None and frame.was_prompted
        ]
        return dataclasses.replace(
            self,
            frames=[self.frames[i] for i in index],
            images=self.images[index],
            gt=_of_frames(self.gt, index),
            pred=_of_frames(self.pred, index),
            scores=_of_frames(self.scores, index),
            errors=None if self.errors is None else self.errors[index],
            baseline_ious=None if self.baseline_ious is None else self.baseline_ious[index],
            prompts_elsewhere=sorted({*self.prompts_elsewhere, *left_out}),
            close_up=self.close_up and self.close_up.select([self.frames[i] for i in index]),
        )


@dataclass
class CloseUp:
    """The part of a clip's frames that holds all small objects, as panels show it.

    Attributes:
        window: Where it lies in the frames.
        view: What it shows of the clip's S frames, as if it were all of them: prompts are in pixels
            of the window. Areas and scores are those of the whole frames.
        outside: [S, C, h, w] bool, what is predicted outside the window, on the whole frame.
        num_outside: [S, C] pixels of that at full size.
    """

    window: Window
    view: Clip
    outside: np.ndarray
    num_outside: np.ndarray

    def select(self, frames: Sequence[ClipFrame]) -> Optional["CloseUp"]:
        """Return the close-up of some frames of the clip; None: it does not have them all."""
        places = {frame.position: index for index, frame in enumerate(self.view.frames)}
        if not all(frame.position in places for frame in frames):
            return None
        index = [places[frame.position] for frame in frames]
        view = self.view.select(index)
        return CloseUp(self.window, view, self.outside[index], self.num_outside[index])

    def prompts_outside(self, frame: ClipFrame, size: tuple[int, int]) -> list[PromptData]:
        """Return the clicks of a whole frame of `size` (H, W) that lie on it, not in the window."""
        rows, columns = self.window.box
        found = []
        for prompt in frame.prompts:
            if prompt.points is None or prompt.labels is None:
                continue
            origin = torch.tensor([columns.start, rows.start])
            inside = on_frame(prompt.points - origin, self.window.size)
            left_out = on_frame(prompt.points, size) & ~inside
            if left_out.any():
                rounds = None if prompt.rounds is None else prompt.rounds[left_out]
                found.append(
                    dataclasses.replace(
                        prompt,
                        points=prompt.points[left_out],
                        labels=prompt.labels[left_out],
                        rounds=rounds,
                    )
                )
        return found


PerFrame = TypeVar("PerFrame", Masks, Scores)


def _of_frames(arrays: Optional[PerFrame], index: list[int]) -> Optional[PerFrame]:
    """Select frames of all arrays of a `Masks` or `Scores`."""
    if arrays is None:
        return None
    known = {name: array[index] for name, array in vars(arrays).items() if array is not None}
    return dataclasses.replace(arrays, **known)


def plain_text(text: Any) -> str:
    """Return a text from a file as printable characters on one line, which every logger takes."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def fate_of(present: bool, predicted: bool, overlaps: bool) -> Optional[str]:
    """Return the word for what became of an object on a frame; None: it was found, if only partly.

    Args:
        present: The ground truth has a pixel.
        predicted: The prediction has one.
        overlaps: They share one.
    """
    if present:
        return None if overlaps else "lost"
    return "false alarm" if predicted else "absent"


def build_clips(
    moment: Moment, choice: Choice, reduced: Reduced[np.ndarray], windows: dict[int, Window]
) -> list[Clip]:
    """Return one clip per chosen video, with the close-up of those that have a window."""
    clips = []
    for slot, video in enumerate(choice.videos):
        rows = Rows.of(video, choice, reduced)
        clip = _build_clip(moment, choice, reduced, rows, slot)
        if clip.num_left_out:
            log.debug(
                "%s not fit into num_categories: not drawn",
                counted(clip.num_left_out, "object does", "objects do"),
            )
        if slot in windows:
            clip.close_up = _close_up(clip, windows[slot], choice, reduced, rows, slot)
        clips.append(clip)
    return clips


def _build_clip(
    moment: Moment, choice: Choice, reduced: Reduced[np.ndarray], rows: Rows, slot: int
) -> Clip:
    source = _Source.of(rows, reduced, bool(choice.rounds))
    prompting, frames = reduced.prompting, _frames(source, choice, reduced)
    grid = choice.grids[slot]
    drawn = _drawn(rows, grid, reduced)
    measured = [choice.measured.index(t) for t in choice.frames]
    non_finite = rows.kept_of(reduced.counts.non_finite)
    gt_areas, pred_areas, intersections = (
        rows.kept_of(counts)
        for counts in (
            reduced.counts.gt_areas,
            reduced.counts.pred_areas,
            reduced.counts.intersections,
        )
    )
    unions = gt_areas + pred_areas - intersections
    scored = [choice.measured.index(t) for t in choice.scored]
    is_prompted = [prompting[t].received and not choice.rounds for t in choice.scored]
    num_rows = len(reduced.row_videos)
    not_prompted = _not_prompted(rows, reduced)
    clip = Clip(
        name=_clip_name(moment, source, rows.video),
        frames=frames,
        images=_images(reduced.images[slot], len(frames)),
        model_size=grid.source,
        ids=_ids(moment, source, len(rows.shown)),
        gt=Masks(drawn.gt, gt_areas[measured]),
        pred=Masks(drawn.pred, pred_areas[measured], non_finite[measured]),
        scores=Scores(
            intersections[measured],
            unions[measured],
            rows.of_batch(_highest(reduced.predicted_ious, choice.frames, num_rows)),
            rows.of_batch(_highest(reduced.object_scores, choice.frames, num_rows)),
        ),
        errors=drawn.errors,
        moment=moment,
        mean_iou=_mean_iou(
            intersections[scored], unions[scored], gt_areas[scored], is_prompted, not_prompted
        ),
        num_scored_frames=is_prompted.count(False),
        num_unprompted_frames=sum(not frame.received for frame in prompting),
        prompts_elsewhere=[
            source.frame_numbers[t]
            for t, frame in enumerate(prompting)
            if t not in choice.frames and (frame.first or frame.clicked)
        ],
        category_names=_category_names(moment, source, rows.num_categories),
        num_left_out=len(rows.all) - len(rows.shown),
        not_prompted=not_prompted,
    )
    if reduced.prompts_told:
        _add_prompts(clip, rows, reduced, grid)
    else:
        # Frame 0 is always drawn, first.
        frames[0].prompts = _implied_prompts(drawn.gt[0], clip.model_size)
        clip.prompts_implied = True
    return clip


def _frames(source: "_Source", choice: Choice, reduced: Reduced[np.ndarray]) -> list[ClipFrame]:
    """Return the drawn frames, without their prompts."""
    frames = [
        ClipFrame(
            position=t,
            number=source.frame_numbers[t],
            prompted=reduced.prompting[t].first,
            clicked=reduced.prompting[t].clicked,
            mask_prompted=reduced.prompting[t].by_mask,
        )
        for t in choice.frames
    ]
    if reduced.first_labels is not None:
        first = read_first_prompt(reduced.first_labels)
        for frame, number in zip(frames, choice.rounds, strict=True):
            frame.round = Round(number, first)
    return frames


def _images(reduced: np.ndarray, num_frames: int) -> np.ndarray:
    """Return normalised [T, 3, h, w], or one for all frames, as [T, h, w, 3] uint8, contiguous."""
    images = denormalize_array(reduced).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.broadcast_to(images, (num_frames, *images.shape[1:])))


def _drawn(rows: Rows, grid: Grid, reduced: Reduced[np.ndarray]) -> Drawn:
    """Return what is drawn of a video's C categories, empty where it has no row."""
    drawn, kept = reduced.masks.draw(rows.kept, grid), np.arange(len(rows.kept))
    return Drawn(rows.fill(drawn.gt, kept, False), rows.fill(drawn.pred, kept, False), drawn.errors)


@dataclass(frozen=True)
class _Source:
    """What the metadata says of a video.

    Attributes:
        video: Its id in the data set; None: nothing tells.
        frame_numbers: T, in the original video; positions in the clip where nothing tells them
            apart. Rounds are all of one frame.
        object_ids: Of the rows shown; empty where nothing tells them apart.
    """

    video: Optional[int]
    frame_numbers: list[int]
    object_ids: list[int]

    @staticmethod
    def of(rows: Rows, reduced: Reduced[np.ndarray], are_rounds: bool) -> "_Source":
        identifiers = reduced.identifiers
        if len(rows.all) == 0 or identifiers.size == 0:
            # Nothing tells which video of the data set this is: its place in the batch does not.
            return _Source(None, list(range(len(reduced.prompting))), [])
        of_first = identifiers[:, rows.all[0]]
        ids = identifiers[0, rows.all, 1].tolist()
        are_ids = min(ids) >= 0 and len(set(ids)) == len(ids)
        numbers = of_first[:, 2].tolist()
        if not are_rounds and len(set(numbers)) < len(numbers):
            numbers = list(range(len(numbers)))
        return _Source(int(of_first[0, 0]), numbers, ids[: len(rows.shown)] if are_ids else [])


def _highest(scores: dict[int, np.ndarray], frames: list[int], num_rows: int) -> np.ndarray:
    """Return [T', O] float32, NaN where there are none.

    Of several masks per object SAM 2 keeps the one with the highest estimate, so the highest
    estimate is that of the mask drawn.
    """
    highest = np.full((len(frames), num_rows), math.nan, np.float32)
    for position, t in enumerate(frames):
        if t in scores:
            highest[position] = scores[t].max(1)
    return highest


def _mean_iou(
    intersections: np.ndarray,
    unions: np.ndarray,
    gt_areas: np.ndarray,
    is_prompted: list[bool],
    left_out: Collection[int],
) -> float:
    """Return what `VideoMetrics` would, of the measured frames; counts are [M, C]."""
    both, either, truth = (
        torch.from_numpy(counts).double() for counts in (intersections, unions, gt_areas)
    )
    prompted = torch.tensor(is_prompted)[:, None].expand_as(both)
    ious = object_ious(both, either, truth, prompted)
    ious[sorted(left_out)] = math.nan
    return float(ious.nanmean())


def _clip_name(moment: Moment, source: _Source, video: int) -> str:
    if source.video is None:
        return f"clip {video} of the batch (frames numbered within the clip)"
    if moment.clip_name is None:
        return f"video {source.video}"
    return plain_text(moment.clip_name(source.video))


def _ids(moment: Moment, source: _Source, num_shown: int) -> list[int]:
    """Return object ids, or the slots of the category layout, which alone has category names."""
    if source.object_ids and moment.category_names is None:
        return source.object_ids
    return list(range(num_shown))


def _category_names(moment: Moment, source: _Source, num_categories: int) -> Optional[list[str]]:
    if moment.category_names is not None:
        names = [plain_text(name) for name in list(moment.category_names)[:num_categories]]
        return names + [""] * (num_categories - len(names))
    if source.video is None:
        return None
    by_object = (moment.object_names and moment.object_names(source.video)) or {}
    names = [plain_text(by_object.get(object_id, "")) for object_id in source.object_ids]
    return names + [""] * (num_categories - len(names))


def _implied_prompts(gt_masks: np.ndarray, model_size: tuple[int, int]) -> list[PromptData]:
    """Return the clicks that ground truth [C, h, w] implies, in model pixels."""
    (height, width), (h, w) = model_size, gt_masks.shape[1:]
    scale = torch.tensor([width / w, height / h])
    masks = enumerate(torch.from_numpy(gt_masks))
    return [implied_click(mask, category, scale) for category, mask in masks if mask.any()]


def _not_prompted(rows: Rows, reduced: Reduced[np.ndarray]) -> frozenset[int]:
    """Return the categories that the caller's list of prompt rows does not name."""
    if reduced.obj_to_cat is None or not reduced.prompts_told:
        return frozenset()
    named = set(reduced.obj_to_cat.tolist())
    return frozenset(k for k, row in enumerate(rows.shown.tolist()) if row not in named)


def _add_prompts(clip: Clip, rows: Rows, reduced: Reduced[np.ndarray], grid: Grid) -> None:
    """Give each drawn frame the prompts of its video, and count those that cannot be drawn."""
    for frame in clip.frames:
        masks = reduced.mask_prompts.get(frame.position, [])
        for index, obj_id in _assign(len(masks), frame, rows, reduced):
            mask = draw_mask(masks[index], grid)
            if mask.any():
                frame.prompts.append(PromptData("mask", obj_id, mask=torch.from_numpy(mask)))
        for clicks in clicks_of(frame.position, reduced):
            for index, obj_id in _assign(len(clicks.coords), frame, rows, reduced):
                labels = clicks.labels[index]
                prompts = prompts_from_clicks(
                    clicks.coords[index], labels, clicks.num_initial, obj_id
                )
                frame.prompts += prompts
                frame.prompts_undrawable += count_lost(labels, prompts)
        boxes = reduced.boxes.get(frame.position, ())
        for index, obj_id in _assign(len(boxes), frame, rows, reduced):
            frame.prompts.append(box_prompt(boxes[index], obj_id))
        frame.prompts_undrawable += count_undrawable(frame.prompts, clip.model_size)


def _assign(
    num_prompts: int, frame: ClipFrame, rows: Rows, reduced: Reduced[np.ndarray]
) -> list[tuple[int, int]]:
    """Return (prompt row, category) of this video, and count what belongs to no known one."""
    assigned, num_unknown = assign_prompts(num_prompts, rows, reduced)
    frame.prompts_unassigned += num_unknown
    return assigned


def _close_up(
    clip: Clip,
    window: Window,
    choice: Choice,
    reduced: Reduced[np.ndarray],
    rows: Rows,
    slot: int,
) -> CloseUp:
    """Return what a window of the clip's frames shows."""
    kept = reduced.masks
    positions = [choice.frames.index(t) for t in choice.zoomed]
    grid = choice.grids[slot]
    drawn = kept.draw_window(rows.kept, positions, grid.source, window)
    places = np.arange(len(rows.kept))
    gt, pred = (rows.fill(found, places, False) for found in (drawn.gt, drawn.pred))
    view = clip.select(positions)
    view = dataclasses.replace(
        view,
        frames=[_seen_in(window, frame, grid.source, rows, reduced) for frame in view.frames],
        images=_images(reduced.close_ups[slot], len(view.frames)),
        model_size=window.size,
        gt=view.gt and dataclasses.replace(view.gt, masks=gt),
        pred=view.pred and dataclasses.replace(view.pred, masks=pred),
        errors=drawn.errors,
    )
    side = max(grid.size)
    # The panel of the whole frame has half the side of the others, if it can be without loss.
    side = side if 2 * side <= choice.panel_size else max(1, side // 2)
    overview = Grid.fit(*grid.source, side, choice.originals[slot])
    outside, num_outside = kept.predicted_outside(rows.kept, positions, window, overview)
    return CloseUp(
        window, view, rows.fill(outside, places, False), rows.fill(num_outside, places, 0)
    )


def _seen_in(
    window: Window,
    frame: ClipFrame,
    size: tuple[int, int],
    rows: Rows,
    reduced: Reduced[np.ndarray],
) -> ClipFrame:
    """Return a frame with its prompts in pixels of a window."""
    crops = reduced.mask_prompts.get(frame.position, [])
    prompts = [
        PromptData(
            "mask", obj_id, mask=torch.from_numpy(draw_mask_window(crops[index], size, window))
        )
        for index, obj_id in assign_prompts(len(crops), rows, reduced)[0]
        if crops[index].bits.size
    ]
    origin = torch.tensor([window.left, window.top])
    for prompt in frame.prompts:
        if prompt.points is not None:
            prompts.append(dataclasses.replace(prompt, points=prompt.points - origin))
        elif prompt.bbox is not None:
            prompts.append(dataclasses.replace(prompt, bbox=prompt.bbox - origin.repeat(2)))
    return dataclasses.replace(frame, prompts=prompts)
