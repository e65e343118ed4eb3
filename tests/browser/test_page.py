"""The page of a run book in a real browser: what it shows is what was stored.

Run with `make browser`; needs chromium, chromium-driver and selenium.
"""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import sample_books as books
import torch
from books import page_of
from PIL import Image

from core.report import page as page_sources
from core.visualization.drawing.paint import pack, paint_errors, paint_mask_prompts, paint_masks
from core.visualization.prompts import PromptData

HIT, MISSED, FALSE = (86, 180, 233), (240, 228, 66), (213, 94, 0)
KINDS = {"ground truth": "gt", "prediction": "pred"}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def usual() -> dict:
    return books.book(books.run("default", books.usual_clips()))


@pytest.fixture(scope="module")
def two() -> dict:
    better = books.run("run A", books.usual_clips())
    worse = books.run("run B", books.usual_clips(0.8), gain=0.9)
    worse["objects"][0]["now"] = 1.0
    return books.book(better, worse)


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def clip_of(book: dict, key: str, run: int = 0) -> dict:
    return next(clip for clip in book["runs"][run]["clips"] if clip["key"] == key)


def shape_of(clip: dict) -> tuple[int, int]:
    return clip["height"], clip["width"]


def masks_of(clip: dict, found: list[str]) -> np.ndarray:
    return np.stack([books.decode_mask(text, *shape_of(clip)) for text in found])


def hide_all_but(page, clip: dict, shown: str) -> None:
    """Toggle objects of the open clip until one alone is shown."""
    page.run(
        "for (const box of document.querySelectorAll('#legend input')) "
        "if (box.checked !== (box.dataset.object === arguments[0])) box.click()",
        shown,
    )
    assert len(page.state("hidden")) == len(clip["objects"]) - 1


