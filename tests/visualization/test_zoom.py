"""Small objects are drawn larger: where the window lies, and what the panels that show it hold."""

import dataclasses
import math
import random

import numpy as np
import pytest
import sheet_reference as reference
import torch
import torch.nn.functional as F
from prompt_reference import prompts_of
from scenes import make_batch
from test_coverage import needle
from test_sheet_truth import TextSpy, click, make_case, square_case

from core.visualization.drawing.sheet import render_sheet
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot
from core.visualization.window import place_window

MARGIN, GAP = 10, 6


@pytest.fixture
def spy(monkeypatch):
    return TextSpy(monkeypatch)


def rows_of(case):
    owners = case.batch.obj_to_frame_idx[0, :, 1].tolist()
    return [row for row, owner in enumerate(owners) if owner == case.video][: case.num_categories]


def extent_of(case, frames):
    """left, top, right, bottom of ground truth and initial prompts on the drawn frames, or None."""
    boxes = []
    found = prompts_of(case.outs, case.batch.masks.shape[1], case.obj_to_cat)
    one_video = case.batch.img_batch.shape[1] == 1
    for t in frames:
        masks = [case.batch.masks[t, row].numpy() for row in rows_of(case)]
        for prompt in found[t].prompts:
            mine = one_video if prompt.row is None else prompt.row in rows_of(case)
            if mine and prompt.kind == "mask":
                masks.append(np.asarray(prompt.mask) > 0)
            elif mine and not prompt.round:
                xs, ys = prompt.xy[::2], prompt.xy[1::2]
                boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
        for mask in masks:
            ys, xs = np.nonzero(mask)
            if len(ys):
                boxes.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    if not boxes:
        return None
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def embed(case, rng):
    """The same case somewhere in larger frames, with predictions elsewhere too."""
    height, width = case.batch.img_batch.shape[-2:]
    full_height, full_width = rng.choice([(160, 160), (168, 200), (200, 160)])
    top, left = rng.randrange(full_height - height + 1), rng.randrange(full_width - width + 1)
    around = (left, full_width - width - left, top, full_height - height - top)

    def pad(tensor, value=0.0):
        return F.pad(tensor, around, value=value)

    def move(clicks):
        if clicks is None:
            return None
        return {**clicks, "point_coords": clicks["point_coords"] + torch.tensor([left, top])}

    noise = torch.Generator().manual_seed(rng.randrange(1000))
    images = torch.randn(
        *case.batch.img_batch.shape[:3], full_height, full_width, generator=noise
    ).to(case.batch.img_batch.dtype)
    images[..., top : top + height, left : left + width] = case.batch.img_batch
    outs = []
    for out in case.outs:
        logits = pad(out["pred_masks_high_res"], -4.0)
        y, x = rng.randrange(full_height - 20), rng.randrange(full_width - 20)
        logits[:1, :, y : y + rng.choice([1, 20]), x : x + 20] = 4.0
        moved = {**out, "pred_masks_high_res": logits, "point_inputs": move(out["point_inputs"])}
        if "multistep_point_inputs" in out:
            moved["multistep_point_inputs"] = [move(s) for s in out["multistep_point_inputs"]]
        if out["mask_inputs"] is not None:
            moved["mask_inputs"] = pad(out["mask_inputs"])
        outs.append(moved)
    layout, metadata = case.batch.obj_to_frame_idx, case.batch.metadata
    batch = make_batch(
        images,
        pad(case.batch.masks),
        layout[0, :, 1].tolist(),
        metadata.unique_objects_identifier,
    )
    batch.metadata.frame_orig_size[:] = metadata.frame_orig_size
    return dataclasses.replace(case, batch=batch, outs=outs)


def cut_out(case, window):
    """What the window shows, as a case of its own."""
    rows, columns = window.box

    def move(clicks):
        if clicks is None:
            return None
        origin = torch.tensor([columns.start, rows.start])
        return {**clicks, "point_coords": clicks["point_coords"] - origin}

    outs = []
    for out in case.outs:
        cut = {**out, "pred_masks_high_res": out["pred_masks_high_res"][..., rows, columns]}
        cut["point_inputs"] = move(out["point_inputs"])
        if "multistep_point_inputs" in out:
            cut["multistep_point_inputs"] = [move(s) for s in out["multistep_point_inputs"]]
        if out["mask_inputs"] is not None:
            cut["mask_inputs"] = out["mask_inputs"][..., rows, columns]
        outs.append(cut)
    batch = make_batch(
        case.batch.img_batch[..., rows, columns],
        case.batch.masks[..., rows, columns],
        case.batch.obj_to_frame_idx[0, :, 1].tolist(),
        case.batch.metadata.unique_objects_identifier,
    )
    return dataclasses.replace(case, batch=batch, outs=outs)


