"""Clips of one frame, as sheets show them: each round of clicks stands where a frame would."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Optional

import numpy as np
from torch import Tensor

from ..official import Batch, FirstPrompt, FrameOutputs, PlainBatch, rounds_of
from ..words import counted
from .prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE

# Of more rounds the first ones are drawn, and the last.
MAX_ROUNDS = 8


@dataclass(frozen=True)
class Round:
    """A round of clicks on a clip of one frame.

    Attributes:
        number: From 0, the initial prompt.
        first: What that is.
    """

    number: int
    first: FirstPrompt

    def __str__(self) -> str:
        """Say what was given so far."""
        num_clicks = self.first.num_clicks + self.number
        words = counted(num_clicks, "click")
        if not self.first.has_box:
            return words
        return f"the box and {words}" if num_clicks else "the box"


def read_first_prompt(labels: np.ndarray) -> FirstPrompt:
    """Return what the labels [K, P] of an initial prompt say of it: two clicks are no box."""
    is_click = (labels == POSITIVE) | (labels == NEGATIVE)
    is_corner = (labels == BOX_TOP_LEFT) | (labels == BOX_BOTTOM_RIGHT)
    # Objects that are not there have padding.
    return FirstPrompt(bool(is_corner.any()), int(is_click.sum(1).max(initial=0)))


@dataclass(frozen=True)
class RoundsAsFrames(PlainBatch):
    """A batch of clips of one frame as one of clips with a frame per round; views, no copies.

    Attributes:
        img_batch: [R, B, 3, H, W], R times the same.
        masks: [R, O, H, W], likewise.
        obj_to_frame_idx: [R, O, 2], likewise.
        metadata: Its fields that are read, likewise.
        rounds: Numbers of the R rounds drawn.
        outs_per_frame: R dicts of outputs.
    """

    rounds: list[int]
    outs_per_frame: list[FrameOutputs]


def as_frames(batch: Batch, outs_per_frame: Sequence[FrameOutputs]) -> Optional[RoundsAsFrames]:
    """Return what a batch of clips of one frame shows; None: it has more, or no rounds.

    Args:
        batch: Checked by `core.official.check_batch_and_outputs`.
        outs_per_frame: The same.
    """
    found = rounds_of(outs_per_frame)
    if not found:
        return None
    numbers = list(range(len(found)))
    numbers = numbers[: MAX_ROUNDS - 1] + numbers[MAX_ROUNDS - 1 :][-1:]
    metadata = getattr(batch, "metadata", None)
    fields = {
        name: _repeated(value, len(numbers)) if isinstance(value, Tensor) else value
        for name in ("unique_objects_identifier", "frame_orig_size")
        if (value := getattr(metadata, name, None)) is not None
    }
    return RoundsAsFrames(
        rounds=numbers,
        outs_per_frame=[found[number] for number in numbers],
        img_batch=_repeated(batch.img_batch, len(numbers)),
        masks=_repeated(batch.masks, len(numbers)),
        obj_to_frame_idx=_repeated(batch.obj_to_frame_idx, len(numbers)),
        metadata=SimpleNamespace(**fields),
    )


def _repeated(values: Tensor, count: int) -> Tensor:
    """Return [1, ...] as [count, ...], without copying; other tensors as they are."""
    is_one = values.ndim > 0 and len(values) == 1
    return values.detach().expand(count, *values.shape[1:]) if is_one else values
