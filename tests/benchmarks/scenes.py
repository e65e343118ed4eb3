"""Made-up clips with the outputs of a model that tracks them a little wrong."""

import math
import threading
from typing import Any, Optional

import torch
import torch.nn.functional as F

from core.config import VisualizationsConfig
from core.official import IMAGENET_MEAN, IMAGENET_STD, import_sam2
from core.trainer import VisualizationsMixin
from core.visualization import visualizer_of
from core.visualization.visualizer import Visualizer


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
    import_sam2()
    from training.utils.data_utils import Frame, Object, VideoDatapoint, collate_fn

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


class DiscardingLogger:
    """Takes what a logger takes and keeps nothing; encodes pictures as ours for SwanLab are."""

    def __init__(self) -> None:
        self.drawn = threading.Semaphore(0)

    def log_image(self, key: str, images: list, step: int, caption: list[str]) -> None:
        """Encode and forget."""
        from core.visualization.images import encode_png

        for image in images:
            encode_png(image)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Forget; what an event cost is logged when its pictures are."""
        self.drawn.release()


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

    def wait(self) -> None:
        """Wait for the last event's pictures; the worker is then as it is before the next event."""
        assert self.trainer.loggers[0].drawn.acquire(timeout=600), "nothing was drawn"

    def flush(self) -> None:
        """Wait for the pictures, as at the end of a training."""
        self._visualizer().flush()

    @property
    def dropped(self) -> int:
        """Events that were not drawn."""
        return self._visualizer().dropped

    def _visualizer(self) -> Visualizer:
        visualizer = visualizer_of(self)
        assert visualizer is not None, "no event yet"
        return visualizer
