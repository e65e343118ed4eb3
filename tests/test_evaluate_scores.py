"""The numbers of `core.evaluate` are those of the public evaluators."""

import json
from pathlib import Path

import numpy as np
import pytest
from references.__main__ import measure
from references.scenes import LENGTHS, scene

from core.evaluate.protocols import average, score_objects
from core.evaluate.scores import VideoScores, j_and_f
from core.evaluate.tables import frames_csv, means, objects_csv
from core.metrics.masks import boundary_f

# What vos-benchmark 0.1.0 and esdft-segmetric 0.1.0 returned, and lvos-evaluation (25cb02d) with
# each object's first and last annotated frame as its range. davis2017-evaluation (ac7c43f) gives
# the same J, F, recall and decay as esdft-segmetric, bit for bit; it ends when a prediction has ids
# above those of the first frame, so these were taken out for it.
PUBLIC = json.loads((Path(__file__).parent / "references" / "public.json").read_text())


@pytest.fixture(scope="module")
def measured():
    return {f"video{i:02d}": measure(*scene(i)) for i in range(len(LENGTHS))}


def by_object(measured, protocol):
    return {
        f"{video}_{score.object_id}": score
        for video, scores in measured.items()
        for score in score_objects(protocol, scores, palette=True)
    }


@pytest.mark.parametrize("protocol", ["davis", "sav", "lvos"])
def test_objects_and_their_means_equal_those_of_the_public_evaluator(measured, protocol):
    found = by_object(measured, protocol)
    assert found.keys() == PUBLIC[protocol].keys()
    for key, score in found.items():
        assert (score.j, score.f) == pytest.approx(PUBLIC[protocol][key][:2], abs=1e-9)


def test_the_mean_over_all_objects_equals_that_of_vos_benchmark(measured):
    objects = list(by_object(measured, "sav").values())
    j, f = average(objects, lambda score: score.j), average(objects, lambda score: score.f)
    assert ((j + f) / 2, j, f) == pytest.approx(PUBLIC["sav_mean"], abs=1e-9)


def test_recall_and_decay_equal_those_of_davis(measured):
    for key, score in by_object(measured, "davis").items():
        _, _, *recall, j_decay, f_decay = PUBLIC["davis"][key]
        assert (score.j_recall, score.f_recall) == pytest.approx(recall, abs=1e-9)
        if len(measured[key.split("_")[0]].numbers) <= 256:  # DAVIS counts frames in 8 bits
            assert (score.j_decay, score.f_decay) == pytest.approx((j_decay, f_decay), abs=1e-9)


def of_one_object(j, gt_pixels=None, labelled=None):
    scores = VideoScores.empty(len(j), [1], [""], [0])
    scores.numbers[:] = np.arange(len(j))
    scores.j[:, 0] = scores.f[:, 0] = j
    scores.gt_pixels[:, 0] = 5 if gt_pixels is None else gt_pixels
    scores.labelled[:, 0] = True if labelled is None else labelled
    return scores


def test_decay_is_right_beyond_256_frames():
    (score,) = score_objects("davis", of_one_object(np.linspace(1, 0, 302)), palette=True)
    # the mean of the first quarter of 300 frames without that of the last; ends are shared
    inner = np.linspace(1, 0, 302)[1:-1]
    assert score.j_decay == pytest.approx(inner[:76].mean() - inner[-76:].mean(), abs=1e-2)
    assert score.j_decay == pytest.approx(0.749, abs=5e-3)


def test_an_id_that_no_frame_has_counts_as_found_in_davis():
    scores = of_one_object(np.full(5, 0.5))
    scores.object_ids[:] = 3
    found = score_objects("davis", scores, palette=True)
    assert [(score.object_id, score.j) for score in found] == [(1, 1.0), (2, 1.0), (3, 0.5)]
    assert [score.object_id for score in score_objects("davis", scores, palette=False)] == [3]


def test_an_object_with_a_folder_of_its_own_loses_its_own_first_and_last_frame():
    labelled = [False, True, True, True, True, False]
    scores = of_one_object([0.0, 0.1, 0.2, 0.4, 0.8, 0.0], labelled=labelled)
    (score,) = score_objects("sav", scores, palette=False)
    assert (score.frames, score.j) == (2, pytest.approx(0.3))


def test_lvos_takes_the_frame_ranges_of_the_data_set():
    scores = of_one_object(np.arange(41) / 41)
    (score,) = score_objects("lvos", scores, True, {1: (2, 27)})
    assert score.frames == 4
    assert score.j == pytest.approx(np.mean([7, 12, 17, 22]) / 41)


@pytest.mark.parametrize("num_frames", [1, 2])
@pytest.mark.parametrize("protocol", ["davis", "sav", "lvos"])
def test_videos_without_a_frame_between_first_and_last_count_nothing(protocol, num_frames):
    assert score_objects(protocol, of_one_object(np.ones(num_frames)), palette=True) == []


def test_scores_of_masks_equal_those_of_whole_frames():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(8, 150, 2))
        pred, gt = np.zeros((2, height, width), bool)
        for mask in (pred, gt):
            top, left = rng.integers(0, height), rng.integers(0, width)
            mask[top : top + rng.integers(0, 40), left : left + rng.integers(0, 40)] = True
        j, f = j_and_f(pred, gt)
        assert f == boundary_f(pred, gt)
        union = (pred | gt).sum()
        assert j == ((pred & gt).sum() / union if union else 1.0)


def test_tables_begin_with_the_columns_that_others_read():
    scores = of_one_object(np.full(4, 0.25))
    objects = {"clip": score_objects("davis", scores, palette=True)}
    header, line = objects_csv(objects).splitlines()
    assert header.startswith("video,object,name,first_frame,frames,J,F,J&F,")
    assert line.startswith("clip,1,,0,2,0.250000,0.250000,0.250000,")
    assert len(frames_csv({"clip": scores}).splitlines()) == 1 + 4
    assert means("davis", objects, categories=False)["J&F"] == 0.25


@pytest.mark.parametrize("protocol", ["davis", "sav", "lvos"])
def test_means_of_nothing_are_null(protocol):
    found = means(protocol, {"clip": []}, categories=False)
    assert found["J"] is None
    json.dumps(found, allow_nan=False)  # JSON has no NaN


def test_categories_have_means_of_their_own():
    scores = of_one_object(np.full(4, 0.25))
    scores.names = np.array(["knife"])
    objects = {"clip": score_objects("davis", scores, palette=False)}
    assert means("davis", objects, categories=True)["categories"]["knife"]["J"] == 0.25
