"""The prompts on the sheets of hosts' batches, compared with `reference`: by pixels and notes."""

import re
from collections import Counter

import numpy as np
import pytest
import reference
import torch
from host_batches import Case, clicks, make_batch, make_case

from core.utils import log_training_visualizations
from core.visualization.drawing.canvas import Canvas
from core.visualization.palette import category_color

NUM_BATCHES, PER_TEST = 200, 20


class KeepingLogger:
    """Takes images as W&B's logger does and keeps them."""

    def log_image(self, key, images, step=None, caption=None):
        self.images, self.captions = images, caption


class Texts:
    """What is written on each sheet while it is drawn."""

    def __init__(self, monkeypatch):
        self.of_canvases = {}
        write = Canvas.write

        def remember(canvas, pieces, *args, **kwargs):
            texts = self.of_canvases.setdefault(id(canvas), (canvas, []))[1]
            texts += [text for _, _, text in pieces]
            return write(canvas, pieces, *args, **kwargs)

        monkeypatch.setattr(Canvas, "write", remember)

    def take(self):
        texts = [texts for _, texts in self.of_canvases.values()]
        self.of_canvases = {}
        return texts


@pytest.fixture
def texts(monkeypatch):
    return Texts(monkeypatch)


def draw(case, texts, outs=None):
    """Draw one sheet per video, every frame of it; return the sheets and their captions."""
    logger = KeepingLogger()
    num_frames, num_videos = case.batch.img_batch.shape[:2]
    logged = log_training_visualizations(
        logger,
        case.batch,
        case.outs if outs is None else outs,
        stage="train",
        step=3,
        max_frames=num_frames,
        max_videos=num_videos,
        panel_size=case.panel_size,
        obj_to_cat=case.obj_to_cat,
    )
    assert logged
    size = tuple(case.batch.masks.shape[-2:])
    sheets = [
        reference.Sheet(np.asarray(pixels), words, video, case.images[video], size)
        for video, (pixels, words) in enumerate(zip(logger.images, texts.take(), strict=True))
    ]
    return sheets, logger.captions


