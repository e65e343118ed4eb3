"""All that is known of Meta's code: importing it, its batches, its outputs, its statistics."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional, Protocol, TypedDict

import cv2
import torch
from torch import Tensor

# The statistics of ImageNet, with which official SAM 2 training normalises its frames.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A logit whose sigmoid is 2e-9.
_SURELY_NOT = -20.0


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


@contextlib.contextmanager
def clicks_by_value() -> Iterator[None]:
    """Have SAM 2's clicks depend on masks alone, not on where they lie in memory.

    It clicks where OpenCV's distance to the border of the error is largest. Intel's version of that
    differs in its last digits with a mask's address, and ties are broken another way.
    """
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(used)


class Batch(Protocol):
    """What is read of a ``BatchedVideoDatapoint``: B videos of T frames, O mask rows in all.

    ``metadata.unique_objects_identifier`` is read where there is one (`object_identifiers`).
    """

    @property
    def img_batch(self) -> Tensor:
        """[T, B, 3, H, W] float, normalised with the statistics of ImageNet."""

    @property
    def masks(self) -> Tensor:
        """[T, O, H, W] bool."""

    @property
    def obj_to_frame_idx(self) -> Tensor:
        """[T, O, 2] = (frame, video in the batch)."""


@dataclass(frozen=True)
class PlainBatch:
    """A batch whose fields were read once: those of a tensordict take their time at each reading.

    Attributes:
        img_batch: See `Batch`.
        masks: See `Batch`.
        obj_to_frame_idx: See `Batch`.
        metadata: That of the batch, None where there is none.
    """

    img_batch: Tensor
    masks: Tensor
    obj_to_frame_idx: Tensor
    metadata: Any


class PointInputs(TypedDict):
    """The clicks of K prompt rows, P columns each.

    Labels: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 padding.
    """

    point_coords: Tensor  # [K, P, 2] (x, y) in model pixels
    point_labels: Tensor  # [K, P]


class FrameOutputs(TypedDict, total=False):
    """What is read of one entry of SAM 2's ``outs_per_frame``."""

    pred_masks_high_res: Tensor  # [O, 1, H, W] final logits
    point_inputs: Optional[PointInputs]  # the initial prompt
    mask_inputs: Optional[Tensor]  # [K, 1, H, W]
    box_inputs: Optional[Tensor]  # [K, 4] x0, y0, x1, y1 in model pixels; of some hosts alone
    multistep_point_inputs: Sequence[Optional[PointInputs]]  # cumulative, one per round
    multistep_pred_multimasks_high_res: Sequence[Tensor]  # [O, M, H, W] logits, one per round
    multistep_pred_masks_high_res: Tensor  # [O, R, H, W] logits after each round, the last is final
    multistep_pred_ious: Sequence[Tensor]  # [O, M] each, the last is final
    multistep_object_score_logits: Sequence[Tensor]  # [O, 1] each, the last is final


