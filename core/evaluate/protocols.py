"""Which frames and objects the public evaluations count, and how they average.

All take the same J and F per frame; they differ in what they leave out. Sources:
davis2017-evaluation (semi-supervised), vos-benchmark and Meta's sav_benchmark, lvos-evaluation.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

import numpy as np

from .scores import VideoScores

_LVOS_STEP = 5
# PNGs have no higher ids; those beyond it are of 16 bits or of colours, and have gaps.
_HIGHEST_ID = 255
# How images are counted, which no video protocol does.
IMAGES = "images"

RULES = {
    "davis": (
        "DAVIS 2017, semi-supervised: annotated frames without the first and the last; of PNGs with"
        " object ids every id from 1 to the highest on the first frame (an id that no frame has"
        " scores 1), of other data the objects of the first frame; frames before and after an"
        " object is there count 1 when nothing is predicted and 0 otherwise; flat mean over objects"
    ),
    "sav": (
        "SA-V (sav_benchmark, vos-benchmark): annotated frames without the first and the last, with"
        " one folder per object without that object's own first and last; every object that is"
        " there on one of these frames, from the frame on which it is first annotated or predicted;"
        " flat mean over objects"
    ),
    "lvos": (
        "LVOS: every fifth frame from an object's first to its last, without the first and the last"
        " of these; the mean over objects is flat here: LVOS averages seen and unseen categories"
        " apart, which other data does not tell"
    ),
    IMAGES: (
        "images (videos of one frame): each object once, after its prompt and its correction"
        " clicks, as in validation; flat mean over objects"
    ),
}


@dataclass(frozen=True)
class ObjectScore:
    """One object under one protocol.

    Attributes:
        object_id: The object.
        name: What it is called, empty where objects have no names.
        first: Number of the frame on which it was prompted; None: it never was.
        frames: How many frames count.
        j: Mean over these frames.
        f: The same.
        j_recall: Share of these frames with J > 0.5.
        f_recall: The same of F.
        j_decay: Mean of the first quarter of these frames without that of the last.
        f_decay: The same of F.
    """

    object_id: int
    name: str
    first: Optional[int]
    frames: int
    j: float
    f: float
    j_recall: float
    f_recall: float
    j_decay: float
    f_decay: float


def score_objects(
    protocol: str,
    scores: VideoScores,
    palette: bool,
    ranges: Optional[Mapping[int, tuple[int, int]]] = None,
) -> list[ObjectScore]:
    """Return the objects of a video that a protocol counts.

    Args:
        protocol: ``davis``, ``sav`` or ``lvos``, or ``images``, which counts images alone.
        scores: What was measured.
        palette: Whether the annotations are PNGs whose values are object ids.
        ranges: LVOS's first and last frame number of each object; None: as annotated.
    """
    if scores.image or protocol == IMAGES:
        columns = range(len(scores.object_ids)) if scores.image and protocol == IMAGES else ()
        return [_score(scores, column, np.arange(1)) for column in columns]
    if protocol == "davis":
        return list(_davis(scores, palette))
    if protocol == "sav":
        return list(_sav(scores))
    return list(_lvos(scores, ranges or {}))


def _davis(scores: VideoScores, palette: bool) -> Iterator[ObjectScore]:
    inner = np.arange(len(scores.numbers))[1:-1]
    if not len(inner):
        return
    ids = scores.object_ids.tolist()
    on_first = [key for key, pixels in zip(ids, scores.gt_pixels[0], strict=True) if pixels]
    highest = max(on_first, default=0)
    counted = range(1, highest + 1) if palette and highest <= _HIGHEST_ID else on_first
    for key in counted:
        if key in ids:
            yield _score(scores, ids.index(key), inner)
        else:
            yield ObjectScore(key, "", None, len(inner), 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


def _sav(scores: VideoScores) -> Iterator[ObjectScore]:
    for column in range(len(scores.object_ids)):
        # Where one PNG holds all objects, a frame without an object says that it is not there.
        inner = np.flatnonzero(scores.labelled[:, column])[1:-1]
        seen = (scores.gt_pixels[inner, column] > 0) | (scores.pred_pixels[inner, column] > 0)
        if (scores.gt_pixels[inner, column] > 0).any():
            yield _score(scores, column, inner[int(seen.argmax()) :])


def _lvos(scores: VideoScores, ranges: Mapping[int, tuple[int, int]]) -> Iterator[ObjectScore]:
    for column, key in enumerate(scores.object_ids.tolist()):
        there = scores.numbers[scores.gt_pixels[:, column] > 0]
        if key not in ranges and not len(there):
            continue
        start, end = ranges.get(key) or (int(there[0]), int(there[-1]))
        wanted = range(start, end + 1, _LVOS_STEP)[1:-1]
        inner = np.flatnonzero(np.isin(scores.numbers, wanted))
        if len(inner):
            yield _score(scores, column, inner)


def _score(scores: VideoScores, column: int, rows: np.ndarray) -> ObjectScore:
    j, f = scores.j[rows, column], scores.f[rows, column]
    return ObjectScore(
        object_id=int(scores.object_ids[column]),
        name=str(scores.names[column]),
        first=int(scores.first[column]),
        frames=len(rows),
        j=float(j.mean()),
        f=float(f.mean()),
        j_recall=float((j > 0.5).mean()),
        f_recall=float((f > 0.5).mean()),
        j_decay=_decay(j),
        f_decay=_decay(f),
    )


def _decay(values: np.ndarray) -> float:
    """Return DAVIS's decay; its own code counts frames in 8 bits and fails beyond 256 of them."""
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = (values[edges[k] : edges[k + 1] + 1] for k in (0, 3))
    return float(first.mean() - last.mean())


def average(objects: list[ObjectScore], value: Callable[[ObjectScore], float]) -> float:
    """Return the flat mean over objects, NaN without any."""
    return float(np.mean([value(score) for score in objects])) if objects else float("nan")