def check_window(window, extent, size):
    """It holds the extent with its margin, has the frame's aspect and is 64 px wide."""
    (height, width), (rows, columns) = size, window.box
    left, top, right, bottom = extent
    spare_x, spare_y = (0.15 * (end - start) for start, end in ((left, right), (top, bottom)))
    assert columns.start <= max(0, left - spare_x) + 1
    assert columns.stop >= min(width, right + spare_x) - 1
    assert rows.start <= max(0, top - spare_y) + 1
    assert rows.stop >= min(height, bottom + spare_y) - 1
    assert columns.stop - columns.start >= 64
    assert window.size[0] == pytest.approx(window.size[1] * height / width, abs=1.01)
    assert 0 <= rows.start
    assert rows.stop <= height
    assert 0 <= columns.start
    assert columns.stop <= width


def check_zoomed(case, spy):
    """Compare the panels with a sheet of the window's pixels alone; return whether it has one."""
    frames = list(range(0, len(case.outs), case.stride))[: case.max_frames]
    clip, extent = case.clip(), extent_of(case, frames)
    if extent is None:
        assert clip.close_up is None
        return False
    window, size = clip.close_up.window, tuple(case.batch.img_batch.shape[-2:])
    check_window(window, extent, size)
    expected = cut_out(case, window).expected()
    expected.size, expected.enlarge = window.grid.size, window.enlarge
    spy.read()
    sheet = render_sheet(clip, panel_size=case.panel_size)
    said = [text for text, *_ in spy.read()]
    side = clip.close_up.outside.shape[-1] * max(
        1, case.panel_size // 2 // max(clip.close_up.outside.shape[-2:])
    )
    reference.check_sheet(sheet[:, side + GAP :], expected)
    check_outside(case, frames, clip, window, said)
    render_sheet(dataclasses.replace(clip, close_up=None), panel_size=case.panel_size)
    plain = [text for text, *_ in spy.read()]
    assert plain[0] == said[0]
    # Nothing that is counted or measured changes with the window.
    scores = [text for text in plain if " IoU " in text or text.startswith("frame ")]
    assert [text for text in said if text in scores] == scores
    return True


def check_outside(case, frames, clip, window, said):
    rows, columns = window.box
    count = 0
    for index, t in enumerate(frames):
        for category, row in enumerate(rows_of(case)):
            logits = case.outs[t]["pred_masks_high_res"][row, 0].double().numpy()
            found = np.isfinite(logits) & (logits > 0)
            assert clip.pred.areas[index, category] == found.sum()
            assert clip.gt.areas[index, category] == case.batch.masks[t, row].sum()
            found[rows, columns] = False
            count += found.sum()
            small = reference.reduce_mask(found, clip.close_up.outside.shape[-2:])
            assert (clip.close_up.outside[index, category] == small).all()
    words = f"{count} predicted pixel"
    assert any(words in text for text in said) == (count > 0)


def check_seeds(seeds, spy):
    num_zoomed = 0
    for seed in seeds:
        case = make_case(seed)
        if max(case.batch.img_batch.shape[-2:]) > 48 or "C = 32" in case.features:
            continue
        try:
            num_zoomed += check_zoomed(embed(case, random.Random(seed)), spy)
        except Exception as error:
            raise AssertionError(f"batch {seed}: {error}") from error
    assert num_zoomed >= len(seeds) // 4


def test_zoomed_sheet_shows_the_windows_pixels(spy):
    check_seeds(range(12), spy)


@pytest.mark.slow
@pytest.mark.long
def test_zoomed_sheet_shows_the_windows_pixels_at_length(spy):
    check_seeds(range(100, 200), spy)


@pytest.mark.parametrize(
    ("extent", "size", "panel_size", "box", "enlarge"),
    [
        # 100 px, 130 with the margin: one screen pixel for each makes the panel full.
        ((400, 400, 500, 500), (1024, 1024), 256, (322, 322, 256, 256), 1),
        ((400, 400, 410, 410), (1024, 1024), 256, (373, 373, 64, 64), 4),
        # At the border the window stays on the frame.
        ((0, 1014, 10, 1024), (1024, 1024), 256, (0, 960, 64, 64), 4),
        # 40 % of 1000 px, margin included; beyond it there is no window.
        ((100, 100, 407, 110), (1000, 1000), 256, (54, 0, 400, 400), 1),
        ((100, 100, 408, 110), (1000, 1000), 256, None, None),
        ((100, 100, 110, 408), (1000, 1000), 256, None, None),
        ((10, 10, 12, 12), (160, 160), 256, (0, 0, 64, 64), 4),
        ((10, 10, 12, 12), (320, 159), 256, None, None),
    ],
)
def test_window_of_an_extent(extent, size, panel_size, box, enlarge):
    window = place_window(extent, size, panel_size)
    if box is None:
        assert window is None
    else:
        assert (window.left, window.top, *window.size) == box
        assert window.enlarge == enlarge


