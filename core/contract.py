"""What a batch and SAM 2's outputs must look like, checked once, where they come in."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def check_batch_and_outputs(batch: Any, outs_per_frame: Sequence[dict[str, Any]]) -> None:
    """Refuse a batch or outputs that no sheet can be drawn of.

    Args:
        batch: See `core.snapshot.take_snapshot`.
        outs_per_frame: See `core.snapshot.take_snapshot`.

    Raises:
        ValueError: A tensor is missing or has another shape than the batch implies.
    """
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
        if not isinstance(outputs, Mapping):
            raise ValueError(
                f"outs_per_frame[{t}] must be a dictionary, got {type(outputs).__name__}"
            )
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
        _check_prompts(t, outputs, (height, width))


def _check_prompts(t: int, outputs: Mapping[str, Any], size: tuple[int, int]) -> None:
    masks = outputs.get("mask_inputs")
    if masks is not None and not (
        isinstance(masks, Tensor) and masks.ndim == 4 and masks.shape[1:] == (1, *size)
    ):
        raise ValueError(
            f"outs_per_frame[{t}]['mask_inputs'] must have shape [K, 1, {size[0]}, {size[1]}], "
            f"got {_describe(masks)}"
        )
    steps = outputs.get("multistep_point_inputs") or []
    if not isinstance(steps, (list, tuple)):
        raise ValueError(
            f"outs_per_frame[{t}]['multistep_point_inputs'] must be a list, got {_describe(steps)}"
        )
    for clicks in (outputs.get("point_inputs"), *steps):
        if clicks is None:
            continue
        coords, labels = (
            clicks.get(name) if isinstance(clicks, Mapping) else None
            for name in ("point_coords", "point_labels")
        )
        if not (
            isinstance(coords, Tensor)
            and isinstance(labels, Tensor)
            and labels.ndim == 2
            and coords.shape == (*labels.shape, 2)
        ):
            raise ValueError(
                f"the clicks of outs_per_frame[{t}] must hold point_coords [K, P, 2] and "
                f"point_labels [K, P], got {_describe(coords)} and {_describe(labels)}"
            )


def _describe(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
