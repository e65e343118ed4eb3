"""The snapshot: all that the training thread ever pays for a picture.

`take_snapshot` reads a batch and the model's outputs where they live and keeps small CPU copies:
sub-sampled videos and frames, thresholded masks at display size, pixel counts at full size, prompts
and scores. `Snapshot.clips` turns them, on another thread, into one `Clip` per video, which is all
that the renderer sees. On CUDA nothing here synchronises: copies go to pinned memory and `clips`
waits for the event recorded behind them.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.prompts import (
    UNASSIGNED,
    PromptData,
    build_prompts_from_gt_first_frame,
    final_clicks,
    prompts_from_clicks,
)

log = logging.getLogger(__name__)

# The statistics of ImageNet, with which official SAM 2 training normalises its frames.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class Clip:
    """One video of a snapshot, ready to be drawn; T drawn frames, C categories, CPU memory only.

    Attributes:
        stage: ``train`` or ``val``.
        epoch: Lightning's epoch, from 0.
        step: Optimizer steps taken.
        name: The video's name, or what identifies it.
        frame_positions: T positions in the clip.
        frame_numbers: T frame numbers in the original video.
        images: [T, h, w, 3] uint8, reduced to display size.
        gt_masks: [T, C, h, w] bool.
        pred_masks: [T, C, h, w] bool, logits > 0; non-finite logits are false.
        intersections: [T, C] pixels at full size, of prediction and ground truth.
        unions: [T, C] pixels.
        gt_areas: [T, C] pixels.
        pred_areas: [T, C] pixels.
        predicted_ious: [T, C] the model's own IoU estimate, NaN where there is none.
        object_scores: [T, C] object score logits, NaN where there are none.
        non_finite: [T, C] bool, the logits hold NaN or inf.
        prompts: For each drawn frame its prompts; coordinates in model pixels.
        prompted: [T] bool, the frame was prompted from the start.
        mask_prompted: [T] bool, by a mask, which is then the prediction itself.
        prompts_elsewhere: Positions of frames that are not drawn and received prompts.
        prompts_implied: The outputs tell no prompts; those shown follow from the ground truth.
        prompts_unassigned: Prompt rows that belong to no known video and are not drawn.
        model_size: (H, W) of the model's frames.
        mean_iou: Mean IoU over objects and measured frames, prompted frames and those where
            ground truth and prediction are both empty left out; NaN when nothing is left.
        category_names: C names, or None.
        num_left_out: Objects of the video beyond C.
    """

    stage: str
    epoch: int
    step: int
    name: str
    frame_positions: list[int]
    frame_numbers: list[int]
    images: np.ndarray
    gt_masks: np.ndarray
    pred_masks: np.ndarray
    intersections: np.ndarray
    unions: np.ndarray
    gt_areas: np.ndarray
    pred_areas: np.ndarray
    predicted_ious: np.ndarray
    object_scores: np.ndarray
    non_finite: np.ndarray
    prompts: list[list[PromptData]]
    prompted: np.ndarray
    mask_prompted: np.ndarray
    model_size: tuple[int, int]
    mean_iou: float
    prompts_elsewhere: list[int] = field(default_factory=list)
    prompts_implied: bool = False
    prompts_unassigned: int = 0
    category_names: Optional[list[str]] = None
    num_left_out: int = 0

    @property
    def ious(self) -> np.ndarray:
        """[T, C] IoU of prediction and ground truth at full size; NaN where both are empty."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.unions > 0, self.intersections / self.unions, np.nan)

    def select(self, positions: Sequence[int]) -> "Clip":
        """Return the clip with only the drawn frames at `positions` of its lists and arrays."""
        index = list(positions)
        per_frame = {
            name: getattr(self, name)[index]
            for name in (
                "images", "gt_masks", "pred_masks", "intersections", "unions", "gt_areas",
                "pred_areas", "predicted_ious", "object_scores", "non_finite", "prompted",
                "mask_prompted",
            )
        }  # fmt: skip
        per_frame |= {
            name: [getattr(self, name)[i] for i in index]
            for name in ("frame_positions", "frame_numbers", "prompts")
        }
        return dataclasses.replace(self, **per_frame)


