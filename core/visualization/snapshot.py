"""The snapshot: all that the training thread ever pays for a picture.

`take_snapshot` reads a batch and the model's outputs where they live and keeps small CPU copies:
sub-sampled videos and frames, thresholded masks and their pixel counts at full size, prompts and
scores. `Snapshot.clips` turns them, on another thread, into one `Clip` per video, which is all
that the renderer sees. On CUDA nothing here synchronises: copies go to pinned memory and `clips`
waits for the event recorded behind them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from ..official import (
    Batch,
    FrameOutputs,
    GivenClicks,
    PointInputs,
    check_batch_and_outputs,
    fault_of_obj_to_cat,
    given_clicks,
    has_sizes_on_device,
    object_identifiers,
    original_sizes_of,
    prompting_of,
    rows_are_components,
    tell_prompts,
)
from .clip import Clip, Moment, build_clips
from .reduction import (
    Choice,
    Clicks,
    Grid,
    OnCpu,
    Reduced,
    Reduction,
    Window,
    average_kept_windows,
    average_windows,
    choose_reduction,
)
from .rounds import as_frames
from .transfer import to_host
from .window import MIN_FRAME_WIDTH, find_windows

# What `Reduction.take` does.
Take = Callable[[Tensor], Any]


@dataclass(frozen=True)
class SnapshotOptions:
    """What of a batch is kept; the names are those of `VisualizationsConfig`.

    Attributes:
        max_frames: Frames drawn; the rounds of a clip of one frame all are.
        frame_stride: Only frames at multiples of it are drawn.
        num_categories: Categories of each video; None: all its objects.
        panel_size: Longest side of what is drawn of a frame.
        aspect: ``original``: panels have the aspect of the video where it is known; ``model``: that
            of the frames.
        zoom: ``auto``: small objects are drawn larger; ``off``: no.
        draw_all_frames: Keep every frame, for an animation.
        kept_frames: So many frames of the clip, the first ones, are kept besides those drawn, for
            the run book: no sheet shows them, and the mean IoU is not of them.
        measure_all_frames: Count pixels on every frame of the clip, not only on the drawn ones.
    """

    max_frames: int = 4
    frame_stride: int = 1
    num_categories: Optional[int] = None
    panel_size: int = 256
    aspect: str = "original"
    zoom: str = "auto"
    draw_all_frames: bool = False
    kept_frames: int = 0
    measure_all_frames: bool = False


@dataclass
class Snapshot:
    """Copies of what one event needs; `clips` turns them into pictures' contents.

    Attributes:
        moment: When it was taken.
        options: What was asked for.
        choice: What that is of this batch.
        reduced: Copies in memory of their own; complete once `event` has passed.
        event: The CUDA event behind the last copy; None on CPU.
        windows: Of the videos whose small objects are drawn larger, by place among those kept;
            `clips` finds those of a batch on CUDA.
        fault: Why no prompts were kept, although the outputs have some; None: they were.
        sizes_unread: The sizes of the original videos were asked for and lie on a device.
    """

    moment: Moment
    options: SnapshotOptions
    choice: Choice
    reduced: Reduced[np.ndarray]
    event: Optional["torch.cuda.Event"] = None
    windows: dict[int, Window] = field(default_factory=dict)
    fault: Optional[str] = None
    sizes_unread: bool = False

    @property
    def videos(self) -> list[int]:
        """Positions in the batch of the videos kept."""
        return self.choice.videos

    def clips(self) -> list[Clip]:
        """Return one `Clip` per kept video; waits for the device's copies first."""
        if self.event is not None:
            self.event.synchronize()
        choice, reduced, windows = self.choice, self.reduced, self.windows
        if reduced.packed is not None and choice.grids:
            frames, reduced = reduced.packed.frames, reduced.unpacked(choice.grids[0].source)
            windows = find_windows(choice, reduced)
            close_ups = average_kept_windows(frames, windows)
            reduced = dataclasses.replace(reduced, close_ups=close_ups)
        return build_clips(self.moment, choice, reduced, windows)


