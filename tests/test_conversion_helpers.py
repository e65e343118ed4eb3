"""Batch and outputs to frames, ground truth, probabilities and prompts; prompts as data."""

import math

import numpy as np
import pytest
import torch
from scenes import make_batch
from sheet_reference import MEAN, STD

from core.official import check_batch_and_outputs, import_sam2
from core.utils import (
    PromptData,
    build_prompts_from_gt_first_frame,
    extract_category_preds,
    to_category_gt_masks,
    to_video_frames,
)
from core.visualization.prompts import prompts_from_clicks

import_sam2()

VIDEOS = [0, 0, 1, 1, 1]


def make_inputs():
    """A batch of two videos, and its frames in 0..255."""
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(2, len(VIDEOS), 8, 12, generator=g) < 0.5
    bytes_ = torch.randint(0, 256, (2, 2, 3, 8, 12), generator=g).float()
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    return make_batch((bytes_ / 255 - mean) / std, masks, VIDEOS), bytes_


@pytest.fixture
def batch():
    return make_inputs()[0]


@pytest.mark.parametrize("video", [0, 1])
def test_conversion_helpers_frames_are_those_before_normalisation(video):
    batch, bytes_ = make_inputs()
    frames = to_video_frames(batch, video)
    assert frames.dtype == torch.float32
    assert torch.equal((frames * 255).round(), bytes_[:, video])


def test_frames_that_are_bytes_still_are_refused():
    batch, bytes_ = make_inputs()
    batch.img_batch = bytes_.to(torch.uint8)
    with pytest.raises(TypeError, match=r"img_batch must be normalised floats.*normalise\(batch\)"):
        to_video_frames(batch, 0)
    with pytest.raises(TypeError, match="img_batch must be normalised floats, got bytes"):
        check_batch_and_outputs(batch, [{}, {}])


@pytest.mark.parametrize(
    ("video", "num_categories", "rows"),
    [(0, None, [0, 1]), (1, None, [2, 3, 4]), (1, 2, [2, 3]), (0, 13, [0, 1])],
)
def test_conversion_helpers_kth_row_of_a_video_is_category_k(batch, video, num_categories, rows):
    masks = to_category_gt_masks(batch, num_categories, video)
    assert masks.dtype == torch.bool
    assert masks.shape[1] == (num_categories or len(rows))
    assert torch.equal(masks[:, : len(rows)], batch.masks[:, rows])
    assert not masks[:, len(rows) :].any()


def test_conversion_helpers_leave_the_batch_alone_and_own_their_results(batch):
    images, masks = batch.img_batch.clone(), batch.masks.clone()
    to_video_frames(batch, 0).zero_()
    to_category_gt_masks(batch, None, 0).zero_()
    assert torch.equal(batch.img_batch, images)
    assert torch.equal(batch.masks, masks)


@pytest.mark.parametrize("video", [-1, 2])
def test_conversion_helpers_refuse_a_video_that_is_not_there(batch, video):
    with pytest.raises(IndexError, match=rf"video_idx must be in \[0, 2\), got {video}"):
        to_video_frames(batch, video)
    with pytest.raises(IndexError, match=rf"video_idx must be in \[0, 2\), got {video}"):
        to_category_gt_masks(batch, 3, video)


def test_conversion_helpers_refuse_no_categories(batch):
    with pytest.raises(ValueError, match="num_categories must be None or at least 1, got 0"):
        to_category_gt_masks(batch, 0, 0)


def outputs(logits):
    return [{"pred_masks_high_res": frame} for frame in logits]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("singleton", [True, False])
