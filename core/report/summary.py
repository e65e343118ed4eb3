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
from ..visualization.record import PROMPTS, VAL
from ..visualization.store import Folder, rounded
from .clips import ClipEvents
from .page import without_paths

_BLOCKED, _RENDER = "visualizations/blocked_ms", "visualizations/render_ms"
_DROPPED = "visualizations/dropped"
# A share of less time than this says nothing.
_MIN_SECONDS = 30
_NOTHING: dict[str, Optional[float]] = {"iou": None, "first_bad_frame": None}
_SECRET = re.compile(r"key|token|password|secret", re.IGNORECASE)


def summarize(folder: Folder, clips: Sequence[ClipEvents], skipped: list[str]) -> dict[str, Any]:
    """Return what a page says of a run, but for its name, clips and notes.

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
    baseline_step = min(validations, default=None)
    shown = _objects_of_clips(validated, baseline_step, _last_validations(folder, validated))
    steps = [event.step for event in folder.events]
    steps += [curve["steps"][-1] for curve in curves.values()]
    starts = folder.starts
    return {
        "started": starts[0]["time"] if starts else None,
        "finished": store.read_end(folder.path),
        "step": max(steps, default=0),
        "settings": _settings(run_dir),
        "versions": starts[-1]["versions"] if starts else [],
        "cost": _cost(folder, clips, own),
        "baseline_step": baseline_step,
        "curves": curves,
        "diagnoses": without_paths(store.read_diagnoses(folder.path)),
        "objects": without_paths(_objects(folder, shown, skipped)),
        "outcomes": without_paths(_outcomes(folder, shown, skipped)),
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


def _last_validations(folder: Folder, clips: Sequence[ClipEvents]) -> dict[str, int]:
    """Return the step of each stage's last validation, where there are tables that of the last."""
    last: dict[str, int] = {}
    for clip in clips:
        for header in clip.headers:
            last[header["stage"]] = max(header["step"], last.get(header["stage"], 0))
    return {**last, VAL: max(folder.tables)} if folder.tables else last


def _objects(
    folder: Folder, shown: Mapping[tuple[str, str], dict[str, Any]], skipped: list[str]
) -> list[dict[str, Any]]:
    """Return all validated objects: those of the tables, or where there is none of the clips."""
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
    folder: Folder, shown: Mapping[tuple[str, str], dict[str, Any]], skipped: list[str]
) -> Optional[dict[str, Any]]:
    """Return what became of the objects of the last validation, with the clip that shows each."""
    if not folder.outcomes:
        return None
    step = max(folder.outcomes)
    path = folder.outcomes[step]
    try:
        found = store.read(path).content()
        for strip in found["strips"]:
            known = shown.get((strip["video"], strip["object"]))
            strip["clip"] = known["clip"] if known else None
        return {**found, "step": step}
    except (store.NotABook, OSError, LookupError, TypeError) as error:
        told = str(error) if isinstance(error, store.NotABook) else f"{path.name} cannot be read"
        skipped.append(f"{told}: it is left out")
        return None


def _objects_of_clips(
    clips: Sequence[ClipEvents], baseline_step: Optional[int], last_steps: Mapping[str, int]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of clips by (video, object), as the first and last validation saw them.

    A clip that one of the two did not draw has no numbers of it, whatever others drew.

    Args:
        clips: Of validations.
        baseline_step: Of the first validation.
        last_steps: Of the last one, by stage.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for clip in clips:
        latest = clip.headers[-1]
        video, last_step = latest["name"], last_steps[latest["stage"]]
        at_step = {header["step"]: _summaries_by_id(header) for header in clip.headers}
        before = {} if baseline_step == last_step else at_step.get(baseline_step, {})
        now = at_step.get(last_step, {})
        for object_id, (name, _) in _summaries_by_id(latest).items():
            if not now and (video, object_id) in rows:
                continue  # of two clips of one video the one that is still drawn tells more
            _, of_first = before.get(object_id, (name, _NOTHING))
            _, of_last = now.get(object_id, (name, _NOTHING))
            rows[video, object_id] = {
                "video": video,
                "object": object_id,
                "name": name,
                "baseline": of_first["iou"],
                "now": of_last["iou"],
                "first_bad_frame": of_last["first_bad_frame"],
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
