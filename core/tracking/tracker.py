"""Tracks objects through a video with Meta's predictor, which it gives one frame at a time.

The predictor would hold all frames and whatever it ever computed. What it does not use again is
taken from its state after every frame; its masks stay the same bit for bit.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Optional
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..official import IMAGENET_MEAN, IMAGENET_STD
from .frames import Frames, check_size
from .prompts import Prompt, check_prompts

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor


@dataclass(frozen=True)
class TrackedFrame:
    """A frame and what the predictor says of it.

    Attributes:
        index: The frame's position in the video.
        image: uint8 RGB [H, W, 3]; not to be written to.
        object_ids: The objects that were prompted on this frame or before, ascending.
        logits: [O, H, W] float32 on the predictor's device; O may be 0.
        small_logits: [O, S / 4, S / 4] that the predictor enlarged to `logits`.
    """

    index: int
    image: np.ndarray
    object_ids: tuple[int, ...]
    logits: Tensor
    small_logits: Tensor

    def masks(self, overlapping: bool) -> dict[int, np.ndarray]:
        """Return {object id: bool mask [H, W]}.

        Args:
            overlapping: Whether a pixel may belong to several objects; otherwise it belongs to the
                one with the highest logit, as in Meta's own evaluation.
        """
        present = self.logits > 0
        if not overlapping and len(self.object_ids) > 1:
            # what argmax gives, the first of equals too, in a twentieth of its time on a CPU
            present &= self.logits == self.logits.amax(0)
            free = torch.ones_like(present[0])
            for mask in present:
                mask.logical_and_(free)
                free &= ~mask
        return dict(zip(self.object_ids, present.cpu().numpy(), strict=True))


class _Images:
    """The video as the predictor reads it: [i] gives float32 [3, S, S], as Meta makes it of files.

    Remembers the last frame, which is wanted again for pictures.
    """

    def __init__(self, frames: Frames, image_size: int) -> None:
        self.frames, self.image_size = frames, image_size
        self._latest: tuple[int, np.ndarray] = (-1, np.empty(0))
        self._mean, self._std = (
            torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, i: int) -> np.ndarray:
        if self._latest[0] != i:
            image = self.frames.image(i)
            check_size(image, self.frames.size, f"frame {self.frames.names[i]}")
            self._latest = (i, image)
        return self._latest[1]

    def __getitem__(self, i: int) -> Tensor:
        side = self.image_size
        # PIL's default filter and double precision, as in sam2.utils.misc
        pixels = np.asarray(Image.fromarray(self.image(i)).resize((side, side))) / 255.0
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32)
        return (tensor - self._mean) / self._std


def track(
    predictor: "SAM2VideoPredictor", frames: Frames, prompts: Sequence[Prompt]
) -> Iterator[TrackedFrame]:
    """Yield every frame of a video in order, with the objects prompted so far.

    An object's first prompt starts it. A later one is given after its frame was tracked, so that it
    corrects the mask found there; Meta's predictor would otherwise start the object anew.

    Args:
        predictor: What `core.tracking.weights.build_predictor` returned. Its masks may overlap:
            see `TrackedFrame.masks`.
        frames: The video; each frame is read once, in order.
        prompts: In any order.

    Raises:
        UserError: A prompt does not fit the video, or a frame cannot be read.
    """
    check_prompts(prompts, len(frames), frames.size)
    with torch.inference_mode(), reading_from_memory(frames, predictor.image_size) as images:
        state = predictor.init_state(video_path="")
        device = predictor.device
        ordered = sorted(prompts, key=lambda prompt: (prompt.frame, prompt.object_id))
        groups = [(frame, list(given)) for frame, given in groupby(ordered, lambda p: p.frame)]
        for i in range(groups[0][0]):
            nothing = torch.zeros(0, *frames.size, device=device)
            yield TrackedFrame(i, images.image(i), (), nothing, nothing)
        ends = [frame - 1 for frame, _ in groups[1:]] + [len(frames) - 1]
        started: set[int] = set()
        for (frame, given), end in zip(groups, ends, strict=True):
            logits = _prompt(predictor, state, frame, given, started)
            yield tracked_frame(state, images, frame, logits)
            if end > frame:
                walk = predictor.propagate_in_video(
                    state, start_frame_idx=frame + 1, max_frame_num_to_track=end - frame - 1
                )
                for index, _, logits in walk:
                    _forget(predictor, state, index)
                    yield tracked_frame(state, images, index, logits)


@contextlib.contextmanager
def reading_from_memory(frames: Frames, image_size: int) -> Iterator[_Images]:
    """Have the predictor read `frames` instead of files, and show no progress bars of its own."""
    images = _Images(frames, image_size)
    with (
        patch(
            "sam2.sam2_video_predictor.load_video_frames",
            lambda **_: (images, *frames.size),
        ),
        patch("sam2.sam2_video_predictor.tqdm", lambda order, **_: order),
    ):
        yield images


def _prompt(
    predictor: "SAM2VideoPredictor",
    state: dict[str, Any],
    frame: int,
    prompts: Sequence[Prompt],
    started: set[int],
) -> Tensor:
    """Track to `frame` where anything is there to track, give its prompts, return its logits."""
    if started:
        for _ in predictor.propagate_in_video(
            state, start_frame_idx=frame, max_frame_num_to_track=0
        ):
            _forget(predictor, state, frame)
    logits: Optional[Tensor] = None
    for prompt in prompts:
        started.add(prompt.object_id)
        logits = give(predictor, state, prompt)
    for inputs in ("mask_inputs_per_obj", "point_inputs_per_obj"):
        for given in state[inputs].values():
            given.clear()  # a copy of the prompt that nothing reads any more
    assert logits is not None
    return logits


def give(predictor: "SAM2VideoPredictor", state: dict[str, Any], prompt: Prompt) -> Tensor:
    """Give a prompt; return the logits [O, 1, H, W] of all objects, the latest of which is last."""
    if prompt.mask is not None:
        *_, logits = predictor.add_new_mask(state, prompt.frame, prompt.object_id, prompt.mask)
    else:
        *_, logits = predictor.add_new_points_or_box(
            state,
            prompt.frame,
            prompt.object_id,
            points=prompt.points,
            labels=prompt.labels,
            box=prompt.box,
        )
    return logits


def tracked_frame(
    state: dict[str, Any], images: _Images, index: int, logits: Tensor
) -> TrackedFrame:
    """Return what the predictor says of a frame; `logits` are [O, 1, H, W] in its own order."""
    ids = list(state["obj_ids"])
    order = sorted(range(len(ids)), key=ids.__getitem__)
    small = torch.cat([_small_logits(state, k, index) for k in order])
    return TrackedFrame(index, images.image(index), tuple(sorted(ids)), logits[order, 0], small)


def _small_logits(state: dict[str, Any], row: int, index: int) -> Tensor:
    """Return what is known of an object on the frame at hand: what a prompt said comes first."""
    for kept in (state["temp_output_dict_per_obj"][row], state["output_dict_per_obj"][row]):
        for outputs in (kept["cond_frame_outputs"], kept["non_cond_frame_outputs"]):
            if index in outputs:
                return outputs[index]["pred_masks"][0]
    raise AssertionError(f"object {row} was not tracked on frame {index}")


def _forget(predictor: "SAM2VideoPredictor", state: dict[str, Any], index: int) -> None:
    """Drop what later frames do not look at: memories of the last few frames are, and pointers."""
    stride = predictor.memory_temporal_stride_for_eval
    oldest_memory = index - predictor.num_maskmem * stride
    oldest_pointer = min(oldest_memory, index - predictor.max_obj_ptrs_in_encoder)
    for outputs in state["output_dict_per_obj"].values():
        kept = outputs["non_cond_frame_outputs"]
        kept.pop(oldest_pointer, None)
        if oldest_memory in kept:
            kept[oldest_memory] |= dict.fromkeys(
                ("maskmem_features", "maskmem_pos_enc", "pred_masks")
            )
    for tracked in state["frames_tracked_per_obj"].values():
        tracked.pop(oldest_pointer, None)