@dataclass
class SnapshotOptions:
    """What of a batch is kept; the names are those of `VisualizationsConfig`.

    Attributes:
        draw_all_frames: Keep every frame, for an animation.
        measure_all_frames: Count pixels on every frame of the clip, not only on the drawn ones.
        implied_prompt_type: Type of the prompts shown when the outputs tell none.
        mean: Means that the frames were normalised with.
        std: Deviations that the frames were normalised with.
    """

    max_frames: int = 4
    frame_stride: int = 1
    num_categories: Optional[int] = None
    panel_size: int = 256
    draw_all_frames: bool = False
    measure_all_frames: bool = False
    implied_prompt_type: str = "point"
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


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
        arrays: Named copies, CPU tensors; complete once `event` has passed.
        event: The CUDA event behind the last copy; None on CPU.
    """

    stage: str
    epoch: int
    step: int
    videos: list[int]
    frames: list[int]
    measured: list[int]
    options: SnapshotOptions
    arrays: dict[str, Tensor]
    clicks: dict[int, int]
    prompted: list[bool]
    mask_prompted: list[bool]
    mask_prompt_frames: list[int]
    outputs_tell_prompts: bool
    obj_to_cat: Optional[Tensor]
    model_size: tuple[int, int]
    num_videos: int
    num_rows: int
    rows: Optional[Tensor]
    event: Optional["torch.cuda.Event"] = None
    clip_name: Optional[Callable[[int], str]] = None
    object_names: Optional[Callable[[int], Optional[dict[int, str]]]] = None
    category_names: Optional[Sequence[str]] = None

    def clips(self) -> list[Clip]:
        """Return one `Clip` per kept video; waits for the device's copies first."""
        if self.event is not None:
            self.event.synchronize()
        arrays = {name: array.numpy() for name, array in self.arrays.items()}
        return [self._clip(slot, video, arrays) for slot, video in enumerate(self.videos)]

    def _clip(self, slot: int, video: int, arrays: dict[str, np.ndarray]) -> Clip:
        all_rows = np.flatnonzero(arrays["layout"][0, :, 1] == video)
        limit = self.options.num_categories
        num_categories = len(all_rows) if limit is None else limit
        rows = all_rows[:num_categories]
        if len(all_rows) > len(rows):
            log.debug("%d objects beyond num_categories are not drawn", len(all_rows) - len(rows))
        kept = rows if self.rows is None else np.searchsorted(self.rows.numpy(), rows)

        def of_categories(name: str, fill: Any, select: np.ndarray = kept) -> np.ndarray:
            array = arrays[name]
            out = np.full((array.shape[0], num_categories, *array.shape[2:]), fill, array.dtype)
            out[:, : len(select)] = array[:, select]
            return out

        intersections, unions = of_categories("intersections", 0), of_categories("unions", 0)
        drawn = [self.measured.index(t) for t in self.frames]
        identifiers = arrays["identifiers"]
        has_rows = len(all_rows) > 0 and identifiers.size > 0
        dataset_video = int(identifiers[0, all_rows[0], 0]) if has_rows else video
        frame_numbers = [
            int(identifiers[t, all_rows[0], 2]) if has_rows else t for t in self.frames
        ]
        clip = Clip(
            stage=self.stage,
            epoch=self.epoch,
            step=self.step,
            name=self.clip_name(dataset_video) if self.clip_name else f"video {dataset_video}",
            frame_positions=self.frames,
            frame_numbers=frame_numbers,
            images=np.ascontiguousarray(arrays["images"][:, slot].transpose(0, 2, 3, 1)),
            gt_masks=of_categories("gt_masks", False),
            pred_masks=of_categories("pred_masks", False),
            intersections=intersections[drawn],
            unions=unions[drawn],
            gt_areas=of_categories("gt_areas", 0)[drawn],
            pred_areas=of_categories("pred_areas", 0)[drawn],
            predicted_ious=of_categories("predicted_ious", math.nan, rows),
            object_scores=of_categories("object_scores", math.nan, rows),
            non_finite=of_categories("non_finite", False)[drawn],
            prompts=[[] for _ in self.frames],
            prompted=np.array([self.prompted[t] for t in self.frames], dtype=bool),
            mask_prompted=np.array([self.mask_prompted[t] for t in self.frames], dtype=bool),
            model_size=self.model_size,
            mean_iou=_mean_iou(
                intersections, unions, np.array([self.prompted[t] for t in self.measured])
            ),
            prompts_elsewhere=[
                t
                for t in range(len(self.prompted))
                if t not in self.frames and (self.prompted[t] or t in self.clicks)
            ],
            category_names=self._names(dataset_video, identifiers, all_rows, num_categories),
            num_left_out=len(all_rows) - len(rows),
        )
        self._add_prompts(clip, video, rows, arrays)
        return clip

    def _names(
        self, dataset_video: int, identifiers: np.ndarray, rows: np.ndarray, num_categories: int
    ) -> Optional[list[str]]:
        if self.category_names is not None:
            names = list(self.category_names)[:num_categories]
            return names + [""] * (num_categories - len(names))
        by_object = self.object_names(dataset_video) if self.object_names else None
        if not by_object or identifiers.size == 0:
            return None
        ids = [int(identifiers[0, row, 1]) for row in rows[:num_categories]]
        names = [by_object.get(object_id, "") for object_id in ids]
        return names + [""] * (num_categories - len(names))

    def _add_prompts(
        self, clip: Clip, video: int, rows: np.ndarray, arrays: dict[str, np.ndarray]
    ) -> None:
        if not self.outputs_tell_prompts:
            # Frame 0 is always drawn, first.
            clip.prompts[0] = _implied_prompts(clip, self.options.implied_prompt_type)
            clip.prompts_implied = True
            return
        category_of_row = {int(row): category for category, row in enumerate(rows)}
        row_video = arrays["layout"][0, :, 1]
        for position, t in enumerate(self.frames):
            if t in self.mask_prompt_frames:
                masks = arrays[f"mask_prompts_{t}"]
                for index, obj_id in self._assign(
                    len(masks), video, row_video, category_of_row, clip
                ):
                    if masks[index].any():
                        mask = torch.from_numpy(masks[index].copy())
                        clip.prompts[position].append(PromptData("mask", obj_id, mask=mask))
            if t in self.clicks:
                coords, labels = arrays[f"coords_{t}"], arrays[f"labels_{t}"]
                for index, obj_id in self._assign(
                    len(coords), video, row_video, category_of_row, clip
                ):
                    clip.prompts[position] += prompts_from_clicks(
                        coords[index], labels[index], self.clicks[t], obj_id
                    )

    def _assign(
        self,
        num_prompts: int,
        video: int,
        row_video: np.ndarray,
        category_of_row: dict[int, int],
        clip: Clip,
    ) -> list[tuple[int, int]]:
        """Return (prompt row, category) of this video; what cannot be known is not guessed."""
        if self.obj_to_cat is not None:
            prompt_rows = self.obj_to_cat.tolist()
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
            if row in category_of_row and row_video[row] == video
        ]


