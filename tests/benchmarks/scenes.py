"""Made-up clips with the outputs of a model that tracks them a little wrong."""

from typing import Any, Optional

import torch
import torch.nn.functional as F

from core.config import VisualizationsConfig
from core.model import import_sam2
from core.snapshot import IMAGENET_MEAN, IMAGENET_STD
from core.trainer import VisualizationsMixin

CELLS = 6  # objects sit on a grid of so many rows and columns


def make_scene(
    num_frames: int = 4,
    size: int = 512,
    num_objects: int = 3,
    *,
    device: str = "cpu",
    noise: float = 8.0,
) -> tuple[Any, list[dict[str, Any]]]:
    """Build an official batch of one video and outputs for it.

    Objects are discs, a thirtieth of the frame each, so that 32 of them fit; they and the
    predictions drift apart over time. Frame 0 is prompted with masks, the last one is corrected
    with a click per object.

    Args:
        num_frames: T.
        size: Side of the square frames.
        num_objects: O, at most 36.
        device: Where the tensors live.
        noise: Grain of the frames in grey levels; photographs have some, and it costs PNG dearly.

    Returns:
        ``BatchedVideoDatapoint`` and one dict of outputs per frame.
    """
    import_sam2()
    from training.utils.data_utils import Frame, Object, VideoDatapoint, collate_fn

    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    coarse = torch.rand(1, 3, 9, 9, generator=generator) * 255
    background = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[0]
    steps = torch.arange(size)
    cell = size / CELLS
    frames, outputs = [], []
    for t in range(num_frames):
        objects, logits, clicks = [], [], []
        for o in range(num_objects):
            # Neighbours in number are far apart on the grid.
            place = o * 7 % (CELLS * CELLS)
            x = (place % CELLS + 0.5) * cell + t * cell * 0.03
            y = (place // CELLS + 0.5) * cell
            distance = torch.hypot(steps - x, (steps - y)[:, None])
            shifted = torch.hypot(steps - x - t * cell * 0.08, (steps - y)[:, None])
            mask = distance < cell * 0.45
            objects.append(Object(object_id=o + 1, frame_index=t, segment=mask))
            logits.append((cell * 0.43 - shifted) / 2)
            clicks.append([x, y])
        grain = torch.randn(3, size, size, generator=generator) * noise
        pixels = (background + grain).clamp(0, 255).round() / 255
        frames.append(Frame(data=(pixels - mean) / std, objects=objects))
        outputs.append(_outputs(torch.stack(logits)[:, None], clicks, t, num_frames, generator))
    outputs[0]["mask_inputs"] = torch.stack([item.segment for item in frames[0].objects])[:, None]
    batch = collate_fn([VideoDatapoint(frames, video_id=0, size=(size, size))], dict_key="all")
    return batch.to(device), [_to(item, device) for item in outputs]


def _outputs(
    logits: torch.Tensor,
    clicks: list[list[float]],
    t: int,
    num_frames: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    num_objects = len(logits)
    corrected: Optional[dict[str, Any]] = None
    if 0 < t == num_frames - 1:
        labels = torch.ones(num_objects, 1, dtype=torch.int32)
        corrected = {"point_coords": torch.tensor(clicks)[:, None], "point_labels": labels}
    return {
        "pred_masks_high_res": logits,
        "point_inputs": None,
        "mask_inputs": None,
        "multistep_point_inputs": [None] if corrected is None else [None, corrected],
        "multistep_pred_ious": [torch.rand(num_objects, 3, generator=generator)],
        "multistep_object_score_logits": [torch.randn(num_objects, 1, generator=generator)],
    }


def _to(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    return [_to(item, device) for item in value] if isinstance(value, list) else value


class DiscardingLogger:
    """Takes what a logger takes and keeps nothing; encodes pictures as ours for SwanLab are."""

    def log_image(self, key: str, images: list, step: int, caption: list[str]) -> None:
        """Encode and forget."""
        from core.utils import encode_png

        for image in images:
            encode_png(image)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Forget."""


class _Trainer:
    is_global_zero, sanity_checking, current_epoch, global_step = True, False, 0, 0
    datamodule = None

    def __init__(self, loggers: list[Any]) -> None:
        self.loggers, self.callbacks = loggers, []


class _Config:
    def __init__(self, visualizations: VisualizationsConfig) -> None:
        self.visualizations = visualizations


class HookedModule(VisualizationsMixin):
    """The mixin on a module that does nothing else; each `event` is due.

    Args:
        logger: Where pictures go.
        **options: Fields of `VisualizationsConfig`.
    """

    def __init__(self, logger: Any, **options: Any) -> None:
        self.config = _Config(
            VisualizationsConfig(enabled=True, every_n_steps=1, max_overhead=1.0, **options)
        )
        self.trainer = _Trainer([logger])

    def event(self, batch: Any, outs_per_frame: list[dict[str, Any]]) -> None:
        """Call the hook at the next step."""
        self.trainer.global_step += 1
        self.maybe_log_visualizations(batch, outs_per_frame, 0, "train")

    def flush(self) -> None:
        """Wait for the pictures."""
        self.__dict__["_visualizer"].flush()

    @property
    def dropped(self) -> int:
        """Events that were not drawn."""
        return self.__dict__["_visualizer"].dropped
