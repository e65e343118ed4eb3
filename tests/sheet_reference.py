"""What a sheet must show, worked out again from batch and outputs: slowly, and without core's help.

Only the palette is shared with the code under test. Panels are found in the sheet by their pixels.
"""

import functools
import itertools
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from prompt_reference import prompts_of

from core.visualization.palette import category_color

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEUTRAL = (205, 205, 205)
HIT, MISSED, FALSE = (86, 180, 233), (240, 228, 66), (213, 94, 0)
POSITIVE_FILL, NEGATIVE_FILL = (0, 140, 60), (200, 0, 30)
WHITE = 255
# Means over at most 36 float32 pixels of |value| < 3, times 255 * 0.229, plus 124: the sum of the
# roundings (36 * 3 * 58 * 2**-24 and two of 255 * 2**-24) stays below this many grey levels.
ROUNDING = 1e-3


@dataclass
class Prompt:
    """One prompt that a frame received; `category` -1 cannot be assigned."""

    kind: str
    category: int
    xy: tuple = ()
    label: int = 1
    round: int = 0
    mask: np.ndarray | None = None


@dataclass
class Expected:
    """What the sheet of one video must show; one entry per drawn frame."""

    frames: list
    numbers: list
    images: list
    gts: list
    preds: list
    errors: list
    prompts: list
    categories: int
    size: tuple
    enlarge: int
    model_size: tuple
    ids: list
    colors: list
    order: list
    undrawn_prompts: list = field(default_factory=list)


@dataclass
class Found:
    """Where the panels of each row are."""

    ys: list
    x0: int
    pitch: int
    height: int
    width: int

    def panel(self, sheet, row, column):
        x, y = self.x0 + column * self.pitch, self.ys[row]
        return sheet[y : y + self.height, x : x + self.width]


def reduced_size(height, width, panel_size, original=None):
    """The longest side is at most `panel_size`, no side grows, the aspect is the original one."""
    aspect = original[1] / original[0] if original else width / height
    exact = min(width, height * aspect, panel_size, panel_size * aspect)
    return max(1, round(exact / aspect)), max(1, min(width, round(exact)))


@functools.cache
def area_weights(size, reduced):
    """[reduced, size]: how much of display pixel i lies over each source pixel."""
    edges = [i * size / reduced for i in range(reduced + 1)]
    return np.array(
        [
            [max(0, min(stop, x + 1) - max(start, x)) * reduced / size for x in range(size)]
            for start, stop in itertools.pairwise(edges)
        ]
    )


def reduce_mask(mask, size):
    """What of a mask [H, W] is drawn at `size`: nothing in it may be invisible.

    Display pixels of which the mask covers half are drawn, and those that its thin parts touch:
    what no rectangle of sqrt(2) display pixels inside the mask covers. Of the other pixels that it
    touches those are left out, class after class of every second row and column, whose neighbours
    touch each other without them.
    """
    (height, width), (h, w) = mask.shape, size
    if (height, width) == (h, w):
        return mask
    # In whole numbers: a display pixel is height * width.
    over_y, over_x = (
        np.rint(area_weights(n, m) * n).astype(np.int64) for n, m in ((height, h), (width, w))
    )

    def covered(pixels):
        return over_y @ pixels.astype(np.int64) @ over_x.T

    rows, columns = (
        1 if n == m else math.ceil(math.sqrt(2) * n / m) for n, m in ((height, h), (width, w))
    )
    fits = sliding_window_view(mask, (rows, columns)).all((2, 3))
    fits = np.pad(fits, ((rows - 1, rows - 1), (columns - 1, columns - 1)))
    thick = sliding_window_view(fits, (rows, columns)).any((2, 3))
    touched = covered(mask) > 0
    wanted = (covered(mask) * 2 >= height * width) | (covered(mask & ~thick) > 0)
    for class_y, class_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for y, x in np.argwhere(touched & ~wanted):
            in_class = y % 2 == class_y and x % 2 == class_x
            if in_class and touching_each_other(touched, y, x):
                touched[y, x] = False
    return touched


