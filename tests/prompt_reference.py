"""The prompts of any host's outputs, read from the description of the formats.

Outputs are those of SAM 2's training model, one dictionary per frame, or what a host made of them:

- ``point_inputs``: the initial clicks, ``point_coords`` [K, P, 2] (x, y) in model pixels and
  ``point_labels`` [K, P]: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 padding.
- ``multistep_point_inputs``: one entry per correction round, cumulative. Entry 0 is the initial
  prompt; the last entry that is not None holds every click. Hosts leave the list out, leave it
  empty, or fill it with None; then the clicks are those of ``point_inputs``.
- ``mask_inputs`` [K, 1, H, W] and, at some hosts, ``box_inputs`` [K, 4] = x0, y0, x1, y1.

Row k belongs to the mask row ``obj_to_cat[k]`` where a host returns that list. Without it row k is
mask row k, unless the outputs tell that rows are components of masks.
"""

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass(frozen=True, eq=False)
class Prompt:
    """One click, box or mask; `row` is the mask row that it belongs to, None where unknown."""

    kind: str  # "click", "box", "mask"
    row: Optional[int]
    xy: tuple = ()
    label: int = 1
    round: int = 0
    mask: Optional[np.ndarray] = None  # [H, W] bool

    def can_be_drawn(self, size):
        """Whether any of it lies on a frame of `size` (H, W)."""
        if self.kind == "mask":
            return bool(self.mask.any())
        if not all(map(math.isfinite, self.xy)):
            return False
        height, width = size
        (left, right), (top, bottom) = (
            (min(values), max(values)) for values in (self.xy[0::2], self.xy[1::2])
        )
        # A box around the whole frame has no edge on it.
        around = left < -0.5 and top < -0.5 and right > width - 0.5 and bottom > height - 0.5
        beside = left > width - 0.5 or right < -0.5 or top > height - 0.5 or bottom < -0.5
        return not around and not beside


@dataclass(frozen=True)
class FramePrompts:
    """What one frame received; `incomplete` counts corners of boxes that have no counterpart."""

    prompts: list
    is_prompted: bool
    incomplete: int = 0


def given_clicks(out):
    """Every set of clicks that holds one no other set holds, with its initial columns."""
    steps = list(out.get("multistep_point_inputs") or [])
    initial = out.get("point_inputs")
    entries = [entry for entry in steps if entry is not None]
    if not entries:
        return [] if initial is None else [([initial], width(initial))]
    if steps[0] is not None:
        return [(entries, width(steps[0]))]
    if initial is None or starts_with(entries[-1], initial):
        return [(entries, width(initial))]
    return [([initial], width(initial)), (entries, 0)]


def width(clicks):
    return 0 if clicks is None else clicks["point_labels"].shape[1]


def starts_with(clicks, first):
    count = width(first)
    return all(
        clicks[name][:, :count].shape == first[name].shape
        and bool((clicks[name][:, :count] == first[name]).all())
        for name in ("point_coords", "point_labels")
    )


def row_counts(outs):
    """How many rows each prompt of each frame has, prompts without any left out."""
    counts = []
    for out in outs:
        counts += [len(entries[-1]["point_labels"]) for entries, _ in given_clicks(out)]
        counts += [len(out[name]) for name in ("mask_inputs", "box_inputs") if has(out, name)]
    return [count for count in counts if count]


def has(out, name):
    return out.get(name) is not None


def tells_components(outs):
    """Whether a clip's outputs tell that prompt rows are not mask rows."""
    for out in outs:
        steps = out.get("multistep_point_inputs")
        # An empty list holds nothing, not None: it says as little as no list.
        only_none = bool(steps) and all(entry is None for entry in steps)
        initial = out.get("point_inputs")
        if only_none and initial is not None and initial["point_labels"].numel():
            return True
    return len(set(row_counts(outs))) > 1


def owners(outs, num_rows, obj_to_cat, count):
    """The mask row of each of `count` prompt rows."""
    if obj_to_cat is not None:
        return list(map(int, obj_to_cat)) if len(obj_to_cat) == count else [None] * count
    if count != num_rows or tells_components(outs):
        return [None] * count
    return list(range(count))


def prompts_of(outs, num_rows, obj_to_cat=None):
    """What each frame of a clip received: one `FramePrompts` per frame."""
    return [frame_prompts(out, outs, num_rows, obj_to_cat) for out in outs]


def frame_prompts(out, outs, num_rows, obj_to_cat):
    prompts, incomplete, is_prompted = [], 0, False
    for entries, num_initial in given_clicks(out):
        coords, labels = (
            entries[-1][name].detach().double().tolist()
            for name in ("point_coords", "point_labels")
        )
        is_prompted |= any(map(len, labels))
        for row, xys, kinds in zip(
            owners(outs, num_rows, obj_to_cat, len(labels)), coords, labels, strict=True
        ):
            starts = [xys[i] for i, label in enumerate(kinds) if label == 2]
            ends = [xys[i] for i, label in enumerate(kinds) if label == 3]
            prompts += [
                Prompt("box", row, (*start, *end)) for start, end in zip(starts, ends, strict=False)
            ]
            incomplete += abs(len(starts) - len(ends))
            prompts += [
                Prompt("click", row, tuple(xys[i]), int(label), max(0, i - num_initial + 1))
                for i, label in enumerate(kinds)
                if label in (0, 1)
            ]
    if has(out, "box_inputs"):
        boxes = out["box_inputs"].detach().double().tolist()
        is_prompted |= bool(boxes)
        rows = owners(outs, num_rows, obj_to_cat, len(boxes))
        prompts += [Prompt("box", row, tuple(box)) for row, box in zip(rows, boxes, strict=True)]
    if has(out, "mask_inputs"):
        masks = out["mask_inputs"].detach()[:, 0].double().numpy() > 0
        is_prompted |= len(masks) > 0
        rows = owners(outs, num_rows, obj_to_cat, len(masks))
        prompts += [Prompt("mask", row, mask=mask) for row, mask in zip(rows, masks, strict=True)]
    return FramePrompts(prompts, is_prompted, incomplete)
