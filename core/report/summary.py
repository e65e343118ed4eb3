"""The numbers of a run's page: curves, the table of objects, settings, what the pictures cost."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Optional

from ..visualization import store
from ..visualization.cadence import TRAIN
from ..visualization.record import PROMPTS
from ..visualization.store import Folder, rounded
from .clips import ClipEvents
from .page import without_paths

_BLOCKED, _RENDER = "visualizations/blocked_ms", "visualizations/render_ms"
_DROPPED = "visualizations/dropped"
# A share of less time than this says nothing.
_MIN_SECONDS = 30
_SECRET = re.compile(r"key|token|password|secret", re.IGNORECASE)


def summarize(folder: Folder, clips: Sequence[ClipEvents], skipped: list[str]) -> dict[str, Any]:
    """Return what a page says of a run, but for its clips and notes.

    Args:
        folder: What it stored.
        clips: Of these.
        skipped: What cannot be read is added, in one sentence each.
    """
    run_dir = folder.path.parent
    curves = store.read_curves(folder.path)
    own = {name: curves.pop(name, None) for name in (_BLOCKED, _RENDER, _DROPPED)}
    validated = [clip for clip in clips if clip.kind not in (TRAIN, PROMPTS)]
    validations = {event.step for clip in validated for event in clip.files} | set(folder.tables)
    steps = [event.step for event in folder.events]
    steps += [curve["steps"][-1] for curve in curves.values()]
    starts = folder.starts
    return {
        "name": store.name_of_run(run_dir),
        "started": starts[0]["time"] if starts else None,
        "finished": store.read_end(folder.path),
        "step": max(steps, default=0),
        "settings": _settings(run_dir),
        "versions": starts[-1]["versions"] if starts else [],
        "cost": _cost(folder, clips, own),
        "baseline_step": min(validations, default=None),
        "curves": curves,
        "diagnoses": without_paths(store.read_diagnoses(folder.path)),
        "objects": without_paths(_objects(folder, validated, skipped)),
        "outcomes": without_paths(_outcomes(folder, validated, skipped)),
    }


def _settings(run_dir: Path) -> list[list[Optional[str]]]:
    """Return name, value and default of the settings that differ; none where nobody stored them."""
    try:
        stored = json.loads((run_dir / store.SETTINGS).read_text(encoding="utf-8"))
        return [without_paths(row) for row in stored if not _SECRET.search(row[0])]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _cost(
    folder: Folder, clips: Sequence[ClipEvents], curves: dict[str, Any]
) -> dict[str, Optional[float]]:
    values = {name: curve["values"] if curve else [] for name, curve in curves.items()}
    times = [header["time"] for clip in clips for header in clip.headers]
    share = None
    if folder.starts and times and curves[_BLOCKED]:
        last = folder.starts[-1]
        seconds = _seconds(last["time"], max(times))
        pairs = zip(curves[_BLOCKED]["steps"], curves[_BLOCKED]["values"], strict=True)
        blocked_s = sum(ms for step, ms in pairs if step >= last["step"]) / 1e3
        share = rounded(blocked_s / seconds, 5) if seconds >= _MIN_SECONDS else None
    return {
        "events": len({(event.start, event.step, event.stage) for event in folder.events}),
        "dropped": int(max(values[_DROPPED], default=0)),
        "blocked_ms_median": rounded(median(values[_BLOCKED] or [0]), 2),
        "blocked_share": share,
        "render_ms_median": rounded(median(values[_RENDER] or [0]), 2),
    }


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _objects(
    folder: Folder, clips: Sequence[ClipEvents], skipped: list[str]
) -> list[dict[str, Any]]:
    """Return all validated objects: those of the tables, or where there is none of the clips."""
    shown = _objects_of_clips(clips)
    if not folder.tables:
        return list(shown.values())
    steps = sorted(folder.tables)
    first, last = (_table(folder.tables[step], skipped) for step in (steps[0], steps[-1]))
    rows = []
    for key, (name, iou) in last.items():
        known = shown.get(key, {"first_bad_frame": None, "clip": None})
        before = first.get(key, (name, None))[1] if len(steps) > 1 else None
        rows.append(
            {
                "video": key[0],
                "object": key[1],
                "name": name,
                "baseline": before,
                "now": iou,
                "first_bad_frame": known["first_bad_frame"],
                "clip": known["clip"],
            }
        )
    return rows


def _outcomes(
    folder: Folder, clips: Sequence[ClipEvents], skipped: list[str]
) -> Optional[dict[str, Any]]:
    """Return what became of the objects of the last validation, with the clip that shows each."""
    if not folder.outcomes:
        return None
    step = max(folder.outcomes)
    path = folder.outcomes[step]
    try:
        found = store.read(path).content()
        shown = _objects_of_clips(clips)
        for strip in found["strips"]:
            known = shown.get((strip["video"], strip["object"]))
            strip["clip"] = known["clip"] if known else None
        return {**found, "step": step}
    except (store.NotABook, OSError, LookupError, TypeError) as error:
        told = str(error) if isinstance(error, store.NotABook) else f"{path.name} cannot be read"
        skipped.append(f"{told}: it is left out")
        return None


def _objects_of_clips(clips: Sequence[ClipEvents]) -> dict[tuple[str, str], dict[str, Any]]:
    rows = {}
    for clip in clips:
        first, last = clip.headers[0], clip.headers[-1]
        before = _summaries_by_id(first) if len(clip.headers) > 1 else {}
        for object_id, (name, summary) in _summaries_by_id(last).items():
            _, of_first = before.get(object_id, (name, {"iou": None}))
            rows[last["name"], object_id] = {
                "video": last["name"],
                "object": object_id,
                "name": name,
                "baseline": of_first["iou"],
                "now": summary["iou"],
                "first_bad_frame": summary["first_bad_frame"],
                "clip": clip.shown_as,
            }
    return rows


def _summaries_by_id(
    header: Mapping[str, Any],
) -> dict[str, tuple[Optional[str], dict[str, Optional[float]]]]:
    """Return name and summary of each object of an event's clip.

    A resumed run may have another number of categories. Those that are empty have no id of their
    own: they come behind the object that has theirs.
    """
    found: dict[str, tuple[Optional[str], dict[str, Optional[float]]]] = {}
    for what, summary in zip(header["objects"], header["summaries"], strict=True):
        found.setdefault(what["id"], (what["name"], summary))
    return found


def _table(
    path: Path, skipped: list[str]
) -> dict[tuple[str, str], tuple[Optional[str], Optional[float]]]:
    """Return name and J of each (video, object) of a table, in its order."""
    rows = {}
    try:
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            iou = rounded(float(row["J"])) if row["J"] else None
            rows[row["video"], row["object"]] = (row["name"] or None, iou)
    except (OSError, ValueError, KeyError, TypeError):
        skipped.append(f"{path.name} cannot be read: the table of objects is not complete")
    return rows