def expected_masks(masks: np.ndarray, colors: list) -> np.ndarray:
    """Paint masks as the sheet's description says: [h, w, 4], nothing where there is none.

    The later mask lies above; outlines are drawn last, and where several share a pixel they take
    turns along its diagonal, three pixels each.
    """
    out = np.zeros((*masks.shape[1:], 4), np.uint8)
    for mask, color in zip(masks, colors, strict=True):
        out[mask] = (*color, 255)
    height, width = masks.shape[1:]
    num_before = np.zeros((height, width), int)
    for mask, color in zip(masks, colors, strict=True):
        padded = np.pad(mask, 1)
        around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        for y, x in np.argwhere(mask & ~np.logical_and.reduce(around)):
            if (y + x) // 3 % (num_before[y, x] + 1) == num_before[y, x]:
                out[y, x] = (*color, 255)
            num_before[y, x] += 1
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_each_objects_mask_is_the_stored_one_pixel_for_pixel(page, usual, kind):
    page.show(usual)
    for clip in usual["runs"][0]["clips"]:
        event = clip["events"][-1]
        stored = clip["gt"] if kind == "ground truth" else event["pred"]
        page.run("book.open(arguments[0], 0)", clip["key"])
        for k, thing in enumerate(clip["objects"]):
            hide_all_but(page, clip, thing["id"])
            for t in range(0, len(clip["images"]), 3):
                page.run("book.setFrame(arguments[0])", t)
                found = page.layer(shape_of(clip), kind)
                mask = books.decode_mask(stored[t][k], *shape_of(clip))
                np.testing.assert_array_equal(found[..., 3] > 0, mask)
                assert (found[mask][:, :3] == rgb(thing["color"])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_over_each_other_are_painted_as_on_sheets(page, usual, kind):
    page.show(usual)
    clip = clip_of(usual, "val/0")
    colors = [rgb(thing["color"]) for thing in clip["objects"]]
    num_shared = 0
    for event in clip["events"]:
        for t in range(len(clip["images"])):
            page.run("book.open('val/0', arguments[0], arguments[1])", 2 * t, event["step"])
            stored = clip["gt"] if kind == "ground truth" else event["pred"]
            masks = masks_of(clip, stored[t])
            found = page.layer(shape_of(clip), kind)
            np.testing.assert_array_equal(found, expected_masks(masks, colors))
            num_shared += int((masks.sum(0) > 1).sum())
    assert num_shared > 100


def test_the_visible_panels_show_the_layers(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/1")
    page.run("book.open('val/1', 10)")
    page.button("Frame").click()
    colors = [rgb(thing["color"]) for thing in clip["objects"]]
    for panel, stored in ((1, clip["gt"][5]), (3, clip["events"][-1]["pred"][5])):
        expected = expected_masks(masks_of(clip, stored), colors)
        np.testing.assert_array_equal(page.canvas(panel, shape_of(clip)), expected)


def test_frames_differ_from_what_was_drawn_by_compression_alone(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/0")
    page.run("book.open('val/0', 8)")
    data = base64.b64decode(clip["images"][4].split(",")[1])
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    shown = page.layer(shape_of(clip), "image", frame=True)[..., :3]
    assert np.abs(shown.astype(int) - image).mean() < 1
    painted = page.layer(shape_of(clip), "prediction", frame=True)
    outside = ~masks_of(clip, clip["events"][-1]["pred"][4]).any(0)
    np.testing.assert_array_equal(painted[outside][:, :3], shown[outside])


def test_masks_over_a_frame_are_painted_pixel_for_pixel_as_on_sheets(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/2")
    colors = [rgb(thing["color"]) for thing in clip["objects"]]
    for t in (0, 6, 11):
        page.run("book.open('val/2', arguments[0])", 2 * t)
        frame = pack(page.layer(shape_of(clip), "image", frame=True)[..., :3])
        for kind, stored in (("ground truth", clip["gt"]), ("prediction", last_pred(clip))):
            painted = paint_masks(frame, masks_of(clip, stored[t]), colors)
            found = page.layer(shape_of(clip), kind, frame=True)
            np.testing.assert_array_equal(found.view(np.uint32)[..., 0], painted)


def last_pred(clip: dict) -> list:
    return clip["events"][-1]["pred"]


def test_errors_and_mask_prompts_over_a_frame_are_painted_as_on_sheets(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/1")
    page.run("book.open('val/1', 0, 100)")
    frame = pack(page.layer(shape_of(clip), "image", frame=True)[..., :3])
    event = clip["events"][1]
    given = [
        PromptData("mask", p["object"], mask=torch.from_numpy(mask.copy()))
        for p in event["prompts"][0]
        for mask in masks_of(clip, [p["mask"]])
    ]
    colors = [rgb(thing["color"]) for thing in clip["objects"]]
    found = page.layer(shape_of(clip), "prompts", frame=True).view(np.uint32)[..., 0]
    np.testing.assert_array_equal(found, paint_mask_prompts(frame, given, colors))

    page.run("book.setFrame(8)")
    frame = pack(page.layer(shape_of(clip), "image", frame=True)[..., :3])
    gt, pred = masks_of(clip, clip["gt"][8]), masks_of(clip, event["pred"][8])
    errors = np.stack(list(errors_of(gt, pred).values()))
    assert errors[2].any()
    found = page.layer(shape_of(clip), "errors", frame=True).view(np.uint32)[..., 0]
    np.testing.assert_array_equal(found, paint_errors(frame, errors))


def test_errors_have_the_sheets_colours_and_swaps_are_striped(page):
    made = books.clip("val/0", "swap", objects=2, frames=2, steps=(0, 10))
    hit, missed, false = (np.zeros((128, 128), bool) for _ in range(3))
    hit[10:40, 10:40] = missed[30:60, 30:90] = false[50:80, 60:100] = True
    parts = {"hit": hit, "missed": missed, "false": false}
    event = made["events"][-1]
    of_masks = errors_of(masks_of(made, made["gt"][0]), masks_of(made, event["pred"][0]))
    event["errors"][0] = {
        name: books.encode_mask(part ^ of_masks[name]) for name, part in parts.items()
    }
    page.show(books.book(books.run("run", [made])))
    page.run("book.open('val/0', 0)")
    found = page.layer((128, 128), "errors")
    for (y, x), color in {
        (12, 12): HIT,
        (35, 35): MISSED,  # also a hit of another object
        (35, 80): MISSED,
        (70, 90): FALSE,
        (60, 60): FALSE,
        (52, 62): FALSE,  # a swap: (52 + 62) % 6 is 0
        (52, 65): MISSED,  # a swap: (52 + 65) % 6 is 3
    }.items():
        assert tuple(found[y, x]) == (*color, 255), (y, x)
    assert not found[~(hit | missed | false)].any()


def test_a_mask_prompt_is_hatched_and_stands_on_its_frame_alone(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/1")
    page.run("book.open('val/1', 0)")
    found = page.layer(shape_of(clip), "prompts")
    (mask, other) = masks_of(clip, [p["mask"] for p in clip["events"][-1]["prompts"][0]])
    assert not (mask & other).any()
    padded = np.pad(mask, 1)
    inside = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    hatched = np.add.outer(*map(np.arange, shape_of(clip))) % 6 < 3
    np.testing.assert_array_equal(found[..., 3][inside] > 0, hatched[inside])
    assert (found[mask & ~inside] == (*rgb(clip["objects"][0]["color"]), 255)).all()
    page.run("book.setFrame(1)")
    assert not page.layer(shape_of(clip), "prompts").any()


def test_clicks_are_drawn_where_they_were_given(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/0")
    page.run("book.open('val/0', 0)")
    page.button("Frame").click()
    panel = page.canvas(2)
    factor = panel.shape[0] / clip["height"]
    clicks = clip["events"][-1]["prompts"][0]
    assert {click["positive"] for click in clicks} == {True, False}
    for click in clicks:
        x, y = click["x"] * factor, click["y"] * factor
        assert panel[int(y), int(x)].min() > 200  # the middle of its sign is white
        fill = (0, 140, 60, 255) if click["positive"] else (200, 0, 30, 255)
        assert tuple(panel[int(y) + 3, int(x) - 2]) == fill
    page.run("book.setFrame(1)")
    assert not page.canvas(2).any()


def test_sliders_move_through_frames_and_steps(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 0)")
    page.find("#frame-slider").send_keys("\ue014\ue014")  # right arrow
    assert page.state("frame") == 2
    assert "frame 4 · 3 of 12" in page.find("#sliders").text
    page.find("#step-slider").send_keys("\ue012")  # left arrow
    assert page.state("step") == 200
    assert "step 200" in page.find("#sliders").text
    clip = clip_of(usual, "val/0")
    expected = expected_masks(
        masks_of(clip, clip["events"][2]["pred"][2]), [rgb(o["color"]) for o in clip["objects"]]
    )
    np.testing.assert_array_equal(page.layer(shape_of(clip), "prediction"), expected)


def test_keys_move_play_and_zoom(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 0)")
    page.press("\ue014")
    assert page.state("frame") == 1
    page.press("\ue008\ue012")  # shift and left arrow
    assert (page.state("step"), page.state("frame")) == (200, 1)
    page.press("\ue000+")
    assert page.state("zoom") == pytest.approx(1.5)
    page.press("0")
    assert page.state("zoom") == 1
    page.press(" ")
    page.wait("return book.state().frame === 11")
    page.wait("return book.state().frame === 0")
    page.press(" ")
    assert not page.state("playing")


def test_an_object_switched_off_in_the_legend_leaves_every_panel_and_curve(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 0)")
    page.button("Frame").click()
    first = (*rgb(books.COLORS[0]), 255)
    seen = [(page.canvas(panel, (128, 128)) == first).all(-1).any() for panel in (1, 3)]
    assert seen == [True, True]
    page.find("#legend input").click()
    for panel in (1, 2, 3):
        assert not (page.canvas(panel) == first).all(-1).any()
    for axis in ("frame", "step"):
        points = [
            page.run("return book.point(arguments[0], arguments[1], 0)", axis, name)
            for name in ("0 left", "1 右のはさみ")
        ]
        assert points[0] is None
        assert points[1] is not None
    page.find("#legend input").click()
    assert (page.canvas(1) == first).all(-1).any()


def test_a_click_on_a_point_of_a_curve_lands_on_its_frame_or_step(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 0)")
    page.run("document.getElementById('clip-charts').scrollIntoView()")
    page.click(page.run("return book.point('frame', '2 مقص', 14)"))
    assert page.state("frame") == 7
    page.click(page.run("return book.point('step', '0 left', 100)"))
    assert page.state("step") == 100


def chart_y(page, value: int) -> float:
    """Return where the axis of the first curve of the clip has the line of 0 or 1."""
    lines = "[...document.querySelectorAll('#clip-charts svg')[0].querySelectorAll('.axis')]"
    tops = page.run(f"return {lines}.map(l => l.getBoundingClientRect().top)")
    return min(tops) if value else max(tops)


def test_curves_of_the_clip_have_the_stored_values_and_gaps(page, usual):
    page.show(usual)
    name = "1 右のはさみ"
    page.run("book.open('val/1', 0)")
    clip = clip_of(usual, "val/1")
    scores = [frame[1]["iou"] for frame in clip["events"][-1]["scores"]]
    assert None in scores
    top, bottom = (chart_y(page, value) for value in (1, 0))
    for number, score in zip(clip["frame_numbers"], scores, strict=True):
        point = page.run("return book.point('frame', arguments[0], arguments[1])", name, number)
        assert (point is None) == (score is None)
        if score is not None:
            assert point[1] == pytest.approx(bottom + score * (top - bottom), abs=0.5)
    marks = page.texts("#clip-charts .mark title")
    assert marks == ["frame 0 was prompted"]


def test_the_table_sorts_by_each_column_both_ways(page, usual):
    page.show(usual)
    now = 4
    read = (
        "return [...document.querySelectorAll('#objects tbody tr')]"
        ".map(row => row.children[arguments[0]].textContent)"
    )
    stored = sorted(row["now"] for row in usual["runs"][0]["objects"])
    assert page.run(read, now) == [f"{value:.3f}" for value in stored]
    head = page.find_all("#objects th button")[4]
    head.click()
    assert page.run(read, now) == [f"{value:.3f}" for value in stored[::-1]]
    assert page.find_all("#objects th")[4].get_attribute("aria-sort") == "descending"
    page.find_all("#objects th button")[0].click()
    videos = page.run(read, 0)
    assert videos.index("video 10") < videos.index("video 11") < videos.index("video 15")
    assert page.find_all("#objects th")[4].get_attribute("aria-sort") is None
    page.find("#objects input").send_keys("НОЧЬ")
    assert page.run(read, 0) == []
    page.find("#objects input").clear()
    page.find("#objects input").send_keys("Night")
    assert page.run(read, 0) == ["night"] * 4


def test_a_row_opens_its_clip_where_the_object_is_first_lost(page, usual):
    page.show(usual)
    row = next(
        r for r in usual["runs"][0]["objects"] if r["clip"] == "val/1" and r["object"] == "1"
    )
    page.run("book.open('val/0', 0)")
    page.find("#objects input").send_keys("horse jump · 1")
    page.find("#objects tbody .link").click()
    assert (page.state("clip"), page.state("step")) == ("val/1", 300)
    assert page.state("frame") * 2 == row["first_bad_frame"]


def test_the_first_screen_says_whether_it_is_better_and_where_not(page, usual):
    page.show(usual)
    curve = usual["runs"][0]["curves"]["val/iou"]["values"]
    words = page.find("#summary").text
    for value in (curve[0], curve[-1]):
        assert f"{value:.2f}" in words
    assert "first validation (step 0) → now (step 300)" in words
    lowest = sorted(usual["runs"][0]["objects"], key=lambda row: row["now"])[:4]
    listed = page.texts(".worst-list .who")
    assert [text.split(" · ")[0] for text in listed] == [row["video"] for row in lowest]


def test_without_a_baseline_there_is_no_arrow(page):
    made = books.run("first", [books.clip("val/0", "one", steps=(0,), frames=4)], unseen=0)
    made["baseline_step"] = None
    page.show(books.book(made))
    assert "→" not in page.find("#summary").text
    assert all("→" not in text for text in page.texts("#legend td"))
    assert not page.button("Outline of").is_enabled()


def test_each_object_says_what_it_was_and_is(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 0)")
    rows = [row for row in usual["runs"][0]["objects"] if row["clip"] == "val/0"]
    said = page.texts("#legend tbody td:nth-child(2)")
    assert said == [f"{row['baseline']:.2f} → {row['now']:.2f}" for row in rows]


def test_the_first_outline_can_be_switched_on_in_every_panel(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/0")
    page.run("book.open('val/0', 8)")
    page.button("Outline of step 0").click()
    masks = masks_of(clip, clip["events"][0]["pred"][4])
    assert masks.any()
    for kind in ("image", "ground truth", "prompts", "prediction", "errors"):
        found = page.layer(shape_of(clip), kind)
        for mask in masks:
            padded = np.pad(mask, 1)
            around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
            edge = mask & ~np.logical_and.reduce(around)
            white = (found[edge] == 255).all(-1)
            assert white.mean() > 0.2


def test_all_panels_zoom_and_move_together(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/0")
    page.run("book.open('val/0', 0)")
    page.button("Frame").click()
    page.run(
        "const c = document.querySelectorAll('#panels canvas')[1], box = c.getBoundingClientRect();"
        "const at = {bubbles: true, clientX: box.x, clientY: box.y};"
        "c.dispatchEvent(new MouseEvent('dblclick', at))"
    )
    assert page.state("zoom") == 2
    colors = [rgb(thing["color"]) for thing in clip["objects"]]
    for panel, stored in ((1, clip["gt"][0]), (3, clip["events"][-1]["pred"][0])):
        expected = expected_masks(masks_of(clip, stored), colors)[:64, :64]
        np.testing.assert_array_equal(page.canvas(panel, (64, 64)), expected)


def test_the_swipe_shows_truth_left_and_prediction_right_of_it(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/1")
    page.run("book.open('val/1', 8)")
    page.button("Frame").click()
    page.button("Large").click()
    page.run(
        "const range = document.querySelector('.swipe'); range.value = 400;"
        "range.dispatchEvent(new Event('input'))"
    )
    colors = [rgb(thing["color"]) for thing in clip["objects"]]
    truth = expected_masks(masks_of(clip, clip["gt"][4]), colors)
    found = expected_masks(masks_of(clip, clip["events"][-1]["pred"][4]), colors)
    shown = page.canvas(0, shape_of(clip))
    width = clip["width"]
    # Names stand in the corners above, and the divider has a width.
    below, left, right = (
        slice(15, None),
        slice(0, int(0.36 * width)),
        slice(int(0.44 * width), width),
    )
    np.testing.assert_array_equal(shown[below, left], truth[below, left])
    np.testing.assert_array_equal(shown[below, right], found[below, right])


def test_a_pixel_says_which_objects_and_errors_it_has(page, usual):
    page.show(usual)
    clip = clip_of(usual, "val/0")
    page.run("book.open('val/0', 8)")
    gt, pred = (masks_of(clip, found) for found in (clip["gt"][4], clip["events"][-1]["pred"][4]))
    names = [f"{o['id']} {o['name']}" for o in clip["objects"]]
    rng = np.random.default_rng(0)
    for y, x in rng.integers(0, 128, (200, 2)).tolist():
        facts = page.run("return book.pixel(arguments[0], arguments[1])[0]", x, y)
        assert facts["truth"] == [n for n, m in zip(names, gt, strict=True) if m[y, x]]
        assert facts["prediction"] == [n for n, m in zip(names, pred, strict=True) if m[y, x]]
        errors = errors_of(gt[:, y, x], pred[:, y, x])
        assert facts["errors"] == [name for name, part in errors.items() if part]
    y, x = np.argwhere(gt[0] & pred[0])[0].tolist()
    page.run(
        "const c = document.querySelectorAll('#panels canvas')[0], box = c.getBoundingClientRect();"
        "const at = {clientX: box.x + (arguments[0] + .5) / 128 * box.width,"
        " clientY: box.y + (arguments[1] + .5) / 128 * box.height};"
        "c.dispatchEvent(new PointerEvent('pointermove', at))",
        x,
        y,
    )
    assert page.find("#inspector").text.startswith(f"x {x}, y {y} · ground truth 0 left")


def errors_of(gt: np.ndarray, pred: np.ndarray) -> dict[str, np.ndarray]:
    parts = {"hit": gt & pred, "missed": gt & ~pred, "false": pred & ~gt}
    return {name: part.any(0) for name, part in parts.items()}


def test_two_runs_stand_side_by_side_losers_first(page, two):
    page.show(two)
    changes = page.texts("#objects tbody td:nth-child(6)")
    values = [float(text[2:].replace("−", "-")) for text in changes]
    assert values == sorted(values)
    assert values[0] < 0 < values[-1]
    assert len(page.texts("#panels figcaption")) == 6
    page.run("book.open('val/0', 8)")
    clips = [clip_of(two, "val/0", run) for run in (0, 1)]
    colors = [rgb(thing["color"]) for thing in clips[0]["objects"]]
    for run, clip in enumerate(clips):
        expected = expected_masks(masks_of(clip, clip["events"][-1]["pred"][4]), colors)
        found = page.layer(shape_of(clip), "prediction", run=run)
        np.testing.assert_array_equal(found, expected)
    assert page.texts("#about .differs th") == ["optim.lr"]
    assert page.texts("#about .differs td") == ["0.0005", "0.00045", "0.001"]


def test_only_what_became_worse_is_listed_as_a_loss(page):
    runs = [books.run(name, books.usual_clips()[:1], unseen=3) for name in "AB"]
    for index, values in enumerate([(0.8, 0.4), (0.5, 0.504), (0.5, 0.6)]):
        for run, now in zip(runs, values, strict=True):
            run["objects"][index]["now"] = now
    page.show(books.book(*runs))
    assert page.texts("#summary .worst .who") == ["surgery 手術 01 · 0 left"]
    assert "1 of 6 objects better, 1 worse, 4 unchanged" in page.find("#summary").text
    changes = page.texts("#objects tbody td:nth-child(6)")
    assert changes == ["▼ −0.40", *["unchanged"] * 4, "▲ +0.10"]

    page.show(books.book(runs[0], {**runs[0], "name": "C"}))
    assert page.texts("#summary .worst .who") == []
    assert "no object is worse" in page.find("#summary .worst").text


def test_a_clip_that_one_run_lacks_is_shown_of_the_other(page):
    runs = [books.run("A", books.usual_clips()), books.run("B", books.usual_clips()[:1])]
    page.show(books.book(*runs))
    page.run("book.open('val/1', 0)")
    assert "B has no such clip" in page.find("#clip-notes").text
    assert not page.complaints()


HOSTILE = [
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=2</script>",
    "<!--<script>",
    '"><svg onload=window.hacked=3>',
    "{{script}} ${window.hacked=4} \u2028 \u202e txt \x00 &lt;b&gt;",
    "half a character \udc80",
    "<base href=https://example.com><link rel=stylesheet href=//example.com/x.css>",
]


def test_names_are_text_and_never_markup(page):
    made = books.clip(HOSTILE[0], HOSTILE[1], frames=3, names=HOSTILE)
    made["objects"][0]["color"] = "red;background:url(https://example.com/x)"
    made["images"][1] = "https://example.com/frame.jpg"
    other = books.clip("val/1", HOSTILE[2], frames=3, names=HOSTILE[3:])
    run = books.run(HOSTILE[4], [made, other])
    run["notes"], run["versions"] = list(HOSTILE), [[name, name] for name in HOSTILE]
    run["settings"] = [[name, name, None] for name in HOSTILE]
    run["curves"] = {name: {"steps": [0, 1], "values": [0.1, None]} for name in HOSTILE}
    run["curves"]["val/iou"] = {"steps": [0, 300], "values": [0.1, 0.2]}
    for show in (books.book(run, title=HOSTILE[0]), books.book(run, run, title=HOSTILE[1])):
        page.open(page_of(show), {"runs": []})
        page.run("book.open(arguments[0], 0)", HOSTILE[0])
        assert page.run("return document.getElementById('title').textContent") == show["title"]
        assert page.run("return [typeof window.hacked, document.images.length]") == ["undefined", 0]
        assert page.texts("#about li")[0].endswith(HOSTILE[0])
        assert any(HOSTILE[1] in text for text in page.texts("option"))
        assert page.texts("#fault") == [""]
        assert page.complaints() == []
        assert page.requests() == []


def test_the_page_itself_forbids_requests_and_other_scripts(page, usual):
    page.show(usual)
    assert page.requests() == []
    blocked = page.browser.execute_async_script(
        "const done = arguments[0], found = [];"
        "addEventListener('securitypolicyviolation', e => found.push(e.effectiveDirective));"
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script);"
        "const image = new Image(); image.src = 'https://example.com/x.png';"
        "fetch('https://example.com/').catch(() => 0);"
        "document.body.insertAdjacentHTML('beforeend', '<i onclick=\"window.ran = 1\"></i>');"
        "document.body.lastChild.click();"
        "setTimeout(() => done([...new Set(found)].sort().concat(typeof window.ran)), 300)"
    )
    assert blocked == ["connect-src", "img-src", "script-src-attr", "script-src-elem", "undefined"]


def test_no_state_of_the_page_complains_or_asks_for_anything(page, usual, two):
    for book in (usual, two):
        page.show(book)
        for clip in book["runs"][0]["clips"]:
            page.run("book.open(arguments[0], 0)", clip["key"])
            for _ in range(2):
                for button in page.find_all("#viewer-bar button, #sliders button, #theme"):
                    page.run("arguments[0].click()", button)
        page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.button("Side by side").click()
        assert page.texts("#fault") == [""]
        assert page.complaints() == []
        assert page.requests() == []


def test_a_run_that_stored_nothing_has_a_page(page):
    run = books.run("killed", [], unseen=0)
    run.update(curves={}, finished=None, settings=[], versions=[], cost=None, baseline_step=None)
    page.show(books.book(run))
    words = page.find("body").text
    for said in ("There was no validation yet", "No clip was stored", "not finished"):
        assert said in words
    assert page.complaints() == []


def test_a_run_that_logs_no_iou_has_the_mean_of_its_objects(page, two):
    runs = [{**run, "curves": {"train/loss": run["curves"]["train/loss"]}} for run in two["runs"]]
    page.show(books.book(runs[0]))
    (said, *_) = page.texts("#summary .card")
    ious = [row["now"] for row in runs[0]["objects"]]
    assert f"mean IoU of {len(ious)} objects at the last validation" in said
    assert f"{np.mean(ious):.2f}" in said
    assert "No value of val/iou was logged" in page.find("#summary").text
    never = {**runs[1], "baseline_step": None, "objects": [], "clips": []}
    page.show(books.book(runs[0], never))
    assert page.texts(".scores .faint") == ["no val/iou", "no validation"]
    unscored = [{**row, "now": None} for row in runs[0]["objects"]]
    page.show(books.book({**runs[0], "objects": unscored}))
    assert "mean IoU of 0 objects" in page.texts("#summary .card")[0]
    assert "No object of the last validation has an IoU" in page.find("#summary").text
    assert page.complaints() == []


def test_frames_that_were_not_kept_are_said_to_be_missing(page):
    made = books.clip("val/0", "over budget", frames=6, steps=(0, 100))
    run = books.run("run", [made])
    event = made["events"][-1]
    event["frames"] = [0, 3]
    for name in ("pred", "errors", "prompts", "scores", "prompted"):
        event[name] = [event[name][0], event[name][3]]
    page.show(books.book(run))
    page.run("book.open('val/0', 6)")
    colors = [rgb(thing["color"]) for thing in made["objects"]]
    expected = expected_masks(masks_of(made, event["pred"][1]), colors)
    np.testing.assert_array_equal(page.layer((128, 128), "prediction"), expected)
    page.run("book.setFrame(2)")
    assert not page.layer((128, 128), "prediction").any()
    assert "not kept" in page.find_all("#panels figcaption")[3].text
    assert page.complaints() == []


def keep_frames(clip: dict, places: list[int]) -> dict:
    """Return a clip of which a run has stored some frames alone."""
    kept = {name: [clip[name][t] for t in places] for name in ("frame_numbers", "images", "gt")}
    per_frame = ("pred", "errors", "prompts", "scores", "prompted")
    events = [
        {**event, **{name: [event[name][t] for t in places] for name in per_frame}}
        for event in clip["events"]
    ]
    return {**clip, **kept, "events": events}


def test_two_runs_that_kept_other_frames_are_compared_frame_by_frame(page):
    made = books.clip("val/0", "strided", frames=7, steps=(0, 100))
    places = [[0, 1, 2, 3], [0, 2, 4, 6]]
    clips = [keep_frames(made, kept) for kept in places]
    page.show(
        books.book(*(books.run(name, [clip]) for name, clip in zip("AB", clips, strict=True)))
    )
    colors = [rgb(thing["color"]) for thing in made["objects"]]
    pred = made["events"][-1]["pred"]
    shown = [0, 1, 2, 3, 4, 6]
    for index, t in enumerate(shown):
        page.run("book.open('val/0', arguments[0])", made["frame_numbers"][t])
        assert page.state("frame") == index
        for run, kept in enumerate(places):
            found = page.layer((128, 128), "prediction", run=run)
            expected = expected_masks(masks_of(made, pred[t]), colors) if t in kept else 0 * found
            np.testing.assert_array_equal(found, expected)
            said = page.texts("#panels figcaption")
            told = next(text for text in said if text.startswith(f"prediction · {'AB'[run]}"))
            assert ("not kept" in told) == (t not in kept)
        frame = page.layer((128, 128), "image", frame=True)[..., :3].astype(int)
        stored = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["images"][t][23:]))))
        assert abs(frame - stored).max() <= 3
    assert page.complaints() == []


def test_the_first_prediction_has_the_prompts_of_its_own_step(page):
    made = books.clip("val/0", "clicks", frames=4, steps=(0, 100))
    for event in made["events"]:
        for frame in event["prompts"]:
            frame.clear()
    here = {"object": 0, "kind": "click", "x": 30.5, "y": 30.5, "positive": True, "round": 0}
    there = {**here, "x": 90.5, "y": 90.5}
    for event, click in zip(made["events"], (here, there), strict=True):
        event["prompts"][0].append(click)
    page.show(books.book(books.run("run", [made])))
    page.run("book.open('val/0', 0)")
    page.button("Large").click()
    select = page.find("#panels select[aria-label='left picture']")
    choices = page.texts("#panels select[aria-label='left picture'] option")
    first = next(text for text in choices if text.startswith("first prediction"))
    next(o for o in select.find_elements("css selector", "option") if o.text == first).click()
    without = page.canvas(0)
    page.button("Prompts everywhere").click()
    changed = (page.canvas(0) != without).any(2)
    factor = changed.shape[0] // 128
    drawn = [changed[int(c["y"] * factor), int(c["x"] * factor)] for c in (here, there)]
    assert drawn == [True, True]


def test_arrow_keys_scroll_a_table_that_is_wider_than_its_place(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 8)")
    box = page.find("#objects .scroll")
    page.run("arguments[0].firstChild.style.width = '5000px'", box)
    frame = page.state("frame")
    page.run("arguments[0].focus()", box)
    box.send_keys("\ue014")  # the right arrow
    assert page.state("frame") == frame
    page.wait("return arguments[0].scrollLeft > 0", box)


def test_what_is_remembered_again_and_again_drives_nothing_out(page, usual):
    page.show(usual)
    helpers = (Path(page_sources.__file__).parent / "helpers.js").read_text(encoding="utf-8")
    kept = page.run(
        f"{helpers} const kept = new Recent(10, (value) => value);"
        "kept.set('other', 4);"
        "for (let i = 0; i < 5; i++) kept.set('same', 3);"
        "return [kept.get('other'), kept.get('same'), kept.size]"
    )
    assert kept == [4, 3, 7]


def test_a_long_curve_is_drawn(page):
    run = books.run("run", books.usual_clips()[:1])
    steps = list(range(200_000))
    run["curves"]["train/loss"] = {"steps": steps, "values": [1 / (step + 1) for step in steps]}
    page.show(books.book(run))
    assert page.complaints() == []
    assert "train/loss" in page.find("#curves").text


def test_a_page_of_another_format_says_so(page):
    page.show({"format": 99, "title": "", "runs": []})
    assert "format 2" in page.find("#fault").text


def test_nothing_but_the_title_needs_room_beside_a_narrow_window(page, usual):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.show(usual)
        assert page.run("return document.documentElement.scrollWidth") <= 400
    finally:
        size.update(width=1366, height=900)
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_an_address_with_a_place_opens_there(page, usual):
    page.show(usual)
    page.run("book.open('val/0', 0)")
    page.run("book.setStep(100); book.setFrame(5)")
    page.wait("return location.hash.includes('frame=10')")
    page.browser.refresh()
    page.wait("return book.framesReady()")
    assert [page.state(name) for name in ("clip", "frame", "step")] == ["val/0", 5, 100]


def test_every_control_has_a_name_for_screen_readers(page, usual):
    page.show(usual)
    page.button("Large").click()
    nameless = page.run(
        "return [...document.querySelectorAll('button, select, input, canvas[role], svg')]"
        ".filter(e => !(e.ariaLabel || e.textContent.trim() || (e.labels && e.labels.length)))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []


def outcomes_of(clip: dict, step: int) -> dict:
    """Return outcomes of a clip's objects and of one that has no clip."""
    frames = [*clip["frame_numbers"], 99]  # one more than is stored
    families = [
        {
            "name": name, "color": color,
            "outcomes": [{"name": word, "letter": letter, "light": name == "wrong", "share": 0.5}],
        }
        for name, color, word, letter in (
            ("tracked", "#c6e4f5", "held", "h"), ("wrong", "#005a96", "swapped", "S"),
        )
    ]  # fmt: skip
    strip = {"video": clip["name"], "frames": frames, "letters": "h" * 5 + "S" * (len(frames) - 5)}
    strips = [
        {**strip, "object": thing["id"], "name": thing["name"], "clip": clip["key"]}
        for thing in clip["objects"]
    ]
    strips.append({**strip, "object": "77", "name": None, "clip": None})
    return {
        "step": step, "families": families, "strips": strips, "left_out": 3, "unscored": 1,
        "now": [[1, 0.5, 0.8, 0.9], [2, 0.3, 0.6, 0.7]], "before": [[1, 0.1, 0.2, 0.3]],
        "copied": [],
    }  # fmt: skip


def test_a_click_on_a_cell_opens_its_frame_where_it_is_stored(page):
    run = books.run("default", books.usual_clips())
    clip = clip_of({"runs": [run]}, "val/1")
    run["outcomes"] = outcomes_of(clip, 200)
    page.show(books.book(run))
    strips = page.find_all("#outcomes .strip")
    assert len(strips) == len(clip["objects"]) + 1
    cells = strips[1].find_elements("css selector", "button")
    assert [cell.text for cell in cells] == list(run["outcomes"]["strips"][1]["letters"])
    assert cells[7].value_of_css_property("background-color") == "rgba(0, 90, 150, 1)"
    cells[7].click()
    assert page.state("clip") == "val/1"
    assert (page.state("frame"), page.state("step")) == (7, 200)
    assert not cells[-1].is_enabled()
    assert not any(c.is_enabled() for c in strips[-1].find_elements("css selector", "button"))
    said = page.find("#outcomes").text
    assert "3 more objects fail later or never." in said
    assert "1 object is not scored." in said


def test_a_run_without_outcomes_has_no_part_for_them(page, usual):
    page.show(usual)
    assert not page.find("#outcomes").is_displayed()
    assert not page.find("#to-outcomes").is_displayed()


def test_what_is_wrong_is_told_as_text_above_the_clips_with_what_was_before(page):
    ill = {
        "name": "a",
        "sentence": "it <b>is</b> hot",
        "evidence": "40 degrees",
        "advice": "shade=1",
    }
    cold = {**ill, "sentence": "it is cold"}
    run = books.run("default", books.usual_clips())
    run["diagnoses"] = [
        {"step": 100, "faults": [cold]},
        {"step": 200, "faults": []},
        {"step": 300, "faults": [ill, cold]},
    ]
    page.show(books.book(run))
    part = page.find("#doctor")
    assert part.is_displayed()
    assert part.location["y"] < page.find("#viewer").location["y"]
    assert "at the last validation, step 300" in part.text
    told = [line.text for line in part.find_elements("css selector", ":scope > ul > li")]
    assert told == [
        "it <b>is</b> hot: 40 degrees. Try shade=1.",
        "it is cold: 40 degrees. Try shade=1.",
    ]
    page.find("#doctor summary").click()
    before = [line.text for line in part.find_elements("css selector", "details li")]
    assert before == ["step 200: nothing", "step 100: it is cold"]
    assert page.complaints() == []

    run["diagnoses"].append({"step": 400, "faults": []})
    page.show(books.book(run))
    assert "Nothing any more since the validation at step 400." in page.find("#doctor").text


def test_a_run_of_which_nothing_was_said_has_no_part_for_it(page, usual):
    page.show(usual)
    assert not page.find("#doctor").is_displayed()