@pytest.mark.parametrize("side", [160, 200, 330, 375, 500, 1024])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("panel_size", [128, 256, 512])
def test_panels_of_a_window_are_about_as_large_as_others(side, part, panel_size):
    extent = (0, 0, max(1, math.floor(part * side)), 1)
    window = place_window(extent, (side, side), panel_size)
    shown = window.grid.size[1] * window.enlarge
    assert 0.7 * panel_size <= shown <= 1.25 * panel_size
    assert shown / window.size[1] > 1.2 * max(1, panel_size // side) * min(1, panel_size / side)


def small_case(**outs):
    """One square of 10 px in frames of 320 px, with a click on it."""
    case = square_case()
    masks = torch.zeros(1, 1, 320, 320, dtype=torch.bool)
    masks[..., 100:110, 100:110] = True
    images = torch.rand(1, 1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    out = {"pred_masks_high_res": torch.where(masks[0], 5.0, -5.0)[:, None]}
    case.outs = [out | {"point_inputs": click([104.0, 104.0])} | outs]
    case.batch, case.panel_size = make_batch(images, masks, [0]), 256
    return case


def test_prediction_decides_nothing_and_is_outlined_on_the_whole_frame(spy):
    case = small_case()
    before = case.clip().close_up.window
    case.outs[0]["pred_masks_high_res"][..., 240:280, 240:300] = 5.0
    clip = case.clip()
    assert clip.close_up.window == before
    sheet = render_sheet(clip)
    said = [(text, y) for text, _, y, _ in spy.read()]
    assert any("2400 predicted pixels lie outside the window" in text for text, _ in said)
    top = max(y for text, y in said if text.startswith("frame ")) + 20
    overview = sheet[top - 5 : top + 140, MARGIN : MARGIN + 128]
    own = (overview == clip.color_of(0)).all(-1)
    ys, xs = np.nonzero(own)
    # 320 px are 128 there: 40 x 60 px at (240, 240) are 16 x 24 at (96, 96).
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1, xs.min()) == (24, 16, 96)
    assert own.sum() == 2 * (24 + 16) - 4
    assert (
        "enlarged 5.0 times: panels show the 64 × 64 px at (73, 73) of the frame's 320 × 320"
        in {text for text, _ in said}
    )


def test_a_correction_far_away_moves_no_window_and_is_drawn_on_the_whole_frame(spy):
    case = small_case()
    before, plain = case.clip().close_up.window, render_sheet(case.clip())
    first = case.outs[0]["point_inputs"]
    both = {name: torch.cat([first[name], first[name]], 1) for name in first}
    both["point_coords"][0, 1] = torch.tensor([250.0, 60.0])
    case.outs[0]["multistep_point_inputs"] = [first, both]
    clip = case.clip()
    assert clip.close_up.window == before
    sheet = render_sheet(clip)
    assert any("1 click lies outside the window" in text for text, *_ in spy.read())
    height = min(len(sheet), len(plain))
    changed = (sheet[-height:] != plain[-height:]).any(-1)[-262:]
    xs = np.nonzero(changed[:, : MARGIN + 128])[1]
    assert abs(xs.min() - 3 + 10 - (MARGIN + 250.5 * 128 / 320)) <= 4
    assert not changed[:, MARGIN + 128 :].any()


def test_off_shows_whole_frames():
    case = small_case()
    options = SnapshotOptions(zoom="off")
    (clip,) = take_snapshot(case.batch, case.outs, Moment("val", 0), options).clips()
    assert clip.close_up is None
    assert clip.images.shape == (1, 256, 256, 3)


def test_animation_and_run_book_keep_whole_frames_and_the_sheet_is_zoomed():
    case = small_case()
    case.batch = make_batch(
        case.batch.img_batch.repeat(3, 1, 1, 1, 1), case.batch.masks.repeat(3, 1, 1, 1), [0]
    )
    case.outs = case.outs * 3
    for options in (
        SnapshotOptions(max_frames=2, draw_all_frames=True),
        SnapshotOptions(max_frames=2, kept_frames=3),
    ):
        (clip,) = take_snapshot(case.batch, case.outs, Moment("val", 0), options).clips()
        assert clip.images.shape == (3, 256, 256, 3)
        assert clip.select([0, 1]).close_up.view.images.shape == (2, 64, 64, 3)
        assert clip.select([0, 2]).close_up is None


@pytest.mark.parametrize("degrees", [0, 90, 45])
def test_needle_as_a_mask_prompt_is_drawn_like_the_ground_truth(degrees):
    mask = torch.from_numpy(needle(math.radians(degrees), 3, 2))[None, None]
    outs = [
        {
            "pred_masks_high_res": torch.where(mask[0], 5.0, -5.0)[:, None],
            "mask_inputs": mask[0][:, None],
        }
    ]
    batch = make_batch(torch.zeros(1, 1, 3, 1024, 1024), mask, [0])
    (clip,) = take_snapshot(batch, outs, Moment("val", 0)).clips()
    ((prompt,),) = (frame.prompts for frame in clip.frames)
    for other in (clip.gt.masks[0, 0], clip.pred.masks[0, 0], clip.errors[0, 0]):
        assert np.array_equal(prompt.mask.numpy(), other)