def check(case, texts, outs=None):
    for sheet in draw(case, texts, outs)[0]:
        try:
            reference.check_sheet(sheet, case.outs, case.videos_of_rows, case.obj_to_cat)
        except AssertionError as error:
            raise AssertionError(f"video {sheet.video}: {error}") from error


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.long if first >= NUM_BATCHES // 2 else ())
        for first in range(0, NUM_BATCHES, PER_TEST)
    ],
)
def test_every_prompt_of_merged_outputs_is_in_its_place_and_colour_or_noted(first, texts):
    failed = []
    for seed in range(first, first + PER_TEST):
        texts.take()
        try:
            check(make_case(seed), texts)
        except Exception as error:
            failed.append(f"batch {seed}: {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)


def test_generated_batches_cover_what_is_claimed():
    seen = Counter(feature for seed in range(NUM_BATCHES) for feature in make_case(seed).features)
    for feature in (
        "B = 1", "B = 2", "B = 3", "scale 0.5", "scale 1", "scale 2", "obj_to_cat", "rows",
        "components", "differ", "only None", "several None", "absent", "empty", "official",
        "None first", "None last", "corrections", "padding", "boxes as labels", "box_inputs",
        "mask prompts",
    ):  # fmt: skip
        assert seen[feature] >= 8, f"{feature}: {seen[feature]}"


def plain_case(num_slots=2, num_frames=1, num_videos=1, obj_to_cat=None, **out):
    """Grey frames of 128 px; every frame has the outputs given."""
    frames = np.full((num_frames, num_videos, 128, 128, 3), 90, np.uint8)
    frames += np.arange(num_frames, dtype=np.uint8)[:, None, None, None, None]
    outs = [
        {"pred_masks_high_res": torch.full((num_slots * num_videos, 1, 128, 128), -4.0), **out}
        for _ in range(num_frames)
    ]
    images = [list(frames[:, video]) for video in range(num_videos)]
    return Case(make_batch(frames, num_slots), outs, obj_to_cat, images, 128)


def with_masks(case):
    """The same case with a square in every slot of every frame, found where it is."""
    for row in range(case.batch.masks.shape[1]):
        case.batch.masks[:, row, 10 + 40 * row : 30 + 40 * row, 20:60] = True
    for t, out in enumerate(case.outs):
        out["pred_masks_high_res"] = case.batch.masks[t, :, None] * 8.0 - 4.0
    return case


TWO = [[[30.0, 40.0]], [[80.0, 90.0]]]


def test_a_click_that_is_not_drawn_is_found_missing(texts):
    case = plain_case(point_inputs=clicks(TWO, [[1], [0]]))
    check(case, texts)
    without_one = [case.outs[0] | {"point_inputs": clicks(TWO, [[1], [-1]])}]
    with pytest.raises(AssertionError, match="no marker"):
        check(case, texts, without_one)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (clicks([[[31.0, 40.0]], [[80.0, 90.0]]], [[1], [0]]), "px off"),
        (clicks([[[30.0, 40.0]], [[80.0, 90.8]]], [[1], [0]]), "px off"),
        (clicks(TWO, [[1], [1]]), "no marker of that sign"),
        (clicks(TWO[::-1], [[0], [1]]), "lost in"),
        (
            clicks([[[30.0, 40.0]] * 2, [[80.0, 90.0], [60.0, 20.0]]], [[1, -1], [0, 0]]),
            "no prompt",
        ),
    ],
)
def test_a_click_elsewhere_of_another_sign_or_owner_or_too_many_is_found(changed, found, texts):
    case = plain_case(point_inputs=clicks(TWO, [[1], [0]]))
    with pytest.raises(AssertionError, match=found):
        check(case, texts, [case.outs[0] | {"point_inputs": changed}])


def test_a_box_elsewhere_or_of_another_owner_is_found(texts):
    corners = [[[30.0, 40.0], [70.0, 60.0]], [[80.0, 90.0], [110.0, 120.0]]]
    case = plain_case(point_inputs=clicks(corners, [[2, 3], [2, 3]]))
    check(case, texts)
    moved = clicks([[[31.0, 40.0], [70.0, 60.0]], corners[1]], [[2, 3], [2, 3]])
    with pytest.raises(AssertionError, match="px off"):
        check(case, texts, [case.outs[0] | {"point_inputs": moved}])
    swapped = clicks(corners[::-1], [[2, 3], [2, 3]])
    with pytest.raises(AssertionError, match="lost in"):
        check(case, texts, [case.outs[0] | {"point_inputs": swapped}])


@pytest.mark.parametrize(
    "steps",
    [{}, {"multistep_point_inputs": []}, {"multistep_point_inputs": [clicks(TWO, [[1], [0]])]}],
    ids=["absent", "empty", "official"],
)
def test_as_many_prompt_rows_as_masks_go_row_by_row(steps, texts):
    case = plain_case(point_inputs=clicks(TWO, [[1], [0]]), mask_inputs=None, **steps)
    rows = [prompt.row for prompt in reference.prompts_of(case.outs, 2)[0].prompts]
    assert rows == [0, 1]
    check(case, texts)


@pytest.mark.parametrize("num_none", [1, 3])
def test_as_many_components_as_masks_are_neutral_with_one_video(num_none, texts):
    case = plain_case(
        point_inputs=clicks(TWO, [[1], [0]]),
        mask_inputs=None,
        multistep_point_inputs=[None] * num_none,
    )
    rows = [prompt.row for prompt in reference.prompts_of(case.outs, 2)[0].prompts]
    assert rows == [None, None]
    check(case, texts)


