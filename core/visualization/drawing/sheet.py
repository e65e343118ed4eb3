"""Drawing: from a `Clip` to a sheet.

A sheet has one row per frame and one column per panel: image, ground truth, prompts, prediction,
errors. Masks are painted at display size and enlarged by whole numbers only.
"""

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..clip import Clip, plain_text
from .canvas import FAINT, LINE, MARGIN, Canvas, Entry, entry_width, fit, text_width
from .paint import (
    FALSE,
    HIT,
    MISSED,
    bounding_boxes,
    category_color,
    pack,
    paint_errors,
    paint_mask_prompts,
    paint_masks,
)

PANELS = ("image", "ground truth", "prompts", "prediction", "errors")

_GAP = 6
_MAX_LEGEND_LINES, _MAX_CHIP_LINES = 2, 2
_MIN_WIDTH = 1100
_MAX_NAME_WIDTH = 420


def render_sheet(
    clip: Clip,
    *,
    panel_size: int = 256,
    header: Optional[Sequence[str]] = None,
    has_truth: bool = True,
    has_prediction: bool = True,
    num_panels: int = len(PANELS),
) -> np.ndarray:
    """Draw a clip: header, legend, and one row of panels per frame.

    Args:
        clip: What to draw.
        panel_size: Longest side of a panel; smaller frames are enlarged by whole numbers.
        header: Lines to write instead of stage, epoch, step and name.
        has_truth: False says that there is no ground truth, and shows no scores and no errors.
        has_prediction: The same for the prediction.
        num_panels: Columns drawn, from the left; 3 leaves out prediction and errors.

    Returns:
        [h, w, 3] uint8, contiguous.
    """
    frame_height, frame_width = clip.images.shape[1:3]
    enlarge = max(1, panel_size // max(frame_height, frame_width))
    height, width = frame_height * enlarge, frame_width * enlarge
    sheet_width = max(_MIN_WIDTH, 2 * MARGIN + num_panels * width + (num_panels - 1) * _GAP)
    inner = sheet_width - 2 * MARGIN

    drawn = _drawn_categories(clip)
    comparable = has_truth and has_prediction
    titles = [
        PANELS[0],
        PANELS[1] if has_truth else "no ground truth",
        PANELS[2],
        PANELS[3] if has_prediction else "no prediction",
        PANELS[4] if comparable else "errors unknown",
    ][:num_panels]
    if header is None:
        head = [[(None, _header(clip))], *_flow(_notes(clip), inner, 3, "{} more notes")]
    else:
        head = [[(None, plain_text(line))] for line in header]
    legend = _flow(_legend(clip, drawn), inner, _MAX_LEGEND_LINES, "{} more categories")
    keys = _flow(_keys(clip, comparable), inner, 3, "{} more")
    rows = []
    for index in range(len(clip.images)):
        chips = _chips(clip, index, drawn) if comparable else []
        # a single frame under a header of its own is told by that
        labelled = header is None or len(clip.images) > 1
        start = [(None, _frame_label(clip, index))] if labelled else []
        rest = "{} more objects" + _mean_words(clip, index)
        rows.append(_flow(start + chips, inner, _MAX_CHIP_LINES, rest))
    num_lines = len(head) + len(legend) + len(keys) + 1 + sum(len(lines) for lines in rows)
    sheet_height = 2 * MARGIN + num_lines * LINE + len(rows) * (height + _GAP)

    canvas = Canvas(sheet_width, sheet_height)
    y = canvas.lines(MARGIN, head + legend + keys)
    columns = [MARGIN + panel * (width + _GAP) for panel in range(num_panels)]
    canvas.write([(x, y, fit(name, width)) for x, name in zip(columns, titles, strict=True)], FAINT)
    y += LINE
    for index, lines in enumerate(rows):
        y = canvas.lines(y, lines)
        panels = _paint_panels(clip, index, PANELS[:num_panels], comparable)
        for x, panel in zip(columns, panels, strict=True):
            canvas.paste(x, y, _enlarge(panel, enlarge))
        scale = (width / clip.model_size[1], height / clip.model_size[0])
        canvas.prompts(
            clip.prompts[index], columns[PANELS.index("prompts")], y, (width, height), scale
        )
        y += height + _GAP
    return canvas.pixels()


def render_animation(clip: Clip, panel_size: int = 256) -> list[np.ndarray]:
    """Draw every frame of a clip as image, ground truth and prediction side by side.

    Returns:
        T arrays [h, w, 3] uint8 of one size.
    """
    enlarge = max(1, panel_size // max(clip.images.shape[1:3]))
    frames = []
    for index in range(len(clip.images)):
        panels = _paint_panels(clip, index, ("image", "ground truth", "prediction"))
        row = _enlarge(np.concatenate(panels, axis=1), enlarge)
        canvas = Canvas(row.shape[1], row.shape[0] + LINE)
        title = f"frame {clip.frame_numbers[index]} · image, ground truth, prediction · {clip.name}"
        canvas.write([(4, 0, fit(title, row.shape[1] - 8))])
        canvas.paste(0, LINE, row)
        frames.append(canvas.pixels())
    return frames


def _paint_panels(
    clip: Clip, index: int, names: Sequence[str] = PANELS, comparable: bool = True
) -> list[np.ndarray]:
    image, gt, pred = pack(clip.images[index]), clip.gt_masks[index], clip.pred_masks[index]
    gt_boxes, pred_boxes = bounding_boxes(gt), bounding_boxes(pred)
    painters = {
        "image": lambda: image,
        "ground truth": lambda: paint_masks(image, gt, gt_boxes),
        "prompts": lambda: paint_mask_prompts(image, clip.prompts[index]),
        "prediction": lambda: paint_masks(image, pred, pred_boxes),
        "errors": lambda: (
            paint_errors(image, gt, pred, gt_boxes, pred_boxes) if comparable else image
        ),
    }
    return [painters[name]() for name in names]


def _enlarge(pixels: np.ndarray, factor: int) -> np.ndarray:
    return pixels if factor == 1 else pixels.repeat(factor, 0).repeat(factor, 1)


def _drawn_categories(clip: Clip) -> list[int]:
    """Return the categories that have anything to show on the drawn frames."""
    shown = (clip.gt_areas > 0).any(0) | (clip.pred_areas > 0).any(0) | clip.non_finite.any(0)
    prompted = {prompt.obj_id for prompts in clip.prompts for prompt in prompts}
    return [k for k in range(clip.gt_masks.shape[1]) if shown[k] or k in prompted]


def _header(clip: Clip) -> str:
    name = fit(clip.name, _MAX_NAME_WIDTH)
    return f"{clip.stage} · epoch {clip.epoch} · step {clip.step} · {name} · {mean_iou_words(clip)}"


def _notes(clip: Clip) -> list[Entry]:
    notes = []
    if clip.prompts_implied:
        notes.append("the outputs tell no prompts: those shown follow from the first ground truth")
    if clip.prompts_unassigned:
        notes.append(f"{clip.prompts_unassigned} prompts cannot be assigned to a video: not drawn")
    if clip.prompts_elsewhere:
        numbers = ", ".join(map(str, clip.prompts_elsewhere[:8]))
        rest = len(clip.prompts_elsewhere) - 8
        numbers += f" and {rest} more" if rest > 0 else ""
        notes.append(f"further prompts on frames that are not drawn: {numbers}")
    if clip.non_finite.any():
        count = int(clip.non_finite.any(0).sum())
        notes.append(f"NaN or inf in the logits of {count} objects is drawn as nothing")
    if clip.num_left_out:
        notes.append(f"{clip.num_left_out} objects beyond num_categories left out")
    return [(None, f"note: {note}") for note in notes]


def mean_iou_words(clip: Clip) -> str:
    """Say a clip's mean IoU and the frames that it was measured on."""
    if math.isnan(clip.mean_iou):
        return "no object to score" if clip.num_scored_frames else "no frame to score"
    kind = "frames" if clip.prompts_implied else "unprompted frames"
    frames = f"{clip.num_scored_frames} of {clip.num_unprompted_frames} {kind}"
    return f"mean IoU {clip.mean_iou:.3f} over {frames}"


def _legend(clip: Clip, drawn: list[int]) -> list[Entry]:
    entries = []
    for category in drawn:
        name = clip.category_names[category] if clip.category_names else ""
        label = f"{category} {name}".strip()
        entries.append((category_color(category), fit(label, 260)))
    empty = clip.gt_masks.shape[1] - len(drawn)
    if not drawn:
        entries.append((None, "no object here"))
    elif empty:
        entries.append((None, f"{empty} categories empty here"))
    return entries


def _keys(clip: Clip, comparable: bool) -> list[Entry]:
    given = [prompt for prompts in clip.prompts for prompt in prompts]
    kinds = {prompt.prompt_type for prompt in given}
    entries = []
    if "point" in kinds:
        entries += [("positive", "positive click"), ("negative", "negative click")]
    if any(prompt.rounds is not None and (prompt.rounds > 0).any() for prompt in given):
        entries.append((None, "number: correction round"))
    if "bbox" in kinds:
        entries.append(("bbox", "box prompt"))
    if "mask" in kinds:
        entries.append(("mask", "mask prompt"))
    return entries + [(HIT, "hit"), (MISSED, "missed"), (FALSE, "false")] * comparable


def _frame_label(clip: Clip, index: int) -> str:
    label = f"frame {clip.frame_numbers[index]}"
    if clip.mask_prompted[index]:
        return label + " · prompted: the prediction is the prompt"
    if clip.prompted[index]:
        label += " · prompted"
    rounds = [p.rounds for p in clip.prompts[index] if p.rounds is not None]
    if any(bool((r > 0).any()) for r in rounds):
        label += " · corrected"
    return label


def _chips(clip: Clip, index: int, drawn: list[int]) -> list[Entry]:
    """Say per object how well it was found, and what the model thinks of that itself."""
    chips = []
    ious = clip.ious[index]
    # What is there comes first, then false alarms: the last ones are summed up where room is short.
    absent, unpredicted = clip.gt_areas[index] == 0, clip.pred_areas[index] == 0
    for category in sorted(drawn, key=lambda k: (absent[k], unpredicted[k])):
        present = clip.gt_areas[index, category] > 0
        predicted = clip.pred_areas[index, category] > 0
        if clip.mask_prompted[index]:
            words = [] if present else ["absent"]
        elif not present and not predicted:
            words = ["absent"]
        else:
            words = [f"IoU {ious[category]:.2f}"]
        if not clip.mask_prompted[index]:
            says = clip.predicted_ious[index, category]
            score = clip.object_scores[index, category]
            if predicted and np.isfinite(says):
                words.append(f"says {says:.2f}")
            if np.isfinite(score):
                words.append(f"score {score:+.1f}{'✓' if (score > 0) == present else '✗'}")
            if present and clip.intersections[index, category] == 0:
                words.append("lost")
            elif predicted and not present:
                words.append("false alarm")
        if clip.non_finite[index, category]:
            words.append("NaN/inf not drawn")
        if words:
            chips.append((category_color(category), f"{category} {' '.join(words)}"))
    return chips


def _mean_words(clip: Clip, index: int) -> str:
    ious = clip.ious[index]
    return f", mean IoU of all {np.nanmean(ious):.2f}" if np.isfinite(ious).any() else ""


def _flow(entries: Sequence[Entry], width: int, max_lines: int, rest: str) -> list[list[Entry]]:
    """Break entries into lines; what does not fit is counted in words, never cut off."""
    lines: list[list[Entry]] = [[]]
    used = 0
    for position, entry in enumerate(entries):
        needed = entry_width(entry)
        last = len(lines) == max_lines
        remaining = len(entries) - position
        reserve = text_width(rest.format(remaining)) + 20 if last and remaining > 1 else 0
        if used and used + needed + reserve > width:
            if last:
                lines[-1].append((None, "+ " + rest.format(remaining)))
                return lines
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += needed
    return lines if lines[0] else []
