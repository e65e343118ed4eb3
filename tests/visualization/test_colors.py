"""Which colour an object has, what it is called, and in which order objects come."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from scenes import make_batch, take
from sheet_reference import cielab

from core.utils import extract_category_preds, to_category_gt_masks
from core.visualization.drawing.sheet import render_sheet
from core.visualization.palette import category_color, colors_of

# Of the palette's entries, by eye: red, green, blue.
RED, GREEN, BLUE = (230, 25, 75), (60, 180, 75), (67, 99, 216)
SIZE = 48


def scene(ids, order=None):
    """One frame of objects that overlap, one per id, prompted with masks and then clicks."""
    order = list(range(len(ids))) if order is None else order
    masks = torch.zeros(2, len(ids), SIZE, SIZE, dtype=torch.bool)
    for k in range(len(ids)):
        masks[:, k, 4 * k : 4 * k + 20, 6 * k : 6 * k + 20] = True
    logits = torch.where(masks.roll(2, -1), 3.0, -3.0)
    clicks = torch.tensor([[[6.0 * k + 10, 4.0 * k + 10]] for k in range(len(ids))])
    labels = torch.tensor([[k % 2] for k in range(len(ids))], dtype=torch.int32)
    identifiers = torch.zeros(2, len(ids), 3, dtype=torch.long)
    identifiers[..., 1] = torch.tensor(ids)
    identifiers[..., 2] = torch.arange(2)[:, None]
    batch = make_batch(
        torch.zeros(2, 1, 3, SIZE, SIZE), masks[:, order], [0] * len(ids), identifiers[:, order]
    )
    scores = torch.arange(len(ids))[:, None] / 10
    outs = [
        {
            "pred_masks_high_res": logits[t, order, None],
            "point_inputs": None,
            "mask_inputs": masks[0, order, None] if t == 0 else None,
            "multistep_point_inputs": [
                None,
                {"point_coords": clicks[order], "point_labels": labels[order]},
            ]
            if t == 1
            else [None],
            "multistep_pred_ious": [scores[order]],
            "multistep_object_score_logits": [scores[order] - 0.1],
        }
        for t in range(2)
    ]
    return batch, outs


def sheet(batch, outs, **options):
    (clip,) = take(batch, outs, **options).clips()
    return render_sheet(clip, panel_size=SIZE)


@pytest.mark.parametrize("ids", [[1, 2, 3], [2, 9, 40, 1], [5, 69, 90, 13]])
def test_rows_in_any_order_give_the_same_sheet(ids):
    expected = sheet(*scene(ids))
    for order in itertools.permutations(range(len(ids))):
        assert (sheet(*scene(ids, list(order))) == expected).all()


def test_an_object_keeps_its_colour_whatever_else_is_on_the_sheet():
    for ids in ([2], [2, 0], [1, 2, 17], [30, 2, 7]):
        (clip,) = take(*scene(ids)).clips()
        assert clip.colors[ids.index(2)] == BLUE


def test_legend_and_chips_show_the_ids_of_the_files_in_their_order(written):
    sheet(*scene([9, 2, 4]), object_names=lambda video: {2: "cat", 9: "dog"})
    legend = written.index("2 cat")
    assert written[legend : legend + 3] == ["2 cat", "4", "9 dog"]
    chips = [text.split()[0] for text in written if "IoU" in text and text[0].isdigit()]
    assert chips == ["2", "4", "9"]


def test_categories_are_known_by_their_slots_whatever_ids_the_batch_has(written):
    batch, outs = scene([9, 2, 4])
    (clip,) = take(batch, outs, category_names=["hook", "clip", "bag"]).clips()
    assert (clip.ids, clip.colors) == ([0, 1, 2], (RED, GREEN, BLUE))
    render_sheet(clip)
    legend = written.index("0 hook")
    assert written[legend : legend + 3] == ["0 hook", "1 clip", "2 bag"]


@pytest.mark.parametrize("ids", [[4, 4, 4], [4, 4, 2], [-1, 3, 5]])
def test_ids_that_do_not_tell_objects_apart_are_replaced_by_positions(ids):
    (clip,) = take(*scene(ids), object_names=lambda video: {4: "cat"}).clips()
    assert (clip.ids, clip.colors) == ([0, 1, 2], (RED, GREEN, BLUE))
    assert set(clip.category_names) == {""}


def test_without_metadata_objects_are_known_by_positions():
    batch, outs = scene([9, 2, 4])
    batch = SimpleNamespace(
        img_batch=batch.img_batch, masks=batch.masks, obj_to_frame_idx=batch.obj_to_frame_idx
    )
    (clip,) = take(batch, outs).clips()
    assert (clip.ids, clip.colors) == ([0, 1, 2], (RED, GREEN, BLUE))


def test_what_callers_get_keeps_the_order_of_the_batch():
    batch, outs = scene([9, 2, 4])
    assert torch.equal(to_category_gt_masks(batch, None, 0), batch.masks)
    assert torch.equal(
        extract_category_preds(outs),
        torch.stack([out["pred_masks_high_res"] for out in outs])[:, :, 0].sigmoid(),
    )
    (clip,) = take(batch, outs).clips()
    given = [prompt for prompt in clip.frames[1].prompts if prompt.prompt_type == "point"]
    assert [(p.obj_id, p.points[0].tolist()) for p in given] == [
        (0, [10.0, 10.0]),
        (1, [16.0, 14.0]),
        (2, [22.0, 18.0]),
    ]


def test_num_categories_keeps_the_first_rows_of_the_batch():
    (clip,) = take(*scene([9, 2, 4]), num_categories=2).clips()
    assert (clip.ids, clip.num_left_out) == ([9, 2], 1)


def lab_distance(first, second):
    return math.dist(cielab(first), cielab(second))


def test_cielab_of_the_reference_gives_known_coordinates():
    assert cielab((255, 255, 255)) == pytest.approx((100, 0, 0), abs=0.05)
    assert cielab((255, 0, 0)) == pytest.approx((53.24, 80.09, 67.20), abs=0.05)
    assert cielab((0, 0, 255)) == pytest.approx((32.30, 79.19, -107.86), abs=0.05)


def test_of_two_ids_that_look_alike_the_larger_takes_the_next_free_colour():
    assert lab_distance(category_color(5), category_color(69)) < 10
    assert colors_of((5, 69)) == (category_color(5), category_color(70))
    assert colors_of((69, 5)) == (category_color(70), category_color(5))
    # The next one is not free where another object has it.
    assert colors_of((5, 69, 70)) == (category_color(5), category_color(71), category_color(70))


def test_sixty_objects_of_any_numbers_are_told_apart():
    for ids in (range(60), range(1000, 1060), [2**60 + 7 * k for k in range(60)]):
        colors = colors_of(tuple(ids))
        distances = [lab_distance(a, b) for a, b in itertools.combinations(colors, 2)]
        assert min(distances) >= 9.99


def test_more_objects_than_there_are_colours_are_all_painted():
    assert len(colors_of(tuple(range(600)))) == 600
