"""The sheet of paper: words, and markers by matplotlib's Agg renderer, over pixels put beneath.

pyplot is never imported: its figures are global, they leak and belong to the main thread.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Optional, Union

import cv2
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Bbox, TransformedPath

from ..palette import NEUTRAL, Color
from ..prompts import NEGATIVE, POSITIVE, PromptData
from .paint import convert_colors, pack, stripes
from .text import LINE, advance, fit, pixels_of_word, text_width, words

MARGIN = 10
FAINT = (105, 105, 105)
_INK, _PAPER = (25, 25, 25), (255, 255, 255)

# A sample (a colour, "positive", "negative", "bbox", "mask" or None) and the text behind it.
Mark = Union[str, Color]
Entry = tuple[Optional[Mark], str]


@lru_cache(maxsize=256)
def _swatch(mark: Mark) -> np.ndarray:
    """Return a legend's sample of a colour, or of a mask prompt: [12, 12] packed."""
    color = NEUTRAL if isinstance(mark, str) else mark
    swatch = np.full((12, 12, 3), color, np.uint8)
    if mark == "mask":
        swatch[~stripes((12, 12))] = _PAPER
    swatch[[0, -1]] = swatch[:, [0, -1]] = [channel * 2 // 3 for channel in color]
    return pack(swatch)


def entry_width(entry: Entry) -> int:
    """Return the width of a sample, its text and the space behind them."""
    mark, text = entry
    return (0 if mark is None else 18) + text_width(text) + 16


class Canvas:
    """A white sheet: pixels go into the renderer's own buffer, markers are drawn over them."""

    def __init__(self, width: int, height: int) -> None:
        self._renderer = RendererAgg(width, height, 72)
        self._buffer = np.asarray(self._renderer.buffer_rgba())
        self._packed = self._buffer.view(np.uint32)[..., 0]
        self._buffer[:] = 255
        self._height = height

    def pixels(self) -> np.ndarray:
        """Return the sheet: [h, w, 3] uint8 of its own memory."""
        return convert_colors(self._buffer, cv2.COLOR_RGBA2RGB, 3)

    def paste(self, x: int, y: int, pixels: np.ndarray) -> None:
        """Put packed pixels [h, w] at (x, y)."""
        self._packed[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels

    def lines(
        self,
        y: int,
        lines: Sequence[Sequence[Entry]],
        left: int = MARGIN,
        width: Optional[int] = None,
    ) -> int:
        """Write lines of entries from y downwards and return the y below them.

        Args:
            y: Where they begin.
            lines: Of each its entries.
            left: Where a line begins.
            width: How long a line may be; None: to the sheet's margin.
        """
        right = self._buffer.shape[1] - MARGIN if width is None else left + width
        pieces = []
        for line in lines:
            x = left
            for mark, text in line:
                if mark is not None:
                    self._mark(x, y, mark)
                    x += 18
                fitting = fit(text, right - x)
                pieces.append((x, y, fitting))
                x += text_width(fitting) + 16
            y += LINE
        self.write(pieces)
        return y

    def write(
        self,
        pieces: Sequence[tuple[int, int, str]],
        color: Sequence[int] = _INK,
        columns: Optional[slice] = None,
    ) -> None:
        """Write texts, each (x, y, text) on one line from there on, inside `columns` alone.

        All at once: blending costs per call more than per pixel.
        """
        parts = []
        for x, y, text in pieces:
            pen = float(x)
            for word in words(text):
                ys, xs, ink = pixels_of_word(word)
                parts.append((ys + y, xs + round(pen), ink))
                pen += advance(word)
        if not parts:
            return
        ys, xs, ink = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        height, width = self._packed.shape
        first, end, _ = (columns or slice(None)).indices(width)
        inside = (ys >= 0) & (ys < height) & (xs >= first) & (xs < end)
        pixels, ink = (ys * width + xs)[inside], ink[inside]
        sheet = self._packed.reshape(-1)
        paper = sheet[pixels].view(np.uint8).reshape(-1, 4)
        mixed = (paper * (255 - ink) + ink * np.array([*color, 255], np.uint16) + 127) // 255
        sheet[pixels] = mixed.astype(np.uint8).view(np.uint32)[:, 0]

    def curve(
        self,
        points: Sequence[tuple[float, float]],
        color: Color,
        dashes: Optional[tuple[float, float]] = None,
    ) -> None:
        """Draw a line through points (x, y); one point is a short line."""
        if points:
            (x, y), *_ = points
            shown = [(x - 6, y), (x + 6, y)] if len(points) == 1 else points
            self._path(Path(shown), (0, 0, 1), _Pen(color, 2, dashes=dashes), None)

    def area(self, corners: Sequence[tuple[float, float]], color: Color) -> None:
        """Fill what lies between corners (x, y)."""
        outline = Path([*corners, corners[0]], closed=True)
        self._path(outline, (0, 0, 1), _Pen(fill=color), None)

    def _mark(self, x: int, y: int, mark: Mark) -> None:
        """Draw a legend sample in the 12 x 12 pixels before its text."""
        if mark in ("positive", "negative"):
            self._click(x + 6, y + 9, POSITIVE if mark == "positive" else NEGATIVE, NEUTRAL)
        elif mark == "bbox":
            self._box((x + 0.5, y + 3.5, x + 11.5, y + 14.5), NEUTRAL)
        else:
            self.paste(x, y + 3, _swatch(mark))

    def prompts(
        self,
        prompts: Sequence[PromptData],
        colors: Sequence[Color],
        x: int,
        y: int,
        size: tuple[int, int],
        scale: tuple[float, float],
        newest: Optional[int] = None,
    ) -> None:
        """Draw boxes, then clicks, each in its colour, on the panel at (x, y).

        The centre of pixel i is at i + 0.5. Clicks have the numbers of their rounds; with `newest`,
        the round that the panel is about, those of earlier ones are small and there are no numbers.
        Objects with the same box have its dashes in turn, those clicked at the same place have a
        sector of the marker each, clockwise from below.
        """
        panel = _Panel(x, y, *size, scale)
        coloured = list(zip(prompts, colors, strict=True))
        boxes = [mark for prompt, color in coloured for mark in _box_of(prompt, color, panel)]
        for box, turn in zip(boxes, _turns(boxes), strict=True):
            self._box(box.place, box.color, panel, turn)
        clicks = [mark for prompt, color in coloured for mark in _clicks_of(prompt, color, panel)]
        rounds: dict[tuple[float, ...], dict[int, list[int]]] = {}
        for click, turn in zip(clicks, _turns(clicks), strict=True):
            (at_x, at_y), is_earlier = click.place, newest is not None and click.number < newest
            draw = self._dot if is_earlier else self._click
            draw(at_x, at_y, click.label, click.color, panel, turn)
            rounds.setdefault(click.place, {}).setdefault(click.owner, []).append(click.number)
        for (at_x, at_y), told in rounds.items() if newest is None else ():
            if panel.holds(at_x, at_y):
                self._number(_rounds_in_words(told.values()), at_x, at_y, panel)

    def _number(self, text: str, at_x: float, at_y: float, panel: "_Panel") -> None:
        if not text:
            return
        width = text_width(text)
        left = round(at_x + 8)
        if left + width + 1 > panel.x + panel.width:
            left = round(at_x - 8 - width)
        left = min(max(left, panel.x + 1), panel.x + panel.width - width - 1)
        top = round(min(max(at_y - LINE // 2, panel.y), panel.y + panel.height - LINE))
        columns = slice(panel.x, panel.x + panel.width)
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            self.write([(left + dx, top + dy, text)], _INK, columns)
        self.write([(left, top, text)], _PAPER, columns)

    def _click(
        self,
        x: float,
        y: float,
        label: int,
        color: Color,
        panel: Optional["_Panel"] = None,
        turn: Optional["_Turn"] = None,
    ) -> None:
        """Positive: a green disc with a plus; negative: a red diamond with a minus."""
        positive = label == POSITIVE
        shape, fill = _shape_of(label)
        radius = 6 if positive else 7.5
        self._path(shape, (x, y, radius + 1.5), _Pen(fill=_INK), panel, turn)
        self._path(shape, (x, y, radius + 0.5), _Pen(fill=color), panel, turn)
        self._path(shape, (x, y, radius - 1.5), _Pen(fill=fill), panel, turn)
        self._path(_PLUS if positive else _MINUS, (x, y, 3), _Pen(_PAPER, 1.5), panel, turn)

    def _dot(
        self, x: float, y: float, label: int, color: Color, panel: "_Panel", turn: "_Turn"
    ) -> None:
        """Draw a click that was there before: its shape alone, small."""
        shape, fill = _shape_of(label)
        for radius, paint in ((4.5, _INK), (3.5, color), (2, fill)):
            self._path(shape, (x, y, radius), _Pen(fill=paint), panel, turn)

    def _box(
        self,
        corners: tuple[float, ...],
        color: Color,
        panel: Optional["_Panel"] = None,
        turn: Optional["_Turn"] = None,
    ) -> None:
        x0, y0, x1, y1 = corners
        outline = Path([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], closed=True)
        if turn is None or turn.index == 0:
            self._path(outline, (0, 0, 1), _Pen(_INK, 3), panel)
        pen = _Pen(color, 1.5, dashes=(5, 3))
        if turn is not None and turn.count > 1:
            # However small the box is, each of its objects has a dash.
            step = min(8, 2 * (abs(x1 - x0) + abs(y1 - y0)) / turn.count)
            on, period = step * 5 / 8, step * turn.count
            pen = _Pen(color, 1.5, dashes=(on, period - on), dash_offset=period - turn.index * step)
        self._path(outline, (0, 0, 1), pen, panel)

    def _path(
        self,
        path: Path,
        place: tuple[float, float, float],
        pen: "_Pen",
        panel: Optional["_Panel"],
        turn: Optional["_Turn"] = None,
    ) -> None:
        """Draw a path moved to (x, y) and enlarged to a size, inside the panel, or a sector, alone.

        The sector is that of an object's `turn` around (x, y).
        """
        gc = self._renderer.new_gc()
        if panel is not None:
            bottom = self._height - panel.y - panel.height
            gc.set_clip_rectangle(Bbox.from_bounds(panel.x, bottom, panel.width, panel.height))
        gc.set_linewidth(pen.width)
        if pen.stroke is not None:
            gc.set_foreground(_unit(pen.stroke))
        if pen.dashes is not None:
            gc.set_dashes(pen.dash_offset, pen.dashes)
        gc.set_snap(False)
        flip = self._flip(*place)
        if turn is not None and turn.count > 1:
            sector = _sector(turn.index, turn.count)
            gc.set_clip_path(TransformedPath(sector, self._flip(*place[:2], 1)))
        self._renderer.draw_path(gc, path, flip, None if pen.fill is None else _unit(pen.fill))
        gc.restore()

    def _flip(self, x: float, y: float, size: float) -> Affine2D:
        """Return what moves to (x, y) and enlarges to a size; matplotlib counts y from below."""
        return Affine2D(
            np.array([(size, 0, x), (0, -size, self._height - y), (0, 0, 1)], np.float64)
        )


@dataclass(frozen=True)
class _Panel:
    """Where on the sheet the pixels of a frame are."""

    x: int
    y: int
    width: int
    height: int
    scale: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a pixel's centre."""
        return self.x + (x + 0.5) * self.scale[0], self.y + (y + 0.5) * self.scale[1]

    def holds(self, x: float, y: float) -> bool:
        return self.x <= x <= self.x + self.width and self.y <= y <= self.y + self.height


@dataclass(frozen=True)
class _Pen:
    """How a path is drawn: its line, if it has one, and what fills it."""

    stroke: Optional[Color] = None
    width: float = 0.0
    dashes: Optional[tuple[float, float]] = None
    dash_offset: float = 0.0
    fill: Optional[Color] = None


@dataclass(frozen=True)
class _Prompt:
    """A click or a box as it is drawn.

    Attributes:
        owner: Whose it is.
        color: The owner's.
        place: On the sheet: x, y, or x0, y0, x1, y1.
        label: Of a click.
        number: Of a click's correction round.
    """

    owner: int
    color: Color
    place: tuple[float, ...]
    label: int = POSITIVE
    number: int = 0


@dataclass(frozen=True)
class _Turn:
    """Which of the objects that have a prompt at the same place one is.

    Attributes:
        index: From 0, in the order in which they are drawn.
        count: How many objects there are.
    """

    index: int
    count: int


def _turns(prompts: Sequence[_Prompt]) -> list[_Turn]:
    """Return the turn of each prompt's object among those that the last of them would hide."""
    groups: list[list[_Prompt]] = []
    group_of = []
    for prompt in prompts:
        group = next((group for group in groups if _coincide(group[0], prompt)), None)
        if group is None:
            group = []
            groups.append(group)
        group.append(prompt)
        group_of.append(group)
    turns = []
    for prompt, group in zip(prompts, group_of, strict=True):
        owners = list(dict.fromkeys(item.owner for item in group))
        turns.append(_Turn(owners.index(prompt.owner), len(owners)))
    return turns


def _coincide(one: _Prompt, other: _Prompt) -> bool:
    return all(abs(a - b) <= _SAME_PLACE for a, b in zip(one.place, other.place, strict=True))


# So near to it, in pixels of the sheet, a prompt hides the colour of the one below.
_SAME_PLACE = 1

_DIAMOND = Path([(0, -1), (1, 0), (0, 1), (-1, 0), (0, -1)], closed=True)
_MINUS = Path([(-1, 0), (1, 0)])
_PLUS = Path([(-1, 0), (1, 0), (0, -1), (0, 1)], [Path.MOVETO, Path.LINETO] * 2)


def _shape_of(label: int) -> tuple[Path, Color]:
    """Return a click's outline, of size 1, and what fills it."""
    if label == POSITIVE:
        return Path.unit_circle(), (0, 140, 60)
    return _DIAMOND, (200, 0, 30)


@cache  # Agg takes a path at the address of the last one for the same
def _sector(index: int, count: int) -> Path:
    """Return one of several equal sectors, larger than any marker, clockwise from below."""
    angles = 2 * np.pi * (index + np.linspace(0, 1, 13)) / count
    rim = 20 * np.stack([-np.sin(angles), np.cos(angles)], 1)
    return Path(np.concatenate([[(0, 0)], rim, [(0, 0)]]), closed=True)


def _box_of(prompt: PromptData, color: Color, panel: _Panel) -> Iterator[_Prompt]:
    """Yield the box of a prompt that can be drawn."""
    box = prompt.bbox
    if prompt.prompt_type == "bbox" and box is not None and box.isfinite().all():
        x0, y0, x1, y1 = box.tolist()
        yield _Prompt(prompt.obj_id, color, (*panel.at(x0, y0), *panel.at(x1, y1)))


def _clicks_of(prompt: PromptData, color: Color, panel: _Panel) -> Iterator[_Prompt]:
    """Yield the clicks of a prompt that can be drawn."""
    if prompt.prompt_type != "point" or prompt.points is None or prompt.labels is None:
        return
    rounds = [0] * len(prompt.points) if prompt.rounds is None else prompt.rounds.tolist()
    for (x, y), label, number in zip(
        prompt.points.tolist(), prompt.labels.tolist(), rounds, strict=True
    ):
        if label in (POSITIVE, NEGATIVE) and math.isfinite(x + y):
            yield _Prompt(prompt.obj_id, color, panel.at(x, y), label, number)


def _rounds_in_words(of_objects: Iterable[Sequence[int]]) -> str:
    """Write the rounds of each object that was clicked at a place.

    Of an initial click, 0, nothing is written unless another object's round is.
    """
    texts = [_ranges([number for number in rounds if number]) for rounds in of_objects]
    return texts[0] if len(set(texts)) == 1 else "/".join(text or "0" for text in texts)


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers in order, neighbours as a range: 1–3,7."""
    texts = []
    ordered = sorted(set(numbers))
    # neighbours have the same distance to their position
    for _, run in itertools.groupby(enumerate(ordered), lambda item: item[1] - item[0]):
        first, *rest = [number for _, number in run]
        texts.append(f"{first}–{rest[-1]}" if rest else str(first))
    return ",".join(texts)


def _unit(color: Color) -> tuple[float, float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255, 1.0
