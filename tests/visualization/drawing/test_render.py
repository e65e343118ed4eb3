"""What is painted and written: palette, errors, words, legend, names and the sheet's size."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import make_batch
from sheet_reference import cielab

from core import utils
from core.official import import_sam2
from core.visualization.drawing.canvas import Canvas
from core.visualization.drawing.composite import create_composite_visualization
from core.visualization.drawing.paint import FALSE, HIT, MISSED, pack, paint_masks, stripes
from core.visualization.drawing.sheet import render_animation, render_sheet
from core.visualization.palette import NEUTRAL, category_color
from core.visualization.prompts import PromptData
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot

import_sam2()

GOLDEN = Path(__file__).parents[2] / "golden" / "panels.png"
ROOT = Path(__file__).parents[3]


def square(top, left, side=16, size=64):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def make_clip(gt, pred, *, names=None, scores=None, ious=None, name=None, prompts=None, size=64):
    """One frame of one video; `gt` and `pred` are lists of masks, `pred` may hold logits."""
    gt = torch.stack(gt) if gt else torch.zeros(0, size, size, dtype=torch.bool)
    logits = [mask if mask.is_floating_point() else mask * 10.0 - 5 for mask in pred]
    logits = torch.stack(logits) if logits else torch.zeros(0, size, size)
    images = torch.zeros(1, 1, 3, size, size)
    out = {"pred_masks_high_res": logits[:, None], "point_inputs": None, **(prompts or {})}
    if scores is not None:
        out["multistep_object_score_logits"] = [torch.tensor(scores)[:, None]]
    if ious is not None:
        out["multistep_pred_ious"] = [torch.tensor(ious)[:, None]]
    snapshot = take_snapshot(
        make_batch(images, gt[None], [0] * len(gt)),
        [out],
        Moment(
            "val",
            3,
            epoch=1,
            category_names=names,
            clip_name=None if name is None else lambda video: name,
        ),
        SnapshotOptions(panel_size=size),
    )
    return snapshot.clips()[0]


def palette(count):
    return np.array([category_color(k) for k in range(count)], float)


PICKED = [category_color(k) for k in range(24)]


def filled_with(color, below):
    """A pixel well inside a mask of a colour over a flat frame."""
    masks = np.ones((1, 5, 5), bool)
    frame = pack(np.full((5, 5, 3), below, np.uint8))
    return paint_masks(frame, masks, [color])[2:3, 2:3].view(np.uint8)[0, :3].tolist()


@pytest.mark.parametrize("category", range(24))
def test_a_filled_pixel_is_nearest_to_its_own_colour_of_the_legend(category):
    labs = [cielab(color) for color in PICKED]
    for below in [*PICKED, *([level] * 3 for level in (0, 64, 128, 192, 255))]:
        found = cielab(filled_with(PICKED[category], below))
        distances = [math.dist(found, lab) for lab in labs]
        assert distances.index(min(distances)) == category


@pytest.mark.parametrize("color", [*PICKED, NEUTRAL, HIT, MISSED, FALSE])
def test_a_tenth_and_more_of_the_brightness_range_stays_visible_in_a_mask(color):
    greys = [np.mean(filled_with(color, [level] * 3)) for level in (0, 64, 128, 192, 255)]
    assert (np.diff(greys) >= 0.2 * 63).all()


def test_what_lies_below_a_mask_gives_it_no_hue():
    # The same brightness in three hues.
    assert len({tuple(filled_with((230, 25, 75), c)) for c in ([76] * 3, [255, 0, 0])}) == 1
    assert len({tuple(filled_with((67, 99, 216), c)) for c in ([150] * 3, [0, 255, 0])}) == 1


def test_of_masks_that_overlap_the_last_gives_the_hue_over_the_brightness_of_the_others():
    image = np.full((16, 16, 3), 100, np.uint8)
    masks = np.zeros((2, 16, 16), bool)
    masks[0, :, :12] = masks[1, :, 4:] = True
    painted = paint_masks(pack(image), masks, [(10, 60, 20), (200, 150, 240)])
    both = painted.view(np.uint8).reshape(16, 16, 4)[8, 8, :3].tolist()
    first = shade((10, 60, 20), 100)
    assert both == shade((200, 150, 240), round(np.dot(first, (0.299, 0.587, 0.114))))


def test_palette_keeps_thirty_two_categories_apart():
    for first, second in itertools.combinations(palette(32), 2):
        assert np.linalg.norm(first - second) >= 30
    for first, second in itertools.combinations(palette(24), 2):
        assert np.linalg.norm(first - second) >= 50


def test_palette_never_repeats_a_colour():
    assert len({category_color(k) for k in range(200)}) == 200


def test_no_category_is_neutral():
    assert min(np.linalg.norm(color - NEUTRAL) for color in palette(32)) >= 30


def test_palette_is_the_same_in_every_process():
    code = "from core.visualization import palette; "
    code += "print([palette.category_color(k) for k in range(64)])"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert output.stdout.strip() == str([category_color(k) for k in range(64)])


def panel_of(image, column, size=256):
    """A panel of a composite of 64 px masks, found below all text."""
    return image[-10 - 6 - size : -10 - 6, 10 + column * (size + 6) :][:, :size]


def shade(color, grey):
    """A quarter of the brightness below, around the colour, which keeps 32 levels of room."""
    return [min(max(channel, 32), 223) + grey // 4 - 32 for channel in color]


@pytest.mark.parametrize("image", [(0, 0, 0), (255, 255, 255), (0, 200, 255), (255, 0, 200)])
def test_errors_panel_shows_hit_missed_and_false_over_any_frame(image):
    frame = np.full((64, 64, 3), image, np.uint8)
    gt, pred = square(0, 0)[None], square(8, 0)[None]
    panel = panel_of(create_composite_visualization(frame, gt, pred), 4)
    grey = round(0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])
    assert panel[4 * 12, 4 * 8].tolist() == shade(HIT, grey)
    assert panel[4 * 4, 4 * 8].tolist() == shade(MISSED, grey)
    assert panel[4 * 20, 4 * 8].tolist() == shade(FALSE, grey)
    assert panel[4 * 40, 4 * 40].tolist() == list(image)


def test_errors_panel_stripes_a_swap_in_both_colours():
    frame = np.zeros((64, 64, 3), np.uint8)
    gt = torch.stack([square(0, 0), square(0, 32)])
    panel = panel_of(create_composite_visualization(frame, gt, gt.flip(0)), 4)[:64, :64:4][::4]
    turn = stripes((16, 16))
    assert (panel[turn] == shade(FALSE, 0)).all()
    assert (panel[~turn] == shade(MISSED, 0)).all()


def test_errors_are_told_apart_without_colour_vision():
    """Their brightness differs, whatever a reader sees of hue; hit and missed by blue as well."""
    luma = [np.dot(color, (0.299, 0.587, 0.114)) for color in (HIT, MISSED, FALSE)]
    assert min(abs(a - b) for a, b in itertools.combinations(luma, 2)) >= 30


@pytest.mark.parametrize("given", ["ground truth", "prediction", "nothing"])
def test_nothing_is_called_an_error_without_something_to_compare(given, written):
    frame = np.zeros((64, 64, 3), np.uint8)
    mask = square(0, 0)[None]
    gt = mask if given == "ground truth" else None
    pred = mask if given == "prediction" else None
    image = create_composite_visualization(frame, gt, pred)
    assert (panel_of(image, 4) == 0).all()
    assert "errors: not available" in written
    assert not any("lost" in text or "false" in text or "IoU" in text for text in written)


def test_lost_object_is_called_lost(written):
    render_sheet(make_clip([square(0, 0)], [square(40, 40)]))
    assert any(text.endswith("lost") for text in written)


def test_object_found_in_part_is_not_called_lost(written):
    render_sheet(make_clip([square(0, 0)], [square(12, 0)]))
    assert not any("lost" in text for text in written)
    assert "0 IoU 0.14" in written


def test_prediction_of_an_absent_object_is_called_false_alarm(written):
    render_sheet(make_clip([square(0, 0) & False], [square(40, 40)]))
    assert any(text.endswith("false alarm") for text in written)


def test_absent_object_that_is_not_predicted_is_called_absent(written):
    empty = square(0, 0) & False
    prompts = {"point_inputs": clicks([[20.0, 20.0]])}
    render_sheet(make_clip([empty], [empty], prompts=prompts))
    assert "0 absent" in written


@pytest.mark.parametrize(
    ("present", "score", "word"),
    [(True, 2.0, "score +2.0✓"), (True, -2.0, "score -2.0✗"), (False, 2.0, "score +2.0✗")],
)
def test_object_score_is_held_against_presence(present, score, word, written):
    gt = square(0, 0) & present
    render_sheet(make_clip([gt], [square(0, 0)], scores=[score], ious=[0.87]))
    assert any(word in text and "est. 0.87" in text for text in written)


def clicks(points):
    coords = torch.tensor(points)[:, None]
    labels = torch.ones(coords.shape[:2], dtype=torch.int32)
    return {"point_coords": coords, "point_labels": labels}


def test_prompted_frame_is_called_prompted(written):
    render_sheet(make_clip([square(0, 0)], [square(0, 0)]))
    assert "frame 0" in written
    written.clear()
    prompts = {"point_inputs": clicks([[8.0, 8.0]])}
    render_sheet(make_clip([square(0, 0)], [square(0, 0)], prompts=prompts))
    assert "frame 0 · prompted" in written


def test_frame_that_was_only_corrected_is_called_corrected_and_not_prompted(written):
    prompts = {"multistep_point_inputs": [None, clicks([[8.0, 8.0]])]}
    render_sheet(make_clip([square(0, 0)], [square(0, 0)], prompts=prompts))
    assert "frame 0 · corrected" in written


def test_mask_prompted_frame_says_that_its_prediction_is_the_prompt(written):
    mask = square(0, 0)
    prompts = {"mask_inputs": mask[None, None]}
    render_sheet(make_clip([mask], [mask], prompts=prompts))
    assert "frame 0 · mask prompt: the prediction is the prompt" in written
    assert not any("IoU 1" in text for text in written)


def test_header_says_stage_epoch_step_and_clip(written):
    render_sheet(make_clip([square(0, 0)], [square(0, 0)], name="breakdance"))
    assert written[0].startswith("val · epoch 1 · step 3 · breakdance · mean IoU 1.000")


@pytest.mark.parametrize(
    ("rounds", "label"), [([7], "7"), ([1, 2], "1–2"), ([3, 1, 2, 7], "1–3,7"), ([1, 3], "1,3")]
)
def test_clicks_at_one_place_share_one_label(rounds, label, written):
    prompt = PromptData(
        "point",
        0,
        points=torch.tensor([[20.0, 30.0]]).repeat(len(rounds), 1),
        labels=torch.ones(len(rounds), dtype=torch.int32),
        rounds=torch.tensor(rounds),
    )
    clip = make_clip([square(0, 0)], [square(0, 0)])
    clip.frames[0].prompts = [prompt]
    render_sheet(clip)
    assert written.count(label) == 5  # once, over an outline on four sides


def near(pixels, color):
    """How many pixels have a colour, or almost."""
    return int((np.abs(pixels.astype(int) - color).max(-1) < 25).sum())


def one_click(owner, label=1, number=0):
    return PromptData(
        "point",
        owner,
        points=torch.tensor([[30.0, 30.0]]),
        labels=torch.tensor([label]),
        rounds=torch.tensor([number]),
    )


def one_box(owner, shift=0.0):
    return PromptData("bbox", owner, bbox=torch.tensor([10.0, 10.0, 50.0, 40.0]) + shift)


COINCIDING = {
    "clicks": ([one_click(k) for k in range(2)], None),
    "clicks of both kinds": ([one_click(0, 1), one_click(1, 0)], None),
    "clicks of five objects": ([one_click(k) for k in range(5)], None),
    "an earlier click and a new one": ([one_click(0, number=0), one_click(1, number=1)], 1),
    "earlier clicks": ([one_click(k) for k in range(2)], 1),
    "boxes": ([one_box(k) for k in range(3)], None),
    "boxes that almost coincide": ([one_box(0), one_box(1, 1.0)], None),
}


@pytest.mark.parametrize(("prompts", "newest"), COINCIDING.values(), ids=COINCIDING)
def test_prompts_of_several_objects_at_one_place_are_all_seen(prompts, newest):
    colors = [category_color(4 + k) for k in range(len(prompts))]  # far from those of the markers

    def drawn(prompts, colors):
        canvas = Canvas(64, 64)
        canvas.prompts(prompts, colors, 0, 0, (64, 64), (1.0, 1.0), newest)
        return canvas.pixels()

    together = drawn(prompts, colors)
    for prompt, color in zip(prompts, colors, strict=True):
        alone = near(drawn([prompt], [color]), color)
        assert alone / (2 * len(prompts)) < near(together, color) <= alone


@pytest.mark.parametrize(
    ("numbers", "label"), [([1, 2], "1/2"), ([2, 2], "2"), ([0, 3], "0/3"), ([0, 0], None)]
)
def test_rounds_of_several_objects_at_one_place_are_told_apart(numbers, label, written):
    clip = make_clip([square(0, 0), square(32, 32)], [square(0, 0), square(32, 32)])
    clip.frames[0].prompts = [one_click(k, number=number) for k, number in enumerate(numbers)]
    render_sheet(clip)
    labels = {text for text in written if text[0].isdigit() and " " not in text}
    assert labels - {"0", "1"} == ({label} if label else set())  # these are in the legend


def test_every_note_is_written_in_full(written):
    clip = make_clip([square(0, 0)], [square(0, 0)])
    clip.prompts_implied, clip.frames[0].prompts_unassigned, clip.num_left_out = True, 12, 7
    clip.prompts_elsewhere = list(range(100, 120))
    clip.pred.non_finite[:] = True
    render_sheet(clip)
    notes = [text for text in written if text.startswith("note: ")]
    assert len(notes) == 5
    assert notes[-1] == "note: 7 objects left out: they do not fit into num_categories"
    assert not any("…" in text for text in written)


def test_legend_sums_up_in_words_what_does_not_fit(written):
    names = [f"a rather long category name {k}" for k in range(40)]
    masks = [square(0, k) for k in range(40)]
    render_sheet(make_clip(masks, masks, names=names))
    shown = [text for text in written if "rather" in text]
    assert f"+ {40 - len(shown)} more categories" in written
    chips = [text for text in written if "IoU" in text and text[0].isdigit()]
    assert f"+ {40 - len(chips)} more objects, mean IoU of all objects 1.00" in written


def test_objects_that_are_there_are_told_before_those_that_are_not(written):
    empty, mask = square(0, 0) & False, square(0, 0)
    gt = [empty] * 12 + [mask]
    pred = [mask] * 12 + [empty]
    render_sheet(make_clip(gt, pred))
    chips = [text for text in written if "IoU" in text and text[0].isdigit()]
    assert chips[0] == "12 IoU 0.00 lost"
    assert chips[1] == "0 IoU 0.00 false alarm"


def test_legend_counts_the_categories_that_are_empty(written):
    empty = square(0, 0) & False
    masks = [square(0, 0)] + [empty] * 12
    render_sheet(make_clip(masks, masks, names=["tool"] + ["other"] * 12))
    assert "0 tool" in written
    assert "12 categories not on this sheet" in written


def test_clip_without_objects_is_drawn_and_says_so(written):
    render_sheet(make_clip([], []))
    assert "no object on this sheet" in written


ODD_NAMES = [
    "$x$",
    r"\frac{1}{2}_$",
    "two\nlines",
    "tab\there",
    "\x00nul",
    "手术器械",
    "😀 emoji",
    "עברית",
    "\udcff",
    "",
    "long " * 400,
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD_NAMES, ids=[f"name{k}" for k in range(len(ODD_NAMES))])
def test_odd_names_are_drawn_as_plain_text(name):
    mask = square(0, 0)
    clip = make_clip([mask], [mask], names=[name], name=name)
    ordinary = make_clip([mask], [mask], names=["name"], name="name")
    sheet = render_sheet(clip)
    assert sheet.shape == render_sheet(ordinary).shape
    assert (sheet[-80:] == render_sheet(ordinary)[-80:]).all()
    assert create_composite_visualization(
        np.zeros((64, 64, 3), np.uint8), mask[None], mask[None], title=name
    ).any()
    assert render_animation(clip)[0].any()


def test_dollar_signs_are_written_and_not_typeset():
    def header(name):
        return render_sheet(make_clip([square(0, 0)], [square(0, 0)], name=name))[10:30]

    assert (header("$x$") != header("x")).any()
    assert (header("$x$ll") != header("$xll$")).any()


def test_long_clip_name_does_not_push_the_score_off_the_sheet(written):
    render_sheet(make_clip([square(0, 0)], [square(0, 0)], name="n" * 3000))
    assert "… · mean IoU 1.000" in written[0]


def real_size_clip(size, num_frames=4, panel_size=256):
    masks = torch.zeros(num_frames, 2, *size, dtype=torch.bool)
    masks[..., : size[0] // 2, : size[1] // 2] = True
    outs = [{"pred_masks_high_res": mask[:, None] * 2.0 - 1} for mask in masks]
    batch = make_batch(torch.zeros(num_frames, 1, 3, *size), masks, [0, 0])
    options = SnapshotOptions(panel_size=panel_size)
    return take_snapshot(batch, outs, Moment("val", 0), options).clips()[0]


@pytest.mark.parametrize(
    "size", [(64, 64), (96, 96), (128, 128), (160, 160), (256, 256), (512, 512), (640, 360)]
)
def test_sheet_of_the_default_panel_size_is_as_wide_as_a_dashboard_shows(size):
    sheet = render_sheet(real_size_clip(size))
    assert 1100 <= sheet.shape[1] <= 1600


def test_text_is_at_least_thirteen_pixels_high():
    canvas = Canvas(60, 30)
    canvas.write([(5, 5, "Ag")])
    inked = np.flatnonzero((canvas.pixels() < 128).any((1, 2)))
    assert inked[-1] - inked[0] + 1 >= 13


def test_sheet_is_contiguous_and_owned():
    sheet = render_sheet(real_size_clip((64, 64)))
    assert sheet.dtype == np.uint8
    assert sheet.flags["C_CONTIGUOUS"]
    assert sheet.flags["WRITEABLE"]


def test_same_clip_gives_the_same_sheet():
    clip = real_size_clip((64, 64))
    assert (render_sheet(clip) == render_sheet(clip)).all()


def test_animation_has_every_frame_with_image_truth_and_prediction():
    clip = real_size_clip((64, 64), num_frames=3, panel_size=64)
    frames = render_animation(clip, 64)
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        assert (frame[-64:, :64] == clip.images[index]).all()
        assert frame[-64 + 31, 64 + 5].tolist() != clip.images[index][31, 5].tolist()
        assert (frame[-64:, 64:128] == frame[-64:, 128:]).all()


def composite(**changes):
    arguments = dict(
        image=np.zeros((32, 32, 3), np.uint8),
        gt_mask=np.zeros((2, 32, 32), bool),
        pred_mask=np.zeros((2, 32, 32), bool),
    )
    return create_composite_visualization(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": "x.png"}, TypeError, "image must be an array or tensor, got str"),
        ({"image": np.zeros((32, 32))}, ValueError, r"image must have shape \[3, H, W\]"),
        ({"gt_mask": [1]}, TypeError, "gt_mask must be an array or tensor, got list"),
        ({"gt_mask": np.zeros((32, 32))}, ValueError, r"gt_mask must have shape \[C, 32, 32\]"),
        (
            {"pred_mask": np.zeros((2, 8, 8))},
            ValueError,
            r"pred_mask must have shape \[C, 32, 32\]",
        ),
        (
            {"prompts": [utils.PromptData("mask", 0, mask=torch.ones(8, 8))]},
            ValueError,
            r"prompts\[0\].mask must have shape \[32, 32\] like image, got \[8, 8\]",
        ),
    ],
)
def test_composite_refuses_what_does_not_fit(changes, error, message):
    with pytest.raises(error, match=message):
        composite(**changes)


@pytest.mark.parametrize("kind", ["uint8 HWC", "uint8 CHW", "float CHW", "bf16 tensor", "grad"])
def test_composite_takes_every_kind_of_image(kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2, (32, 32, 3)).astype(np.uint8) * 255
    given = {
        "uint8 HWC": image,
        "uint8 CHW": image.transpose(2, 0, 1),
        "float CHW": image.transpose(2, 0, 1) / 255,
        "bf16 tensor": torch.from_numpy(image.transpose(2, 0, 1) / 255).bfloat16(),
        "grad": torch.from_numpy(image.transpose(2, 0, 1) / 255).requires_grad_(),
    }[kind]
    panel = panel_of(composite(image=given), 0)
    assert (panel[::8, ::8] == image).all()


def test_composite_counts_probabilities_strictly_above_one_half():
    pred = torch.full((1, 32, 32), 0.5)
    pred[0, :16] = 0.5001
    pred[0, 0] = math.nan
    panel = panel_of(composite(gt_mask=None, pred_mask=pred), 3)[::8, ::8]
    assert (panel.any(-1).any(1) == (np.arange(32) >= 1) & (np.arange(32) < 16)).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32])
def test_composite_draws_mask_prompts_of_any_type(dtype):
    mask = torch.zeros(32, 32, dtype=dtype)
    mask[4:28, 4:28] = 1
    prompt = utils.PromptData("mask", 1, mask=mask)
    panel = panel_of(composite(prompts=[prompt]), 2)[::8, ::8]
    assert (panel[4, 4:28] == category_color(1)).all()
    assert (panel[:4] == 0).all()


def test_composite_leaves_its_inputs_alone():
    image, masks = torch.rand(3, 32, 32), torch.rand(2, 32, 32)
    before = image.clone(), masks.clone()
    create_composite_visualization(image, masks, masks)
    assert torch.equal(image, before[0])
    assert torch.equal(masks, before[1])


def golden_panels():
    """Two frames with three objects, overlaps, a swap and mask prompts, painted on noise."""
    size = 48
    masks = torch.zeros(2, 3, size, size, dtype=torch.bool)
    masks[:, 0, 4:24, 4:24] = True
    masks[:, 1, 14:40, 14:40] = True
    masks[1, 2, 30:44, 2:12] = True
    logits = masks.roll(3, -1).float() * 8 - 4
    logits[1, :2] = logits[1, :2].flip(0)
    pattern = torch.arange(3 * size * size).reshape(3, size, size)
    images = torch.stack([(pattern * step % 251).float() / 125 - 1 for step in (7, 13)])[:, None]
    outs = [{"pred_masks_high_res": frame[:, None], "mask_inputs": None} for frame in logits]
    outs[0]["mask_inputs"] = masks[0, :, None]
    batch = make_batch(images, masks, [0, 0, 0])
    options = SnapshotOptions(panel_size=size)
    clip = take_snapshot(batch, outs, Moment("val", 0), options).clips()[0]
    sheet = render_sheet(clip, panel_size=size)
    rows = []
    for index in range(2):
        image = clip.images[index].astype(int)
        top = next(
            y
            for y in range(len(sheet) - size)
            if (sheet[y : y + size, 10 : 10 + size] == image).all()
        )
        rows.append(
            np.concatenate(
                [sheet[top : top + size, 10 + k * (size + 6) :][:, :size] for k in range(5)], 1
            )
        )
    return np.concatenate(rows)


def test_painted_panels_equal_the_golden_picture():
    golden = np.asarray(Image.open(GOLDEN))
    assert (golden_panels() == golden).all()
