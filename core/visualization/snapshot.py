"""The snapshot: all that the training thread ever pays for a picture.

`take_snapshot` reads a batch and the model's outputs where they live and keeps small CPU copies:
sub-sampled videos and frames, thresholded masks at display size, pixel counts at full size, prompts
and scores. `Snapshot.clips` turns them, on another thread, into one `Clip` per video, which is all
that the renderer sees. On CUDA nothing here synchronises: copies go to pinned memory and `clips`
waits for the event recorded behind them.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from ..metrics import object_ious
from ..official import (
    check_batch_and_outputs,
    final_clicks,
    is_mask_prompted,
    is_prompted_first,
    object_identifiers,
    received_prompt,
)
from .clip import Clip, plain_text
from .prompts import UNASSIGNED, PromptData, build_prompts_from_gt_first_frame, prompts_from_clicks
from .reduction import (
    Grid,
    denormalize_array,
    display_images,
    display_images_on_cpu,
    reduce_masks,
    reduce_masks_on_cpu,
    sample_masks_on_cpu,
)
from .transfer import to_host

log = logging.getLogger(__name__)

# What SAM 2 says of its own masks, and where its outputs have it.
SCORES = {
    "predicted_ious": "multistep_pred_ious",
    "object_scores": "multistep_object_score_logits",
}


@dataclass
class SnapshotOptions:
    """What of a batch is kept; the names are those of `VisualizationsConfig`.

    Attributes:
        draw_all_frames: Keep every frame, for an animation.
        measure_all_frames: Count pixels on every frame of the clip, not only on the drawn ones.
    """

    max_frames: int = 4
    frame_stride: int = 1
    num_categories: Optional[int] = None
    panel_size: int = 256
    draw_all_frames: bool = False
    measure_all_frames: bool = False


@dataclass
class Snapshot:
    """Copies of what one event needs; `clips` turns them into pictures' contents.

    Attributes:
        stage: ``train`` or ``val``.
        epoch: Lightning's epoch.
        step: Optimizer steps taken.
        videos: Positions in the batch of the videos kept.
        frames: Positions in the clip of the frames drawn.
        measured: Positions in the clip of the frames whose pixels were counted.
        options: What was asked for.
        arrays: Named copies in memory of their own, frames still normalised; complete once `event`
            has passed.
        clicks: For each frame with clicks, how many of their columns are the initial prompt.
        prompted: T flags, the frame was prompted from the start.
        received_prompt: T flags, the frame received any prompt, corrections included.
        mask_prompted: T flags, the frame was prompted by a mask.
        outputs_tell_prompts: The outputs have a field for prompts, if only an empty one.
        model_size: (H, W) of the model's frames.
        num_videos: B of the batch.
        num_rows: O of the batch.
        rows: Rows of the batch that `arrays` of masks and counts hold; None: all of them.
        event: The CUDA event behind the last copy; None on CPU.
        clip_name: See `take_snapshot`.
        object_names: See `take_snapshot`.
        category_names: See `take_snapshot`.
    """

    stage: str
    epoch: int
    step: int
    videos: list[int]
    frames: list[int]
    measured: list[int]
    options: SnapshotOptions
    arrays: dict[str, np.ndarray]
    clicks: dict[int, int]
    prompted: list[bool]
    received_prompt: list[bool]
    mask_prompted: list[bool]
    outputs_tell_prompts: bool
    model_size: tuple[int, int]
    num_videos: int
    num_rows: int
    rows: Optional[list[int]]
    event: Optional["torch.cuda.Event"] = None
    clip_name: Optional[Callable[[int], str]] = None
    object_names: Optional[Callable[[int], Optional[dict[int, str]]]] = None
    category_names: Optional[Sequence[str]] = None

    def clips(self) -> list[Clip]:
        """Return one `Clip` per kept video; waits for the device's copies first."""
        if self.event is not None:
            self.event.synchronize()
        scores = {name: self._scores(name) for name in SCORES}
        arrays = self.arrays | scores
        return [self._clip(slot, video, arrays) for slot, video in enumerate(self.videos)]

    def _clip(self, slot: int, video: int, arrays: dict[str, np.ndarray]) -> Clip:
        all_rows = np.flatnonzero(arrays["row_videos"] == video)
        limit = self.options.num_categories
        num_categories = len(all_rows) if limit is None else limit
        rows = all_rows[:num_categories]
        if len(all_rows) > len(rows):
            log.debug("%d objects beyond num_categories are not drawn", len(all_rows) - len(rows))
        kept = rows if self.rows is None else np.searchsorted(self.rows, rows)

        def of_categories(name: str, fill: Any, select: np.ndarray = kept) -> np.ndarray:
            array = arrays[name]
            out = np.full((array.shape[0], num_categories, *array.shape[2:]), fill, array.dtype)
            out[:, : len(select)] = array[:, select]
            return out

        intersections, unions = of_categories("intersections", 0), of_categories("unions", 0)
        gt_areas = of_categories("gt_areas", 0)
        drawn = [self.measured.index(t) for t in self.frames]
        identifiers = arrays["identifiers"]
        if len(all_rows) > 0 and identifiers.size > 0:
            dataset_video, _, _ = identifiers[0, all_rows[0]].tolist()
            frame_numbers = identifiers[:, all_rows[0], 2].tolist()
        else:
            # Nothing tells which video of the data set this is: its place in the batch does not.
            dataset_video, frame_numbers = None, list(range(len(self.prompted)))
        clip = Clip(
            stage=self.stage,
            epoch=self.epoch,
            step=self.step,
            name=self._name(dataset_video, video),
            frame_positions=self.frames,
            frame_numbers=[frame_numbers[t] for t in self.frames],
            images=np.ascontiguousarray(
                denormalize_array(arrays["images"][:, slot]).transpose(0, 2, 3, 1)
            ),
            gt_masks=of_categories("gt_masks", False),
            pred_masks=of_categories("pred_masks", False),
            intersections=intersections[drawn],
            unions=unions[drawn],
            gt_areas=gt_areas[drawn],
            pred_areas=of_categories("pred_areas", 0)[drawn],
            predicted_ious=of_categories("predicted_ious", math.nan, rows),
            object_scores=of_categories("object_scores", math.nan, rows),
            non_finite=of_categories("non_finite", False)[drawn],
            prompts=[[] for _ in self.frames],
            prompted=np.array([self.prompted[t] for t in self.frames], dtype=bool),
            mask_prompted=np.array([self.mask_prompted[t] for t in self.frames], dtype=bool),
            model_size=self.model_size,
            mean_iou=self._mean_iou(intersections, unions, gt_areas),
            num_scored_frames=sum(not self.received_prompt[t] for t in self.measured),
            num_unprompted_frames=self.received_prompt.count(False),
            prompts_elsewhere=[
                frame_numbers[t]
                for t in range(len(self.prompted))
                if t not in self.frames and (self.prompted[t] or t in self.clicks)
            ],
            category_names=self._names(dataset_video, identifiers, all_rows, num_categories),
            num_left_out=len(all_rows) - len(rows),
        )
        self._add_prompts(clip, video, rows, arrays)
        return clip

    def _scores(self, name: str) -> np.ndarray:
        """Return [T', O] float32, NaN where there are none.

        Of several masks per object SAM 2 keeps the one with the highest estimate, so the highest
        estimate is that of the mask drawn.
        """
        scores = np.full((len(self.frames), self.num_rows), math.nan, np.float32)
        for position, t in enumerate(self.frames):
            if f"{name}_{t}" in self.arrays:
                scores[position] = self.arrays[f"{name}_{t}"].max(1)
        return scores

    def _mean_iou(self, *counts: np.ndarray) -> float:
        """Return what `VideoMetrics` would, of the measured frames; `counts` are [T', C]."""
        flags = torch.tensor([self.received_prompt[t] for t in self.measured])
        counts = [torch.from_numpy(count).double() for count in counts]
        return float(object_ious(*counts, flags[:, None].expand_as(counts[0])).nanmean())

    def _name(self, dataset_video: Optional[int], video: int) -> str:
        if dataset_video is None:
            return f"clip {video} of the batch, frames counted in the clip"
        if self.clip_name is None:
            return f"video {dataset_video}"
        return plain_text(self.clip_name(dataset_video))

    def _names(
        self,
        dataset_video: Optional[int],
        identifiers: np.ndarray,
        rows: np.ndarray,
        num_categories: int,
    ) -> Optional[list[str]]:
        if self.category_names is not None:
            names = [plain_text(name) for name in list(self.category_names)[:num_categories]]
            return names + [""] * (num_categories - len(names))
        if dataset_video is None:
            return None
        by_object = (self.object_names and self.object_names(dataset_video)) or {}
        ids = [int(identifiers[0, row, 1]) for row in rows[:num_categories]]
        names = [plain_text(by_object.get(object_id, "")) for object_id in ids]
        # The metrics' table and the files of masks go by ids; slots are their own.
        names = [
            name if object_id == slot else f"{name} (id {object_id})".strip()
            for slot, (name, object_id) in enumerate(zip(names, ids, strict=True))
        ]
        return names + [""] * (num_categories - len(names))

    def _add_prompts(
        self, clip: Clip, video: int, rows: np.ndarray, arrays: dict[str, np.ndarray]
    ) -> None:
        if not self.outputs_tell_prompts:
            # Frame 0 is always drawn, first.
            clip.prompts[0] = _implied_prompts(clip)
            clip.prompts_implied = True
            return
        category_of_row = {int(row): category for category, row in enumerate(rows)}
        row_videos = arrays["row_videos"]
        for position, t in enumerate(self.frames):
            if self.mask_prompted[t]:
                masks = arrays[f"mask_prompts_{t}"]
                for index, obj_id in self._assign(
                    len(masks), video, row_videos, category_of_row, clip
                ):
                    if masks[index].any():
                        mask = torch.from_numpy(masks[index].copy())
                        clip.prompts[position].append(PromptData("mask", obj_id, mask=mask))
            if t in self.clicks:
                coords, labels = arrays[f"coords_{t}"], arrays[f"labels_{t}"]
                for index, obj_id in self._assign(
                    len(coords), video, row_videos, category_of_row, clip
                ):
                    clip.prompts[position] += prompts_from_clicks(
                        coords[index], labels[index], self.clicks[t], obj_id
                    )

    def _assign(
        self,
        num_prompts: int,
        video: int,
        row_videos: np.ndarray,
        category_of_row: dict[int, int],
        clip: Clip,
    ) -> list[tuple[int, int]]:
        """Return (prompt row, category) of this video; what cannot be known is not guessed."""
        if "obj_to_cat" in self.arrays:
            prompt_rows = self.arrays["obj_to_cat"].tolist()
            if len(prompt_rows) != num_prompts:
                raise ValueError(
                    f"obj_to_cat must have one entry per prompt row ({num_prompts}), "
                    f"got {len(prompt_rows)}"
                )
        elif num_prompts == self.num_rows:
            prompt_rows = list(range(num_prompts))
        elif self.num_videos == 1:
            return [(index, UNASSIGNED) for index in range(num_prompts)]
        else:
            clip.prompts_unassigned += num_prompts
            return []
        return [
            (index, category_of_row[row])
            for index, row in enumerate(prompt_rows)
            if row in category_of_row and row_videos[row] == video
        ]