def test_as_many_components_as_masks_are_noted_with_two_videos(texts):
    case = plain_case(
        num_slots=1,
        num_videos=2,
        point_inputs=clicks(TWO, [[1], [0]]),
        multistep_point_inputs=[None],
    )
    for sheet in draw(case, texts)[0]:
        reference.check_sheet(sheet, case.outs, [0, 1])
        assert any("prompt" in note for note in sheet.notes)


def test_rows_that_differ_between_frames_are_not_guessed(texts):
    case = plain_case(num_frames=2)
    case.outs[0]["point_inputs"] = clicks(TWO, [[1], [0]])
    case.outs[1]["point_inputs"] = clicks([*TWO, [[20.0, 100.0]]], [[1], [0], [1]])
    frames = reference.prompts_of(case.outs, 2)
    assert [prompt.row for frame in frames for prompt in frame.prompts] == [None] * 5
    check(case, texts)


def test_a_list_of_owners_goes_before_every_guess(texts):
    case = plain_case(
        obj_to_cat=[1, 1], point_inputs=clicks(TWO, [[1], [0]]), multistep_point_inputs=[None]
    )
    assert [prompt.row for prompt in reference.prompts_of(case.outs, 2, [1, 1])[0].prompts] == [
        1,
        1,
    ]
    check(case, texts)


def test_prompts_of_one_video_are_on_its_sheet_alone(texts):
    case = plain_case(
        num_videos=2,
        obj_to_cat=[3, 0, 2],
        point_inputs=clicks([*TWO, [[20.0, 100.0]]], [[1], [0], [1]]),
        multistep_point_inputs=[None],
    )
    check(case, texts)


@pytest.mark.parametrize(
    "steps", [[None, "last"], ["first", None, "last"], ["first", "last", None]]
)
def test_the_last_entry_that_is_not_none_holds_every_click(steps, texts):
    entries = {
        "first": clicks(TWO, [[1], [0]]),
        "last": clicks([[*TWO[0], [60.0, 20.0]], [*TWO[1], [20.0, 100.0]]], [[1, 0], [0, 1]]),
    }
    steps = [entries.get(step) for step in steps]
    case = plain_case(point_inputs=steps[0], mask_inputs=None, multistep_point_inputs=steps)
    prompts = reference.prompts_of(case.outs, 2)[0].prompts
    assert len(prompts) == 4
    assert [prompt.round for prompt in prompts] == ([1, 2] if steps[0] is None else [0, 1]) * 2
    check(case, texts)


def test_initial_clicks_that_the_corrections_do_not_hold_are_drawn_beside_them(texts):
    case = plain_case(
        point_inputs=clicks(TWO, [[1], [0]]),
        multistep_point_inputs=[None, clicks([[[60.0, 20.0]], [[20.0, 100.0]]], [[0], [1]])],
    )
    prompts = reference.prompts_of(case.outs, 2)[0].prompts
    assert [prompt.round for prompt in prompts] == [0, 0, 1, 1]
    check(case, texts)


def test_an_entry_of_boxes_is_drawn(texts):
    case = plain_case(
        obj_to_cat=[1, 0, 1],
        point_inputs=None,
        box_inputs=torch.tensor([[10.0, 12, 40, 30], [60, 70, 100, 90], [10, 80, 30, 110.5]]),
    )
    check(case, texts)


@pytest.mark.parametrize(
    "given",
    [
        clicks(TWO, [[-1], [-1]]),
        clicks([[[float("nan"), 3.0]], [[80.0, 90.0]]], [[1], [-1]]),
        clicks([[[-40.0, 3.0]], [[80.0, 90.0]]], [[1], [-1]]),
        clicks([[[30.0, 40.0]], [[80.0, 90.0]]], [[2], [-1]]),
    ],
    ids=["padding alone", "not finite", "outside the frame", "half a box"],
)
def test_a_prompted_frame_without_a_prompt_to_draw_is_noted(given, texts):
    case = plain_case(point_inputs=given, mask_inputs=None)
    (sheet,), _ = draw(case, texts)
    assert any("prompt" in note for note in sheet.notes), sheet.texts
    reference.check_sheet(sheet, case.outs, [0, 0])


