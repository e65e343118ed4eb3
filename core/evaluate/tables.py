"""``objects.csv``, ``frames.csv`` and ``summary.json``."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ..files import replace_whole
from .protocols import RULES, ObjectScore, average
from .scores import VideoScores

# By the names of the videos.
Objects = Mapping[str, Sequence[ObjectScore]]

_OBJECT_COLUMNS = (
    "video", "object", "name", "first_frame", "frames", "J", "F", "J&F",
    "J_recall", "F_recall", "J_decay", "F_decay",
)  # fmt: skip
_FRAME_COLUMNS = ("video", "frame", "object", "J", "F", "gt_pixels", "pred_pixels", "labelled")


def objects_csv(objects: Objects) -> str:
    """Return a table with a line for each object that a protocol counts."""
    rows = []
    for video, scores in objects.items():
        for score in scores:
            first = "" if score.first is None else score.first
            values = (score.j, score.f, (score.j + score.f) / 2, score.j_recall, score.f_recall)
            numbers = (*values, score.j_decay, score.f_decay)
            rows.append(
                [video, score.object_id, score.name, first, score.frames, *map(_number, numbers)]
            )
    return table(_OBJECT_COLUMNS, rows)


def frames_csv(videos: Mapping[str, VideoScores]) -> str:
    """Return a table with a line for each object and annotated frame."""
    rows = []
    for video, scores in videos.items():
        for a, number in enumerate(scores.numbers.tolist()):
            for o, key in enumerate(scores.object_ids.tolist()):
                pixels = (int(scores.gt_pixels[a, o]), int(scores.pred_pixels[a, o]))
                values = (_number(scores.j[a, o]), _number(scores.f[a, o]))
                rows.append([video, number, key, *values, *pixels, int(scores.labelled[a, o])])
    return table(_FRAME_COLUMNS, rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def means(protocol: str, objects: Objects, categories: bool) -> dict[str, Any]:
    """Return what a protocol says of all objects, as ``summary.json`` has it.

    Args:
        protocol: Its name.
        objects: What it counts.
        categories: Whether to average the objects of each category too.
    """
    scores = [score for found in objects.values() for score in found]
    result: dict[str, Any] = {
        "protocol": protocol,
        "counts": RULES[protocol],
        "videos": sum(bool(found) for found in objects.values()),
        "objects": len(scores),
        "frames_of_objects": sum(score.frames for score in scores),
        **_means(scores),
    }
    if protocol == "davis":
        for name in ("j_recall", "f_recall", "j_decay", "f_decay"):
            key = name[0].upper() + name[1:]
            value = average(scores, lambda score, name=name: getattr(score, name))  # type: ignore[misc]
            result[key] = _or_null(value)
    if categories:
        by_category = defaultdict(list)
        for score in scores:
            by_category[score.name or str(score.object_id)].append(score)
        result["categories"] = {name: _means(found) for name, found in by_category.items()}
    return result


def _means(scores: list[ObjectScore]) -> dict[str, Optional[float]]:
    j, f = average(scores, lambda score: score.j), average(scores, lambda score: score.f)
    values = {"J": j, "F": f, "J&F": (j + f) / 2}
    return {name: _or_null(value) for name, value in values.items()}


def _or_null(value: float) -> Optional[float]:
    return None if math.isnan(value) else value


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    replace_whole(path, text.encode())
