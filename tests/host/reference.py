"""The prompts on sheets, compared with `prompt_reference`: by pixels, words and notes.

Only the palette is shared with the code under test.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from prompt_reference import prompts_of

from core.visualization.palette import category_color

NEUTRAL, WHITE, INK = (205, 205, 205), 255, (25, 25, 25)
FILLS = {1: (0, 140, 60), 0: (200, 0, 30)}
REACH = 10  # of a marker, from its centre, in panel pixels
NUMBER_REACH = 40  # of the round's number beside it
EDGE = 3  # of a box's outline, from its edge


@dataclass
class Sheet:
    """What a sheet must show of one video's prompts, and what was found on it."""

    pixels: np.ndarray
    texts: list
    video: int
    images: list  # of each frame, [h, w, 3] uint8 as on the panel
    size: tuple  # (H, W) of the model's frames

    @property
    def notes(self):
        return [text for text in self.texts if text.startswith("note:")]

    def says_prompted(self, number):
        """Whether the sheet says of a frame that it was prompted."""
        labels = [text for text in self.texts if re.match(rf"frame {number}\b", text)]
        assert len(labels) == 1, f"frame {number} has the labels {labels}"
        return "prompted" in labels[0]


def check_sheet(sheet, outs, videos_of_rows, obj_to_cat=None, colors=None):
    """Every prompt is drawn in its place and colour or noted, and nothing else is drawn.

    Args:
        sheet: All frames of the clip are drawn; frame t is called ``frame t``.
        outs: The outputs of each frame.
        videos_of_rows: The video of each mask row.
        obj_to_cat: As given to the hook.
        colors: The colour of each mask row; None: that of its position in its video.
    """
    num_videos = max(videos_of_rows) + 1
    colors = colors or [
        category_color(videos_of_rows[:row].count(video))
        for row, video in enumerate(videos_of_rows)
    ]
    must_note = []
    for t, frame in enumerate(prompts_of(outs, len(videos_of_rows), obj_to_cat)):
        shown = []
        for prompt in frame.prompts:
            if prompt.row is None and num_videos > 1:
                must_note.append(f"frame {t}: {prompt} belongs to no known video")
            elif prompt.row is None or videos_of_rows[prompt.row] == sheet.video:
                if prompt.can_be_drawn(sheet.size):
                    shown.append(prompt)
                elif prompt.kind != "mask":  # an object that is not there has an empty mask
                    must_note.append(f"frame {t}: {prompt} cannot be drawn")
        if frame.incomplete:
            must_note.append(f"frame {t}: {frame.incomplete} corners of boxes have no counterpart")
        if not shown and frame.is_prompted and sheet.says_prompted(t):
            must_note.append(f"frame {t} is called prompted and has no prompt")
        check_panel(sheet, t, shown, colors)
    if must_note:
        assert any("prompt" in note for note in sheet.notes), f"not noted: {must_note}"


def check_panel(sheet, t, prompts, colors):
    image, panel = sheet.images[t], prompts_panel(sheet, t)
    scale = (image.shape[1] / sheet.size[1], image.shape[0] / sheet.size[0])
    changed = (panel != image).any(-1)
    allowed = np.zeros(changed.shape, bool)
    row_colors = {
        prompt: NEUTRAL if prompt.row is None else colors[prompt.row] for prompt in prompts
    }
    palette = {*row_colors.values(), *colors, NEUTRAL}
    masks = [prompt for prompt in prompts if prompt.kind == "mask"]
    for prompt in prompts:
        if prompt.kind != "mask":
            allowed |= neighbourhood(prompt, scale, changed.shape)
    check_masks(panel, masks, [row_colors[mask] for mask in masks], allowed, f"frame {t}")
    for mask in masks:
        allowed |= enlarged(reduced(mask.mask, panel), panel)
    assert not (changed & ~allowed).any(), f"frame {t}: something is drawn where no prompt is"
    for prompt in prompts:
        what = f"frame {t}: {prompt}"
        if prompt.kind == "click":
            check_click(panel, prompt, scale, row_colors[prompt], palette, what)
        elif prompt.kind == "box":
            check_box(panel, changed, prompt, scale, row_colors[prompt], palette, what)


def prompts_panel(sheet, t):
    """The third panel of frame t; its row is found by the frame's pixels in the first one."""
    x0, ys = find_frames(sheet.pixels, sheet.images)
    height, width_ = sheet.images[t].shape[:2]
    band = sheet.pixels[ys[t] : ys[t] + height]
    x1 = x0 + width_
    while (band[:, x1] == WHITE).all():
        x1 += 1
    left = x0 + 2 * (x1 - x0)
    return band[:, left : left + width_]


def find_frames(pixels, images):
    for x0 in range(40):
        ys, start = [], 0
        for image in images:
            strip = pixels[:, x0 : x0 + image.shape[1]]
            lines = np.flatnonzero((strip == image[0]).all((1, 2)))
            for y in lines[lines >= start].tolist():
                if np.array_equal(strip[y : y + len(image)], image):
                    ys.append(y)
                    start = y + len(image)
                    break
        if len(ys) == len(images):
            return x0, ys
    raise AssertionError("the frames are not in the sheet's first column, in order")


def place(xy, scale):
    """Where model pixels (x, y) lie on the panel; the centre of pixel 0 is at half a pixel."""
    return (xy[0] + 0.5) * scale[0], (xy[1] + 0.5) * scale[1]


