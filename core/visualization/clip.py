"""What a sheet shows of one video: all that the renderer sees."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from .prompts import PromptData


@dataclass
class Clip:
    """One video of a snapshot, ready to be drawn; T drawn frames, C categories, CPU memory only.

    Attributes:
        stage: ``train`` or ``val``.
        epoch: Lightning's epoch, from 0.
        step: Optimizer steps taken.
        name: The video's name, or what identifies it; printable, on one line.
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
        prompts_elsewhere: Frame numbers of the frames that are not drawn and received prompts.
        prompts_implied: The outputs tell no prompts; those shown follow from the ground truth.
        prompts_unassigned: Prompt rows that belong to no known video and are not drawn.
        model_size: (H, W) of the model's frames.
        mean_iou: The metrics' mean IoU (`core.metrics.object_ious`) of the C categories, over the
            frames that were measured and received no prompt; NaN when nothing is left.
        num_scored_frames: Frames that `mean_iou` covers.
        num_unprompted_frames: Frames of the whole clip that received no prompt.
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
    num_scored_frames: int = 0
    num_unprompted_frames: int = 0
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
        left_out = [
            number
            for i, number in enumerate(self.frame_numbers)
            if i not in index and (self.prompted[i] or self.prompts[i])
        ]
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
        elsewhere = sorted({*self.prompts_elsewhere, *left_out})
        return dataclasses.replace(self, **per_frame, prompts_elsewhere=elsewhere)


def plain_text(text: Any) -> str:
    """Return a text from a file as printable characters on one line, which every logger takes."""
    return "".join(char if char.isprintable() else " " for char in str(text))