def _implied_prompts(clip: Clip) -> list[PromptData]:
    prompts = build_prompts_from_gt_first_frame(torch.from_numpy(clip.gt_masks[:1]), "point")
    (height, width), (h, w) = clip.model_size, clip.images.shape[1:3]
    for prompt in prompts:
        prompt.points = (prompt.points + 0.5) * torch.tensor([width / w, height / h]) - 0.5
    return prompts


def take_snapshot(
    batch: Any,
    outs_per_frame: Sequence[dict[str, Any]],
    *,
    stage: str,
    step: int,
    epoch: int = 0,
    videos: Sequence[int] = (0,),
    options: Optional[SnapshotOptions] = None,
    obj_to_cat: Optional[Any] = None,
    clip_name: Optional[Callable[[int], str]] = None,
    object_names: Optional[Callable[[int], Optional[dict[int, str]]]] = None,
    category_names: Optional[Sequence[str]] = None,
) -> Snapshot:
    """Copy what a sheet of each video needs, reduced where the tensors live.

    Nothing given is written to or kept alive, no random generator moves, and on CUDA nothing
    synchronises: there all rows of the batch are reduced, because which of them belong to a video
    is only known on the device.

    Args:
        batch: ``BatchedVideoDatapoint`` or anything with its ``img_batch`` [T, B, 3, H, W] float,
            ``masks`` [T, O, H, W] bool, ``obj_to_frame_idx`` [T, O, 2] and optional ``metadata``.
        outs_per_frame: T output dicts of ``SAM2Train``, each with ``pred_masks_high_res``
            [O, 1, H, W] logits; prompts, IoU estimates and object scores where present.
        stage: ``train`` or ``val``.
        step: Optimizer steps taken.
        epoch: Epoch shown in the header.
        videos: Positions in the batch of the videos to keep.
        options: What is kept of each video.
        obj_to_cat: For prompt rows that are components of categories: K mask rows (b * N + c), one
            per prompt row.
        clip_name: Gives the name of a data set video by its id in the metadata.
        object_names: Gives a video's object names by object id.
        category_names: Names of the categories in the category layout.

    Raises:
        ValueError: A tensor is missing or has another shape than the batch implies.
    """
    options = options or SnapshotOptions()
    check_batch_and_outputs(batch, outs_per_frame)
    num_frames, num_videos = batch.img_batch.shape[:2]
    height, width = batch.img_batch.shape[-2:]
    device = batch.img_batch.device
    frames = list(range(0, num_frames, options.frame_stride))[: options.max_frames]
    frames = list(range(num_frames)) if options.draw_all_frames else frames
    measured = list(range(num_frames)) if options.measure_all_frames else frames
    videos = [video for video in videos if video < num_videos]
    grid = Grid.fit(height, width, options.panel_size)
    layout = batch.obj_to_frame_idx.detach()
    all_logits = [outputs["pred_masks_high_res"] for outputs in outs_per_frame]
    on_cpu = all(tensor.is_cpu for tensor in (batch.img_batch, batch.masks, layout, *all_logits))
    rows = None
    if on_cpu:
        row_videos = layout.numpy()[0, :, 1].copy()
        rows = [row for row, video in enumerate(row_videos.tolist()) if video in videos]
    else:
        row_videos = layout[0, :, 1]

    reduce_images = display_images_on_cpu if on_cpu else display_images
    arrays = {
        "row_videos": row_videos,
        "identifiers": object_identifiers(batch),
        "images": reduce_images(batch.img_batch.detach(), frames, videos, grid),
    }
    masks = batch.masks.detach()
    if on_cpu:
        arrays |= reduce_masks_on_cpu(masks, outs_per_frame, frames, measured, rows, grid)
    else:
        arrays |= reduce_masks(masks, outs_per_frame, frames, measured, grid)
    num_rows = layout.shape[1]
    ambiguous = False
    if obj_to_cat is not None:
        arrays["obj_to_cat"] = assigned = torch.as_tensor(obj_to_cat).detach().flatten()
        # As many scores as components may be the components' own, which belong to no mask row;
        # on the device the numbers cannot be looked at without waiting.
        ambiguous = len(assigned) == num_rows and not (
            assigned.device.type == "cpu" and assigned.tolist() == list(range(num_rows))
        )
    if not ambiguous:
        arrays |= _scores(outs_per_frame, frames, num_rows)
    clicks = {}
    for t, outputs in enumerate(outs_per_frame):
        final, num_initial = final_clicks(outputs)
        if final is not None and final["point_labels"].numel() > 0:
            clicks[t] = num_initial
            if t in frames:
                arrays[f"coords_{t}"] = final["point_coords"].detach().float()
                arrays[f"labels_{t}"] = final["point_labels"].detach()
        if is_mask_prompted(outputs) and t in frames:
            prompt_masks = outputs["mask_inputs"].detach()[:, 0]
            if on_cpu:
                sampled = sample_masks_on_cpu(prompt_masks, grid)
            else:
                sampled = grid.sample(prompt_masks) > 0
            arrays[f"mask_prompts_{t}"] = sampled
    copies, event = to_host(arrays, device)
    return Snapshot(
        stage=stage,
        epoch=epoch,
        step=step,
        videos=videos,
        frames=frames,
        measured=measured,
        options=options,
        arrays=copies,
        clicks=clicks,
        prompted=[is_prompted_first(outputs) for outputs in outs_per_frame],
        received_prompt=[received_prompt(outputs) for outputs in outs_per_frame],
        mask_prompted=[is_mask_prompted(outputs) for outputs in outs_per_frame],
        outputs_tell_prompts=any(
            name in outputs
            for outputs in outs_per_frame
            for name in ("mask_inputs", "point_inputs", "multistep_point_inputs")
        ),
        model_size=(height, width),
        num_videos=num_videos,
        num_rows=num_rows,
        rows=rows,
        event=event,
        clip_name=clip_name,
        object_names=object_names,
        category_names=None if category_names is None else list(category_names),
    )


def _scores(outs_per_frame: Sequence[dict[str, Any]], frames: list[int], num_rows: int) -> dict:
    """Return the last IoU estimates and object scores of the frames that have some, [O, M] each."""
    scores = {}
    for name, key in SCORES.items():
        for t in frames:
            steps = outs_per_frame[t].get(key) or []
            last = steps[-1] if len(steps) else None
            if (
                isinstance(last, Tensor)
                and last.ndim == 2
                and len(last) == num_rows
                and last.numel()
            ):
                scores[f"{name}_{t}"] = last.detach().float()
    return scores