def take_snapshot(
    batch: Batch,
    outs_per_frame: Sequence[FrameOutputs],
    moment: Moment,
    options: Optional[SnapshotOptions] = None,
    videos: Sequence[int] = (0,),
    obj_to_cat: Optional[Any] = None,
) -> Snapshot:
    """Copy what a sheet of each video needs, reduced where the tensors live.

    Of clips of one frame that were prompted with clicks or boxes each round is kept as a frame.

    Nothing given is written to or kept alive, no random generator moves, and on CUDA nothing
    synchronises: there all rows of the batch are reduced, because which of them belong to a video
    is only known on the device.

    Args:
        batch: ``BatchedVideoDatapoint`` or anything with its ``img_batch`` [T, B, 3, H, W] float,
            ``masks`` [T, O, H, W] bool, ``obj_to_frame_idx`` [T, O, 2] and optional ``metadata``.
        outs_per_frame: T output dicts of ``SAM2Train``, each with ``pred_masks_high_res``
            [O, 1, H, W] logits; prompts, IoU estimates and object scores where present.
        moment: When that is, and what videos, objects and categories are called.
        options: What is kept of each video; None: the defaults.
        videos: Positions in the batch of the videos to keep.
        obj_to_cat: The mask row (b * N + c) of each of the K prompt rows, where these are
            components of categories. A category that it does not name was not prompted: it is
            never lost and does not count in the mean IoU. If it is shorter or longer than the
            prompts of any frame, none is kept, and ``fault`` of the snapshot says so. Without it,
            prompt row k belongs to mask row k where there are as many of both, unless the outputs
            tell that prompt rows are components (`core.official.rows_are_components`): then nothing
            is guessed.

    Raises:
        TypeError: A tensor is missing, or `outs_per_frame` is no list of dictionaries.
        ValueError: A tensor has another shape than the batch implies.
    """
    batch = check_batch_and_outputs(batch, outs_per_frame)
    if moment.category_names is not None:
        moment = dataclasses.replace(moment, category_names=list(moment.category_names))
    options = options or SnapshotOptions()
    sizes, sizes_unread = _sizes(batch, moment, options)
    rounds = as_frames(batch, outs_per_frame)
    if rounds is not None:
        batch, outs_per_frame = rounds, rounds.outs_per_frame
    choice = _choose(batch, options, videos, sizes, rounds.rounds if rounds else ())
    assigned = None if obj_to_cat is None else torch.as_tensor(obj_to_cat).detach().flatten()
    fault = fault_of_obj_to_cat(outs_per_frame, assigned)
    logits = [outputs["pred_masks_high_res"].detach().select(1, 0) for outputs in outs_per_frame]
    reduction = choose_reduction(batch, logits, choice)
    reduced = _reduce(reduction, batch, logits, outs_per_frame, choice, assigned)
    if fault is not None:
        reduced = _without_prompts(reduced)
    event = None
    if isinstance(reduction, OnCpu):
        on_host: Reduced[np.ndarray] = reduced
    else:
        on_host, event = to_host(reduced, reduction.device)
    windows = {}
    if choice.zoomed and on_host.packed is None:
        windows = find_windows(choice, on_host)
        on_host.close_ups = average_windows(batch.img_batch.detach(), choice, windows)
    return Snapshot(moment, options, choice, on_host, event, windows, fault, sizes_unread)


def _sizes(
    batch: Batch, moment: Moment, options: SnapshotOptions
) -> tuple[Optional[Sequence[Optional[tuple[int, int]]]], bool]:
    """Return the original sizes whose aspect panels get, and whether some were left on a device."""
    if options.aspect == "model":
        return None, False
    sizes = moment.original_sizes or original_sizes_of(batch)
    return sizes, sizes is None and has_sizes_on_device(batch)


def _choose(
    batch: Batch,
    options: SnapshotOptions,
    videos: Sequence[int],
    sizes: Optional[Sequence[Optional[tuple[int, int]]]],
    rounds: Sequence[int],
) -> Choice:
    num_frames, num_videos, _, height, width = batch.img_batch.shape
    all_frames = list(range(num_frames))
    sampled = all_frames if rounds else all_frames[:: options.frame_stride][: options.max_frames]
    kept = sorted({*sampled, *all_frames[: options.kept_frames]})
    frames = all_frames if options.draw_all_frames else kept
    chosen = [video for video in videos if video < num_videos]
    if sizes is None or len(sizes) != num_videos:
        sizes = [None] * num_videos
    originals = [sizes[video] for video in chosen]
    return Choice(
        videos=chosen,
        frames=frames,
        measured=all_frames if options.measure_all_frames else frames,
        scored=_scored(options, sampled, all_frames, bool(rounds)),
        grids=[Grid.fit(height, width, options.panel_size, original) for original in originals],
        num_categories=options.num_categories,
        zoomed=sampled if options.zoom == "auto" and width >= MIN_FRAME_WIDTH else (),
        panel_size=options.panel_size,
        originals=originals,
        rounds=rounds,
    )


