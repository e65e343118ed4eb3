"""Which panel pixels a mask covers: nothing that is in a mask is invisible on the panel.

A panel pixel is drawn where the mask covers at least half of its area. Parts too thin to cover half
of any pixel are drawn wherever they reach: they are what a morphological opening removes. Pixels
that the mask reaches are drawn as well where that keeps connected what is connected.

All of it is counted in whole numbers, so that the CPU and the device form give the same pixels.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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


def cover(masks: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Do what `cover_array` does with [N, H, W] bool on its device, without waiting: [N, h, w]."""
    if rows.keeps_size and columns.keeps_size:
        return masks.clone()
    if masks.numel() == 0:
        return masks.new_zeros((len(masks), rows.panel, columns.panel))
    area = _count_on_device(masks, rows, columns)
    thin = masks & ~_open_on_device(masks, rows.opening, columns.opening)
    drawn = (area * 2 >= rows.source * columns.source) | (_count_on_device(thin, rows, columns) > 0)
    return _drop_on_device(area > 0, drawn)


def _count_on_device(masks: Tensor, rows: Axis, columns: Axis) -> Tensor:
    sums = masks.to(torch.int32)
    for dim, axis in ((-2, rows), (-1, columns)):
        sums = F.pad(sums.cumsum(dim), (1, 0) if dim == -1 else (0, 0, 1, 0))
        edges = torch.arange(axis.panel + 1, device=masks.device) * axis.source
        index, rest = edges // axis.panel, edges % axis.panel
        before = sums.index_select(dim, index)
        after = sums.index_select(dim, (index + 1).clamp_max(axis.source))
        at_edges = before * axis.panel + (after - before) * (rest[:, None] if dim == -2 else rest)
        sums = at_edges.diff(dim=dim)
    return sums


def _open_on_device(masks: Tensor, height: int, width: int) -> Tensor:
    outside = F.pad((~masks).float(), (0, width - 1, 0, height - 1), value=1.0)
    eroded = 1 - F.max_pool2d(F.max_pool2d(outside, (height, 1), 1), (1, width), 1)
    kept = F.pad(eroded, (width - 1, 0, height - 1, 0))
    return F.max_pool2d(F.max_pool2d(kept, (height, 1), 1), (1, width), 1) > 0


def _drop_on_device(reached: Tensor, drawn: Tensor) -> Tensor:
    height, width = reached.shape[-2:]
    ys = torch.arange(height, device=reached.device)[:, None] % 2
    xs = torch.arange(width, device=reached.device) % 2
    for y, x in _CLASSES:
        padded = F.pad(reached, (1, 1, 1, 1))
        around = [padded[..., 1 + v : 1 + v + height, 1 + u : 1 + u + width] for v, u in _AROUND]
        may_go = ~drawn & (ys == y) & (xs == x)
        reached = reached & ~(may_go & _are_in_one_piece(around))
    return reached


def _are_in_one_piece(around: list[Tensor]) -> Tensor:
    """Do what the table of `_in_one_piece` does, which would have to be copied to the device.

    Yokoi's number counts the pieces, unless the four nearest neighbours are all there, which
    hold together all others.
    """
    nearest = [around[index] for index in (1, 3, 5, 7)]
    all_four = nearest[0] & nearest[1] & nearest[2] & nearest[3]
    pieces = torch.zeros_like(all_four, dtype=torch.int8)
    for index in (1, 3, 5, 7):
        after = around[(index + 1) % 8] | around[(index + 2) % 8]
        pieces += ~around[index] & after
    return (pieces == 1) | all_four
