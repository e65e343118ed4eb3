"""Where small objects lie: the part of the frame that panels show instead of all of it."""

import math
from collections.abc import Iterable, Iterator
from typing import Optional

import numpy as np

from .prompts import outline_on_frame, prompts_from_clicks
from .reduction import Choice, Clicks, Crop, Grid, Reduced, Window
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
_Centres = tuple[float, float, float, float]  # the same four, of the outer pixels' centres


def find_windows(choice: Choice, reduced: Reduced[np.ndarray]) -> dict[int, Window]:
    """Return the window of each chosen video that gets one, by its place among those chosen.

    Ground truth and initial prompts decide, so that a clip has the same window whatever is
    predicted.
    """
    windows = {}
    for slot, video in enumerate(choice.videos):
        size = choice.grids[slot].source
        extent = _extent(_boxes(choice, reduced, Rows.of(video, choice, reduced), slot), size)
        window = extent and place_window(extent, size, choice.panel_size, choice.originals[slot])
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
    needed = _share(extent, size)
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


def _share(extent: _Extent, size: tuple[int, int]) -> float:
    """Return which part of the frame's sides an extent takes with its margin."""
    left, top, right, bottom = extent
    return (1 + 2 * _MARGIN) * max((right - left) / size[1], (bottom - top) / size[0])


def _extent(boxes: Iterable[_Extent], size: tuple[int, int]) -> Optional[_Extent]:
    """Return the extent of all boxes; None: there is none, or it is too large for a window."""
    extent = None
    for box in boxes:
        if extent is None:
            extent = box
        else:
            left, top, right, bottom = extent
            extent = min(left, box[0]), min(top, box[1]), max(right, box[2]), max(bottom, box[3])
        if _share(extent, size) > _MAX_SHARE:
            # Most clips stop here: nothing more is looked at while training waits.
            return None
    return extent


def _boxes(
    choice: Choice, reduced: Reduced[np.ndarray], rows: Rows, slot: int
) -> Iterator[_Extent]:
    """Yield the boxes of a video's ground truth and initial prompts, of what is on the frame."""
    height, width = choice.grids[slot].source
    for t in choice.zoomed:
        crops = reduced.masks.gt[choice.frames.index(t)]
        yield from _of_crops(crops[row] for row in rows.kept.tolist())
        masks = reduced.mask_prompts.get(t, [])
        assigned, _ = assign_prompts(len(masks), rows, reduced)
        yield from _of_crops(masks[index] for index, _ in assigned)
        for box in _of_points(t, rows, reduced):
            if outline_on_frame(box, (height, width)):
                left, top, right, bottom = box
                yield max(left, 0), max(top, 0), min(right + 1, width), min(bottom + 1, height)


def _of_crops(crops: Iterable[Crop]) -> Iterator[_Extent]:
    for crop in crops:
        if crop.columns.stop > crop.columns.start:
            yield crop.columns.start, crop.rows.start, crop.columns.stop, crop.rows.stop


def _of_points(t: int, rows: Rows, reduced: Reduced[np.ndarray]) -> Iterator[_Centres]:
    """Yield each row's initial clicks and boxes."""
    for clicks in clicks_of(t, reduced):
        for index, _ in assign_prompts(len(clicks.coords), rows, reduced)[0]:
            yield from _of_row(clicks, index)
    boxes = reduced.boxes.get(t, np.zeros((0, 4)))
    for index, _ in assign_prompts(len(boxes), rows, reduced)[0]:
        corners = boxes[index].reshape(2, 2)
        yield _around(corners)


def _of_row(clicks: Clicks[np.ndarray], index: int) -> Iterator[_Centres]:
    labels, coords = clicks.labels[index], clicks.coords[index]
    for prompt in prompts_from_clicks(coords, labels, clicks.num_initial, 0):
        if prompt.bbox is not None:
            yield _around(prompt.bbox.numpy().reshape(2, 2))
        elif prompt.points is not None and prompt.rounds is not None:
            for place in prompt.points[prompt.rounds == 0].numpy():
                yield _around(place[None])


def _around(points: np.ndarray) -> _Centres:
    """Return left, top, right, bottom of points (x, y), [N, 2]."""
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom
