"""Prompts of objects that are not there: what the official code makes up, and what we give."""

import copy

import pytest
import torch
from scenes import moving_squares, take
from training.model.sam2 import SAM2Train

from core.config import Config, ModelConfig
from core.model.build import build_model
from core.trainer import _build_loss

SIZE = 64
PADDING, NEGATIVE, POSITIVE = -1, 0, 1
PRESENT, ABSENT = 0, 1  # rows of the batch


def batch_with_absent(*frames, num_frames=3):
    """Two objects, of which the second has no pixel on `frames`."""
    batch = moving_squares(num_frames, SIZE)
    for t in frames:
        batch.masks[t, ABSENT] = False
    return batch


def ours(prompt_type, *, training=True, sees_objects=None, **settings):
    """The model that is trained; its object scores can be fixed to seeing all objects or none."""
    torch.manual_seed(0)
    settings = {"num_correction_points": 2, **settings}
    model = build_model(ModelConfig(image_size=SIZE, prompt_type=prompt_type, **settings))
    if sees_objects is not None:
        last = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
        torch.nn.init.constant_(last.bias, 100.0 if sees_objects else -100.0)
    return model.train(training)


def official(model):
    """The same weights and generator in Meta's own class."""
    other = copy.deepcopy(model)
    other.__class__ = SAM2Train
    return other


def prompts_of(model, batch):
    """What the model is given at first, and the states of its random generators afterwards."""
    torch.manual_seed(1)
    prompts = model.prepare_prompt_inputs({}, batch)
    return prompts, torch.get_rng_state(), model.rng.bit_generator.state


def outputs_of(model, batch):
    torch.manual_seed(1)
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("prompt_type", ["point", "bbox"])
def test_absent_object_gets_padding_where_the_official_code_makes_a_prompt_up(
    prompt_type, training
):
    model, batch = ours(prompt_type, training=training), batch_with_absent(0)
    theirs, *their_states = prompts_of(official(model), batch)
    given, *states = prompts_of(model, batch)
    their_clicks, clicks = (item["point_inputs_per_frame"][0] for item in (theirs, given))

    labels = their_clicks["point_labels"][ABSENT].tolist()
    if prompt_type == "bbox":
        assert labels == [2, 3]
        top_left, bottom_right = their_clicks["point_coords"][ABSENT]
        assert (top_left > bottom_right).all()  # no box at all
    else:
        assert labels == [NEGATIVE]  # a click somewhere on the background

    assert (clicks["point_labels"][ABSENT] == PADDING).all()
    assert (clicks["point_coords"][ABSENT] == 0).all()
    for name in ("point_coords", "point_labels"):
        assert torch.equal(clicks[name][PRESENT], their_clicks[name][PRESENT])
        assert clicks[name].dtype == their_clicks[name].dtype
    assert torch.equal(states[0], their_states[0])
    assert states[1] == their_states[1]


@pytest.mark.parametrize("training", [True, False])
def test_mask_prompt_of_an_absent_object_stays_empty(training):
    model, batch = ours("mask", training=training), batch_with_absent(0)
    masks = outputs_of(model, batch)[0]["mask_inputs"]
    assert torch.equal(masks[:, 0], batch.masks[0])
    assert not masks[ABSENT].any()


