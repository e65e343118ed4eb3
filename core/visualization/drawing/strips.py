"""What became of each object of a validation: a strip per object, one cell per frame."""

from collections.abc import Sequence

import numpy as np

from ...metrics.outcomes import FAILURES, OUTCOMES, Strip, Track, shares
from ...words import counted
from ..clip import plain_text
from ..palette import Color
from .canvas import FAINT, MARGIN, Canvas, Entry
from .paint import pack
from .text import LINE, fit, text_width

MAX_STRIPS = 40
MAX_FRAMES = 48

# Small letters for what is no failure, capitals for failures: strips can be read in grey.
LETTERS = {
    "unscored": "u", "prompted": "p", "absent": "a", "held": "h", "returned": "r",
    "swapped": "S", "merged": "M", "lost": "L", "false_alarm": "F",
    "ragged": "G", "drifting": "D", "leaking": "K", "partial": "T",
}  # fmt: skip

# Families, in colours that stay apart in the usual forms of colour blindness (Okabe and Ito) and
# in lightness.
FAMILIES: tuple[tuple[str, Color, tuple[str, ...]], ...] = (
    ("tracked", (198, 228, 245), ("held", "returned", "absent")),
    ("not counted", (236, 236, 236), ("prompted", "unscored")),
    ("wrong object", (0, 90, 150), ("swapped", "merged")),
    ("gone or not there", (213, 94, 0), ("lost", "false_alarm")),
    ("wrong shape", (240, 228, 66), ("ragged", "drifting", "leaking", "partial")),
)
_COLORS = {name: color for _, color, names in FAMILIES for name in names}
_LIGHT, _INK = (255, 255, 255), (25, 25, 25)
DARK_CELLS = ("swapped", "merged")  # with light letters

_CELL = 20
_LABEL_WIDTH = 260
_MIN_WIDTH = 780


def render_strips(strips: Sequence[Strip], when: str) -> np.ndarray:
    """Draw a strip per scored object, those first that fail first.

    At most `MAX_STRIPS` objects and `MAX_FRAMES` frames are drawn; the others are told in words,
    and count in the shares.

    Args:
        strips: Of one validation.
        when: The header's first words.

    Returns:
        [h, w, 3] uint8, contiguous.
    """
    scored = in_order(strips)
    drawn, rest = scored[:MAX_STRIPS], scored[MAX_STRIPS:]
    longest = max((len(strip.track.outcomes) for strip in drawn), default=0)
    num_columns = min(longest, MAX_FRAMES)
    head = _head(when, scored, len(strips) - len(scored))
    tail = _tail(rest, longest)
    width = max(_MIN_WIDTH, 2 * MARGIN + _LABEL_WIDTH + num_columns * _CELL)
    num_lines = len(head) + 1 + len(tail)
    canvas = Canvas(width, 2 * MARGIN + num_lines * LINE + len(drawn) * _CELL + MARGIN)
    y = canvas.lines(MARGIN, head)
    _write_positions(canvas, y, num_columns)
    y += LINE
    _draw_rows(canvas, y, drawn)
    canvas.lines(y + len(drawn) * _CELL + MARGIN, tail)
    return canvas.pixels()


def in_order(strips: Sequence[Strip]) -> list[Strip]:
    """Return the scored objects, those first that fail first, of equals those that fail most."""
    return sorted((strip for strip in strips if strip.track.is_counted.any()), key=_urgency)


def _urgency(strip: Strip) -> tuple[float, int]:
    fails = strip.track.is_failure
    return (_first_failure(strip.track) if fails.any() else np.inf), -int(fails.sum())


def _first_failure(track: Track) -> int:
    return int(track.is_failure.argmax())


def _head(when: str, scored: Sequence[Strip], num_unscored: int) -> list[list[Entry]]:
    num_failing = sum(bool(strip.track.is_failure.any()) for strip in scored)
    found = shares([strip.track for strip in scored])
    failing = sum(found.get(name, 0) for name in FAILURES)
    lines: list[list[Entry]] = [
        [
            (
                None,
                f"{when} · {counted(len(scored), 'object', 'objects')}, {num_failing} with a "
                f"failure · failures on {failing:.1%} of the frames",
            )
        ],
        [(None, "One cell per frame; capital letters are failures. Who fails first comes first.")],
    ]
    if num_unscored:
        lines[-1].append((None, f"{counted(num_unscored, 'object is', 'objects are')} not scored."))
    for family, color, names in FAMILIES:
        entries: list[Entry] = [(color, f"{family}:")]
        for name in names:
            share = f" {found[name]:.1%}" if name in found else ""
            entries.append((None, f"{LETTERS[name]} {name.replace('_', ' ')}{share}"))
        lines.append(entries)
    return lines


def _tail(rest: Sequence[Strip], num_frames: int) -> list[list[Entry]]:
    lines: list[list[Entry]] = []
    if num_frames > MAX_FRAMES:
        words = f"Frames from {MAX_FRAMES} on are not drawn; clips have up to {num_frames}."
        lines.append([(None, words)])
    if rest:
        firsts = [_first_failure(s.track) for s in rest if s.track.is_failure.any()]
        never = counted(len(rest) - len(firsts), "never fails", "never fail")
        later = f"{len(firsts)} fail first on frame {min(firsts)} or later, " if firsts else ""
        words = f"+ {counted(len(rest), 'more object', 'more objects')}: {later}{never}."
        lines.append([(None, words)])
    return lines


def _write_positions(canvas: Canvas, y: int, num_columns: int) -> None:
    pieces = [(MARGIN, y, "frame of the clip")]
    for column in range(0, num_columns, 5):
        text = str(column)
        pieces.append((_left(column) + (_CELL - text_width(text)) // 2, y, text))
    canvas.write(pieces, FAINT)


def _draw_rows(canvas: Canvas, top: int, strips: Sequence[Strip]) -> None:
    labels = []
    letters: dict[Color, list[tuple[int, int, str]]] = {_INK: [], _LIGHT: []}
    for row, strip in enumerate(strips):
        y = top + row * _CELL
        labels.append((MARGIN, y, _label(strip, _LABEL_WIDTH - 10)))
        for column, code in enumerate(strip.track.outcomes[:MAX_FRAMES]):
            name = OUTCOMES[code]
            cell = np.full((_CELL - 1, _CELL - 1, 3), _COLORS[name], np.uint8)
            canvas.paste(_left(column), y, pack(cell))
            letter = LETTERS[name]
            x = _left(column) + (_CELL - 1 - text_width(letter)) // 2
            letters[_LIGHT if name in DARK_CELLS else _INK].append((x, y, letter))
    canvas.write(labels)
    for color, pieces in letters.items():
        canvas.write(pieces, color)


def _left(column: int) -> int:
    return MARGIN + _LABEL_WIDTH + column * _CELL


def _label(strip: Strip, width: int) -> str:
    """Name an object and its video; a long name leaves the video its room, up to half of it."""
    name = f" {plain_text(strip.name)}" if strip.name else ""
    video = f" · {plain_text(strip.video)}"
    room = max(width - text_width(video), width // 2)
    return fit(fit(f"{strip.object_id}{name}", room) + video, width)