def _mean_iou(intersections: np.ndarray, unions: np.ndarray, prompted: np.ndarray) -> float:
    counted = (unions > 0) & ~prompted[:, None]
    return float((intersections[counted] / unions[counted]).mean()) if counted.any() else math.nan


def _implied_prompts(clip: Clip, prompt_type: str) -> list[PromptData]:
    prompts = build_prompts_from_gt_first_frame(torch.from_numpy(clip.gt_masks[:1]), prompt_type)
    (height, width), (h, w) = clip.model_size, clip.images.shape[1:3]
    scale = torch.tensor([width / w, height / h])
    for prompt in prompts:
        if prompt.points is not None:
            prompt.points = (prompt.points + 0.5) * scale - 0.5
        if prompt.bbox is not None:
            prompt.bbox = (prompt.bbox + 0.5) * scale.repeat(2) - 0.5
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
    _check(batch, outs_per_frame)
    num_frames, num_videos = batch.img_batch.shape[:2]
    height, width = batch.img_batch.shape[-2:]
    device = batch.img_batch.device
    frames = list(range(0, num_frames, options.frame_stride))[: options.max_frames]
    frames = list(range(num_frames)) if options.draw_all_frames else frames
    measured = list(range(num_frames)) if options.measure_all_frames else frames
    videos = [video for video in videos if video < num_videos]
    grid = _Grid.fit(height, width, options.panel_size)
    layout = batch.obj_to_frame_idx.detach()
    on_cpu = all(
        tensor.device.type == "cpu"
        for tensor in (batch.img_batch, batch.masks, layout, *map(_logits, outs_per_frame))
    )
    rows = None
    if on_cpu:
        rows = torch.from_numpy(np.flatnonzero(np.isin(layout[0, :, 1].numpy(), videos)))

    with torch.no_grad():
        display_images = _display_images_on_cpu if on_cpu else _display_images
        arrays = {
            "layout": layout[:1],
            "identifiers": _identifiers(batch),
            "images": display_images(batch.img_batch.detach(), frames, videos, grid, options),
        }
        masks = batch.masks.detach()
        if on_cpu:
            arrays |= _reduce_masks_on_cpu(masks, outs_per_frame, frames, measured, rows, grid)
        else:
            arrays |= _reduce_masks(masks, outs_per_frame, frames, measured, grid)
        arrays |= _scores(outs_per_frame, frames, layout.shape[1], device)
        if obj_to_cat is not None:
            arrays["obj_to_cat"] = torch.as_tensor(obj_to_cat).detach().flatten()
        clicks = {}
        mask_prompt_frames = []
        for t, outputs in enumerate(outs_per_frame):
            final, num_initial = final_clicks(outputs)
            if final is not None:
                clicks[t] = num_initial
                if t in frames:
                    arrays[f"coords_{t}"] = final["point_coords"].detach().float()
                    arrays[f"labels_{t}"] = final["point_labels"].detach()
            mask_inputs = outputs.get("mask_inputs")
            if mask_inputs is not None and t in frames:
                mask_prompt_frames.append(t)
                prompt_masks = mask_inputs.detach()[:, 0]
                if on_cpu:
                    sampled = torch.from_numpy(grid.sample_array(_as_array(prompt_masks)) > 0)
                else:
                    sampled = grid.sample(prompt_masks) > 0
                arrays[f"mask_prompts_{t}"] = sampled
        copies, event = _to_host(arrays, device)
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
        prompted=[_is_prompted(outputs) for outputs in outs_per_frame],
        mask_prompted=[outputs.get("mask_inputs") is not None for outputs in outs_per_frame],
        mask_prompt_frames=mask_prompt_frames,
        outputs_tell_prompts=any(
            "mask_inputs" in outputs or "point_inputs" in outputs for outputs in outs_per_frame
        ),
        obj_to_cat=copies.pop("obj_to_cat", None),
        model_size=(height, width),
        num_videos=num_videos,
        num_rows=layout.shape[1],
        rows=rows,
        event=event,
        clip_name=clip_name,
        object_names=object_names,
        category_names=category_names,
    )


