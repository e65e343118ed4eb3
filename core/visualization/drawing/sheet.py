"""Drawing: from a `Clip` to a sheet.

A sheet has one row per frame and one column per panel: image, ground truth, prompts, prediction,
errors. Masks are painted at display size and enlarged by whole numbers only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from ...words import counted
from ..clip import Clip, ClipFrame, CloseUp, Masks, Scores, fate_of, plain_text
from ..palette import Color
from ..prompts import PromptData
from ..rounds import Round
from .canvas import FAINT, MARGIN, Canvas, Entry, entry_width
from .overview import paint_overview
from .paint import (
    FALSE,
    HIT,
    MISSED,
    bounding_boxes,
    pack,
    paint_errors,
    paint_mask_prompts,
    paint_masks,
)
from .text import LINE, fit, text_width

PANELS = ("image", "ground truth", "prompts", "prediction", "errors")

_GAP = 6
_MAX_LEGEND_LINES, _MAX_CHIP_LINES = 2, 2
_MIN_WIDTH = 1100
_MAX_NAME_WIDTH = 420
# Between the columns of prompt types; these are no narrower than words need.
_COLUMN_GAP, _MIN_COLUMN_WIDTH = 12, 400


def render_sheet(
    clip: Clip, *, panel_size: int = 256, panels: Sequence[str] = PANELS
) -> np.ndarray:
    """Draw a clip: header, legend, and one row of panels per frame.

    Args:
        clip: What to draw.
        panel_size: Longest side of a panel; smaller frames are enlarged by whole numbers.
        panels: Columns drawn, some of `PANELS` with the prompts among them.

    Returns:
        [h, w, 3] uint8, contiguous.
    """
    close_up = _close_up_of(clip)
    view = clip if close_up is None else close_up.view
    overviews = [] if close_up is None else _overviews(clip, close_up, panel_size)
    enlarge = _enlargement(clip, panel_size) if close_up is None else close_up.window.enlarge
    height, width = (side * enlarge for side in view.images.shape[1:3])
    left = MARGIN + sum(overview.shape[1] + _GAP for overview in overviews[:1])
    sheet_width = max(_MIN_WIDTH, MARGIN + left + len(panels) * (width + _GAP) - _GAP)
    inner = sheet_width - 2 * MARGIN
    row_height = max([height, *(len(overview) for overview in overviews)])

    drawn = _drawn_categories(clip)
    head: list[list[Entry]] = [
        [(None, _header(clip))],
        *_window_line(clip, close_up, panel_size),
        *_flow(_as_notes(_notes(clip, close_up)), inner, 3, "{} more notes"),
        *_flow(_legend(clip, drawn), inner, _MAX_LEGEND_LINES, "{} more categories"),
        *_flow(_keys([clip]), inner, 3, "{} more"),
    ]
    rows = [_row(clip, index, drawn, inner) for index in range(len(clip.frames))]
    num_lines = len(head) + 1 + sum(len(lines) for lines in rows)
    sheet_height = 2 * MARGIN + num_lines * LINE + len(rows) * (row_height + _GAP)

    canvas = Canvas(sheet_width, sheet_height)
    y = canvas.lines(MARGIN, head)
    columns = [left + panel * (width + _GAP) for panel in range(len(panels))]
    titles = [
        (x, y, fit(_title(clip, name), width)) for x, name in zip(columns, panels, strict=True)
    ]
    if overviews:
        titles.append((MARGIN, y, fit("whole frame", overviews[0].shape[1])))
    canvas.write(titles, FAINT)
    y += LINE
    for index, lines in enumerate(rows):
        y = canvas.lines(y, lines)
        for x, panel in zip(columns, _paint_panels(view, index, panels), strict=True):
            canvas.paste(x, y, _enlarge(panel, enlarge))
        x = columns[panels.index("prompts")]
        frame = view.frames[index]
        _draw_prompts(canvas, view, frame.prompts, (x, y), (width, height), frame.round)
        if close_up is not None:
            canvas.paste(MARGIN, y, overviews[index])
            outside = close_up.prompts_outside(clip.frames[index], clip.model_size)
            small_height, small_width = overviews[index].shape
            _draw_prompts(canvas, clip, outside, (MARGIN, y), (small_width, small_height))
        y += row_height + _GAP
    return canvas.pixels()


def _close_up_of(clip: Clip) -> Optional[CloseUp]:
    """Return the close-up of a clip's frames, if there is one of all that are drawn."""
    return clip.close_up and clip.close_up.select(clip.frames)