def _scored(
    options: SnapshotOptions, sampled: list[int], all_frames: list[int], are_rounds: bool
) -> list[int]:
    if are_rounds:  # the last one tells what was reached, although it was clicked
        return all_frames[-1:]
    return all_frames if options.measure_all_frames or options.draw_all_frames else sampled


def _reduce(
    reduction: Reduction,
    batch: Batch,
    logits: Sequence[Tensor],
    outs_per_frame: Sequence[FrameOutputs],
    choice: Choice,
    obj_to_cat: Optional[Tensor],
) -> Reduced[Any]:
    """Reduce a batch where it lives; on the CPU all arrays of the result are copies."""
    take = reduction.take
    drawn = {t: outs_per_frame[t] for t in choice.frames}
    all_given = [given_clicks(outputs) for outputs in outs_per_frame]
    given = {t: all_given[t] for t in choice.frames}
    num_rows = batch.masks.shape[1]
    prompting = list(map(prompting_of, outs_per_frame, all_given))
    mask_prompts = {
        t: masks.detach()[:, 0]
        for t, outputs in drawn.items()
        if (masks := outputs.get("mask_inputs")) is not None and prompting[t].by_mask
    }
    kept = reduction.keep(batch, logits, mask_prompts)
    return Reduced(
        num_videos=batch.img_batch.shape[1],
        rows=reduction.rows,
        row_videos=take(batch.obj_to_frame_idx.detach().select(0, 0).select(1, 1)),
        identifiers=take(object_identifiers(batch)),
        images=reduction.images(batch.img_batch.detach()),
        counts=kept.counts,
        masks=kept.masks,
        clicks=_clicks(given, take),
        initial_clicks=_initial_clicks(given, take),
        boxes={
            t: take(boxes.detach().float())
            for t, outputs in drawn.items()
            if (boxes := outputs.get("box_inputs")) is not None and len(boxes) > 0
        },
        mask_prompts=kept.mask_prompts,
        packed=kept.packed,
        predicted_ious=_final(
            {t: out.get("multistep_pred_ious") for t, out in drawn.items()}, num_rows, take
        ),
        object_scores=_final(
            {t: out.get("multistep_object_score_logits") for t, out in drawn.items()},
            num_rows,
            take,
        ),
        obj_to_cat=None if obj_to_cat is None else take(obj_to_cat),
        are_components=rows_are_components(outs_per_frame, all_given),
        prompting=prompting,
        prompts_told=tell_prompts(outs_per_frame),
        first_labels=_first_labels(choice, all_given[0], take),
    )


def _without_prompts(reduced: Reduced[Any]) -> Reduced[Any]:
    """Leave out prompts that belong to nobody knows whom; that frames were prompted stays known."""
    return dataclasses.replace(
        reduced,
        obj_to_cat=None,
        clicks={},
        initial_clicks={},
        boxes={},
        mask_prompts={},
        packed=reduced.packed and dataclasses.replace(reduced.packed, mask_prompts={}),
    )


def _clicks(given: dict[int, GivenClicks], take: Take) -> dict[int, Clicks[Any]]:
    """Return all clicks of the frames that have some."""
    return {
        t: _kept(clicks.final, clicks.num_initial, take)
        for t, clicks in given.items()
        if clicks.final is not None
    }


def _initial_clicks(given: dict[int, GivenClicks], take: Take) -> dict[int, Clicks[Any]]:
    """Return the initial clicks that those of `_clicks` may not hold."""
    return {
        t: _kept(clicks.initial, clicks.initial["point_labels"].shape[1], take)
        for t, clicks in given.items()
        if clicks.initial is not None
    }


def _first_labels(choice: Choice, given: GivenClicks, take: Take) -> Optional[Any]:
    """Return the labels of the clicks that the first round was given."""
    if not choice.rounds or given.final is None:
        return None
    return take(given.final["point_labels"].detach())


def _kept(clicks: PointInputs, num_initial: int, take: Take) -> Clicks[Any]:
    coords, labels = clicks["point_coords"].detach().float(), clicks["point_labels"].detach()
    return Clicks(take(coords), take(labels), num_initial)


def _final(
    scores: dict[int, Optional[Sequence[Tensor]]], num_rows: int, take: Take
) -> dict[int, Any]:
    """Return the last scores [O, M] of the frames that have some."""
    found: dict[int, Any] = {}
    for t, steps in scores.items():
        last = steps[-1] if steps else None
        if isinstance(last, Tensor) and last.ndim == 2 and len(last) == num_rows and last.numel():
            found[t] = take(last.detach().float())
    return found