def video_rows(batch: Any, video_idx: int) -> Tensor:
    """Return the rows of `video_idx` in masks and outputs, in category order: [N] int64."""
    return torch.nonzero(batch.obj_to_frame_idx[0, :, 1] == video_idx).flatten()


def _check(batch: Any, outs_per_frame: Sequence[dict[str, Any]]) -> None:
    for name, rank in (("img_batch", 5), ("masks", 4), ("obj_to_frame_idx", 3)):
        value = getattr(batch, name, None)
        if not isinstance(value, Tensor):
            raise ValueError(f"batch.{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.ndim != rank:
            raise ValueError(f"batch.{name} must have rank {rank}, got {list(value.shape)}")
    num_frames, num_objects, height, width = batch.masks.shape
    if batch.img_batch.shape[0] != num_frames or batch.img_batch.shape[2] != 3:
        raise ValueError(
            f"batch.img_batch must have shape [{num_frames}, B, 3, H, W], "
            f"got {list(batch.img_batch.shape)}"
        )
    if batch.img_batch.shape[-2:] != batch.masks.shape[-2:]:
        raise ValueError(
            f"batch.masks must have the frames' size {list(batch.img_batch.shape[-2:])}, "
            f"got {[height, width]}"
        )
    if batch.obj_to_frame_idx.shape != (num_frames, num_objects, 2):
        raise ValueError(
            f"batch.obj_to_frame_idx must have shape [{num_frames}, {num_objects}, 2], "
            f"got {list(batch.obj_to_frame_idx.shape)}"
        )
    if len(outs_per_frame) != num_frames:
        raise ValueError(
            f"outs_per_frame must have one entry per frame ({num_frames}), "
            f"got {len(outs_per_frame)}"
        )
    for t, outputs in enumerate(outs_per_frame):
        logits = outputs.get("pred_masks_high_res")
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"outs_per_frame[{t}]['pred_masks_high_res'] must be a torch.Tensor, "
                f"got {type(logits).__name__}"
            )
        if logits.shape != (num_objects, 1, height, width):
            raise ValueError(
                f"outs_per_frame[{t}]['pred_masks_high_res'] must have shape "
                f"[{num_objects}, 1, {height}, {width}], got {list(logits.shape)}"
            )