def touching_each_other(drawn, y, x):
    """Whether the pixels drawn around one are there, and in one piece."""
    around = np.zeros((3, 3), np.uint8)
    top, left = max(0, y - 1), max(0, x - 1)
    part = drawn[top : y + 2, left : x + 2]
    around[top - y + 1 :, left - x + 1 :][: part.shape[0], : part.shape[1]] = part
    around[1, 1] = 0
    return cv2.connectedComponents(around, connectivity=8)[0] == 2


def expected_sheet(
    batch,
    outs,
    video,
    *,
    max_frames,
    stride,
    num_categories,
    panel_size,
    obj_to_cat=None,
    original=None,
):
    num_frames, num_videos = batch.img_batch.shape[:2]
    height, width = batch.img_batch.shape[-2:]
    size = reduced_size(height, width, panel_size, original)
    frames = [t for t in range(num_frames) if t % stride == 0][:max_frames]
    num_rows = batch.masks.shape[1]
    rows = [o for o in range(num_rows) if int(batch.obj_to_frame_idx[0, o, 1]) == video]
    categories = len(rows) if num_categories is None else num_categories
    shown = dict(enumerate(rows[:categories]))
    ids = batch.metadata.unique_objects_identifier
    shown_ids = object_ids([int(ids[0, o, 1]) for o in rows])[:categories]
    ay, ax = area_weights(height, size[0]), area_weights(width, size[1])
    expected = Expected(
        frames=frames,
        numbers=[int(ids[t, rows[0], 2]) if rows else t for t in frames],
        images=[],
        gts=[],
        preds=[],
        errors=[],
        prompts=[],
        categories=categories,
        size=size,
        enlarge=max(1, panel_size // max(size)),
        model_size=(height, width),
        ids=shown_ids,
        colors=sheet_colors(shown_ids),
        order=sorted(range(len(shown_ids)), key=lambda k: shown_ids[k]),
    )
    found = prompts_of(outs, num_rows, obj_to_cat)
    for t in range(num_frames):
        prompts = frame_prompts(found[t], shown, num_videos, size)
        if t not in frames:
            if found[t].is_prompted:
                expected.undrawn_prompts.append(int(ids[t, rows[0], 2]) if rows else t)
            continue
        pixels = batch.img_batch[t, video].double().numpy()
        expected.images.append(
            np.stack([(ay @ pixels[c] @ ax.T * STD[c] + MEAN[c]) * 255 for c in range(3)], -1)
        )
        gt = np.zeros((categories, *size), bool)
        pred = np.zeros((categories, *size), bool)
        hit, missed, false = (np.zeros((height, width), bool) for _ in range(3))
        for category, row in shown.items():
            truth = batch.masks[t, row].numpy() > 0
            logits = outs[t]["pred_masks_high_res"][row, 0].detach().double().numpy()
            found_there = np.isfinite(logits) & (logits > 0)
            hit |= truth & found_there
            missed |= truth & ~found_there
            false |= found_there & ~truth
            gt[category] = reduce_mask(truth, size)
            pred[category] = reduce_mask(found_there, size)
        expected.errors.append([reduce_mask(kind, size) for kind in (hit, missed, false)])
        expected.gts.append(gt)
        expected.preds.append(pred)
        place = {category: index for index, category in enumerate(expected.order)}
        expected.prompts.append(sorted(prompts, key=lambda p: place.get(p.category, -1)))
    return expected


def object_ids(ids):
    """What the rows of a video are known by: their ids, or their places where ids say nothing."""
    return ids if len(set(ids)) == len(ids) and min(ids, default=0) >= 0 else [*range(len(ids))]


def sheet_colors(ids):
    """The colour of each id on one sheet: that of its number, unless a smaller one looks alike.

    An id that has to give way takes the next entry of the palette that is unlike all the others.
    """
    labs, numbers = {}, {}
    for number in sorted(ids):
        lab = cielab(category_color(number))
        if all(math.dist(lab, other) >= 10 for other in labs.values()):
            labs[number], numbers[number] = lab, number
    for number in sorted(set(ids) - set(labs)):
        entry = number + 1
        while any(math.dist(cielab(category_color(entry)), other) < 10 for other in labs.values()):
            entry += 1
        labs[number], numbers[number] = cielab(category_color(entry)), entry
    return [category_color(numbers[number]) for number in ids]


def cielab(color):
    """sRGB in 0..255 as CIELAB under D65, by the formulas of IEC 61966-2-1 and CIE 15."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255
    ]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratios = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t * 841 / 108 + 4 / 29 for t in ratios)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def frame_prompts(found, shown, num_videos, size):
    """The prompts of one video on one frame, of those that `prompt_reference` found there."""
    category_of = {row: category for category, row in shown.items()}
    unknown = -1 if num_videos == 1 else None
    prompts = []
    # Masks are hatched below what is drawn over them.
    for given in sorted(found.prompts, key=lambda prompt: prompt.kind != "mask"):
        owner = unknown if given.row is None else category_of.get(given.row)
        if owner is None:
            continue
        if given.kind == "mask":
            mask = reduce_mask(given.mask, size)
            if mask.any():
                prompts.append(Prompt("mask", owner, mask=mask))
        elif given.kind == "box":
            prompts.append(Prompt("bbox", owner, given.xy))
        else:
            prompts.append(Prompt("point", owner, given.xy, given.label, given.round))
    return prompts


def expected_mean_iou(batch, outs, video, frames, num_categories, obj_to_cat=None):
    """Mean over objects of their mean IoU on the frames that got no prompt, of one video.

    Objects that `obj_to_cat` does not name were not prompted and do not count.
    """
    rows = [o for o in range(batch.masks.shape[1]) if int(batch.obj_to_frame_idx[0, o, 1]) == video]
    prompted = [t for t in frames if got_prompt(outs[t])]
    tracked = [t for t in frames if t not in prompted]
    means = []
    for row in rows[:num_categories]:
        if obj_to_cat is not None and row not in obj_to_cat:
            continue
        present = [t for t in frames if batch.masks[t, row].any()]
        if not present or not tracked or (prompted and not set(prompted) & set(present)):
            continue
        ious = []
        for t in tracked:
            gt = batch.masks[t, row].numpy()
            logits = outs[t]["pred_masks_high_res"][row, 0].double().numpy()
            pred = np.isfinite(logits) & (logits > 0)
            union = (gt | pred).sum()
            ious.append((gt & pred).sum() / union if union else 1.0)
        means.append(sum(ious) / len(ious))
    return sum(means) / len(means) if means else math.nan


def got_prompt(out):
    return prompts_of([out], 0)[0].is_prompted


def as_bytes(values):
    """The two bytes that a value may round to; nearly always the same one."""
    low = np.floor(values + 0.5 - ROUNDING).clip(0, 255)
    high = np.floor(values + 0.5 + ROUNDING).clip(0, 255)
    return low, high


def enlarged(array, factor):
    return array.repeat(factor, 0).repeat(factor, 1)


def find_panels(sheet, expected):
    """Find every expected frame in the first column, in order, and the pitch of the columns."""
    e = expected.enlarge
    height, width = expected.size[0] * e, expected.size[1] * e
    bounds = [tuple(enlarged(b, e) for b in as_bytes(image)) for image in expected.images]
    for x0 in range(40):
        strip = sheet[:, x0 : x0 + width]
        ys, start = [], 0
        for low, high in bounds:
            line = ((strip >= low[0]) & (strip <= high[0])).all((1, 2))
            for y in np.flatnonzero(line[: len(sheet) - height + 1]):
                block = strip[y : y + height]
                if y >= start and ((block >= low) & (block <= high)).all():
                    ys.append(int(y))
                    start = y + height
                    break
        if len(ys) == len(bounds):
            band = sheet[ys[0] : ys[0] + height]
            x1 = x0 + width
            while (band[:, x1] == WHITE).all():
                x1 += 1
            return Found(ys, x0, x1 - x0, height, width)
    raise AssertionError("the drawn frames are not in the sheet's first column, in order")


def contour(mask):
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def brightness(pixels):
    """Luma of ITU-R BT.601 as a whole number; it may be rounded the other way, see `is_shaded`."""
    return np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(int)


def shaded(pixels, color):
    """A colour over pixels: a quarter of their brightness, in steps, around the colour itself.

    Its channels keep 32 levels of room at both ends.
    """
    return (np.clip(color, 32, 223) - 32 + brightness(pixels)[..., None] // 4).astype(np.uint8)


def is_shaded(panel, expected):
    """Whether pixels are as expected; the brightness of what lay below may be one level off."""
    return (abs(panel.astype(int) - expected) <= 1).all(-1)


def check_masks(panel, image, masks, colors, what):
    """Filled inside, outlined at the rim, untouched everywhere else."""
    filled = image.copy()
    rims = np.zeros(image.shape[:2], int)
    for mask, color in zip(masks, colors, strict=True):
        filled[mask] = shaded(filled[mask], color)
        rims += contour(mask)
    plain = rims == 0
    outside = ~masks.any(0)
    assert (panel[outside] == image[outside]).all(), f"{what}: wrong outside the masks"
    assert is_shaded(panel[plain], filled[plain]).all(), f"{what}: wrong off the outlines"
    allowed = np.zeros(image.shape[:2], bool)
    for mask, color in zip(masks, colors, strict=True):
        allowed |= contour(mask) & (panel == np.array(color, np.uint8)).all(-1)
    assert (allowed | plain).all(), f"{what}: an outline pixel has no colour of a mask it bounds"


def check_errors(panel, image, hit, missed, false):
    as_hit, as_missed, as_false = (
        is_shaded(panel, shaded(image, color)) for color in (HIT, MISSED, FALSE)
    )
    right = np.where(hit, as_hit, (panel == image).all(-1))
    right = np.where(missed, as_missed, right)
    right = np.where(false, as_false | (as_missed & missed), right)
    assert right.all(), "errors: a pixel has the wrong colour"


def check_prompts(panel, image, prompts, expected):
    """Mask prompts exactly; clicks and boxes present, and nothing changed away from them."""
    e = expected.enlarge
    filled = image.copy()
    rim, rim_right = (np.zeros(image.shape[:2], bool) for _ in range(2))
    small = panel[::e, ::e]
    for prompt in prompts:
        if prompt.kind == "mask":
            color = color_of(prompt, expected)
            filled[prompt.mask] = shaded(filled[prompt.mask], color)
            edge = contour(prompt.mask)
            rim |= edge
            rim_right |= edge & (small == color).all(-1)
    # Hatched: between the stripes, which all masks share, the frame is left as it is.
    left_alone = (small == image).all(-1)
    covered = np.any([p.mask for p in prompts if p.kind == "mask"] + [rim], axis=0)
    right = rim_right | (((is_shaded(small, filled) & covered) | left_alone) & ~rim)
    for prompt in prompts:
        if prompt.kind == "mask" and (inside := prompt.mask & ~rim).sum() >= 40:
            assert 0 < left_alone[inside].mean() < 1, "prompts: a mask prompt is not hatched"
    near = near_annotations(prompts, expected)
    exact = enlarged(right, e)
    # A marker may end inside an enlarged pixel.
    exact |= (panel == enlarged(image, e)).all(-1) & ~enlarged(rim, e)
    assert (exact | near).all(), "prompts: something is drawn where no prompt is"
    background = enlarged(image, e)
    for prompt in prompts:
        if prompt.kind == "point":
            x, y = click_centre(prompt, expected)
            column, row = math.floor(x), math.floor(y)
            if 0 <= row < panel.shape[0] and 0 <= column < panel.shape[1]:
                differs = (panel[row, column] != background[row, column]).any()
                assert differs, f"prompts: no marker at {prompt}"


def color_of(prompt, expected):
    return NEUTRAL if prompt.category == -1 else expected.colors[prompt.category]


def scale_of(expected):
    return tuple(
        small * expected.enlarge / full
        for small, full in zip(expected.size, expected.model_size, strict=True)
    )


def click_centre(prompt, expected):
    scale_y, scale_x = scale_of(expected)
    return (prompt.xy[0] + 0.5) * scale_x, (prompt.xy[1] + 0.5) * scale_y


def round_labels(prompts):
    """What is written beside the clicks of one frame, by place: each round, or ranges of them.

    Of several objects each has its own, in order, if they differ; 0 is an initial click.
    """
    rounds = {}
    for prompt in prompts:
        if prompt.kind == "point":
            of_objects = rounds.setdefault(prompt.xy, {})
            of_objects.setdefault(prompt.category, set()).update(
                [prompt.round] * bool(prompt.round)
            )
    labels = {}
    for place, of_objects in rounds.items():
        texts = [written_ranges(numbers) for numbers in of_objects.values()]
        if any(texts):
            alike = len(set(texts)) == 1
            labels[place] = texts[0] if alike else "/".join(text or "0" for text in texts)
    return labels


def written_ranges(numbers):
    parts = []
    while numbers:
        first = last = min(numbers)
        while last + 1 in numbers:
            last += 1
        parts.append(str(first) if first == last else f"{first}–{last}")
        numbers = {number for number in numbers if number > last}
    return ",".join(parts)


def near_annotations(prompts, expected):
    """Where markers, their numbers and box outlines may lie."""
    e = expected.enlarge
    near = np.zeros((expected.size[0] * e, expected.size[1] * e), bool)
    ys, xs = np.mgrid[: near.shape[0], : near.shape[1]] + 0.5
    scale_y, scale_x = scale_of(expected)
    labels = round_labels(prompts)
    for prompt in prompts:
        if prompt.kind == "point":
            x, y = click_centre(prompt, expected)
            near |= (abs(xs - x) <= 10) & (abs(ys - y) <= 10)
            if prompt.round:
                reach = 10 + 10 * len(labels[prompt.xy])
                near |= (abs(xs - x) <= 8 + reach) & (abs(ys - y) <= 20)
        elif prompt.kind == "bbox":
            x0, y0, x1, y1 = prompt.xy
            left, right = sorted([(x0 + 0.5) * scale_x, (x1 + 0.5) * scale_x])
            top, bottom = sorted([(y0 + 0.5) * scale_y, (y1 + 0.5) * scale_y])
            outer = (xs >= left - 3) & (xs <= right + 3) & (ys >= top - 3) & (ys <= bottom + 3)
            inner = (xs > left + 3) & (xs < right - 3) & (ys > top + 3) & (ys < bottom - 3)
            near |= outer & ~inner
    return near


def check_sheet(sheet, expected):
    """Compare every panel of a sheet with what it must show; return where the panels are."""
    found = find_panels(sheet, expected)
    e = expected.enlarge
    colors = [expected.colors[k] for k in expected.order]
    for row in range(len(expected.frames)):
        image = found.panel(sheet, row, 0)[::e, ::e]
        for column in (0, 1, 3, 4):
            panel = found.panel(sheet, row, column)
            assert (panel == enlarged(panel[::e, ::e], e)).all(), "pixels are not whole blocks"
        gts, preds = expected.gts[row][expected.order], expected.preds[row][expected.order]
        check_masks(found.panel(sheet, row, 1)[::e, ::e], image, gts, colors, "ground truth")
        check_prompts(found.panel(sheet, row, 2), image, expected.prompts[row], expected)
        check_masks(found.panel(sheet, row, 3)[::e, ::e], image, preds, colors, "prediction")
        check_errors(found.panel(sheet, row, 4)[::e, ::e], image, *expected.errors[row])
    last = found.ys[-1] + found.height
    assert (sheet[last:] == WHITE).all(), "something is drawn below the last row"
    return found
