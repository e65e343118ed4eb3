"""Which panel pixels a mask covers: nothing that is in a mask is invisible on the panel.

A panel pixel is drawn where the mask covers at least half of its area. Parts too thin to cover half
of any pixel are drawn wherever they reach: they are what a morphological opening removes. Pixels
that the mask reaches are drawn as well where that keeps connected what is connected.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

# The eight neighbours of a pixel, (row, column), in order around it.
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
# No two pixels of one of these classes (row, column modulo 2) are neighbours.
_CLASSES = tuple(itertools.product((0, 1), repeat=2))


@dataclass(frozen=True)
class Axis:
    """How N source pixels are reduced to n panel pixels, n <= N."""

    source: int
    panel: int

    @property
    def keeps_size(self) -> bool:
        """Whether nothing is reduced."""
        return self.source == self.panel

    @property
    def opening(self) -> int:
        """Length of the opening's square along this axis, in source pixels.

        Wherever a square of sqrt(2) panel pixels lies, it covers half of one of them.
        """
        if self.keeps_size:
            return 1
        return math.ceil(math.sqrt(2) * self.source / self.panel)

    def reached(self, start: int, stop: int) -> slice:
        """Return the panel pixels that the source pixels from start to stop reach."""
        return slice(start * self.panel // self.source, -(-stop * self.panel // self.source))

    def span(self, panel: slice) -> slice:
        """Return the source pixels that reach some of the panel pixels."""
        return slice(
            panel.start * self.source // self.panel, -(-panel.stop * self.source // self.panel)
        )

    def edges(self, panel: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return where the panel pixels' edges lie in their span: whole pixels, n-ths of one."""
        edges = np.arange(panel.start, panel.stop + 1) * self.source
        whole = edges // self.panel
        return whole - whole[0], edges % self.panel


def cover_array(mask: np.ndarray, rows: Axis, columns: Axis, out: np.ndarray) -> None:
    """Reduce one mask.

    Args:
        mask: [H, W] bool.
        rows: H -> h.
        columns: W -> w.
        out: [h, w] bool, written.
    """
    if rows.keeps_size and columns.keeps_size:
        out[:] = mask
        return
    out[:] = False
    pixels = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    if not width:
        return
    ys, xs = rows.reached(top, top + height), columns.reached(left, left + width)
    box = pixels[rows.span(ys), columns.span(xs)]
    reached, drawn = _coverage(box, rows, columns, ys, xs)
    thin = cv2.bitwise_xor(box, _open(box, rows.opening, columns.opening))
    if cv2.hasNonZero(thin):
        drawn |= _coverage(thin, rows, columns, ys, xs)[0]
    _drop(reached, drawn, (ys.start, xs.start))
    out[ys, xs] = reached


def _coverage(
    mask: np.ndarray, rows: Axis, columns: Axis, ys: slice, xs: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Return which panel pixels a mask reaches, and of which it covers at least half."""
    if rows.source % rows.panel == 0 and columns.source % columns.panel == 0:
        if rows.source * columns.source <= 255 * rows.panel * columns.panel:
            # Means of so few pixels are exact enough in a byte, and fast.
            size = (xs.stop - xs.start, ys.stop - ys.start)
            mean = cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_AREA)
            return mean > 0, mean > 127
    # Areas in units of which a panel pixel has H * W.
    area = cv2.integral(mask)
    for dim, axis, panel in ((0, rows, ys), (1, columns, xs)):
        whole, rest = axis.edges(panel)
        before = area.take(whole, dim).astype(np.int64)
        after = area.take(np.minimum(whole + 1, area.shape[dim] - 1), dim)
        part = (after - before) * (rest[:, None] if dim == 0 else rest)
        area = np.diff(before * axis.panel + part, axis=dim)
    return area > 0, area * 2 >= rows.source * columns.source


def _open(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keep what rectangles inside the mask cover; outside the frame there is no mask."""
    square = np.ones((height, width), np.uint8)
    border = cv2.BORDER_CONSTANT
    # OpenCV does not mirror the rectangle for dilating, which shifts it where a side is even.
    kept = cv2.erode(mask, square, anchor=(0, 0), borderType=border, borderValue=0)
    mirrored = (width - 1, height - 1)
    return cv2.dilate(kept, square, anchor=mirrored, borderType=border, borderValue=0)


def _drop(reached: np.ndarray, drawn: np.ndarray, origin: tuple[int, int]) -> None:
    """Take away the pixels that are not to be drawn and that connect nothing."""
    places = np.flatnonzero(reached > drawn)
    if not len(places):
        return
    width = reached.shape[1] + 2
    padded = np.zeros((reached.shape[0] + 2, width), bool)
    padded[1:-1, 1:-1] = reached
    flat = padded.reshape(-1)
    ys, xs = np.divmod(places, reached.shape[1])
    places = (ys + 1) * width + xs + 1
    classes = (ys + origin[0]) % 2 * 2 + (xs + origin[1]) % 2
    for number in range(4):
        of_class = places[classes == number]
        around = np.packbits(flat[of_class[:, None] + [y * width + x for y, x in _AROUND]], axis=1)
        flat[of_class[_in_one_piece()[around[:, 0]]]] = False
    reached[:] = padded[1:-1, 1:-1]


@lru_cache(maxsize=1)
def _in_one_piece() -> np.ndarray:
    """Return for each of the 256 sets of neighbours whether they touch each other: [256] bool."""
    table = np.zeros(256, bool)
    for number in range(256):
        unseen = {place for bit, place in enumerate(_AROUND) if number << bit & 128}
        num_pieces = 0
        while unseen:
            num_pieces += 1
            piece = [unseen.pop()]
            while piece:
                y, x = piece.pop()
                near = {(v, u) for v, u in unseen if max(abs(v - y), abs(u - x)) == 1}
                unseen -= near
                piece += near
        table[number] = num_pieces == 1
    return table