def test_conversion_helpers_probabilities_lie_between_0_and_1(dtype, singleton):
    logits = torch.randn(2, 3, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 9
    logits = logits.to(dtype) if singleton else logits.to(dtype)[:, :, 0]
    probabilities = extract_category_preds(outputs(logits))
    assert probabilities.shape == (2, 3, 8, 12)
    assert probabilities.dtype == torch.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert torch.equal(probabilities > 0.5, logits.reshape(2, 3, 8, 12) > 0)


@pytest.mark.parametrize("value", [0.0, -1024.0, math.nan, math.inf, -math.inf])
def test_conversion_helpers_empty_absent_and_non_finite_logits_are_no_mask(value):
    probabilities = extract_category_preds(outputs(torch.full((1, 1, 1, 4, 4), value)))
    assert not (probabilities > 0.5).any()
    assert torch.isfinite(probabilities).all()


def test_conversion_helpers_keep_a_single_category_and_a_single_frame():
    assert extract_category_preds(outputs(torch.zeros(1, 1, 1, 4, 4))).shape == (1, 1, 4, 4)


def test_conversion_helpers_refuse_several_masks_per_object():
    with pytest.raises(ValueError, match=r"must have shape \[C, 1, H, W\], got \[2, 3, 4, 4\]"):
        extract_category_preds(outputs(torch.zeros(1, 2, 3, 4, 4)))


def test_conversion_helpers_refuse_no_frames():
    with pytest.raises(ValueError, match="outs_per_frame must hold at least one frame"):
        extract_category_preds([])


def test_conversion_helpers_name_the_output_that_is_missing():
    with pytest.raises(KeyError, match=r"outs_per_frame\[0\] has no 'logits'"):
        extract_category_preds(outputs(torch.zeros(1, 1, 1, 4, 4)), key="logits")


@pytest.fixture
def first_frame():
    """A ring in category 0, nothing in 1, a square of one pixel in 2; other masks later."""
    masks = torch.ones(2, 3, 16, 16, dtype=torch.bool)
    masks[0] = False
    masks[0, 0, 2:14, 3:13] = True
    masks[0, 0, 4:12, 5:11] = False
    masks[0, 2, 15, 0] = True
    return masks


def test_conversion_helpers_implied_click_lies_on_its_mask(first_frame):
    prompts = build_prompts_from_gt_first_frame(first_frame, "point")
    assert [prompt.obj_id for prompt in prompts] == [0, 2]
    for prompt in prompts:
        x, y = prompt.points[0].long().tolist()
        assert first_frame[0, prompt.obj_id, y, x]
        assert prompt.labels.tolist() == [1]


def test_conversion_helpers_implied_box_encloses_its_mask(first_frame):
    boxes = build_prompts_from_gt_first_frame(first_frame, "bbox")
    assert [box.bbox.tolist() for box in boxes] == [[3, 2, 12, 13], [0, 15, 0, 15]]


def test_conversion_helpers_implied_mask_is_a_copy(first_frame):
    prompts = build_prompts_from_gt_first_frame(first_frame, "mask")
    assert torch.equal(prompts[0].mask, first_frame[0, 0])
    prompts[0].mask.zero_()
    assert first_frame[0, 0].any()


@pytest.mark.parametrize(
    ("masks", "prompt_type", "error", "message"),
    [
        (np.zeros((1, 1, 4, 4)), "point", TypeError, "gt_masks_tchw must be a torch.Tensor"),
        (torch.zeros(1, 4, 4), "point", ValueError, r"must have shape \[T >= 1, C, H, W\]"),
        (torch.zeros(0, 1, 4, 4), "point", ValueError, r"must have shape \[T >= 1, C, H, W\]"),
        (torch.zeros(1, 1, 4, 4), "box", ValueError, "must be one of point, bbox, mask"),
    ],
)
def test_conversion_helpers_refuse_what_implies_no_prompts(masks, prompt_type, error, message):
    with pytest.raises(error, match=message):
        build_prompts_from_gt_first_frame(masks, prompt_type)


def test_conversion_helpers_clicks_become_a_box_and_numbered_points():
    coords = np.array([[1, 2], [9, 8], [5, 5], [6, 6], [0, 0]], np.float32)
    box, points = prompts_from_clicks(coords, np.array([2, 3, 1, 0, -1]), 2, 4)
    assert (box.prompt_type, box.bbox.tolist(), box.obj_id) == ("bbox", [1, 2, 9, 8], 4)
    assert points.points.tolist() == [[5, 5], [6, 6]]
    assert points.labels.tolist() == [1, 0]
    assert points.rounds.tolist() == [1, 2]


def test_conversion_helpers_padding_alone_is_no_prompt():
    assert prompts_from_clicks(np.zeros((2, 2), np.float32), np.array([-1, -1]), 2, 0) == []


two_points = dict(points=torch.zeros(2, 2), labels=torch.ones(2))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (("scribble", 0), ValueError, "prompt_type must be one of point, bbox, mask"),
        (("point", 0), ValueError, "a 'point' prompt needs points, got None"),
        (("point", 0, torch.zeros(2, 2)), ValueError, "a 'point' prompt needs labels, got None"),
        (("point", 0, torch.zeros(2), torch.ones(2)), ValueError, r"points must have shape \[K, 2"),
        (("point", 0, torch.zeros(2, 2), torch.ones(3)), ValueError, r"labels must have shape \[2"),
        (("point", 0, [[1, 2]]), TypeError, "points must be a torch.Tensor, got list"),
        (("bbox", 0), ValueError, "a 'bbox' prompt needs bbox, got None"),
        (("bbox", 0, None, None, torch.zeros(2, 2)), ValueError, r"bbox must have shape \[4\]"),
        (("mask", 0), ValueError, "a 'mask' prompt needs mask, got None"),
        (
            ("mask", 0, None, None, None, torch.zeros(1, 4, 4)),
            ValueError,
            r"mask must have shape \[H, W\], got \[1, 4, 4\]",
        ),
    ],
)
def test_conversion_helpers_prompt_data_refuses_what_does_not_fit(fields, error, message):
    with pytest.raises(error, match=message):
        PromptData(*fields)


def test_conversion_helpers_prompt_data_refuses_rounds_of_another_length():
    with pytest.raises(ValueError, match=r"rounds must have shape \[2\] like points, got \[1\]"):
        PromptData("point", 0, **two_points, rounds=torch.zeros(1))