@pytest.mark.parametrize("from_truth", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_corrections_leave_an_absent_object_alone_that_is_not_predicted(training, from_truth):
    model, batch = ours("point", training=training, sees_objects=False), batch_with_absent(0)
    model.prob_to_sample_from_gt_for_train = float(from_truth)
    their_labels, labels = (
        outputs_of(each, batch)[0]["multistep_point_inputs"][-1]["point_labels"]
        for each in (official(model), model)
    )
    assert their_labels[ABSENT].tolist() == [NEGATIVE] * 3
    assert labels[ABSENT].tolist() == [PADDING] * 3
    assert labels[PRESENT].tolist() == [POSITIVE] * 3


@pytest.mark.parametrize("training", [True, False])
def test_corrections_click_an_absent_object_where_it_is_falsely_predicted(training):
    model, batch = ours("point", training=training, sees_objects=True), batch_with_absent(0)
    model.prob_to_sample_from_gt_for_train = 0.0
    out = outputs_of(model, batch)[0]
    clicks, num_clicks = out["multistep_point_inputs"][-1], 0
    assert clicks["point_labels"][ABSENT, 0] == PADDING
    for correction in (1, 2):
        predicted = out["multistep_pred_masks_high_res"][ABSENT, correction - 1] > 0
        label = clicks["point_labels"][ABSENT, correction]
        if predicted.any():
            x, y = clicks["point_coords"][ABSENT, correction].long().tolist()
            assert (label, predicted[y, x]) == (NEGATIVE, True)
            num_clicks += 1
        else:
            assert label == PADDING
    assert num_clicks > 0


def test_later_frame_that_is_corrected_follows_the_same_rule():
    model = ours("point", sees_objects=False, num_frames_to_correct=2, num_init_cond_frames=2)
    model.rand_init_cond_frames_for_train = False
    batch = batch_with_absent(1, num_frames=2)
    first, second = (out["multistep_point_inputs"][-1] for out in outputs_of(model, batch))
    assert first["point_labels"][ABSENT].tolist() == [POSITIVE] * 3
    assert second["point_labels"][ABSENT].tolist() == [PADDING] * 3


@pytest.mark.parametrize("prompt_type", ["point", "bbox", "mixed"])
def test_nothing_differs_bit_for_bit_when_every_object_is_there(prompt_type):
    model, batch = ours(prompt_type, num_frames_to_correct=2), batch_with_absent()
    gradients = []
    for each in (model, official(model)):
        torch.manual_seed(1)
        sum(out["pred_masks"].sum() for out in each(batch)).backward()
        gradients.append([p.grad for p in each.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 100
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("prompt_type", ["point", "bbox"])
def test_loss_teaches_that_an_absent_object_is_absent(prompt_type):
    model, batch = ours(prompt_type), batch_with_absent(0)
    outs = model(batch)
    scores = outs[0]["multistep_object_score_logits"]
    for score in scores:
        score.retain_grad()
    _build_loss(Config())(outs, batch.masks)["core_loss"].backward()
    assert len(scores) == 3
    for score in scores:
        assert score.grad[ABSENT] > 0  # a step of the optimizer lowers it
        assert score.grad[PRESENT] < 0


def test_slots_of_categories_that_are_empty_get_no_prompt():
    batch = moving_squares(2, SIZE, num_videos=2)  # two slots for each of two videos
    batch.masks[:, [1, 2]] = False
    prompts, *_ = prompts_of(ours("bbox"), batch)
    labels = prompts["point_inputs_per_frame"][0]["point_labels"]
    assert labels.tolist() == [[2, 3], [PADDING] * 2, [PADDING] * 2, [2, 3]]


@pytest.mark.parametrize("prompt_type", ["point", "bbox", "mask"])
def test_sheet_misses_no_prompt_of_objects_that_are_not_there(prompt_type):
    batch = moving_squares(2, SIZE, num_videos=2)
    batch.masks[0, 2:] = False  # the second video's objects
    batch.masks[0, 1] = False
    outs = outputs_of(ours(prompt_type, sees_objects=False), batch)
    clips = take(batch, outs, videos=[0, 1]).clips()
    shown = [{prompt.obj_id for prompt in clip.frames[0].prompts} for clip in clips]
    assert shown == [{PRESENT}, set()]
    # Beside an object that got one nothing is missing; a frame without any object says so.
    assert [clip.prompts_missing for clip in clips] == [[], [0]]
    assert [clip.prompts_undrawable for clip in clips] == [0, 0]


def test_sheet_still_says_which_prompt_of_a_present_object_is_missing():
    batch = moving_squares(2, SIZE)
    outs = outputs_of(ours("point", num_correction_points=1), batch)
    for entry in outs[0]["multistep_point_inputs"]:
        entry["point_labels"].fill_(PADDING)
    assert take(batch, outs).clips()[0].prompts_missing == [0]
