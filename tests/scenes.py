"""Made-up clips and batches, outputs of a model that tracks them, and small data sets on disk."""

import math
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as mask_utils
from torch.utils.data import DataLoader
from training.utils.data_utils import (
    BatchedVideoDatapoint,
    BatchedVideoMetaData,
    Frame,
    Object,
    VideoDatapoint,
    collate_fn,
)

from core.official import IMAGENET_MEAN, IMAGENET_STD
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot

# Of the frames on disk.
HEIGHT, WIDTH = 24, 32


def make_batch(img, masks, videos, ids=None):
    """A real ``BatchedVideoDatapoint`` whose row o belongs to video ``videos[o]``."""
    num_frames, num_rows = masks.shape[:2]
    layout = torch.zeros((num_frames, num_rows, 2), dtype=torch.int)
    layout[..., 0] = torch.arange(num_frames)[:, None]
    layout[..., 1] = torch.tensor(videos, dtype=torch.int)
    if ids is None:
        ids = torch.zeros((num_frames, num_rows, 3), dtype=torch.long)
        ids[..., 0] = layout[..., 1]
        ids[..., 1] = torch.arange(num_rows)
        ids[..., 2] = layout[..., 0]
    return BatchedVideoDatapoint(
        img_batch=img,
        obj_to_frame_idx=layout,
        masks=masks,
        metadata=BatchedVideoMetaData(
            unique_objects_identifier=ids,
            frame_orig_size=torch.zeros((num_frames, num_rows, 2), dtype=torch.long),
            batch_size=[num_frames],
        ),
        dict_key="all",
        batch_size=[num_frames],
    )


