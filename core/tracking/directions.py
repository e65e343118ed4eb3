"""Tracks from an object's first prompt to both ends of the video.

Backwards comes first, and what it finds waits in a folder: a pixel that two objects want goes to
the one with the higher logit, also where one of them comes from each side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .frames import Backwards, Frames
from .prompts import Prompt, check_prompts, first_prompts
from .tracker import TrackedFrame, track

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor


def track_backwards(
    predictor: "SAM2VideoPredictor", frames: Frames, prompts: Sequence[Prompt]
) -> Iterator[TrackedFrame]:
    """Yield the frames before each object's first prompt, from the last to the first.

    The video is given to the predictor back to front, in a state of its own: the frames that were
    tracked forwards do not matter to it. `TrackedFrame.object_ids` has the objects whose first
    prompt comes later than the frame.

    Args:
        predictor: See `track`.
        frames: The video.
        prompts: All prompts; those after an object's first are left out.

    Yields:
        The frames before the last of the first prompts.

    Raises:
        UserError: See `track`.
    """
    check_prompts(prompts, len(frames), frames.size)
    first, last = first_prompts(prompts), len(frames) - 1
    mirrored = [
        replace(prompt, frame=last - prompt.frame) for prompt in first.values() if prompt.frame
    ]
    if not mirrored:
        return
    for tracked in track(predictor, Backwards(frames), mirrored):
        index = last - tracked.index
        rows = [k for k, key in enumerate(tracked.object_ids) if first[key].frame > index]
        if rows:
            ids = tuple(tracked.object_ids[k] for k in rows)
            logits, small = tracked.logits[rows], tracked.small_logits[rows]
            yield TrackedFrame(index, tracked.image, ids, logits, small)


def store_backwards(
    predictor: "SAM2VideoPredictor", frames: Frames, prompts: Sequence[Prompt], folder: Path
) -> Iterator[int]:
    """Track backwards and keep what is found in `folder`; yield the frames' positions.

    Args:
        predictor: See `core.tracking.tracker.track`.
        frames: The video.
        prompts: All prompts.
        folder: Gets a file per frame, of S / 4 squared numbers per object.

    Raises:
        UserError: See `core.tracking.tracker.track`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for tracked in track_backwards(predictor, frames, prompts):
        np.save(folder / f"{tracked.index}.npy", tracked.small_logits.float().cpu().numpy())
        yield tracked.index


def track_both_ways(
    predictor: "SAM2VideoPredictor", frames: Frames, prompts: Sequence[Prompt], folder: Path
) -> Iterator[TrackedFrame]:
    """Yield every frame in order, with what `store_backwards` kept of the frames before a prompt.

    Args:
        predictor: See `core.tracking.tracker.track`.
        frames: The video.
        prompts: All prompts.
        folder: The folder of `store_backwards`; files are removed as they are read.

    Raises:
        UserError: See `core.tracking.tracker.track`.
    """
    first = first_prompts(prompts)
    for tracked in track(predictor, frames, prompts):
        path = folder / f"{tracked.index}.npy"
        if path.is_file():
            earlier = sorted(key for key in first if first[key].frame > tracked.index)
            small = torch.from_numpy(np.load(path)).to(tracked.logits.device)
            path.unlink()
            yield _merge(tracked, tuple(earlier), small, frames.size)
        else:
            yield tracked


def _merge(
    tracked: TrackedFrame, ids: tuple[int, ...], small: torch.Tensor, size: tuple[int, int]
) -> TrackedFrame:
    # as the predictor enlarges its own
    enlarged = nn.functional.interpolate(
        small[:, None], size=tuple(size), mode="bilinear", align_corners=False
    )[:, 0]
    both = (*tracked.object_ids, *ids)
    order = sorted(range(len(both)), key=both.__getitem__)
    logits = torch.cat([tracked.logits, enlarged])[order]
    kept = tracked.small_logits if tracked.object_ids else small[:0]
    return replace(
        tracked,
        object_ids=tuple(sorted(both)),
        logits=logits,
        small_logits=torch.cat([kept, small])[order],
    )