def tensor(value: Any, name: str, shape: str) -> Tensor:
    """Return `value` when it is a tensor of the right shape.

    Args:
        value: Anything.
        name: What messages call it.
        shape: Such as ``[T, B, 3, H, W]``: a letter stands for any number. Words may follow.

    Raises:
        TypeError: It is no tensor.
        ValueError: It has another shape.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    num_dims, fixed = _wanted(shape)
    if value.ndim != num_dims or any(value.shape[dim] != size for dim, size in fixed):
        raise ValueError(f"{name} must have shape {shape}, got {list(value.shape)}")
    return value


@lru_cache(maxsize=128)
def _wanted(shape: str) -> tuple[int, list[tuple[int, int]]]:
    """Return how many dimensions a shape in words has, and those whose size it says."""
    sizes = shape[1 : shape.index("]")].split(", ")
    return len(sizes), [(dim, int(size)) for dim, size in enumerate(sizes) if size.isdigit()]


def batch_field(batch: Any, name: str, shape: str) -> Tensor:
    """Return a tensor of a batch; see `tensor`."""
    return tensor(getattr(batch, name, None), f"batch.{name}", shape)


def frames_of(batch: Any, shape: str = "[T, B, 3, H, W]") -> Tensor:
    """Return the frames of a batch; `shape` as in `tensor`.

    Raises:
        TypeError: They are no tensor, or bytes instead of normalised floats.
        ValueError: They have another shape.
    """
    images = batch_field(batch, "img_batch", shape)
    if images.dtype == torch.uint8:
        raise TypeError(
            "batch.img_batch must be normalised floats, got bytes:"
            " VideoDataModule.normalise(batch) makes these of the batches of its loaders"
        )
    return images


def check_batch_and_outputs(batch: Any, outs_per_frame: Sequence[Any]) -> PlainBatch:
    """Return what is read of a batch; refuse one, or outputs, that no sheet can be drawn of.

    Args:
        batch: See `core.visualization.snapshot.take_snapshot`.
        outs_per_frame: See `core.visualization.snapshot.take_snapshot`.

    Raises:
        TypeError: A tensor, or a dictionary of outputs, is missing.
        ValueError: A tensor has another shape than the batch implies.
    """
    _check_form(outs_per_frame)
    images = frames_of(batch, "[T, B, C, H, W]")
    masks = batch_field(batch, "masks", "[T, O, H, W]")
    num_frames, num_objects, height, width = masks.shape
    tensor(images, "batch.img_batch", f"[{num_frames}, B, 3, H, W]")
    if images.shape[-2:] != masks.shape[-2:]:
        raise ValueError(
            f"batch.masks must have the frames' size {list(images.shape[-2:])}, "
            f"got {[height, width]}"
        )
    layout = batch_field(batch, "obj_to_frame_idx", f"[{num_frames}, {num_objects}, 2]")
    if len(outs_per_frame) != num_frames:
        raise ValueError(
            f"outs_per_frame must have one entry per frame ({num_frames}), "
            f"got {len(outs_per_frame)}"
        )
    for t, outputs in enumerate(outs_per_frame):
        name = f"outs_per_frame[{t}]"
        logits = outputs.get("pred_masks_high_res")
        # Words are put together where something is wrong: this is done at every picture.
        expected = (num_objects, 1, height, width)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            tensor(
                logits,
                f"{name}['pred_masks_high_res']",
                f"[{num_objects}, 1, {height}, {width}]",
            )
        given = outputs.get("mask_inputs")
        if given is not None:
            tensor(given, f"{name}['mask_inputs']", f"[K, 1, {height}, {width}]")
        boxes = outputs.get("box_inputs")
        if boxes is not None:
            tensor(boxes, f"{name}['box_inputs']", "[K, 4]")
        _check_clicks(name, outputs)
    return PlainBatch(images, masks, layout, getattr(batch, "metadata", None))


def _check_form(outs_per_frame: Any) -> None:
    """Refuse what is no list of dictionaries, and say what to pass instead."""
    is_list = isinstance(outs_per_frame, Sequence) and not isinstance(outs_per_frame, str)
    if is_list and all(isinstance(outputs, Mapping) for outputs in outs_per_frame):
        return
    found = type(outs_per_frame).__name__
    if is_list:
        kinds = sorted({type(outputs).__name__ for outputs in outs_per_frame})
        found = f"a {found} of {', '.join(kinds)}"
    hint = ""
    if isinstance(outs_per_frame, tuple):
        hint = (
            ": if the model returns a tuple, pass its list of dictionaries alone, and its list of "
            "prompt rows, where there is one, as obj_to_cat"
        )
    raise TypeError(
        "outs_per_frame must be a list of dictionaries, one per frame, each with "
        f"'pred_masks_high_res' [O, 1, H, W] logits, got {found}{hint}"
    )


def _check_clicks(name: str, outputs: Mapping[str, Any]) -> None:
    steps = outputs.get("multistep_point_inputs") or []
    if not isinstance(steps, (list, tuple)):
        raise TypeError(f"{name}['multistep_point_inputs'] must be a list, got {_describe(steps)}")
    for clicks in (outputs.get("point_inputs"), *steps):
        if clicks is None:
            continue
        coords, labels = (
            clicks.get(key) if isinstance(clicks, Mapping) else None
            for key in ("point_coords", "point_labels")
        )
        kind: type[Exception] = TypeError
        if isinstance(coords, Tensor) and isinstance(labels, Tensor):
            if labels.ndim == 2 and coords.shape == (*labels.shape, 2):
                continue
            kind = ValueError
        message = (
            f"the clicks of {name} must hold point_coords [K, P, 2] and "
            f"point_labels [K, P], got {_describe(coords)} and {_describe(labels)}"
        )
        raise kind(message)


def _describe(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def without_ignored(
    outs_per_frame: Sequence[FrameOutputs], batch: Batch
) -> tuple[Sequence[FrameOutputs], Tensor]:
    """Return outputs and targets for the loss, to which regions that nobody annotated add nothing.

    There logits are replaced by ones that are as good as sure of the background, and it is the
    target: no part of SAM 2's loss grows by it, and no gradient comes from there.

    Args:
        outs_per_frame: SAM 2's ``outs_per_frame``; left as it is.
        batch: Where ``metadata.ignored`` bool [T, B, H, W] marks such regions; left as it is.

    Returns:
        Both as they are where nothing is marked.
    """
    ignored = getattr(getattr(batch, "metadata", None), "ignored", None)
    if ignored is None:
        return outs_per_frame, batch.masks
    regions = ignored[:, batch.obj_to_frame_idx[0, :, 1].long()]
    kept = []
    for outputs, region in zip(outs_per_frame, regions, strict=True):
        changed = outputs.copy()
        changed["multistep_pred_multimasks_high_res"] = [
            logits.masked_fill(region[:, None], _SURELY_NOT)
            for logits in outputs["multistep_pred_multimasks_high_res"]
        ]
        kept.append(changed)
    return kept, batch.masks & ~regions


def video_rows(batch: Batch, video_idx: int) -> Tensor:
    """Return the rows of `video_idx` in masks and outputs, in category order: [N] int64."""
    return torch.nonzero(batch.obj_to_frame_idx[0, :, 1] == video_idx).flatten()


def object_identifiers(batch: Batch) -> Tensor:
    """Return [T, O, 3] int64 = (data set video, object id, original frame); [0] without any."""
    identifiers = getattr(getattr(batch, "metadata", None), "unique_objects_identifier", None)
    if not isinstance(identifiers, Tensor) or identifiers.shape != (*batch.masks.shape[:2], 3):
        return torch.zeros(0)
    return identifiers.detach().long()  # some hosts have floating numbers there


def original_sizes_of(batch: Batch) -> Optional[list[Optional[tuple[int, int]]]]:
    """Return (height, width) of each of the B original videos as far as the metadata tells.

    None where nothing tells, or where it lies on a device, which would have to be waited for. Then
    it can be told before the batch goes there: in Lightning's hook ``on_before_batch_transfer``.
    """
    sizes, layout = _stored_sizes(batch), batch.obj_to_frame_idx.detach()
    if sizes is None or not (sizes.is_cpu and layout.is_cpu):
        return None
    known: list[Optional[tuple[int, int]]] = [None] * batch.img_batch.shape[1]
    videos, first_sizes = layout.numpy()[0, :, 1].tolist(), sizes.detach().numpy()[0].tolist()
    for video, (height, width) in zip(videos, first_sizes, strict=True):
        if height > 0 and width > 0 and 0 <= video < len(known):
            known[video] = (height, width)
    return known


def has_sizes_on_device(batch: Batch) -> bool:
    """Return whether the metadata has sizes that `original_sizes_of` leaves alone."""
    sizes = _stored_sizes(batch)
    return sizes is not None and not (sizes.is_cpu and batch.obj_to_frame_idx.is_cpu)


def _stored_sizes(batch: Batch) -> Optional[Tensor]:
    """Return [T, O, 2] = (height, width) of the original videos; None: the batch has none."""
    sizes = getattr(getattr(batch, "metadata", None), "frame_orig_size", None)
    is_usable = isinstance(sizes, Tensor) and sizes.shape == (*batch.masks.shape[:2], 2)
    return sizes if is_usable else None


@dataclass(frozen=True)
class GivenClicks:
    """All clicks that a frame received, with what tells the initial ones from corrections.

    Attributes:
        final: The last entry of ``multistep_point_inputs`` that is not None, which is cumulative;
            without such an entry, ``point_inputs``. None: there are none.
        num_initial: How many columns of `final` are the initial prompt: those of the first entry,
            none where the frame was corrected without having been prompted.
        initial: ``point_inputs`` where only its values can tell whether `final` begins with it.
    """

    final: Optional[PointInputs]
    num_initial: int = 0
    initial: Optional[PointInputs] = None


def given_clicks(frame_output: FrameOutputs) -> GivenClicks:
    """Return the clicks of a frame, official or a host's; nothing waits for a device.

    Hosts leave ``multistep_point_inputs`` out, leave it empty or fill it with None, wholly or in
    part, and still return the initial clicks as ``point_inputs``.

    Args:
        frame_output: One entry of SAM 2's ``outs_per_frame``.
    """
    steps = frame_output.get("multistep_point_inputs") or []
    entries = [clicks for clicks in steps if _has_clicks(clicks)]
    initial = frame_output.get("point_inputs")
    if not _has_clicks(initial):
        initial = None
    if not entries:
        return GivenClicks(initial, _num_columns(initial))
    is_first = initial is None or steps[0] is initial
    return GivenClicks(entries[-1], _num_columns(steps[0]), None if is_first else initial)


def received_prompt(frame_output: FrameOutputs) -> bool:
    """Return whether a frame received any prompt: clicks or a box, corrections, or a mask.

    Metrics leave such frames out: there the model was told where the objects are. Only shapes are
    looked at, so that nothing waits for a device.

    Args:
        frame_output: One entry of SAM 2's ``outs_per_frame``.
    """
    return prompting_of(frame_output).received


def is_mask_prompted(frame_output: FrameOutputs) -> bool:
    """Return whether a frame was prompted by masks, which are then its prediction.

    Args:
        frame_output: One entry of SAM 2's ``outs_per_frame``.
    """
    masks = frame_output.get("mask_inputs")
    return masks is not None and len(masks) > 0


@dataclass(frozen=True)
class Prompting:
    """How a frame was prompted, as far as shapes tell: nothing waits for a device.

    Attributes:
        first: From the start, by clicks, a box or a mask.
        received: At all, corrections included; see `received_prompt`.
        by_mask: By a mask, which is then the prediction.
        clicked: By clicks or a box, corrections included.
    """

    first: bool
    received: bool
    by_mask: bool
    clicked: bool


def prompting_of(frame_output: FrameOutputs, clicks: Optional[GivenClicks] = None) -> Prompting:
    """Read how a frame was prompted from its outputs, and its clicks where they are known."""
    clicks = clicks or given_clicks(frame_output)
    points, by_mask = frame_output.get("point_inputs"), is_mask_prompted(frame_output)
    steps = frame_output.get("multistep_point_inputs") or [None]
    boxes = frame_output.get("box_inputs")
    boxed = boxes is not None and len(boxes) > 0
    clicked = boxed or clicks.final is not None
    return Prompting(
        first=_has_rows(points) or _has_rows(steps[0]) or boxed or by_mask,
        received=clicked or by_mask,
        by_mask=by_mask,
        clicked=clicked,
    )


def rounds_of(outs_per_frame: Sequence[FrameOutputs]) -> list[FrameOutputs]:
    """Return the outputs of a clip of one frame as they were after each round of its clicks.

    The first round is the initial click or box, each further one a correction click per object.
    SAM 2 prompts clips of one frame so whatever it does with longer ones. Only shapes are looked
    at, so that nothing waits for a device.

    Args:
        outs_per_frame: SAM 2's ``outs_per_frame``, or a host's.

    Returns:
        One dict per round, with views of what was given; none where there are more frames, or where
        the outputs do not tell of rounds: of masks as prompts, or of hosts.
    """
    if len(outs_per_frame) != 1:
        return []
    (outs,) = outs_per_frame
    final, logits = outs["pred_masks_high_res"], outs.get("multistep_pred_masks_high_res")
    clicks = outs.get("multistep_point_inputs") or []
    if is_mask_prompted(outs) or not clicks or not all(map(_has_clicks, clicks)):
        return []
    num_objects, _, height, width = final.shape
    if not isinstance(logits, Tensor) or logits.shape != (num_objects, len(clicks), height, width):
        return []
    ious, scores = (
        outs.get("multistep_pred_ious") or [],
        outs.get("multistep_object_score_logits") or [],
    )
    return [
        {
            "pred_masks_high_res": logits[:, k : k + 1] if k + 1 < len(clicks) else final,
            "point_inputs": clicks[0],
            "multistep_point_inputs": clicks[: k + 1],
            "multistep_pred_ious": ious[: k + 1],
            "multistep_object_score_logits": scores[: k + 1],
        }
        for k in range(len(clicks))
    ]


@dataclass(frozen=True)
class FirstPrompt:
    """What the rounds of clicks on a clip of one frame begin with.

    Attributes:
        has_box: There is a box.
        num_clicks: Clicks per object, a box not counted.
    """

    has_box: bool
    num_clicks: int


def first_prompt_of(frame_output: FrameOutputs, prompt_type: str) -> FirstPrompt:
    """Return what rounds begin with, of a model whose prompts are known: nothing waits.

    Args:
        frame_output: One of `rounds_of`.
        prompt_type: What the model gives; ``bbox`` and ``mixed`` have boxes. A box is two columns,
            as two clicks are, which SAM 2 never gives at once.
    """
    steps = frame_output.get("multistep_point_inputs") or [None]
    num_columns = _num_columns(steps[0])
    has_box = prompt_type in ("bbox", "mixed") and num_columns == 2
    return FirstPrompt(has_box, 0 if has_box else num_columns)


def rows_are_components(
    outs_per_frame: Sequence[FrameOutputs], given: Sequence[GivenClicks]
) -> bool:
    """Return whether outputs tell that prompt rows are components, not the rows of masks.

    They do where clicks are in ``point_inputs`` while ``multistep_point_inputs`` holds only None,
    as hosts return that merge components into categories, and where frames differ in their number
    of prompt rows. Only shapes are looked at, so that nothing waits for a device.

    Args:
        outs_per_frame: SAM 2's ``outs_per_frame``, or a host's.
        given: The clicks of each frame.
    """
    for outputs in outs_per_frame:
        steps = outputs.get("multistep_point_inputs") or []
        only_none = bool(steps) and all(entry is None for entry in steps)
        if only_none and _has_clicks(outputs.get("point_inputs")):
            return True
    return len(set().union(*map(_numbers_of_prompt_rows, outs_per_frame, given))) > 1


def fault_of_obj_to_cat(
    outs_per_frame: Sequence[FrameOutputs], obj_to_cat: Optional[Tensor]
) -> Optional[str]:
    """Return what is wrong with a caller's `obj_to_cat`, or None: it must name every prompt row.

    Only shapes are looked at, so that nothing waits for a device.

    Args:
        outs_per_frame: SAM 2's ``outs_per_frame``, or a host's.
        obj_to_cat: [K] the mask row of each prompt row, where the caller knows it.
    """
    if obj_to_cat is None:
        return None
    for t, outputs in enumerate(outs_per_frame):
        for num_rows in sorted(_numbers_of_prompt_rows(outputs, given_clicks(outputs))):
            if num_rows != len(obj_to_cat):
                return (
                    f"obj_to_cat has {len(obj_to_cat)} entries, but outs_per_frame[{t}] has "
                    f"{num_rows} prompt rows: pass one mask row (b * N + c) per prompt row"
                )
    return None


def _numbers_of_prompt_rows(outputs: FrameOutputs, clicks: GivenClicks) -> set[int]:
    """Return how many rows each kind of prompt of a frame has, without those that have none."""
    labels = [
        given["point_labels"] for given in (clicks.initial, clicks.final) if given is not None
    ]
    rows = (*labels, outputs.get("mask_inputs"), outputs.get("box_inputs"))
    return {given.shape[0] for given in rows if given is not None} - {0}


def tell_prompts(outs_per_frame: Sequence[FrameOutputs]) -> bool:
    """Return whether outputs have a field for prompts, if only an empty one."""
    fields = {"mask_inputs", "box_inputs", "point_inputs", "multistep_point_inputs"}
    return any(not fields.isdisjoint(outputs) for outputs in outs_per_frame)


def _has_rows(clicks: Optional[PointInputs]) -> bool:
    return clicks is not None and len(clicks["point_labels"]) > 0


def _has_clicks(clicks: Optional[PointInputs]) -> bool:
    return clicks is not None and clicks["point_labels"].numel() > 0


def _num_columns(clicks: Optional[PointInputs]) -> int:
    return 0 if clicks is None else clicks["point_labels"].shape[1]
