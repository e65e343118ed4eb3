"""``evaluation.html``: numbers, sheets and films on one page; only the films lie beside it."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

from ...files import as_json
from ...report.page import page_around_own
from ...words import counted
from ..protocols import ObjectScore


def build_page(
    out: Path,
    summary: Mapping[str, Any],
    objects: Mapping[str, Sequence[ObjectScore]],
    worst: Sequence[str],
) -> str:
    """Return the page.

    Args:
        out: The folder of the results: sheets are taken into the page, films are linked.
        summary: What ``summary.json`` holds.
        objects: What the first protocol counts, by video.
        worst: The videos that have sheets, the worst first.
    """
    content = {
        "title": f"Evaluation of {Path(summary['weights']).name}",
        "subtitle": f"{counted(summary['objects'], 'object')} in"
        f" {counted(summary['videos'], 'video')}, prompted with {summary['prompt']};"
        f" {summary['weights']}",
        "numbers": [[name, summary[name]] for name in ("J&F", "J", "F")],
        "counts": summary["counts"],
        "notes": summary["notes"],
        "not_scored": summary["not_scored"],
        "compare": _comparison(out, summary["compare"]) if "compare" in summary else None,
        "videos": [_video(out, name) for name in worst],
        "objects": [_row(video, score) for video, scores in objects.items() for score in scores],
    }
    before, behind = page_around_own(
        Path(__file__).parent,
        "evaluation",
        "Evaluation",
        {"numbers": "Numbers", "videos": "Worst videos", "objects": "Objects"},
        media="'self' file:",
    )
    return before + as_json(content) + behind


def _comparison(out: Path, compared: Mapping[str, Any]) -> dict[str, Any]:
    return {**compared, "src": _picture(out / "sheets" / "changes.png")}


def _video(out: Path, name: str) -> dict[str, Optional[str]]:
    film = out / "films" / f"{name}.mp4"
    return {
        "name": name,
        "film": quote(film.relative_to(out).as_posix()) if film.is_file() else None,
        "src": _picture(out / "sheets" / f"{name}.png"),
    }


def _picture(path: Path) -> Optional[str]:
    if not path.is_file():
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _row(video: str, score: ObjectScore) -> list[Any]:
    scores = (None if math.isnan(each) else each for each in (score.j, score.f))
    return [video, score.object_id, score.name, score.first, score.frames, *scores]
