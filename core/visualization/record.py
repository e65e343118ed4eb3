"""What a run book keeps of a clip: its frames, and what one event shows on them.

The names are those that the page reads; masks and frames have the sheet's size.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import cv2
import numpy as np
import torch

from ..metrics.masks import object_ious
from .arrays import as_array, as_bool
from .cadence import TRAIN
from .clip import Clip, ClipFrame, fate_of
from .images import deflate
from .palette import Color
from .prompts import PADDING, PromptData
from .reduction import compare_masks
from .store import encode_mask, rounded

# Kinds of clips; whatever else a module calls its stages is a kind too.
PINNED, VAL, WORST, PROMPTS = "pinned", "val", "worst", "prompts"
# Frames may differ by this much on average, in grey levels, from those of the sheet.
MAX_DIFFERENCE = 2.5
_QUALITIES = (85, 93, 98)
_ALL_COLORS = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
# Frames of one clip that two devices reduced differ by less than this in an eighth of their side.
_SAME_FRAME = 3
# An object is lost from the first frame on which less than this of it is found.
BAD_IOU = 0.5
ERRORS = ("hit", "missed", "false")


@dataclass
class FrameRecord:
    """One frame of a clip as it is stored, without what changes from event to event.

    Attributes:
        number: In the original video.
        fingerprint: Its brightness on a grid of 8 x 8, by which it is known again.
        gt_sum: A checksum of its ground truth; None: there is none.
    """

    number: int
    fingerprint: list[int]
    gt_sum: Optional[int]

    def shows_the_same_as(self, other: "FrameRecord") -> bool:
        """Return whether it is the same frame, but for the rounding of another device."""
        pairs = zip(self.fingerprint, other.fingerprint, strict=True)
        return all(abs(one - two) < _SAME_FRAME for one, two in pairs)


def clip_key(clip: Clip, kind: str) -> str:
    """Return a name for what a clip is of: the same for every validation, and in every run.

    A clip of training is never seen again, so each has one of its own.
    """
    what: list[Any] = [clip.name, clip.ids, list(clip.images.shape[1:3]), clip.frames[0].number]
    if kind == TRAIN:
        what += [clip.moment.step if clip.moment else 0, deflate.crc32(clip.images.tobytes())]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def painting_order(clip: Clip) -> list[int]:
    """Return the categories in the order in which a sheet paints them, by id."""
    return sorted(range(clip.num_categories), key=clip.id_of)


def objects_of(clip: Clip) -> list[dict[str, Any]]:
    """Return id, name and colour of each object."""
    names = clip.category_names
    return [
        {
            "id": str(clip.id_of(k)),
            "name": (names[k] or None) if names else None,
            "color": _hex(clip.color_of(k)),
        }
        for k in painting_order(clip)
    ]


def frame_records(clip: Clip) -> list[FrameRecord]:
    """Return what tells the frames of a clip from others."""
    records = []
    for index, frame in enumerate(clip.frames):
        small = cv2.resize(clip.images[index], (8, 8), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        masks = None if clip.gt is None else np.ascontiguousarray(clip.gt.masks[index])
        gt_sum = None if masks is None else deflate.crc32(masks.data)
        records.append(FrameRecord(frame.number, grey.ravel().tolist(), gt_sum))
    return records


def encode_gt(clip: Clip, index: int) -> Optional[list[str]]:
    """Return the ground truth of a frame, one mask per object, None where there is none."""
    if clip.gt is None:
        return None
    return [encode_mask(clip.gt.masks[index, k]) for k in painting_order(clip)]


def encode_frames(images: Sequence[np.ndarray]) -> list[str]:
    """Return frames [h, w, 3] uint8 as data URLs of JPEGs that look the same."""
    qualities = list(_QUALITIES)
    return [_encode_frame(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), qualities) for image in images]


def _encode_frame(image: np.ndarray, qualities: list[int]) -> str:
    """Try qualities, lowest first; those that failed are not tried on the frames that follow."""
    while True:
        options = [*_ALL_COLORS, cv2.IMWRITE_JPEG_QUALITY, qualities[0]]
        jpeg = cv2.imencode(".jpg", image, options)[1]
        if len(qualities) == 1 or _looks_the_same(jpeg, image):
            return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")
        del qualities[0]


def _looks_the_same(jpeg: np.ndarray, image: np.ndarray) -> bool:
    decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    difference = math.inf if decoded is None else cv2.norm(decoded, image, cv2.NORM_L1)
    return difference <= MAX_DIFFERENCE * image.size


def event_record(clip: Clip, gt: Optional[list[Optional[list[str]]]]) -> dict[str, Any]:
    """Return what one event shows on a clip.

    Args:
        clip: What was drawn.
        gt: Its ground truth per frame, where that is another than the one stored with the frames.
    """
    order = painting_order(clip)
    moment = clip.moment
    return {
        "step": moment.step if moment else 0,
        "epoch": moment.epoch if moment else 0,
        "weights": moment.weights if moment else None,
        "gt": gt,
        "pred": None
        if clip.pred is None
        else [[encode_mask(masks[k]) for k in order] for masks in clip.pred.masks],
        "errors": _errors(clip),
        "prompts": [
            [item for prompt in frame.prompts for item in _prompt(prompt, clip, order)]
            for frame in clip.frames
        ],
        "scores": [_scores(clip, index, order) for index in range(len(clip.frames))],
        "prompted": [_is_prompted(clip, frame) for frame in clip.frames],
        "mean_iou": rounded(clip.mean_iou),
    }


def frame_ious(clip: Clip) -> list[list[Optional[float]]]:
    """Return per frame the IoU of each object, in painting order; None where there is none."""
    if clip.scores is None:
        return []
    order = painting_order(clip)
    return [[rounded(frame[k]) for k in order] for frame in clip.scores.ious]


def object_summaries(clip: Clip) -> list[dict[str, Any]]:
    """Return each object's mean IoU, as the metrics average it, and the first frame that is bad.

    Both are None for an object that the metrics do not score; see `core.metrics.masks.object_ious`.
    """
    order = painting_order(clip)
    if clip.scores is None or clip.gt is None:
        return [{"iou": None, "first_bad_frame": None} for _ in order]
    prompted = np.array([_is_prompted(clip, frame) for frame in clip.frames])
    counts = (clip.scores.intersections, clip.scores.unions, clip.gt.areas)
    both, either, truth = (torch.from_numpy(values).double() for values in counts)
    flags = torch.from_numpy(prompted)[:, None].expand_as(both)
    means = object_ious(both, either, truth, flags).tolist()
    is_bad = (clip.scores.ious < BAD_IOU) & ~prompted[:, None]
    summaries = []
    for k in order:
        mean = None if k in clip.not_prompted else rounded(means[k])
        bad = [] if mean is None else np.flatnonzero(is_bad[:, k]).tolist()
        first = clip.frames[bad[0]].number if bad else None
        summaries.append({"iou": mean, "first_bad_frame": first})
    return summaries


def _is_prompted(clip: Clip, frame: ClipFrame) -> bool:
    """Return whether a frame was told where objects are, and tells nothing of the model."""
    if clip.prompts_implied or frame.round is not None:
        return False
    return frame.prompted or bool(frame.prompts)


def _errors(clip: Clip) -> Optional[list[dict[str, str]]]:
    """Return where errors, compared at full size, differ from those of the masks that are stored.

    That is little: most of a page would be errors if it held all of each.
    """
    if clip.errors is None or clip.gt is None or clip.pred is None:
        return None
    return [
        {
            name: encode_mask(kind ^ of_masks)
            for name, kind, of_masks in zip(ERRORS, kinds, compare_masks(gt, pred), strict=True)
        }
        for kinds, gt, pred in zip(clip.errors, clip.gt.masks, clip.pred.masks, strict=True)
    ]


def _scores(clip: Clip, index: int, order: Sequence[int]) -> list[dict[str, Any]]:
    scores = clip.scores
    if scores is None:
        return [{} for _ in order]
    ious = scores.ious[index]
    told = []
    for k in order:
        found = {
            "iou": rounded(ious[k], 3),
            "predicted_iou": _score(scores.predicted_ious, index, k),
            "object_score": _score(scores.object_scores, index, k),
            "word": _word(clip, index, k),
        }
        told.append({name: value for name, value in found.items() if value is not None})
    return told


def _score(values: Optional[np.ndarray], index: int, category: int) -> Optional[float]:
    return None if values is None else rounded(values[index, category], 3)


def _word(clip: Clip, index: int, category: int) -> Optional[str]:
    """Return the word that a sheet has for what became of an object on a frame."""
    if clip.gt is None or clip.pred is None or clip.scores is None:
        return None
    present = bool(clip.gt.areas[index, category] > 0)
    if clip.frames[index].mask_prompted:
        return None if present else "absent"
    predicted = bool(clip.pred.areas[index, category] > 0)
    overlaps = bool(clip.scores.intersections[index, category] > 0)
    fate = fate_of(present, predicted, overlaps)
    return "not prompted" if fate == "lost" and category in clip.not_prompted else fate


def _prompt(prompt: PromptData, clip: Clip, order: Sequence[int]) -> list[dict[str, Any]]:
    """Return a prompt's box, mask or clicks, in pixels of the frames that are stored."""
    known = prompt.obj_id in order
    whose = {"object": list(order).index(prompt.obj_id) if known else -1}
    if prompt.mask is not None and prompt.prompt_type == "mask":
        mask = as_bool(as_array(prompt.mask.detach().cpu()))
        return [{**whose, "kind": "mask", "round": 0, "mask": encode_mask(mask)}]
    if prompt.bbox is not None and prompt.prompt_type == "bbox":
        x0, y0, x1, y1 = prompt.bbox.tolist()
        box = [*_place(clip, x0, y0), *_place(clip, x1, y1)]
        return [] if None in box else [{**whose, "kind": "box", "round": 0, "box": box}]
    if prompt.points is None or prompt.labels is None:
        return []
    labels = prompt.labels.tolist()
    rounds = [0] * len(labels) if prompt.rounds is None else prompt.rounds.tolist()
    clicks = []
    for (x, y), label, round_number in zip(prompt.points.tolist(), labels, rounds, strict=True):
        at_x, at_y = _place(clip, x, y)
        if label != PADDING and at_x is not None and at_y is not None:
            place = {"x": at_x, "y": at_y, "positive": label == 1, "round": round_number}
            clicks.append({**whose, "kind": "click", **place})
    return clicks


def _place(clip: Clip, x: float, y: float) -> tuple[Optional[float], Optional[float]]:
    """Return a place in model pixels, whose first centre is 0, in those stored, where it is 0.5."""
    if not (math.isfinite(x) and math.isfinite(y)):
        return None, None
    (height, width), (h, w) = clip.model_size, clip.images.shape[1:3]
    return rounded((x + 0.5) * w / width, 2), rounded((y + 0.5) * h / height, 2)


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