def _logits(outputs: dict[str, Any]) -> Tensor:
    return outputs["pred_masks_high_res"].detach()[:, 0]


def _is_prompted(outputs: dict[str, Any]) -> bool:
    return outputs.get("point_inputs") is not None or outputs.get("mask_inputs") is not None


def _identifiers(batch: Any) -> Tensor:
    identifiers = getattr(getattr(batch, "metadata", None), "unique_objects_identifier", None)
    if not isinstance(identifiers, Tensor) or identifiers.shape[:2] != batch.masks.shape[:2]:
        return torch.zeros(0)
    return identifiers.detach()


@dataclass
class _Grid:
    """How frames of one size are reduced to display size: [H, W] -> [h, w]."""

    height: int
    width: int
    factor: Optional[int]
    scale: tuple[float, float]

    @staticmethod
    def fit(height: int, width: int, panel_size: int) -> "_Grid":
        ratio = max(height, width) / panel_size
        h = height if ratio <= 1 else max(1, round(height / ratio))
        w = width if ratio <= 1 else max(1, round(width / ratio))
        factor = height // h if height % h == 0 and width == w * (height // h) else None
        return _Grid(h, w, factor, (height / h, width / w))

    def sample(self, masks: Tensor) -> Tensor:
        """Take the nearest pixel: [..., H, W] -> [..., h, w] in memory of its own."""
        if self.factor is not None:
            offset = self.factor // 2
            return masks[..., offset :: self.factor, offset :: self.factor].clone()
        ys, xs = self._centers(masks.device)
        return masks.index_select(-2, ys).index_select(-1, xs)

    def sample_array(self, masks: np.ndarray) -> np.ndarray:
        """Do what `sample` does with an array."""
        if self.factor is not None:
            offset = self.factor // 2
            return masks[..., offset :: self.factor, offset :: self.factor].copy()
        ys, xs = (index.numpy() for index in self._centers(torch.device("cpu")))
        return masks.take(ys, -2).take(xs, -1)

    def _centers(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the source pixels under the centres of the display pixels."""
        ys = (torch.arange(self.height, device=device) + 0.5) * self.scale[0]
        xs = (torch.arange(self.width, device=device) + 0.5) * self.scale[1]
        return ys.long(), xs.long()

    def average(self, images: Tensor) -> Tensor:
        """Take the mean over each display pixel's area: [N, 3, H, W] -> [N, 3, h, w] float32."""
        if self.factor is None:
            return F.interpolate(images.float(), size=(self.height, self.width), mode="area")
        return F.avg_pool2d(images.float(), self.factor)

    def average_array(
        self, plane: np.ndarray, columns: Optional[list[np.ndarray]] = None
    ) -> np.ndarray:
        """Do what `average` does with one [H, W], in the same order: the same to the bit.

        `columns` is scratch space, `factor` arrays [H, w] of the plane's type.
        """
        if self.factor is None:
            return self.average(torch.from_numpy(plane)[None, None])[0, 0].numpy()
        if self.factor == 1:
            return plane.astype(np.float32)
        # Told apart first, columns are added several times faster than with a stride.
        pixels = np.ascontiguousarray(plane).reshape(len(plane), self.width, self.factor)
        columns = cv2.split(pixels, columns)
        total = columns[0][:: self.factor].astype(np.float32)
        for dy in range(self.factor):
            for dx, column in enumerate(columns):
                if dy or dx:
                    total += column[dy :: self.factor]
        total /= self.factor**2
        return total


def _as_array(tensor: Tensor) -> np.ndarray:
    """View a CPU tensor; NumPy knows no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _display_images(
    img_batch: Tensor,
    frames: list[int],
    videos: list[int],
    grid: _Grid,
    options: SnapshotOptions,
) -> Tensor:
    """Return the sampled frames denormalised: [T', V, 3, h, w] uint8."""
    if not videos:
        return torch.zeros((len(frames), 0, 3, grid.height, grid.width), dtype=torch.uint8)
    sampled = torch.stack([img_batch[t, video] for t in frames for video in videos])
    reduced = denormalize(grid.average(sampled), options.mean, options.std)
    return reduced.unflatten(0, (len(frames), len(videos)))


def _display_images_on_cpu(
    img_batch: Tensor,
    frames: list[int],
    videos: list[int],
    grid: _Grid,
    options: SnapshotOptions,
) -> Tensor:
    """Do what `_display_images` does, plane by plane with NumPy.

    A plane stays in the cache this way, and torch's thread pool, which has to wait for every core,
    is not woken for work this small.
    """
    out = np.empty((len(frames), len(videos), 3, grid.height, grid.width), np.uint8)
    columns = None
    if grid.factor is not None:
        dtype = _as_array(img_batch[:0]).dtype
        size = (img_batch.shape[-2], grid.width)
        columns = [np.empty(size, dtype) for _ in range(grid.factor)]
    for position, t in enumerate(frames):
        for slot, video in enumerate(videos):
            image = _as_array(img_batch[t, video])
            for channel in range(3):
                values = grid.average_array(image[channel], columns)
                values *= options.std[channel] * 255
                values += options.mean[channel] * 255
                np.clip(values, 0, 255, out=values)
                # Rounds to the nearest, even ones at ties, and makes NaN 0.
                cv2.convertScaleAbs(values, dst=out[position, slot, channel])
    return torch.from_numpy(out)


def denormalize(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Undo the normalisation of frames.

    Args:
        images: [..., 3, H, W] float, left as it is.
        mean: The three means that were subtracted.
        std: The three deviations that were divided by.

    Returns:
        [..., 3, H, W] uint8, rounded to the nearest and clamped; NaN becomes 0.
    """
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for channel in range(3):
        torch.mul(images[..., channel, :, :], std[channel] * 255, out=out[..., channel, :, :])
        out[..., channel, :, :] += mean[channel] * 255
    return out.nan_to_num_(0.0, 255.0, 0.0).round_().clamp_(0, 255).to(torch.uint8)


def _reduce_masks(
    masks: Tensor,
    outs_per_frame: Sequence[dict[str, Any]],
    frames: list[int],
    measured: list[int],
    grid: _Grid,
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
        logits = _logits(outs_per_frame[t])
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


def _reduce_masks_on_cpu(
    masks: Tensor,
    outs_per_frame: Sequence[dict[str, Any]],
    frames: list[int],
    measured: list[int],
    rows: Tensor,
    grid: _Grid,
) -> dict[str, Tensor]:
    """Do what `_reduce_masks` does to the rows of interest, mask by mask with NumPy.

    See `_display_images_on_cpu`; NumPy also counts booleans several times faster than torch.
    """
    counts = {
        name: np.zeros((len(measured), len(rows)), np.int64)
        for name in ("intersections", "gt_areas", "pred_areas")
    }
    non_finite = np.zeros((len(measured), len(rows)), bool)
    drawn = {
        name: np.empty((len(frames), len(rows), grid.height, grid.width), bool)
        for name in ("gt_masks", "pred_masks")
    }
    gt_masks = _as_array(masks)
    position_of = {t: position for position, t in enumerate(frames)}
    for index, t in enumerate(measured):
        all_logits = _as_array(_logits(outs_per_frame[t]))
        for slot, row in enumerate(rows.tolist()):
            gt, logits = gt_masks[t, row], all_logits[row]
            gt = gt if gt.dtype == bool else gt > 0
            pred = logits > 0
            if not _is_finite(logits):
                non_finite[index, slot] = True
                pred &= np.isfinite(logits)
            counts["gt_areas"][index, slot] = np.count_nonzero(gt)
            counts["pred_areas"][index, slot] = np.count_nonzero(pred)
            counts["intersections"][index, slot] = np.count_nonzero(gt & pred)
            if t in position_of:
                drawn["gt_masks"][position_of[t], slot] = grid.sample_array(gt)
                drawn["pred_masks"][position_of[t], slot] = grid.sample_array(pred)
    counts["unions"] = counts["gt_areas"] + counts["pred_areas"] - counts["intersections"]
    arrays = counts | drawn | {"non_finite": non_finite}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are; their sum tells in one pass, unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(values.sum(dtype=np.float32)) or bool(np.isfinite(values).all())


def _scores(
    outs_per_frame: Sequence[dict[str, Any]], frames: list[int], num_rows: int, device: Any
) -> dict[str, Tensor]:
    """Return the model's own IoU estimates and object scores, [T', O] float32 with NaN for none.

    Of several masks per object SAM 2 keeps the one with the highest estimate, so the highest
    estimate is that of the mask drawn.
    """
    names = {
        "predicted_ious": "multistep_pred_ious",
        "object_scores": "multistep_object_score_logits",
    }
    scores = {}
    for name, key in names.items():
        values = []
        for t in frames:
            steps = outs_per_frame[t].get(key) or []
            last = steps[-1] if len(steps) else None
            if isinstance(last, Tensor) and last.ndim == 2 and len(last) == num_rows:
                values.append(last.detach().float().amax(1))
            else:
                values.append(torch.full((num_rows,), math.nan, device=device))
        scores[name] = torch.stack(values)
    return scores


def _to_host(
    arrays: dict[str, Tensor], device: torch.device
) -> tuple[dict[str, Tensor], Optional["torch.cuda.Event"]]:
    """Copy to CPU memory that nobody else owns; on CUDA pinned, without waiting."""
    if device.type != "cuda":
        fresh = {
            "images", "gt_masks", "pred_masks", "intersections", "unions", "gt_areas", "pred_areas",
            "non_finite", "predicted_ious", "object_scores",
        }  # fmt: skip
        return {
            name: array if name in fresh or name.startswith("mask_prompts") else array.cpu().clone()
            for name, array in arrays.items()
        }, None
    copies = {name: array.clone() for name, array in arrays.items() if array.device.type == "cpu"}
    on_device = {name: array for name, array in arrays.items() if name not in copies}
    # Wide types first keep every array aligned.
    on_device = dict(sorted(on_device.items(), key=lambda item: -item[1].element_size()))
    # One buffer: asking the driver for pinned memory may wait for the device, and once there is a
    # buffer of this size it is used again and again.
    packed = _pack(on_device.values())
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return copies | _unpack(host, on_device), event


def _pack(tensors: Iterable[Tensor]) -> Tensor:
    """Put tensors one behind the other: [N] uint8 on their device."""
    return torch.cat([tensor.flatten().view(torch.uint8) for tensor in tensors])


def _unpack(packed: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return views of what `_pack` made of tensors of the shapes and dtypes of `like`."""
    views, start = {}, 0
    for name, tensor in like.items():
        stop = start + tensor.numel() * tensor.element_size()
        views[name] = packed[start:stop].view(tensor.dtype).view(tensor.shape)
        start = stop
    return views