def neighbourhood(prompt, scale, shape):
    ys, xs = np.mgrid[: shape[0], : shape[1]] + 0.5
    if prompt.kind == "click":
        x, y = place(prompt.xy, scale)
        near = (abs(xs - x) <= REACH) & (abs(ys - y) <= REACH)
        if prompt.round:
            near |= (abs(xs - x) <= NUMBER_REACH) & (abs(ys - y) <= 2 * REACH)
        return near
    (left, top), (right, bottom) = corners(prompt, scale)
    outer = (xs >= left - EDGE) & (xs <= right + EDGE) & (ys >= top - EDGE) & (ys <= bottom + EDGE)
    inner = (xs > left + EDGE) & (xs < right - EDGE) & (ys > top + EDGE) & (ys < bottom - EDGE)
    return outer & ~inner


def corners(prompt, scale):
    one, other = place(prompt.xy[:2], scale), place(prompt.xy[2:], scale)
    return tuple(map(min, one, other)), tuple(map(max, one, other))


def is_near(pixels, color, tolerance=12):
    return (abs(pixels.astype(int) - np.array(color)) <= tolerance).all(-1)


def check_click(panel, prompt, scale, color, palette, what):
    """The filling tells sign and place, the ring around it the owner."""
    x, y = place(prompt.xy, scale)
    ys, xs = np.mgrid[: panel.shape[0], : panel.shape[1]] + 0.5
    distance = np.hypot(xs - x, ys - y)
    fill = FILLS[prompt.label]
    whole = REACH <= x <= panel.shape[1] - REACH and REACH <= y <= panel.shape[0] - REACH
    filled = is_near(panel, fill) & (distance <= REACH)
    assert filled.sum() >= (10 if whole else 2), f"{what}: no marker of that sign"
    if whole:
        # Inside the ring lie the filling and the white sign on it, pixels on the rim in part.
        inside = np.minimum(*(distances(panel, other) for other in (fill, (WHITE,) * 3)))
        outside = np.minimum(*(distances(panel, other) for other in (color, INK)))
        weight = outside / (inside + outside + 1e-9) * (distance <= 6.5)
        offset = math.hypot(np.average(xs, weights=weight) - x, np.average(ys, weights=weight) - y)
        assert offset <= 0.5, f"{what} is {offset:.2f} px off"
    ring = panel[(distance >= 3.5) & (distance <= 8)]
    votes = {other: int(is_near(ring, other).sum()) for other in palette}
    check_votes(votes, color, 2 if whole else 1, what)


def distances(pixels, color):
    return np.linalg.norm(pixels.astype(float) - color, axis=-1)


def check_votes(votes, color, least, what):
    best = max(votes.values())
    assert votes[color] >= max(least, best), f"{what}: {color} lost in {votes}"
    ties = [other for other, count in votes.items() if count == best]
    assert ties == [color], f"{what}: could be any of {ties}"


def check_box(panel, changed, prompt, scale, color, palette, what):
    """Each edge that lies on the panel is there, in its place and colour."""
    (left, top), (right, bottom) = corners(prompt, scale)
    height, width_ = changed.shape
    votes = Counter({other: 0 for other in palette})
    for line, pixels, edge, (start, end), length in (
        (changed.T, panel.transpose(1, 0, 2), top, (left, right), width_),
        (changed.T, panel.transpose(1, 0, 2), bottom, (left, right), width_),
        (changed, panel, left, (top, bottom), height),
        (changed, panel, right, (top, bottom), height),
    ):
        along = [i for i in range(length) if start + EDGE < i + 0.5 < end - EDGE]
        if not along or not 2.5 <= edge <= line.shape[1] - 2.5:
            continue
        for i in along:
            found = [j + 0.5 for j in np.flatnonzero(line[i]) if abs(j + 0.5 - edge) <= EDGE + 1]
            assert found, f"{what}: an edge is missing at {i}"
            offset = abs(np.mean(found) - edge)
            assert offset <= 0.5, f"{what}: an edge is {offset:.2f} px off"
        middle = pixels[along][:, max(0, math.floor(edge) - 1) : math.floor(edge) + 2]
        for other in palette:
            votes[other] += int(is_mixed(middle, other).sum())
    if max(right - left, bottom - top) > 4 * EDGE:
        check_votes(dict(votes), color, 3, what)


def is_mixed(pixels, color, least=0.45):
    """Pixels that lie between ink and a colour, near the colour: a line is thinner than two."""
    direction = np.array(color, float) - INK
    rest = pixels.astype(float) - INK
    share = (rest @ direction) / (direction @ direction)
    distance = np.linalg.norm(rest - share[..., None] * direction, axis=-1)
    return (distance <= 6) & (share >= least) & (share <= 1.02)


def check_masks(panel, masks, colors, covered, what):
    """Outlines that no other mask shares have the mask's own colour."""
    outlines = [enlarged(contour(reduced(mask.mask, panel)), panel) for mask in masks]
    shared = sum(outline.astype(int) for outline in outlines) if outlines else 0
    for mask, outline, color in zip(masks, outlines, colors, strict=True):
        own = outline & (shared == 1) & ~covered
        assert (panel[own] == color).all(), f"{what}: wrong outline of mask row {mask.row}"
        assert own.any() or (outline & (shared > 1)).any(), f"{what}: no outline, {mask.row}"


def reduced(mask, panel):
    """A mask of whole blocks of pixels, at most as large as the panel."""
    factor = max(1, len(mask) // len(panel))
    return mask[::factor, ::factor]


def enlarged(mask, panel):
    factor = len(panel) // len(mask)
    return mask.repeat(factor, 0).repeat(factor, 1)


def contour(mask):
    """The pixels of a mask that have a neighbour outside it, or none at the border."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