def _enlargement(clip: Clip, panel_size: int) -> int:
    """Return by which whole number the pixels of a clip are enlarged to fill a panel."""
    return max(1, panel_size // max(clip.images.shape[1:3]))


def _overviews(clip: Clip, close_up: CloseUp, panel_size: int) -> list[np.ndarray]:
    """Return the panels of the whole frames: packed, half as large as others may be."""
    factor = max(1, panel_size // 2 // max(close_up.outside.shape[-2:]))
    return [
        _enlarge(paint_overview(clip, close_up, index), factor) for index in range(len(clip.frames))
    ]


def _draw_prompts(
    canvas: Canvas,
    clip: Clip,
    prompts: Sequence[PromptData],
    place: tuple[int, int],
    size: tuple[int, int],
    its_round: Optional[Round] = None,
) -> None:
    """Draw clicks and boxes, in model pixels of a clip, over a panel of a size (width, height)."""
    ordered, colors = _in_order(clip, prompts)
    scale = (size[0] / clip.model_size[1], size[1] / clip.model_size[0])
    newest = None if its_round is None else its_round.number
    canvas.prompts(ordered, colors, *place, size, scale, newest)


def render_animation(clip: Clip, panel_size: int = 256) -> list[np.ndarray]:
    """Draw every frame of a clip as image, ground truth and prediction side by side.

    Returns:
        T arrays [h, w, 3] uint8 of one size.
    """
    enlarge = _enlargement(clip, panel_size)
    frames = []
    for index in range(len(clip.images)):
        panels = _paint_panels(clip, index, ("image", "ground truth", "prediction"))
        row = _enlarge(np.concatenate(panels, axis=1), enlarge)
        canvas = Canvas(row.shape[1], row.shape[0] + LINE)
        label = (
            _frame_label(clip.frames[index])
            if clip.is_of_rounds
            else f"frame {clip.frames[index].number}"
        )
        title = f"{label} · image, ground truth, prediction · {clip.name}"
        canvas.write([(4, 0, fit(title, row.shape[1] - 8))])
        canvas.paste(0, LINE, row)
        frames.append(canvas.pixels())
    return frames


def render_by_prompts(clips: Mapping[str, Clip], panel_size: int = 256) -> np.ndarray:
    """Draw a clip as it was tracked under several prompt types, a pair of columns for each.

    Args:
        clips: The same frames of the same video, by what their prompts are called.
        panel_size: See `render_sheet`.

    Returns:
        [h, w, 3] uint8, contiguous.
    """
    first = next(iter(clips.values()))
    enlarge = _enlargement(first, panel_size)
    height, width = (side * enlarge for side in first.images.shape[1:3])
    column = max(2 * width + _GAP, _MIN_COLUMN_WIDTH)
    lefts = [MARGIN + index * (column + _COLUMN_GAP) for index in range(len(clips))]
    sheet_width = max(_MIN_WIDTH, lefts[-1] + column + MARGIN)
    inner = sheet_width - 2 * MARGIN

    shown = {k for clip in clips.values() for k in _drawn_categories(clip)}
    drawn = sorted(shown, key=first.id_of)
    notes = [f"{kind}: {note}" for kind, clip in clips.items() for note in _notes(clip, None)]
    head: list[list[Entry]] = [
        [(None, f"{_when(first)} · under each prompt type")],
        *_flow(_as_notes(notes), inner, 3, "{} more notes"),
        *_flow(_legend(first, drawn), inner, _MAX_LEGEND_LINES, "{} more categories"),
        *_flow(_keys(clips.values()), inner, 3, "{} more"),
    ]
    rows = [
        [_row(_without_estimates(clip), index, drawn, column) for clip in clips.values()]
        for index in range(len(first.frames))
    ]
    num_lines = len(head) + 2 + sum(max(map(len, row)) for row in rows)
    canvas = Canvas(sheet_width, 2 * MARGIN + num_lines * LINE + len(rows) * (height + _GAP))
    y = canvas.lines(MARGIN, head)
    for x, (kind, clip) in zip(lefts, clips.items(), strict=True):
        canvas.write([(x, y, fit(f"{kind} prompts · {mean_iou_words(clip)}", column))])
        titles = [
            (x, y + LINE, fit("prompts, prediction", width)),
            (x + width + _GAP, y + LINE, fit(_title(clip, "errors"), width)),
        ]
        canvas.write(titles, FAINT)
    y += 2 * LINE
    for index, row in enumerate(rows):
        below = y + max(map(len, row)) * LINE
        for x, lines, clip in zip(lefts, row, clips.values(), strict=True):
            canvas.lines(y, lines, x, column)
            frame = clip.frames[index]
            # Where a mask was the prompt, the prediction is the same mask.
            left = "prompts" if frame.mask_prompted else "prediction"
            places = (x, x + width + _GAP)
            panels = _paint_panels(clip, index, (left, "errors"))
            for place, panel in zip(places, panels, strict=True):
                canvas.paste(place, below, _enlarge(panel, enlarge))
            _draw_prompts(canvas, clip, frame.prompts, (x, below), (width, height))
        y = below + height + _GAP
    return canvas.pixels()


def _without_estimates(clip: Clip) -> Clip:
    """Leave out what the model says itself, for lines with room for IoUs alone."""
    scores = clip.scores and replace(clip.scores, predicted_ious=None, object_scores=None)
    return replace(clip, scores=scores)


def _paint_panels(clip: Clip, index: int, names: Sequence[str] = PANELS) -> list[np.ndarray]:
    image = pack(clip.images[index])
    gt, pred = (None if found is None else found.masks[index] for found in (clip.gt, clip.pred))
    gt_boxes, pred_boxes = (
        # Where masks overlap, it is their ids that decide which one lies above, not the batch.
        [] if masks is None else sorted(bounding_boxes(masks), key=lambda box: clip.ids[box[0]])
        for masks in (gt, pred)
    )
    painters = {
        "image": lambda: image,
        "ground truth": lambda: (
            image if gt is None else paint_masks(image, gt, clip.colors, gt_boxes)
        ),
        "prompts": lambda: paint_mask_prompts(image, *_in_order(clip, clip.frames[index].prompts)),
        "prediction": lambda: (
            image if pred is None else paint_masks(image, pred, clip.colors, pred_boxes)
        ),
        "errors": lambda: image if clip.errors is None else paint_errors(image, clip.errors[index]),
    }
    return [painters[name]() for name in names]


def _in_order(clip: Clip, prompts: Sequence[PromptData]) -> tuple[list[PromptData], list[Color]]:
    """Return prompts ordered by object id, and the colour of each."""
    given = sorted(prompts, key=lambda prompt: clip.id_of(prompt.obj_id))
    return given, [clip.color_of(prompt.obj_id) for prompt in given]


def _enlarge(pixels: np.ndarray, factor: int) -> np.ndarray:
    return pixels if factor == 1 else pixels.repeat(factor, 0).repeat(factor, 1)


def _drawn_categories(clip: Clip) -> list[int]:
    """Return the categories that have anything to show on the drawn frames, ordered by id."""
    shown = {prompt.obj_id for prompt in clip.prompts()}
    for found in (clip.gt, clip.pred):
        if found is not None:
            shown.update(np.flatnonzero((found.areas > 0).any(0)).tolist())
            shown.update(_non_finite(found))
    return sorted(shown & set(range(clip.num_categories)), key=clip.id_of)


def _non_finite(found: Optional[Masks]) -> list[int]:
    """Return the categories of whose logits some are NaN or inf."""
    if found is None or found.non_finite is None:
        return []
    return np.flatnonzero(found.non_finite.any(0)).tolist()


def _title(clip: Clip, panel: str) -> str:
    """Return what is written above a column: what is missing is said."""
    missing = {
        "ground truth": (clip.gt, "no ground truth"),
        "prediction": (clip.pred, "no prediction"),
        "errors": (clip.scores, "errors: not available"),
    }
    found, title = missing.get(panel, (clip, panel))
    return title if found is None else panel


def _header(clip: Clip) -> str:
    if clip.moment is None:
        return plain_text(clip.name)
    return f"{_when(clip)} · {mean_iou_words(clip)}"


def _when(clip: Clip) -> str:
    """Say when a clip was drawn, with which weights, and what it is called."""
    name, moment = fit(clip.name, _MAX_NAME_WIDTH), clip.moment
    if moment is None:
        return name
    when = f"{moment.stage} · epoch {moment.epoch} · step {moment.step}"
    weights = f" · {plain_text(moment.weights)}" if moment.weights else ""
    return f"{when}{weights} · {name}"


def _window_line(clip: Clip, close_up: Optional[CloseUp], panel_size: int) -> list[list[Entry]]:
    """Say where the window lies, and how much larger than otherwise panels show what is in it."""
    if close_up is None:
        return []
    window = close_up.window
    (height, width), (full_height, full_width) = window.size, clip.model_size
    panel_width = close_up.view.images.shape[2] * window.enlarge
    larger = panel_width / width * full_width
    larger /= clip.images.shape[2] * _enlargement(clip, panel_size)
    words = (
        f"enlarged {larger:.1f} times: panels show the {width} × {height} px at "
        f"({window.left}, {window.top}) of the frame's {full_width} × {full_height}"
    )
    return [[(None, words)]]


def _as_notes(notes: Sequence[str]) -> list[Entry]:
    return [(None, f"note: {note}") for note in notes]


def _notes(clip: Clip, close_up: Optional[CloseUp]) -> list[str]:
    notes = [] if close_up is None else _notes_on_window(clip, close_up)
    if clip.prompts_implied:
        notes.append(
            "no prompts in the outputs; shown: those implied by the first frame's ground truth"
        )
    if clip.prompts_unassigned:
        unassigned = counted(
            clip.prompts_unassigned, "prompt not drawn: its", "prompts not drawn: their"
        )
        notes.append(f"{unassigned} video is unknown")
    if clip.prompts_undrawable:
        undrawable = counted(clip.prompts_undrawable, "prompt", "prompts")
        notes.append(
            f"{undrawable} not drawn: not finite, outside the frame or without the other corner"
        )
    if clip.prompts_missing:
        missing = sorted(set(clip.prompts_missing))
        notes.append(f"no prompt to draw on prompted frames: {_listed(missing)}")
    if clip.prompts_elsewhere:
        notes.append(f"more prompts on frames not drawn: {_listed(clip.prompts_elsewhere)}")
    if _non_finite(clip.pred):
        count = counted(len(_non_finite(clip.pred)), "object has", "objects have")
        notes.append(f"{count} NaN or inf logits, which are not drawn")
    if clip.num_left_out:
        left_out = counted(
            clip.num_left_out, "object left out: it does", "objects left out: they do"
        )
        notes.append(f"{left_out} not fit into num_categories")
    if clip.moment is not None and clip.moment.remark:
        notes.insert(0, fit(clip.moment.remark, _MIN_WIDTH - 2 * MARGIN - text_width("note: ")))
    return notes


def _notes_on_window(clip: Clip, close_up: CloseUp) -> list[str]:
    """Count what lies outside the window, where only the first panel shows it."""
    notes = []
    if close_up.num_outside.any():
        count = counted(
            int(close_up.num_outside.sum()), "predicted pixel lies", "predicted pixels lie"
        )
        notes.append(f"{count} outside the window, outlined in the first panel")
    num_clicks = sum(
        len(prompt.labels)
        for frame in clip.frames
        for prompt in close_up.prompts_outside(frame, clip.model_size)
        if prompt.labels is not None
    )
    if num_clicks:
        count = counted(num_clicks, "click lies", "clicks lie")
        notes.append(f"{count} outside the window, drawn in the first panel")
    return notes


def _listed(numbers: Sequence[int]) -> str:
    rest = len(numbers) - 8
    return ", ".join(map(str, numbers[:8])) + (f" and {rest} more" if rest > 0 else "")


def mean_iou_words(clip: Clip) -> str:
    """Say a clip's mean IoU and the frames that it was measured on."""
    if math.isnan(clip.mean_iou):
        return "no object to score" if clip.num_scored_frames else "no frame to score"
    if clip.is_of_rounds:
        return f"mean IoU {clip.mean_iou:.3f} after {clip.frames[-1].round}"
    kind = "frames" if clip.prompts_implied else "unprompted frames"
    frames = f"{clip.num_scored_frames} of {clip.num_unprompted_frames} {kind}"
    return f"mean IoU {clip.mean_iou:.3f} over {frames}"


def _legend(clip: Clip, drawn: list[int]) -> list[Entry]:
    entries: list[Entry] = []
    for category in drawn:
        name = clip.category_names[category] if clip.category_names else ""
        label = f"{clip.id_of(category)} {name}".strip()
        entries.append((clip.color_of(category), fit(label, 260)))
    empty = clip.num_categories - len(drawn)
    if not drawn:
        entries.append((None, "no object on this sheet"))
    elif empty:
        entries.append((None, f"{counted(empty, 'category', 'categories')} not on this sheet"))
    return entries


def _keys(clips: Iterable[Clip]) -> list[Entry]:
    shown = list(clips)
    given = [prompt for clip in shown for prompt in clip.prompts()]
    kinds = {prompt.prompt_type for prompt in given}
    entries: list[Entry] = []
    if "point" in kinds:
        entries += [("positive", "positive click"), ("negative", "negative click")]
    if _any_correction(given):
        of_rounds = any(clip.is_of_rounds for clip in shown)
        told = "small: given in a row above" if of_rounds else "number: correction round"
        entries.append((None, told))
    if "bbox" in kinds:
        entries.append(("bbox", "box prompt"))
    if "mask" in kinds:
        entries.append(("mask", "mask prompt"))
    if any(clip.scores is not None for clip in shown):
        entries += [(HIT, "hit"), (MISSED, "missed"), (FALSE, "false")]
    return entries


def _any_correction(prompts: Sequence[PromptData]) -> bool:
    rounds = [prompt.rounds for prompt in prompts if prompt.rounds is not None]
    return any(bool((numbers > 0).any()) for numbers in rounds)


def _row(clip: Clip, index: int, drawn: list[int], width: int) -> list[list[Entry]]:
    """Return the lines above one frame's panels."""
    # A single frame of no training is told by the header.
    labelled = clip.moment is not None or len(clip.frames) > 1
    start: list[Entry] = [(None, _frame_label(clip.frames[index]))] if labelled else []
    rest = "{} more objects" + _mean_words(clip, index)
    return _flow(start + _chips(clip, index, drawn), width, _MAX_CHIP_LINES, rest)


def _frame_label(frame: ClipFrame) -> str:
    if frame.round is not None:
        return f"after {frame.round}"
    label = f"frame {frame.number}"
    if frame.mask_prompted:
        return label + " · mask prompt: the prediction is the prompt"
    if frame.prompted:
        label += " · prompted"
    if _any_correction(frame.prompts):
        label += " · corrected"
    return label


@dataclass(frozen=True)
class _Outcome:
    """What became of one object on one frame; NaN: not known."""

    present: bool
    predicted: bool
    overlaps: bool
    iou: float
    predicted_iou: float
    object_score: float
    non_finite: bool
    iou_before: float = math.nan  # at the first validation of the run


def _outcomes(
    gt: Masks,
    pred: Masks,
    scores: Scores,
    index: int,
    categories: Sequence[int],
    baseline_ious: Optional[np.ndarray],
) -> dict[int, _Outcome]:
    """Return what became of each category's object on one frame."""
    ious, unknown = scores.ious[index], np.full(gt.areas.shape[1], math.nan)
    before = unknown if baseline_ious is None else baseline_ious[index]
    says = unknown if scores.predicted_ious is None else scores.predicted_ious[index]
    score = unknown if scores.object_scores is None else scores.object_scores[index]
    return {
        k: _Outcome(
            present=bool(gt.areas[index, k] > 0),
            predicted=bool(pred.areas[index, k] > 0),
            overlaps=bool(scores.intersections[index, k] > 0),
            iou=ious[k],
            predicted_iou=says[k],
            object_score=score[k],
            non_finite=pred.non_finite is not None and bool(pred.non_finite[index, k]),
            iou_before=before[k],
        )
        for k in categories
    }


def _chips(clip: Clip, index: int, drawn: list[int]) -> list[Entry]:
    """Say per object how well it was found, and what the model thinks of that itself."""
    if clip.gt is None or clip.pred is None or clip.scores is None:
        return []
    outcomes = _outcomes(clip.gt, clip.pred, clip.scores, index, drawn, clip.baseline_ious)
    # What is there comes first, then false alarms: the last ones are summed up where room is short.
    order = sorted(drawn, key=lambda k: (not outcomes[k].present, not outcomes[k].predicted))
    chips: list[Entry] = []
    for category in order:
        outcome = outcomes[category]
        if clip.frames[index].mask_prompted:
            words = [] if outcome.present else ["absent"]
        else:
            words = _tracking_words(outcome, category not in clip.not_prompted)
            gain = _gain(clip, index, category)
            words[1:1] = [gain] if gain else []
        if category in clip.not_prompted:
            words.append("not prompted")
        if outcome.non_finite:
            words.append("NaN/inf not drawn")
        if words:
            chips.append((clip.color_of(category), f"{clip.id_of(category)} {' '.join(words)}"))
    return chips


def _gain(clip: Clip, index: int, category: int) -> str:
    """Return what a round of clicks changed in an object's IoU; empty where nothing is known."""
    if index == 0 or clip.frames[index].round is None or clip.scores is None:
        return ""
    before, now = clip.scores.ious[index - 1 : index + 1, category]
    # Adding 0 makes a negative zero positive.
    return f"({round(now - before, 2) + 0.0:+.2f})" if math.isfinite(now - before) else ""


def _tracking_words(outcome: _Outcome, is_tracked: bool) -> list[str]:
    present, predicted, score = outcome.present, outcome.predicted, outcome.object_score
    before = "" if math.isnan(outcome.iou_before) else f"{outcome.iou_before:.2f} → "
    fate = fate_of(present, predicted, outcome.overlaps)
    words = ["absent" if fate == "absent" else f"IoU {before}{outcome.iou:.2f}"]
    if predicted and math.isfinite(outcome.predicted_iou):
        words.append(f"est. {outcome.predicted_iou:.2f}")
    if math.isfinite(score):
        words.append(f"score {score:+.1f}{'✓' if (score > 0) == present else '✗'}")
    if fate == "false alarm" or (fate == "lost" and is_tracked):
        words.append(fate)
    return words


def _mean_words(clip: Clip, index: int) -> str:
    ious = np.array([]) if clip.scores is None else clip.scores.ious[index]
    ious = np.delete(ious, [k for k in clip.not_prompted if k < len(ious)])
    return f", mean IoU of all objects {np.nanmean(ious):.2f}" if np.isfinite(ious).any() else ""


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