def make_scene(
    num_frames: int = 4,
    size: int = 512,
    num_objects: int = 3,
    *,
    cells: Optional[int] = None,
    corrected: bool = True,
    device: str = "cpu",
    noise: float = 8.0,
) -> tuple[Any, list[dict[str, Any]]]:
    """Build an official batch of one video and outputs for it.

    Objects are discs that fill the cells of a grid; they and the predictions drift apart over time.
    Frame 0 is prompted with masks, the last one is corrected with a click per object.

    Args:
        num_frames: T.
        size: Side of the square frames.
        num_objects: O.
        cells: Rows and columns of the grid; None: as few as hold all objects, so that more of them
            share the same part of the frame.
        corrected: False: no clicks.
        device: Where the tensors live.
        noise: Grain of the frames in grey levels; photographs have some, and it costs PNG dearly.

    Returns:
        ``BatchedVideoDatapoint`` and one dict of outputs per frame.
    """
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    coarse = torch.rand(1, 3, 9, 9, generator=generator) * 255
    background = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[0]
    steps = torch.arange(size)
    cells = cells or math.ceil(math.sqrt(num_objects))
    cell = size / cells
    frames, outputs = [], []
    for t in range(num_frames):
        objects, logits, clicks = [], [], []
        for o in range(num_objects):
            x = (o % cells + 0.5) * cell + t * cell * 0.01
            y = (o // cells + 0.5) * cell
            distance = torch.hypot(steps - x, (steps - y)[:, None])
            shifted = torch.hypot(steps - x - t * cell * 0.03, (steps - y)[:, None])
            mask = distance < cell * 0.45
            objects.append(Object(object_id=o + 1, frame_index=t, segment=mask))
            logits.append((cell * 0.43 - shifted) / 2)
            clicks.append([x, y])
        grain = torch.randn(3, size, size, generator=generator) * noise
        pixels = (background + grain).clamp(0, 255).round() / 255
        frames.append(Frame(data=(pixels - mean) / std, objects=objects))
        last = t == num_frames - 1
        outputs.append(
            _outputs(
                torch.stack(logits)[:, None],
                clicks if corrected and last and t else None,
                generator,
            )
        )
    outputs[0]["mask_inputs"] = torch.stack([item.segment for item in frames[0].objects])[:, None]
    batch = collate_fn([VideoDatapoint(frames, video_id=0, size=(size, size))], dict_key="all")
    return batch.to(device), [_to(item, device) for item in outputs]


def _outputs(
    logits: torch.Tensor,
    clicks: Optional[list[list[float]]],
    generator: torch.Generator,
) -> dict[str, Any]:
    num_objects = len(logits)
    steps: list[Optional[dict[str, Any]]] = [None]
    if clicks is not None:
        labels = torch.ones(num_objects, 1, dtype=torch.int32)
        steps.append({"point_coords": torch.tensor(clicks)[:, None], "point_labels": labels})
    return {
        "pred_masks_high_res": logits,
        "point_inputs": None,
        "mask_inputs": None,
        "multistep_point_inputs": steps,
        "multistep_pred_ious": [torch.rand(num_objects, 3, generator=generator)],
        "multistep_object_score_logits": [torch.randn(num_objects, 1, generator=generator)],
    }


def _to(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    return [_to(item, device) for item in value] if isinstance(value, list) else value


def moving_squares(num_frames=3, size=64, num_videos=1):
    """Two squares per video that move one pixel per frame over noise."""
    generator = torch.Generator().manual_seed(0)
    videos = []
    for video_id in range(num_videos):
        frames = []
        for t in range(num_frames):
            image = torch.randn(3, size, size, generator=generator) * 0.1
            objects = []
            for object_id, corner in ((1, size // 8), (2, size // 2)):
                mask = torch.zeros(size, size, dtype=torch.bool)
                mask[corner + t : corner + t + size // 4, corner : corner + size // 4] = True
                image[object_id, mask] = 2.0
                objects.append(Object(object_id=object_id, frame_index=t, segment=mask))
            frames.append(Frame(data=image, objects=objects))
        videos.append(VideoDatapoint(frames=frames, video_id=video_id, size=(size, size)))
    return collate_fn(videos, dict_key="all")


def clicked_clips(seed=0, masks_given=False):
    """Two videos with two and one objects, clicks with one correction, three masks per object."""
    num_frames, videos, size = 3, [0, 0, 1], 48
    g = torch.Generator().manual_seed(seed)
    num_rows = len(videos)
    masks = torch.rand(num_frames, num_rows, size // 8, size // 8, generator=g) < 0.4
    masks = masks.repeat_interleave(8, -1).repeat_interleave(8, -2)
    batch = make_batch(torch.randn(num_frames, 2, 3, size, size, generator=g), masks, videos)
    outs = []
    for t in range(num_frames):
        logits = (
            torch.where(masks[t], 2.0, -2.0) + torch.randn(num_rows, size, size, generator=g) * 2
        )
        coords = torch.rand(num_rows, 2, 2, generator=g) * (size - 1)
        labels = torch.randint(0, 2, (num_rows, 2), generator=g, dtype=torch.int32)
        first = {"point_coords": coords[:, :1], "point_labels": labels[:, :1]}
        clicked = t == 0 and not masks_given
        outs.append(
            {
                "pred_masks_high_res": logits[:, None],
                "point_inputs": first if clicked else None,
                "mask_inputs": masks[t, :, None].clone() if t == 0 and masks_given else None,
                "multistep_point_inputs": [
                    first,
                    {"point_coords": coords, "point_labels": labels},
                ]
                if clicked
                else [None],
                "multistep_pred_ious": [torch.rand(num_rows, 3, generator=g) for _ in range(2)],
                "multistep_object_score_logits": [torch.randn(num_rows, 1, generator=g)],
            }
        )
    return batch, outs


def take(batch, outs, **options):
    names = ("category_names", "clip_name", "object_names")
    moment = Moment("train", 0, **{name: options.pop(name) for name in names if name in options})
    more = {name: options.pop(name) for name in ("videos", "obj_to_cat") if name in options}
    options = SnapshotOptions(**{"panel_size": 48, **options})
    return take_snapshot(batch, outs, moment, options, **more)


def loader_of(videos, batch_size):
    """A loader of clips in the official layout."""
    return DataLoader(
        videos, batch_size=batch_size, collate_fn=lambda batch: collate_fn(batch, "all")
    )


def clips(num_clips, batch_size=2):
    """A loader of clips of 16 pixels and two frames with one to three objects each."""
    num_frames, size = 2, 16
    generator = torch.Generator().manual_seed(0)
    videos = []
    for index in range(num_clips):
        frames = []
        for t in range(num_frames):
            objects = []
            for k in range(1 + index % 3):
                mask = torch.zeros(size, size, dtype=torch.bool)
                mask[4 * k + t : 4 * k + t + 4, 2 : 6 + index] = True
                objects.append(Object(k, t, mask))
            image = torch.randn(3, size, size, generator=generator)
            frames.append(Frame(image, objects))
        videos.append(VideoDatapoint(frames, video_id=index, size=(size, size)))
    return loader_of(videos, batch_size)


def widening_squares(num_clips, batch_size=1):
    """A loader of clips of one square each, whose width tells which clip it is."""
    num_frames, size = 3, 16
    videos = []
    for index in range(num_clips):
        frames = []
        for t in range(num_frames):
            mask = torch.zeros(size, size, dtype=torch.bool)
            mask[4:8, : index + 1] = True
            frames.append(Frame(torch.zeros(3, size, size), [Object(1, t, mask)]))
        videos.append(VideoDatapoint(frames, video_id=index, size=(size, size)))
    return loader_of(videos, batch_size)


def label_map(*objects: int) -> np.ndarray:
    """Object k is an 8 x 8 square in the k-th column of squares."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in objects:
        labels[8:16, 8 * (k - 1) : 8 * k] = k
    return labels


def save_frame(path, number: int, size=(WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10 * number % 256, 100, 200)).save(path, quality=95)


def save_mask(path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(path)


def make_video(root, name="a", objects=((1,),) * 6, suffix="jpg", between="", every=1) -> None:
    """Write one video; frame t has `objects[t]`, masks for every `every`-th frame."""
    for t, visible in enumerate(objects):
        save_frame(root / "JPEGImages" / between / name / f"{t:05d}.{suffix}", t)
        if t % every == 0:
            save_mask(root / "Annotations" / between / name / f"{t:05d}.png", label_map(*visible))


def rle(mask: np.ndarray) -> dict:
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def coco_content(root, videos=("x", "y"), num_frames=4) -> dict:
    """Category 7 is object 1 in every frame; category 3 (two parts) from frame 1 on."""
    images, annotations = [], []
    for video in videos:
        # listed backwards: order_in_video decides
        for t in reversed(range(num_frames)):
            image_id = len(images) + 100
            name = f"{video}/{t:03d}.png"
            save_frame(root / "frames" / name, t)
            images.append(
                {
                    "id": image_id,
                    "file_name": name,
                    "path": f"/elsewhere/{name}",
                    "video_id": video,
                    "order_in_video": t,
                    "width": WIDTH,
                    "height": HEIGHT,
                }
            )
            add = [(7, rle(label_map(1) > 0)), (9, None)]
            if t > 0:
                box = [16, 8, 24, 8, 24, 16, 16, 16]
                add += [(3, rle(label_map(2) > 0)), (3, [box])]
            annotations += [
                {"image_id": image_id, "category_id": key, "segmentation": value}
                for key, value in add
            ]
    categories = [{"id": 7, "name": "hook"}, {"id": 3, "name": "clip"}, {"id": 9, "name": "bag"}]
    return {"images": images, "annotations": annotations, "categories": categories}
