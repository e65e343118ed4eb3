"""All that is known of Meta's code: importing it, its batches, its outputs, its statistics."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor


def check_batch_and_outputs(batch: Any, outs_per_frame: Sequence[dict[str, Any]]) -> None:
    """Refuse a batch or outputs that no sheet can be drawn of.

    Args:
        batch: See `core.visualization.snapshot.take_snapshot`.
        outs_per_frame: See `core.visualization.snapshot.take_snapshot`.

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


class MissingSam2Error(ImportError):
    """The ``sam2`` package is not installed."""


def import_sam2() -> None:
    """Import ``sam2`` and leave Hydra's global state as it was.

    ``sam2/__init__.py`` initialises Hydra with its own configurations unless Hydra is initialised
    already. A later ``@hydra.main`` or ``hydra.initialize*`` then fails with "GlobalHydra is
    already initialized". So what was not initialised before this call is not initialised after it;
    call it before the first ``import sam2`` or ``import training``. Meta's ``build_sam2*``
    functions need that global state: `core.export.loading_code` gives lines that set it.

    Raises:
        MissingSam2Error: The package is not installed.
    """
    from hydra.core.global_hydra import GlobalHydra

    was_initialized = GlobalHydra.instance().is_initialized()
    try:
        import sam2  # noqa: F401
        import training.model.sam2  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("sam2", "training"):
            raise
        raise MissingSam2Error(
            "the package sam2 is not installed: run `make setup`, or by hand, after torch, "
            "setuptools and wheel: SAM2_BUILD_CUDA=0 pip install --no-build-isolation --no-deps "
            "sam2==1.1.0"
        ) from error
    finally:
        if not was_initialized:
            GlobalHydra.instance().clear()


def final_clicks(frame_output: dict[str, Any]) -> tuple[Optional[dict[str, Tensor]], int]:
    """Return all clicks that a frame received, and how many columns of them came first.

    ``multistep_point_inputs`` is cumulative: its last entry holds every click in order, its first
    the initial prompt, None on a frame that was corrected without having been prompted.

    Args:
        frame_output: One entry of SAM 2's ``outs_per_frame``.
    """
    steps: Sequence = frame_output.get("multistep_point_inputs") or []
    initial = steps[0] if len(steps) else frame_output.get("point_inputs")
    final = steps[-1] if len(steps) else frame_output.get("point_inputs")
    num_initial = 0 if initial is None else initial["point_labels"].shape[1]
    return final, num_initial


def received_prompt(frame_output: dict[str, Any]) -> bool:
    """Return whether a frame received any prompt: clicks or a box, corrections, or a mask.

    Metrics leave such frames out: there the model was told where the objects are. Only shapes are
    looked at, so that nothing waits for a device.

    Args:
        frame_output: One entry of SAM 2's ``outs_per_frame``.
    """
    clicks = (frame_output.get("point_inputs"), final_clicks(frame_output)[0])
    clicked = any(given is not None and given["point_labels"].numel() > 0 for given in clicks)
    return clicked or is_mask_prompted(frame_output)


def is_mask_prompted(frame_output: dict[str, Any]) -> bool:
    """Return whether a frame was prompted by masks, which are then its prediction.

    Args:
        frame_output: One entry of SAM 2's ``outs_per_frame``.
    """
    masks = frame_output.get("mask_inputs")
    return masks is not None and len(masks) > 0


def video_rows(batch: Any, video_idx: int) -> Tensor:
    """Return the rows of `video_idx` in masks and outputs, in category order: [N] int64."""
    return torch.nonzero(batch.obj_to_frame_idx[0, :, 1] == video_idx).flatten()


def is_prompted_first(outputs: dict[str, Any]) -> bool:
    """Return whether a frame was prompted from the start: by clicks, a box or a mask."""
    points = outputs.get("point_inputs")
    return (points is not None and len(points["point_labels"]) > 0) or is_mask_prompted(outputs)


def object_identifiers(batch: Any) -> Tensor:
    """Return [T, O, 3] = (data set video, object id, original frame); [0] where there are none."""
    identifiers = getattr(getattr(batch, "metadata", None), "unique_objects_identifier", None)
    if not isinstance(identifiers, Tensor) or identifiers.shape != (*batch.masks.shape[:2], 3):
        return torch.zeros(0)
    return identifiers.detach()


# The statistics of ImageNet, with which official SAM 2 training normalises its frames.
IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)
