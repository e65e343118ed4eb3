"""The doctor: each rule speaks of a made fault, and is silent about a training without it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from core.metrics.doctor import (
    RULES,
    Case,
    Doctor,
    Frames,
    Validation,
    areas_of,
    examine,
    first_ious_of,
    frames_of,
    prompted_ious_of,
)
from core.metrics.video import LossMean, VideoMetrics

NUM_FRAMES = 40


def frames(**columns):
    """Frames of objects that are followed well, four behind each prompt; some columns replaced."""
    healthy = {
        "ious": 0.9,
        "predicted_ious": 0.88,
        "object_scores": 5.0,
        "gt_areas": 900.0,
        "pred_areas": 890.0,
        "twin_ious": 0.0,
        "distances": np.arange(NUM_FRAMES) % 4 + 1,
    }
    return Frames(
        **{
            name: np.broadcast_to(np.asarray(value, float), NUM_FRAMES)
            for name, value in {**healthy, **columns}.items()
        }
    )


def case(*history, **changes):
    """A training that went well; `history` is (step, val/iou, train/loss) of each validation."""
    history = history or [(0, 0.2, math.nan), (100, 0.5, 4.0), (200, 0.8, 2.0), (300, 0.9, 1.0)]
    healthy = Case(
        history=[Validation(*each) for each in history],
        frames=frames(),
        prompted_ious=np.full(NUM_FRAMES // 4, 0.98),
        areas=np.full(10, 900.0),
        first_ious=np.full(10, 0.9),
        first_copied=np.full(10, 0.85),
        iou_copy=0.47,
        image_size=128,
        cell=16,
        lr=5e-4,
        num_warmup_steps=50,
        starts_random=True,
    )
    return dataclasses.replace(healthy, **changes)


def half(one, other):
    return np.where(np.arange(NUM_FRAMES) % 2, one, other)


def some(share, one, other):
    return np.where(np.arange(NUM_FRAMES) < share * NUM_FRAMES, one, other)


NAN = math.nan
FAULTS = {
    "bad_loss": [
        case((0, 0.2, NAN), (100, NAN, 3.0, 7)),
        case((0, 0.2, NAN), (100, 0.5, 2.0), (200, 0.5, 6.5)),
    ],
    "no_progress": [case((0, 0.22, NAN), (100, 0.2, 9.0), (200, 0.2, 9.1), (300, 0.2, 9.0))],
    "below_baseline": [case((0, 0.7, NAN), (10, 0.6, 4.0), (20, 0.65, 3.0), (30, 0.69, 2.0))],
    "below_copying": [case((0, 0.2, NAN), (100, 0.3, 4.0), (200, 0.4, 3.0), (300, 0.45, 2.0))],
    "overfitting": [
        case((1, 0.5, 4), (2, 0.8, 3), (3, 0.79, 2.5), (4, 0.78, 2), (5, 0.75, 1.5)),
    ],
    "in_warmup": [case((0, 0.2, NAN), (49, 0.5, 4.0))],
    "nothing_predicted": [case(frames=frames(pred_areas=some(0.6, 0, 900)))],
    "one_mask_for_all": [case(frames=frames(twin_ious=some(0.6, 0.93, 0.1)))],
    "score_where_absent": [
        case(frames=frames(gt_areas=half(0, 900), object_scores=half(1.0, 5.0)))
    ],
    "score_where_present": [case(frames=frames(object_scores=some(0.3, -1.0, 5.0)))],
    "confident_where_wrong": [
        case(frames=frames(ious=some(0.3, 0.2, 0.9), predicted_ious=some(0.3, 0.8, 0.9)))
    ],
    "falls_with_distance": [case(frames=frames(ious=np.arange(NUM_FRAMES) % 4 * -0.15 + 0.9))],
    "bad_first_frame": [case(first_ious=np.array([0.9] * 4 + [0.3] * 6))],
    "lost_behind_prompt": [case(frames=frames(ious=0.48))],
    "tiny_objects": [case(areas=np.array([255.0] * 3 + [900.0] * 7))],
    "still_frames": [case(iou_copy=0.96, history=[Validation(300, 0.97, 1.0)])],
}
HEALTHY = {
    "bad_loss": case((0, 0.2, NAN), (100, 0.5, 2.0), (200, 0.5, 5.9)),
    "no_progress": case((0, 0.22, NAN), (100, 0.5, 9.0), (200, 0.5, 9.1), (300, 0.5, 9.0)),
    "below_baseline": case((0, 0.7, NAN), (10, 0.6, 4.0), (20, 0.65, 3.0)),
    "below_copying": case((0, 0.2, NAN), (100, 0.3, 4.0), (200, 0.4, 3.0)),
    "overfitting": case((1, 0.5, 4), (2, 0.8, 3), (3, 0.79, 3), (4, 0.78, 3), (5, 0.75, 3)),
    "in_warmup": case((0, 0.2, NAN), (50, 0.5, 4.0)),
    "nothing_predicted": case(
        frames=frames(pred_areas=some(0.6, 0, 900), gt_areas=some(0.6, 0, 900))
    ),
    "one_mask_for_all": case(frames=frames(twin_ious=np.nan)),  # each alone in its video
    "score_where_absent": case(frames=frames(gt_areas=half(0, 900), object_scores=half(-1.0, 5.0))),
    "score_where_present": case(frames=frames(object_scores=some(0.1, -1.0, 5.0))),
    "confident_where_wrong": case(
        frames=frames(ious=some(0.3, 0.2, 0.9), predicted_ious=some(0.3, 0.4, 0.9))
    ),
    "falls_with_distance": case(frames=frames(ious=np.arange(NUM_FRAMES) % 4 * -0.05 + 0.9)),
    # They have moved away from where they were prompted.
    "bad_first_frame": case(first_ious=np.full(10, 0.3), first_copied=np.full(10, 0.5)),
    # What is prompted is not understood either.
    "lost_behind_prompt": case(frames=frames(ious=0.48), prompted_ious=np.full(10, 0.9)),
    "tiny_objects": case(areas=np.array([256.0] * 3 + [900.0] * 7)),
    "still_frames": case(iou_copy=0.95, history=[Validation(300, 0.97, 1.0)]),
}


def names(found):
    return [fault.name for fault in found]


def test_every_rule_has_a_made_fault():
    assert {rule.__name__ for rule in RULES} == set(FAULTS) == set(HEALTHY)


@pytest.mark.parametrize("name", FAULTS)
def test_a_made_fault_is_named_with_its_numbers_and_a_setting(name):
    for faulty in FAULTS[name]:
        found = {fault.name: fault for fault in examine(faulty)}
        assert name in found
        assert any(digit in found[name].evidence for digit in "0123456789")
        assert "." in found[name].advice  # the name of a setting, or of a program


@pytest.mark.parametrize("name", HEALTHY)
def test_a_training_without_the_fault_is_not_accused(name):
    assert name not in names(examine(HEALTHY[name]))


def test_nothing_is_said_of_a_training_that_went_well():
    assert examine(case()) == []
    doctor = Doctor()
    assert doctor.diagnose(case()) == ""
    assert doctor.diagnoses == []


def test_a_training_that_never_got_anywhere_does_not_overfit():
    lost = [(0, 0.2, NAN), (60, 0.1, 4), (70, 0.05, 3), (80, 0.04, 2), (90, 0.03, 1)]
    assert names(examine(case(*lost))) == ["below_baseline", "below_copying"]


def test_weights_that_are_good_already_need_not_become_better():
    assert examine(case((0, 0.9, NAN), (100, 0.9, 1.0), (200, 0.9, 1.0), (300, 0.9, 1.0))) == []


def test_of_random_weights_before_training_only_the_data_is_judged():
    sick = {"frames": frames(twin_ious=1.0), "areas": np.full(10, 9.0)}
    assert names(examine(case((0, 0.2, NAN), **sick))) == ["tiny_objects"]
    released = case((0, 0.2, NAN), **sick, starts_random=False)
    assert names(examine(released)) == ["tiny_objects", "one_mask_for_all"]


@pytest.mark.parametrize("columns", [{"object_scores": np.nan}, {"predicted_ious": np.nan}])
def test_without_scores_the_rules_about_them_are_silent(columns):
    sick = frames(**{"ious": 0.1, "gt_areas": half(0, 900), **columns})
    said = names(examine(case(frames=sick)))
    if "object_scores" in columns:
        assert not {"score_where_absent", "score_where_present"} & set(said)
    else:
        assert "confident_where_wrong" not in said


def test_too_few_frames_say_nothing():
    few = Frames(*(column[:9] for column in vars(frames(twin_ious=1.0, pred_areas=0)).values()))
    assert examine(case(frames=few)) == []
    nothing = Frames(*np.zeros((7, 0)))
    assert examine(case(frames=nothing, areas=np.zeros(0), first_ious=np.zeros(0),
                        first_copied=np.zeros(0), iou_copy=None)) == []  # fmt: skip


SICK = {"frames": frames(twin_ious=1.0)}


def test_masks_that_are_bad_at_once_do_not_get_worse_with_distance():
    bad = frames(ious=0.2 / (np.arange(NUM_FRAMES) % 4 + 1))
    assert "falls_with_distance" not in names(examine(case(frames=bad)))


def test_random_memory_that_is_not_trained_is_named():
    sick = case(frames=frames(ious=0.48))
    for has_random_memory in (False, True):
        found = examine(dataclasses.replace(sick, has_random_memory=has_random_memory))
        (advice,) = (fault.advice for fault in found if fault.name == "lost_behind_prompt")
        assert ("random and not trained" in advice) == has_random_memory


def test_a_fault_is_told_in_full_once_and_in_short_as_long_as_it_lasts():
    doctor = Doctor()
    told = []
    for sick in ({"iou_copy": 0.97}, {"iou_copy": 0.97, **SICK}, {}, {}):
        step = len(told) + 100
        doctor.note(Validation(step, 0.99, 1.0))
        told.append(doctor.diagnose(case(history=doctor.history, **sick)))
    sentence = "objects hardly move in the validation clips, so val/iou says little of tracking"
    evidence = "leaving the prompt's mask in place scores 0.970"
    advice = "data.frame_stride=5 or more, or a larger data.val_num_frames"
    assert told[0] == f"doctor, step 100:\n  {sentence}: {evidence}\n    try {advice}"
    assert f"  still: {sentence} ({evidence})" in told[1].splitlines()
    assert "  the objects of a clip get the same mask: on 100% of the frames" in told[1]
    assert told[2:] == ["", ""]
    assert [each.step for each in doctor.diagnoses] == [100, 101, 102]  # and 103 is no news
    assert [each.as_text() for each in doctor.diagnoses][::2] == [
        f"step 100\n- {sentence}: {evidence}. Try {advice}.",
        "step 102: nothing is wrong any more",
    ]
    assert [each.in_short() for each in doctor.diagnoses] == [
        f"doctor, step 100: {sentence}",
        f"doctor, step 101: {sentence} (and 1 more)",
        "",
    ]
    doctor.note(Validation(101, 0.9))  # the run went back
    assert [each.step for each in doctor.history] == [100, 101]
    assert [each.step for each in doctor.diagnoses] == [100]


def test_what_the_doctor_knows_can_be_put_back():
    doctor, resumed = Doctor(), Doctor()
    doctor.note(Validation(100, 0.99, 1.0, 2))
    doctor.diagnose(case(history=doctor.history, **SICK))
    resumed.load(json.loads(json.dumps(doctor.state())))
    assert vars(resumed) == vars(doctor)
    assert resumed.diagnoses[0].faults


def square(left):
    mask = np.zeros((32, 32), bool)
    mask[8:16, left : left + 8] = True
    return mask


def test_numbers_come_from_what_the_metrics_counted():
    empty = np.zeros((32, 32), bool)
    # One object that moves by half its width and is then gone; its prediction stays.
    gts = torch.from_numpy(np.array([[square(0)], [square(4)], [empty], [square(8)]]))
    preds = torch.from_numpy(np.array([[square(0)]] * 3 + [[empty]]))
    metrics = VideoMetrics()
    metrics.update(preds, gts, torch.tensor([True, False, False, False]), [3], [7])
    found = frames_of(metrics.tracks)
    assert found.gt_areas.tolist() == [64, 0, 64]
    assert found.pred_areas.tolist() == [64, 64, 0]
    assert found.distances.tolist() == [1, 2, 3]
    assert np.isnan(found.twin_ious).all()  # no other object in the video
    assert prompted_ious_of(metrics.tracks).tolist() == [1]
    assert areas_of(metrics.tracks).tolist() == [64]
    assert first_ious_of(metrics.tracks, metrics.frame_ious) == pytest.approx([1 / 3])
    assert np.isnan(first_ious_of(metrics.tracks, {})).all()


def test_losses_are_averaged_without_those_that_are_no_numbers():
    losses = LossMean()
    for value in (1.0, math.nan, 3.0, math.inf):
        losses.add(torch.tensor(value, requires_grad=True))
    assert losses.take() == (2.0, 2)
    mean, num_bad = losses.take()
    assert math.isnan(mean)
    assert num_bad == 0


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("bad_loss", "optimizer.lr=5e-07 optimizer.image_encoder_lr=3e-07, "),
        ("below_baseline", "optimizer.lr=5e-07 optimizer.image_encoder_lr=3e-07, "),
        ("one_mask_for_all", "optimizer.lr=2.5e-06 optimizer.image_encoder_lr=1.5e-06, "),
    ],
)
def test_a_lower_rate_is_advised_for_an_image_encoder_with_a_rate_of_its_own_too(name, advice):
    # The rates of optimizer=finetune.
    ill = dataclasses.replace(FAULTS[name][0], lr=5e-6, image_encoder_lr=3e-6)
    (told,) = (fault.advice for fault in examine(ill) if fault.name == name)
    assert told.startswith(advice)
    (alone,) = (fault.advice for fault in examine(FAULTS[name][0]) if fault.name == name)
    assert "image_encoder_lr" not in alone
