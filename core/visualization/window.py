"""Where small objects lie: the part of the frame that panels show instead of all of it."""

import math
from collections.abc import Iterable, Iterator
from typing import Optional

import numpy as np

from .prompts import prompts_from_clicks
from .reduction import Choice, Clicks, Crop, Grid, KeptMasks, Reduced, Window
from .rows import Rows, assign_prompts, clicks_of

# Frames narrower than the first get no window, and no window is narrower than the second.
MIN_FRAME_WIDTH, _MIN_WIDTH = 160, 64
# What is to be seen has a margin on each side, as a part of its extent, and fits with it into this
# part of the frame's sides.
_MARGIN, _MAX_SHARE = 0.15, 0.4
# To fill the panels, a window may grow up to this part of the frame's sides.
_MAX_GROWN = 0.5

# left, top, right, bottom in model pixels: edges, not centres.
_Extent = tuple[float, float, float, float]


def find_windows(choice: Choice, reduced: Reduced[np.ndarray]) -> dict[int, Window]:
    """Return the window of each chosen video that gets one, by its place among those chosen.

    Ground truth and initial prompts decide, so that a clip has the same window whatever is
    predicted.
    """
    windows = {}
    for slot, video in enumerate(choice.videos):
        extent = _extent(_boxes(choice, reduced, Rows.of(video, choice, reduced), slot))
        window = extent and place_window(
            extent, choice.grids[slot].source, choice.panel_size, choice.originals[slot]
        )
        if window:
            windows[slot] = window
    return windows


def place_window(
    extent: _Extent,
    size: tuple[int, int],
    panel_size: int,
    original: Optional[tuple[int, int]] = None,
) -> Optional[Window]:
    """Return the window around what is to be seen; None: the frame or the extent has no room.

    Args:
        extent: left, top, right, bottom of what is to be seen, in pixels' edges.
        size: (H, W) of the frame.
        panel_size: Longest side that panels should have.
        original: (height, width) of the video, whose aspect panels have; None: the frame's own.
    """
    height, width = size
    left, top, right, bottom = extent
    needed = (1 + 2 * _MARGIN) * max((right - left) / width, (bottom - top) / height)
    if width < MIN_FRAME_WIDTH or needed > _MAX_SHARE:
        return None
    needed = max(needed, _MIN_WIDTH / width)
    # Panels are enlarged by whole numbers: of the two that are nearest, the one that fills them.
    longest = max(Grid.fit(height, width, max(size), original).size)
    factors = {max(1, math.floor(panel_size / (needed * longest)) + more) for more in (0, 1)}
    shares = {
        factor: min(max(panel_size / (factor * longest), needed), _MAX_GROWN) for factor in factors
    }
    factor = min(factors, key=lambda k: (abs(k * shares[k] * longest - panel_size), k))
    h, w = (max(math.ceil(needed * side), math.floor(shares[factor] * side)) for side in size)
    return Window(
        left=min(max(0, round((left + right - w) / 2)), width - w),
        top=min(max(0, round((top + bottom - h) / 2)), height - h),
        grid=Grid.fit(h, w, panel_size if factor == 1 else max(h, w), original),
        enlarge=factor,
    )


def _extent(boxes: Iterable[_Extent]) -> Optional[_Extent]:
    found = list(boxes)
    if not found:
        return None
    lefts, tops, rights, bottoms = zip(*found, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _boxes(
    choice: Choice, reduced: Reduced[np.ndarray], rows: Rows, slot: int
) -> Iterator[_Extent]:
    """Yield the boxes of a video's ground truth and initial prompts, of what is on the frame."""
    height, width = choice.grids[slot].source
    for t in choice.zoomed:
        if isinstance(reduced.masks, KeptMasks):
            crops = reduced.masks.gt[choice.frames.index(t)]
            yield from _of_crops(crops[row] for row in rows.kept.tolist())
        masks = reduced.mask_prompts.get(t, [])
        if isinstance(masks, list):
            assigned, _ = assign_prompts(len(masks), rows, reduced)
            yield from _of_crops(masks[index] for index, _ in assigned)
        for left, top, right, bottom in _of_points(t, rows, reduced):
            is_around = left < -0.5 and top < -0.5 and right > width + 0.5 and bottom > height + 0.5
            is_beside = left > width - 0.5 or top > height - 0.5 or right < 0.5 or bottom < 0.5
            # What cannot be drawn, or is not finite, decides nothing.
            if not is_around and not is_beside and math.isfinite(left + top + right + bottom):
                yield max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _of_crops(crops: Iterable[Crop]) -> Iterator[_Extent]:
    for crop in crops:
        if crop.columns.stop > crop.columns.start:
            yield crop.columns.start, crop.rows.start, crop.columns.stop, crop.rows.stop


def _of_points(t: int, rows: Rows, reduced: Reduced[np.ndarray]) -> Iterator[_Extent]:
    """Yield the boxes around each row's initial clicks and corners, and around box prompts."""
    for clicks in clicks_of(t, reduced):
        for index, _ in assign_prompts(len(clicks.coords), rows, reduced)[0]:
            yield from _of_row(clicks, index)
    boxes = reduced.boxes.get(t, np.zeros((0, 4)))
    for index, _ in assign_prompts(len(boxes), rows, reduced)[0]:
        corners = boxes[index].reshape(2, 2)
        yield _around(corners)


def _of_row(clicks: Clicks[np.ndarray], index: int) -> Iterator[_Extent]:
    labels, coords = clicks.labels[index], clicks.coords[index]
    for prompt in prompts_from_clicks(coords, labels, clicks.num_initial, 0):
        if prompt.bbox is not None:
            yield _around(prompt.bbox.numpy().reshape(2, 2))
        elif prompt.points is not None and prompt.rounds is not None:
            for place in prompt.points[prompt.rounds == 0].numpy():
                yield _around(place[None])


def _around(points: np.ndarray) -> _Extent:
    """Return the extent of pixels that have these (x, y) centres, [N, 2]."""
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right + 1, bottom + 1
