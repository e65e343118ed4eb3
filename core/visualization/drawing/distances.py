"""IoU against frames since the last prompt: what memory keeps, now and before training."""

from collections.abc import Callable, Sequence

import numpy as np

from ...metrics.outcomes import AtDistance, Findings
from .canvas import FAINT, MARGIN, Canvas, Entry
from .text import LINE, text_width

_NOW, _BAND = (0, 90, 150), (198, 220, 238)
_BEFORE, _COPIED = (213, 94, 0), (110, 110, 110)
_GRID = (228, 228, 228)

_WIDTH, _PLOT_HEIGHT = 780, 300
_LEFT = MARGIN + 40
_MAX_LABELS = 12


def render_distances(findings: Findings, when: str) -> np.ndarray:
    """Draw the median of IoU by frames since the last prompt, and its quartiles as a band.

    The first validation of the run and what copying scores are lines beside it.

    Args:
        findings: Of one validation.
        when: The header's first words.

    Returns:
        [h, w, 3] uint8, contiguous.
    """
    now = findings.by_distance
    head = _head(findings, when)
    top = MARGIN + len(head) * LINE + MARGIN
    canvas = Canvas(_WIDTH, top + _PLOT_HEIGHT + 2 * LINE + MARGIN)
    canvas.lines(MARGIN, head)
    if not now:
        canvas.write([(_LEFT, top, "No object was tracked on a frame without a prompt.")], FAINT)
        return canvas.pixels()
    place = _place(max(point.distance for point in now), top)
    _draw_axes(canvas, place, max(point.distance for point in now))
    # A single distance is as wide as its marker.
    edges = [(-6, now[0]), *((0, point) for point in now), (6, now[-1])]
    corners = [(dx, point.distance, point.upper) for dx, point in edges]
    corners += [(dx, point.distance, point.lower) for dx, point in reversed(edges)]
    outline = [(place(distance, iou), dx) for dx, distance, iou in corners]
    canvas.area([(x + dx, y) for (x, y), dx in outline], _BAND)
    for curve, color, dashes in (
        (findings.copied, _COPIED, (2, 3)),
        (findings.before or [], _BEFORE, (7, 4)),
        (now, _NOW, None),
    ):
        canvas.curve([place(point.distance, point.median) for point in curve], color, dashes)
    return canvas.pixels()


def _head(findings: Findings, when: str) -> list[list[Entry]]:
    lines: list[list[Entry]] = [[(None, f"{when} · IoU by frames since the last prompt")]]
    words = f"median now{_ends(findings.by_distance)}"
    lines.append([(_NOW, words), (_BAND, "the middle half of the objects")])
    beside: list[Entry] = []
    if findings.before is not None:
        beside.append((_BEFORE, f"dashed, first validation{_ends(findings.before)}"))
    if findings.copied:
        beside.append((_COPIED, f"dotted, the prompt's mask left in place{_ends(findings.copied)}"))
    if beside:
        lines.append(beside)
    return lines


def _ends(curve: Sequence[AtDistance]) -> str:
    if not curve:
        return ""
    tracked = [point for point in curve if point.distance > 0]
    first, last = f"{tracked[0].median:.2f}", f"{tracked[-1].median:.2f}"
    return f": {first} → {last}" if len(tracked) > 1 else f": {first}"


def _place(longest: int, top: int) -> Callable[[int, float], tuple[float, float]]:
    """Return what tells where a distance and an IoU are on the picture."""
    step = (_WIDTH - _LEFT - 3 * MARGIN) / longest

    def place(distance: int, iou: float) -> tuple[float, float]:
        return _LEFT + MARGIN + distance * step, top + (1 - iou) * _PLOT_HEIGHT

    return place


def _draw_axes(
    canvas: Canvas, place: Callable[[int, float], tuple[float, float]], longest: int
) -> None:
    right = _WIDTH - MARGIN
    labels = []
    for iou in (0, 0.25, 0.5, 0.75, 1):
        y = place(0, iou)[1]
        canvas.curve([(_LEFT, y), (right, y)], _GRID)
        labels.append((MARGIN, round(y) - LINE // 2, f"{iou:g}"))
    bottom = round(place(0, 0)[1])
    for distance in range(0, longest + 1, -(-longest // _MAX_LABELS)):
        text = str(distance)
        labels.append((round(place(distance, 0)[0]) - text_width(text) // 2, bottom + 4, text))
    labels.append((_LEFT, bottom + 4 + LINE, "frames since the last prompt (0: the one with it)"))
    canvas.write(labels, FAINT)
