"""The snapshot: what it reads, what it leaves alone, and the numbers it takes."""

import gc
import math
import random
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import clicked_clips, moving_squares, take

from core.config import ModelConfig
from core.model.build import build_model
from core.official import import_sam2
from core.visualization.drawing.sheet import render_sheet
from core.visualization.snapshot import Moment, take_snapshot

import_sam2()

T, SIZE = 3, 48  # of `clicked_clips`


def tensors_of(value):
    """Every tensor of a nested structure, batches included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif hasattr(value, "img_batch"):
        metadata = value.metadata.unique_objects_identifier
        yield from (value.img_batch, value.masks, value.obj_to_frame_idx, metadata)


@pytest.mark.parametrize("masks_given", [False, True])
def test_inputs_equal_their_clones_afterwards(masks_given):
    batch, outs = clicked_clips(masks_given=masks_given)
    before = [tensor.clone() for tensor in tensors_of([batch, outs])]
    versions = [tensor._version for tensor in tensors_of([batch, outs])]
    for clip in take(batch, outs, videos=[0, 1], measure_all_frames=True).clips():
        render_sheet(clip)
    after = list(tensors_of([batch, outs]))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [tensor._version for tensor in after] == versions


def test_no_global_random_state_moves():
    batch, outs = clicked_clips()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for clip in take(batch, outs, videos=[0, 1]).clips():
        render_sheet(clip)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


@pytest.mark.parametrize("masks_given", [False, True])
@pytest.mark.parametrize("panel_size", [16, 20, 48, 96])
@pytest.mark.parametrize("videos", [[0], [0, 1]])
def test_snapshot_aliases_none_of_its_inputs(masks_given, panel_size, videos):
    batch, outs = clicked_clips(masks_given=masks_given)
    obj_to_cat = torch.tensor([0, 1, 2])
    names = ["a", "b", "c"]
    options = dict(panel_size=panel_size, videos=videos, obj_to_cat=obj_to_cat)
    snapshot = take(batch, outs, category_names=names, **options)
    sheets = [render_sheet(clip) for clip in snapshot.clips()]
    for tensor in [*tensors_of([batch, outs]), obj_to_cat]:
        tensor.copy_(torch.zeros_like(tensor))
    names[:] = ["x", "y", "z"]
    outs.clear()
    again = [render_sheet(clip) for clip in snapshot.clips()]
    assert all((a == b).all() for a, b in zip(sheets, again, strict=True))


def test_snapshot_keeps_no_graph_and_no_tensor_alive():
    batch, outs = clicked_clips()
    weight = torch.ones((), requires_grad=True)
    for out in outs:
        out["pred_masks_high_res"] = out["pred_masks_high_res"] * weight
        out["multistep_pred_ious"] = [ious * weight for ious in out["multistep_pred_ious"]]
    alive = [weakref.ref(tensor) for tensor in tensors_of(outs)]
    snapshot = take(batch, outs)
    del out, outs
    gc.collect()
    assert not any(reference() is not None for reference in alive)
    assert snapshot.clips()


def slow_iou(gt, logits):
    both = either = 0
    for y in range(SIZE):
        for x in range(SIZE):
            predicted = float(logits[y, x]) > 0
            both += bool(gt[y, x]) and predicted
            either += bool(gt[y, x]) or predicted
    return both / either


@pytest.mark.parametrize("panel_size", [16, 48])
def test_iou_is_that_of_the_full_size_masks(panel_size):
    batch, outs = clicked_clips()
    clip = take(batch, outs, videos=[1], panel_size=panel_size).clips()[0]
    expected = [slow_iou(batch.masks[t, 2], outs[t]["pred_masks_high_res"][2, 0]) for t in range(T)]
    assert clip.scores.ious[:, 0].tolist() == pytest.approx(expected)
    # The first frame was prompted, and says nothing about tracking.
    assert clip.mean_iou == pytest.approx(np.mean(expected[1:]))


def test_mean_iou_leaves_out_frames_that_were_only_corrected():
    batch, outs = clicked_clips()
    outs[1]["multistep_point_inputs"] = [None, outs[0]["point_inputs"]]
    clip = take(batch, outs, videos=[1]).clips()[0]
    assert clip.mean_iou == pytest.approx(clip.scores.ious[2, 0])
    assert [frame.prompted for frame in clip.frames] == [True, False, False]


@pytest.mark.parametrize("video", [0, 1])
def test_frames_kept_for_the_run_book_change_nothing_on_the_sheet(video, written):
    batch, outs = clicked_clips()
    outside = {"point_coords": torch.full((3, 1, 2), 99.0), "point_labels": torch.ones(3, 1)}
    nobodys = {"point_coords": torch.zeros(2, 1, 2), "point_labels": torch.ones(2, 1)}
    outs[1]["multistep_point_inputs"] = [None, outside]
    outs[2]["multistep_point_inputs"] = [None, nobodys]
    said = []
    for kept_frames in (0, T):
        (clip,) = take(
            batch, outs, videos=[video], max_frames=2, frame_stride=2, kept_frames=kept_frames
        ).clips()
        assert len(clip.frames) == (kept_frames or 2)
        positions = [i for i, frame in enumerate(clip.frames) if frame.position in (0, 2)]
        written.clear()
        render_sheet(clip.select(positions))
        said.append(list(written))
    assert said[0] == said[1]
    assert not any("outside the frame" in text for text in said[0])


@pytest.mark.parametrize("further", ["kept_frames", "measure_all_frames"])
def test_mean_iou_is_of_the_drawn_frames_unless_all_are_measured(further):
    batch, outs = clicked_clips()
    whole = take(batch, outs, videos=[1]).clips()[0].scores.ious[:, 0]
    (clip,) = take(batch, outs, videos=[1], max_frames=2, **{further: T}).clips()
    expected = whole[1] if further == "kept_frames" else whole[1:].mean()
    assert clip.mean_iou == pytest.approx(expected)
    assert clip.num_scored_frames == (1 if further == "kept_frames" else 2)


def test_iou_is_nan_where_truth_and_prediction_are_empty():
    batch, outs = clicked_clips()
    batch.masks[1] = False
    outs[1]["pred_masks_high_res"].fill_(-1024.0)
    clip = take(batch, outs).clips()[0]
    assert np.isnan(clip.scores.ious[1]).all()
    assert not np.isnan(clip.mean_iou)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_count_as_not_predicted(value):
    batch, outs = clicked_clips()
    outs[1]["pred_masks_high_res"][0, 0, :24] = value
    clip = take(batch, outs).clips()[0]
    assert not clip.pred.masks[1, 0, :24].any()
    assert clip.pred.non_finite.tolist() == [[False, False], [True, False], [False, False]]
    assert clip.pred.areas[1, 0] == (outs[1]["pred_masks_high_res"][0, 0, 24:] > 0).sum()


def test_models_own_iou_is_that_of_the_mask_sam2_picked():
    batch, outs = clicked_clips()
    clip = take(batch, outs, videos=[0]).clips()[0]
    for t in range(T):
        final = outs[t]["multistep_pred_ious"][-1]
        for row in (0, 1):
            picked = final[row, int(torch.argmax(final[row]))]
            assert clip.scores.predicted_ious[t, row] == pytest.approx(float(picked))


@pytest.mark.parametrize("prompt_type", ["point", "mask"])
def test_models_own_iou_agrees_with_a_real_model(prompt_type):
    torch.manual_seed(0)
    config = ModelConfig(image_size=64, prompt_type=prompt_type, num_correction_points=1)
    model = build_model(config).train()
    batch = moving_squares(num_videos=2)
    with torch.no_grad():
        outs = model(batch)
    clip = take(batch, outs, videos=[1], panel_size=64).clips()[0]
    for t, out in enumerate(outs):
        masks = out["multistep_pred_multimasks_high_res"][-1]
        ious = out["multistep_pred_ious"][-1]
        for category, row in enumerate((2, 3)):
            same = [
                float(ious[row, k])
                for k in range(masks.shape[1])
                if torch.equal(masks[row, k], out["pred_masks_high_res"][row, 0])
            ]
            assert clip.scores.predicted_ious[t, category] in [pytest.approx(iou) for iou in same]


def test_object_scores_are_those_of_the_last_step():
    batch, outs = clicked_clips()
    for out in outs:
        out["multistep_object_score_logits"].append(torch.tensor([[1.0], [-2.0], [3.0]]))
    clip = take(batch, outs, videos=[0]).clips()[0]
    assert clip.scores.object_scores.tolist() == [[1.0, -2.0]] * T


def test_missing_scores_are_nan():
    batch, outs = clicked_clips()
    outs = [{"pred_masks_high_res": out["pred_masks_high_res"]} for out in outs]
    clip = take(batch, outs).clips()[0]
    assert np.isnan(clip.scores.predicted_ious).all()
    assert np.isnan(clip.scores.object_scores).all()


def test_outputs_without_prompts_get_those_that_the_truth_implies_and_say_so():
    batch, outs = clicked_clips()
    outs = [{"pred_masks_high_res": out["pred_masks_high_res"]} for out in outs]
    clip = take(batch, outs).clips()[0]
    assert clip.prompts_implied
    assert [prompt.obj_id for prompt in clip.frames[0].prompts] == [0, 1]
    for prompt in clip.frames[0].prompts:
        x, y = prompt.points[0].round().long().tolist()
        assert batch.masks[0, prompt.obj_id, y, x]


def test_names_are_looked_up_by_the_ids_of_the_metadata():
    batch, outs = clicked_clips()
    batch.metadata.unique_objects_identifier[..., 0] += 40
    batch.metadata.unique_objects_identifier[..., 1] += 7
    moment = Moment(
        "val",
        0,
        clip_name=lambda video: f"clip {video}",
        object_names=lambda video: {9: f"dog of {video}"},
    )
    snapshot = take_snapshot(batch, outs, moment, videos=[1])
    clip = snapshot.clips()[0]
    assert clip.name == "clip 41"
    assert (clip.ids, clip.category_names) == ([9], ["dog of 41"])


def test_frames_of_one_number_are_told_apart_by_their_positions():
    batch, outs = clicked_clips()
    batch.metadata.unique_objects_identifier[..., 2] = 7
    clip = take(batch, outs, videos=[0]).clips()[0]
    assert [frame.number for frame in clip.frames] == list(range(T))


def test_ids_that_are_floating_numbers_are_ids():
    batch, outs = clicked_clips()
    expected = take(batch, outs, videos=[1]).clips()[0]
    ids = batch.metadata.unique_objects_identifier
    batch.metadata.unique_objects_identifier = ids.double()
    clip = take(batch, outs, videos=[1]).clips()[0]
    assert (clip.ids, clip.colors) == (expected.ids, expected.colors)
    assert [type(number) for number in (clip.id_of(0), clip.frames[1].number)] == [int, int]


def broken(what):
    batch, outs = clicked_clips()
    if what == "too few outputs":
        outs.pop()
    elif what == "no logits":
        del outs[1]["pred_masks_high_res"]
    elif what == "several masks":
        outs[1]["pred_masks_high_res"] = torch.zeros(3, 3, SIZE, SIZE)
    elif what == "too few rows":
        outs[1]["pred_masks_high_res"] = torch.zeros(2, 1, SIZE, SIZE)
    elif what == "small masks":
        batch.masks = torch.zeros(T, 3, 8, 8, dtype=torch.bool)
    elif what == "rank of frames":
        batch.img_batch = batch.img_batch[:, 0]
    elif what == "grey frames":
        batch.img_batch = batch.img_batch[:, :, :1]
    elif what == "layout":
        batch.obj_to_frame_idx = batch.obj_to_frame_idx[:, :2]
    elif what == "no masks":
        batch.masks = None
    return batch, outs


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("too few outputs", r"outs_per_frame must have one entry per frame \(3\), got 2"),
        ("no logits", r"outs_per_frame\[1\]\['pred_masks_high_res'\] must be a torch.Tensor"),
        ("several masks", r"must have shape \[3, 1, 48, 48\], got \[3, 3, 48, 48\]"),
        ("too few rows", r"must have shape \[3, 1, 48, 48\], got \[2, 1, 48, 48\]"),
        ("small masks", r"batch.masks must have the frames' size \[48, 48\], got \[8, 8\]"),
        (
            "rank of frames",
            r"batch.img_batch must have shape \[T, B, C, H, W\], got \[3, 3, 48, 48\]",
        ),
        ("grey frames", r"batch.img_batch must have shape \[3, B, 3, H, W\]"),
        ("layout", r"batch.obj_to_frame_idx must have shape \[3, 3, 2\], got \[3, 2, 2\]"),
        ("no masks", r"batch.masks must be a torch.Tensor, got NoneType"),
    ],
)
def test_wrong_shapes_are_refused(what, message):
    batch, outs = broken(what)
    error = TypeError if "must be a torch.Tensor" in message else ValueError
    with pytest.raises(error, match=message):
        take(batch, outs)


def test_obj_to_cat_of_another_length_leaves_out_the_prompts_and_says_so():
    batch, outs = clicked_clips()
    snapshot = take(batch, outs, obj_to_cat=[0, 1])
    assert snapshot.fault == (
        "obj_to_cat has 2 entries, but outs_per_frame[0] has 3 prompt rows: "
        "pass one mask row (b * N + c) per prompt row"
    )
    (clip,) = snapshot.clips()
    assert clip.frames[0].prompted
    assert not clip.prompts()
    assert not clip.not_prompted


def test_names_from_files_become_printable_lines():
    batch, outs = clicked_clips()
    odd = "a\nb\ud800"  # what a folder's name in another encoding is read as
    names = {1: odd, 2: odd, 3: odd}
    (clip,) = take(
        batch, outs, clip_name=lambda video: odd, object_names=lambda video: names
    ).clips()
    assert clip.name == "a b "
    assert set(clip.category_names) <= {"a b ", ""}


def test_a_place_in_the_batch_is_not_taken_for_a_video_of_the_data_set():
    batch, outs = clicked_clips()
    batch = SimpleNamespace(
        img_batch=batch.img_batch, masks=batch.masks, obj_to_frame_idx=batch.obj_to_frame_idx
    )

    def clip_name(video):
        raise AssertionError("which video it is is not known")

    clips = take(batch, outs, videos=[0, 1], clip_name=clip_name, object_names=clip_name).clips()
    assert [clip.name for clip in clips] == [
        "clip 0 of the batch (frames numbered within the clip)",
        "clip 1 of the batch (frames numbered within the clip)",
    ]
