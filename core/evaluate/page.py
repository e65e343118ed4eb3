"""``evaluation.html``: numbers, sheets and films on one page; only the films lie beside it."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .protocols import ObjectScore

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px;
  padding: 0 1rem; color: #1d1d1f; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child, td:nth-child(3) { text-align: left }
img, video { max-width: 100%; border: 1px solid #ddd } h2 { margin-top: 2.2rem }
.numbers { font-size: 1.5rem } .muted { color: #666 }
"""


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
    parts = [_numbers(summary)]
    if "compare" in summary:
        parts.append(_comparison(out, summary["compare"]))
    parts += [_video(out, name) for name in worst]
    parts.append(_table(objects))
    title = html.escape(f"Evaluation of {Path(summary['weights']).name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{''.join(parts)}</html>\n"
    )


def _numbers(summary: Mapping[str, Any]) -> str:
    values = " &nbsp; ".join(
        f"{html.escape(name)} <b>{_text(summary[name])}</b>" for name in ("J&F", "J", "F")
    )
    notes = "".join(f"<li>{html.escape(note)}" for note in summary["notes"])
    failed = "".join(
        f"<li>{html.escape(name)} was left out: {html.escape(why)}"
        for name, why in summary["not_scored"].items()
    )
    return (
        f'<p class="numbers">{values}</p>'
        f"<p>{summary['objects']} objects in {summary['videos']} videos, prompted with"
        f" {html.escape(summary['prompt'])}; {html.escape(str(summary['weights']))}</p>"
        f'<p class="muted">{html.escape(summary["counts"])}</p><ul>{notes}{failed}</ul>'
    )


def _comparison(out: Path, compared: Mapping[str, Any]) -> str:
    return (
        f"<h2>Compared with {html.escape(compared['with'])}</h2><p>J&amp;F"
        f" {_text(compared['J&F'])} against {_text(compared['J&F_compared'])}:"
        f" {compared['better']} of {compared['objects']} objects are better,"
        f" {compared['worse']} are worse.</p>{_picture(out / 'sheets' / 'changes.png')}"
    )


def _video(out: Path, name: str) -> str:
    film = out / "films" / f"{name}.mp4"
    source = html.escape(film.relative_to(out).as_posix())
    shown = f'<p><video src="{source}" controls loop muted></video>' if film.is_file() else ""
    sheet = _picture(out / "sheets" / f"{name}.png")
    return f"<h2>{html.escape(name)}</h2>{shown}{sheet}"


def _picture(path: Path) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="" src="data:image/png;base64,{data}">'


def _table(objects: Mapping[str, Sequence[ObjectScore]]) -> str:
    rows = [
        f"<tr><td>{html.escape(video)}<td>{score.object_id}<td>{html.escape(score.name)}"
        f"<td>{'' if score.first is None else score.first}<td>{score.frames}<td>{_text(score.j)}"
        f"<td>{_text(score.f)}<td>{_text((score.j + score.f) / 2)}"
        for video, scores in objects.items()
        for score in scores
    ]
    head = "".join(
        f"<th>{name}"
        for name in ("video", "object", "name", "first frame", "frames", "J", "F", "J&amp;F")
    )
    return f"<h2>Objects</h2><table><tr>{head}{''.join(rows)}</table>"


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"
