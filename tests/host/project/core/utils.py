"""The host's clips and what its model is prompted with: rectangles, some slots always empty."""

from dataclasses import dataclass
from typing import Any, Optional

import cv2
import numpy as np
import torch

HEIGHT, WIDTH, NUM_FRAMES, CELL = 64, 96, 3, 32
KINDS = ("point", "box", "mask")
_MEAN, _STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


@dataclass
class Metadata:
    """Identifiers [T, O, 3] = (video, slot, frame)."""

    unique_objects_identifier: torch.Tensor


@dataclass
class Batch:
    """Fields of SAM 2's batches, N slots per video; `frames` are the bytes behind `img_batch`."""

    img_batch: torch.Tensor
    masks: torch.Tensor
    obj_to_frame_idx: torch.Tensor
    metadata: Metadata
    frames: torch.Tensor
    kind: str


def make_batch(index: int, num_slots: int, seed: int) -> Batch:
    """Draw batch `index` of one or two clips, prompted by clicks, boxes or masks."""
    rng = np.random.default_rng((seed, index))
    num_videos = 1 + index // len(KINDS) % 2
    num_rows = num_videos * num_slots
    frames = rng.integers(40, 90, (NUM_FRAMES, num_videos, HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((NUM_FRAMES, num_rows, HEIGHT, WIDTH), bool)
    for video in range(num_videos):
        for cell in rng.choice(6, 4, replace=False):
            slot = video * num_slots + rng.integers(num_slots - 1)  # the last one stays empty
            top, left = CELL * (cell // 3) + 8, CELL * (cell % 3) + 8
            for t in range(NUM_FRAMES):
                masks[t, slot, top : top + 16, left + t : left + t + 14] = True
    t, row = np.mgrid[:NUM_FRAMES, :num_rows]
    video, slot = row // num_slots, row % num_slots
    images = ((frames / 255 - _MEAN) / _STD).transpose(0, 1, 4, 2, 3)
    return Batch(
        img_batch=torch.tensor(images, dtype=torch.float32),
        masks=torch.from_numpy(masks),
        obj_to_frame_idx=torch.tensor(np.stack([t, video], -1), dtype=torch.int),
        metadata=Metadata(torch.from_numpy(np.stack([video, slot, t], -1))),
        frames=torch.from_numpy(frames),
        kind=KINDS[index % len(KINDS)],
    )


def find_components(masks: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Split masks [O, H, W] into connected parts: [K, H, W] bool, and the mask row of each."""
    parts, rows = [], []
    for row, mask in enumerate(masks):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8))
        parts += [labels == label for label in range(1, count)]
        rows += [row] * (count - 1)
    return np.stack(parts), rows


def make_prompts(parts: np.ndarray, kind: Optional[str]) -> dict[str, Any]:
    """Return what a frame's output says of its prompts, for K components [K, H, W] or none."""
    prompts = {"point_inputs": None, "mask_inputs": None, "multistep_point_inputs": [None]}
    if kind is None:
        return prompts
    if kind == "mask":
        return prompts | {"mask_inputs": torch.from_numpy(parts)[:, None].float()}
    coords, labels = [], []
    for index, part in enumerate(parts):
        ys, xs = np.nonzero(part)
        if kind == "box":
            coords.append([(xs.min(), ys.min()), (xs.max(), ys.max())])
            labels.append([2, 3])
        else:
            # Every second component has one click less than its neighbour: the rest is padding.
            coords.append([(xs.mean(), ys.mean()), (xs.min() - 6, ys.min() - 2)])
            labels.append([1, 0] if index % 2 else [1, -1])
    return prompts | {
        "point_inputs": {
            "point_coords": torch.tensor(np.array(coords, np.float32)),
            "point_labels": torch.tensor(labels, dtype=torch.int32),
        }
    }