@pytest.mark.parametrize(
    "given",
    [
        clicks([[[float("inf"), 3.0]], [[80.0, 90.0]]], [[1], [0]]),
        clicks([[[30.0, 400.0]], [[80.0, 90.0]]], [[1], [0]]),
        clicks([[[30.0, 40.0]], [[80.0, 90.0]]], [[3], [0]]),
    ],
    ids=["not finite", "outside the frame", "half a box"],
)
def test_a_prompt_that_cannot_be_drawn_is_noted_beside_one_that_can(given, texts):
    case = plain_case(point_inputs=given, mask_inputs=None)
    check(case, texts)


def test_masks_of_nothing_alone_are_noted(texts):
    case = plain_case(mask_inputs=torch.zeros(2, 1, 128, 128))
    check(case, texts)
    assert any("prompt" in note for note in draw(case, texts)[0][0].notes)


def test_a_category_that_nothing_names_is_neither_lost_nor_scored(texts):
    case = with_masks(
        plain_case(
            num_frames=3, obj_to_cat=[0, 0], point_inputs=None, multistep_point_inputs=[None]
        )
    )
    case.outs[0]["point_inputs"] = clicks([[[40.0, 20.0]], [[25.0, 15.0]]], [[1], [1]])
    for out in case.outs:
        out["pred_masks_high_res"][1] = -4.0
    (sheet,), captions = draw(case, texts)
    assert any("not prompted" in text for text in sheet.texts)
    assert not any(re.search(r"\blost\b", text) for text in sheet.texts)
    assert re.search(r"mean IoU 1\.000", captions[0])


@pytest.mark.parametrize("num_prompts", [3, 2])
def test_scores_with_one_row_per_mask_row_are_kept_where_nothing_is_guessed(num_prompts, texts):
    given = [*TWO, [[20.0, 100.0]]][:num_prompts]
    case = with_masks(
        plain_case(
            point_inputs=clicks(given, [[1]] * num_prompts),
            multistep_point_inputs=[None],
            multistep_object_score_logits=[torch.tensor([[2.5], [-3.5]])],
        )
    )
    (sheet,), _ = draw(case, texts)
    assert any("+2.5" in text for text in sheet.texts)
    assert any("-3.5" in text for text in sheet.texts)


def test_sheets_use_the_colours_of_slots(texts):
    case = plain_case(num_slots=3, obj_to_cat=[2], point_inputs=clicks([[[30.0, 40.0]]], [[1]]))
    (sheet,), _ = draw(case, texts)
    panel = reference.prompts_panel(sheet, 0)
    assert (panel == category_color(2)).all(-1).any()


@pytest.mark.parametrize("owners", [None, [1, 1], [1, 0]], ids=str)
def test_scores_with_one_row_per_mask_row_are_kept_whatever_owns_the_prompts(owners, texts):
    case = with_masks(
        plain_case(
            obj_to_cat=owners,
            point_inputs=clicks(TWO, [[1], [1]]),
            multistep_object_score_logits=[torch.tensor([[2.5], [-3.5]])],
        )
    )
    (sheet,), _ = draw(case, texts)
    assert any("+2.5" in text for text in sheet.texts)
    assert any("-3.5" in text for text in sheet.texts)


@pytest.mark.parametrize("owners", [[], [1], [1, 0, 1]], ids=str)
def test_a_list_of_owners_of_another_length_is_refused_where_a_sheet_is_asked_for(owners, texts):
    case = plain_case(obj_to_cat=owners, point_inputs=clicks(TWO, [[1], [0]]))
    with pytest.raises(ValueError, match=rf"obj_to_cat has {len(owners)} entries.*has 2 prompt"):
        draw(case, texts)
