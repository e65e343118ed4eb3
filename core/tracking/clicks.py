"""Images: a prompt per object, then clicks where its mask is wrong, as in validation of images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..official import clicks_by_value
from .frames import Frames
from .prompts import Prompt, check_prompts
from .tracker import TrackedFrame, give, reading_from_memory, tracked_frame

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor


def segment(
    predictor: "SAM2VideoPredictor",
    image: Frames,
    prompts: Sequence[Prompt],
    masks: Mapping[int, np.ndarray],
    num_clicks: int,
) -> TrackedFrame:
    """Prompt each object of an image and correct it with clicks.

    A click stands in the middle of what is wrong at the time, as SAM 2's official validation
    places it.

    Args:
        predictor: See `core.tracking.tracker.track`.
        image: A video of one frame.
        prompts: One box or click per object.
        masks: {object id: bool [H, W]} what each object is.
        num_clicks: Clicks per object after its prompt.

    Raises:
        UserError: A prompt does not fit the image, or it cannot be read.
    """
    check_prompts(prompts, len(image), image.size)
    with torch.inference_mode(), reading_from_memory(image, predictor.image_size) as images:
        state = predictor.init_state(video_path="")
        for prompt in prompts:
            logits = give(predictor, state, prompt)
            truth = torch.from_numpy(masks[prompt.object_id])[None, None]
            for _ in range(num_clicks):
                found = logits[-1:].cpu() > 0
                points, labels = place_click(truth, found)
                *_, logits = predictor.add_new_points_or_box(
                    state,
                    prompt.frame,
                    prompt.object_id,
                    points=points,
                    labels=labels,
                    clear_old_points=False,
                )
        return tracked_frame(state, images, 0, logits)


def place_click(truth: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point [1, 2] (x, y) and the label [1] of SAM 2's click in the middle of an error.

    Args:
        truth: bool [1, 1, H, W] on the CPU, what the object is.
        found: The same, what is taken for it.
    """
    from sam2.modeling.sam2_utils import sample_one_point_from_error_center

    with clicks_by_value():
        points, labels = sample_one_point_from_error_center(truth, found)
    return points[0], labels[0]
