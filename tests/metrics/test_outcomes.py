"""One outcome per object and frame: made faults, random masks, and what is counted of them."""

import numpy as np
import pytest
import torch

from core.metrics.outcomes import (
    FAILURES,
    OUTCOMES,
    AtDistance,
    Told,
    Track,
    failure_scalars,
    iou_by_distance,
    shares,
)
from core.metrics.video import VideoMetrics
from core.visualization.clip import fate_of

SIZE = 64


def box(left, top=8, width=20, height=20):
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


NONE = np.zeros((SIZE, SIZE), dtype=bool)
OWN, OTHER, NOWHERE = box(2), box(40), box(2, 40)
HALF, WIDE = box(2, width=10), box(2, width=36, height=28)
THIN, THICK = box(2, height=4), box(2, 7, height=6)


def outcomes_of(gts, preds, videos=(0, 0), prompted=(0,)):
    """The outcomes of all objects, as lists of words; gts and preds are lists of frames' masks."""
    gts, preds = (torch.from_numpy(np.array(masks)) for masks in (gts, preds))
    flags = torch.tensor([t in prompted for t in range(len(gts))])
    metrics = VideoMetrics()
    metrics.update(preds, gts, flags, list(videos), list(range(len(videos))))
    tracks = [metrics.tracks[video, k] for k, video in enumerate(videos)]
    return [[OUTCOMES[code] for code in track.outcomes] for track in tracks]


@pytest.mark.parametrize(
    ("outcome", "gt", "preds"),
    [
        ("held", OWN, [OWN, OTHER]),
        ("absent", NONE, [NONE, OTHER]),
        ("false_alarm", NONE, [NOWHERE, OTHER]),
        ("swapped", NONE, [OTHER, OTHER]),
        ("swapped", OWN, [OTHER, OTHER]),
        ("lost", OWN, [NONE, OTHER]),
        ("lost", OWN, [NOWHERE, OTHER]),
        ("merged", OWN, [OWN | OTHER, OWN | OTHER]),
        ("swapped", OWN, [HALF | OTHER, NONE]),
        ("ragged", THIN, [THICK, OTHER]),
        ("leaking", OWN, [WIDE, OTHER]),
        ("partial", OWN, [HALF, OTHER]),
    ],
)
def test_a_made_fault_has_its_outcome(outcome, gt, preds):
    found = outcomes_of([[OWN, OTHER], [gt, OTHER]], [[OWN, OTHER], preds])
    assert found[0] == ["prompted", outcome]


def test_an_object_that_shrinks_out_of_its_mask_drifts_on_the_third_fall():
    preds = [OWN, box(4), box(6), box(10), box(14)]
    found = outcomes_of([[OWN, OTHER]] * 5, [[pred, OTHER] for pred in preds])
    # IoU 18 / 22, 16 / 24, 12 / 28, 8 / 32
    assert found[0] == ["prompted", "held", "partial", "drifting", "drifting"]


def test_a_fall_over_a_frame_without_the_object_is_no_drift():
    gts = [OWN, OWN, NONE, OWN, OWN]
    preds = [OWN, box(4), NONE, box(10), box(14)]
    found = outcomes_of([[gt, OTHER] for gt in gts], [[pred, OTHER] for pred in preds])
    assert found[0] == ["prompted", "held", "absent", "partial", "partial"]


def test_an_object_returns_on_the_first_good_frame_after_it_was_elsewhere():
    preds = [OWN, NONE, OWN, OWN, OTHER, OWN, HALF, OWN]
    found = outcomes_of([[OWN, OTHER]] * 8, [[pred, OTHER] for pred in preds])
    assert found[0] == [
        "prompted", "lost", "returned", "held", "swapped", "returned", "partial", "held",
    ]  # fmt: skip
    assert found[1] == ["prompted"] + ["held"] * 7


def test_ids_that_change_places_are_swaps_from_that_frame_on_and_nowhere_else():
    clean, changed = [[OWN, OTHER]] * 6, [[OWN, OTHER]] * 3 + [[OTHER, OWN]] * 3
    for video, gts in enumerate([clean, changed, clean, changed]):
        expected = ["held"] * 2 + ["swapped" if gts is changed else "held"] * 3
        for words in outcomes_of(gts, clean, videos=(video, video)):
            assert words == ["prompted", *expected]


def test_objects_of_another_video_are_no_pair():
    gts, preds = [[OWN, OTHER]] * 2, [[OWN, OTHER], [OTHER, OTHER]]
    assert outcomes_of(gts, preds, videos=(0, 0))[0][1] == "swapped"
    assert outcomes_of(gts, preds, videos=(0, 1))[0][1] == "lost"
    gts = [[OWN, OTHER, OWN, OTHER]] * 2
    preds = [[OWN, OTHER, OWN, OTHER], [OTHER, OTHER, OWN, OWN | OTHER]]
    mixed = outcomes_of(gts, preds, videos=(0, 1, 1, 0))  # rows of a video need not be neighbours
    assert [words[1] for words in mixed] == ["swapped", "held", "held", "leaking"]


def test_objects_that_the_metrics_leave_out_are_unscored_on_every_frame():
    gts, preds = [[OWN, NONE], [OWN, OTHER]], [[OWN, NONE], [OWN, OTHER]]
    assert outcomes_of(gts, preds) == [["prompted", "held"], ["unscored", "unscored"]]


def test_half_precision_counts_every_pixel():
    gts = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    preds = gts.clone()
    preds[1, 0, 0, :3] = False
    metrics = VideoMetrics()
    with torch.autocast("cpu", torch.bfloat16):
        metrics.update(preds, gts, torch.tensor([True, False]), [0], [0])
    assert metrics.rows[0, 0]["J"] == (64 * 64 - 3) / 64**2


def test_masks_larger_than_one_portion_are_counted_whole(monkeypatch):
    gts, preds = [[OWN, OTHER]] * 2, [[OWN, OTHER], [OTHER, OWN | OTHER]]
    whole = outcomes_of(gts, preds)
    monkeypatch.setattr("core.metrics.outcomes._MAX_FLOATS", 1000)
    assert outcomes_of(gts, preds) == whole == [["prompted", "swapped"], ["prompted", "leaking"]]


def random_masks(seed):
    """[T, O, H, W]: rectangles that move, vanish, and are predicted well, badly or as another."""
    rng = np.random.default_rng(seed)
    num_frames, num_objects = 6, int(rng.integers(1, 5))
    gts, preds = np.zeros((2, num_frames, num_objects, SIZE, SIZE), dtype=bool)
    for t, k in np.ndindex(num_frames, num_objects):
        if rng.random() < 0.85:
            gts[t, k] = box(*rng.integers(0, 40, 2), *rng.integers(2, 24, 2))
    for t, k in np.ndindex(num_frames, num_objects):
        kind = rng.integers(6)
        source = gts[t, rng.integers(num_objects) if kind == 0 else k]
        preds[t, k] = np.roll(source, int(rng.integers(0, 12)) if kind > 2 else 0, 1)
        if kind == 1:
            preds[t, k] |= gts[t, rng.integers(num_objects)]
        if kind == 2:
            preds[t, k] = box(*rng.integers(0, 40, 2))
        if kind == 5 and rng.random() < 0.3:
            preds[t, k] = False
    return gts, preds


def all_near_the_outline(pixels, mask):
    """Whether each pixel is at most one away from the outline that F has of a mask."""
    edge = np.zeros_like(mask)  # differs from the pixel to the right, below, or both
    padded = np.pad(mask, ((0, 1), (0, 1)), "edge")
    for dy, dx in ((0, 1), (1, 0)):
        edge |= mask != padded[dy : dy + SIZE, dx : dx + SIZE]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    ys, xs = np.nonzero(edge)
    return all(
        len(ys) and ((ys - y) ** 2 + (xs - x) ** 2).min() <= 1 for y, x in np.argwhere(pixels)
    )


def described(t, k, gts, preds, words):
    """The outcome of an unprompted frame in the words of the guide, from pixels alone."""
    gt, pred = gts[t, k], preds[t, k]
    others = [j for j in range(gts.shape[1]) if j != k]

    def iou(a, b):
        return (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0

    def on_one_other(share):
        return any((pred & gts[t, j]).sum() > share for j in others)

    if not gt.any():
        if not pred.any():
            return "absent"
        return "swapped" if on_one_other(pred.sum() / 2) else "false_alarm"
    if not (gt & pred).any():
        return "swapped" if on_one_other(pred.sum() / 2) else "lost"
    if iou(gt, pred) >= 0.75:
        return "returned" if words and words[-1] in ("lost", "swapped") else "held"
    if any(preds[t, j].any() and iou(pred, preds[t, j]) >= 0.9 for j in others):
        return "merged"
    if on_one_other((gt & pred).sum()):
        return "swapped"
    if all_near_the_outline(gt ^ pred, gt):
        return "ragged"
    last = [iou(gts[s, k], preds[s, k]) for s in range(t - 3, t + 1)] if t >= 3 else []
    if last and all(gts[s, k].any() for s in range(t - 3, t + 1)):
        if last[0] > last[1] > last[2] > last[3]:
            return "drifting"
    return "leaking" if (pred & ~gt).sum() > (gt & ~pred).sum() else "partial"


def test_random_masks_have_the_one_outcome_that_is_described():
    seen = set()
    for seed in range(60):
        gts, preds = random_masks(seed)
        videos = [0] * gts.shape[1]
        gts[0] |= box(30, 30, 4, 4)  # everything is there where it is prompted
        for k, words in enumerate(outcomes_of(gts, preds, videos)):
            assert words[0] == "prompted"
            expected = ["prompted"]
            for t in range(1, len(gts)):
                expected.append(described(t, k, gts, preds, expected))
            assert words == expected
            seen.update(words)
            for t in range(1, len(gts)):
                overlaps = bool((gts[t, k] & preds[t, k]).any())
                said = fate_of(bool(gts[t, k].any()), bool(preds[t, k].any()), overlaps)
                allowed = {
                    "lost": {"lost", "swapped"},
                    "false alarm": {"false_alarm", "swapped"},
                    "absent": {"absent"},
                    None: set(OUTCOMES) - {"lost", "false_alarm", "absent"},
                }
                assert words[t] in allowed[said]
    assert seen >= set(OUTCOMES) - {"unscored", "drifting", "ragged"}


def test_wrong_pixels_near_the_outline_are_ragged_though_the_prediction_has_no_outline():
    most = np.ones((3, 3), bool)
    most[2] = False  # IoU of 6 / 9; every wrong pixel touches the outline
    (words,) = outcomes_of([[most]] * 2, [[most], [np.ones((3, 3), bool)]], videos=(0,))
    assert words == ["prompted", "ragged"]


def test_predictions_that_share_exactly_nine_tenths_are_merged():
    tenth, rest = box(20, 20, 10, 10), box(20, 20, 10, 9)
    gts = [[box(20, 20, 3, 10), box(20, 20, 2, 10)]] * 2
    assert outcomes_of(gts, [gts[0], [tenth, rest]])[0][1] == "merged"


def test_iou_by_distance_counts_from_the_last_prompt():
    ious = np.array([[np.nan, 1.0, 0.5, 0.8, 0.0], [0.9, 0.9, 0.6, 0.4, 0.1]])
    prompted = np.array([[True, False, False, True, False], [False, False, True, False, False]])
    found = iou_by_distance(zip(ious, prompted, strict=True))
    assert found == [
        AtDistance(0, 2, pytest.approx(0.65), pytest.approx(0.7), pytest.approx(0.75)),
        AtDistance(1, 3, pytest.approx(0.2), pytest.approx(0.4), pytest.approx(0.7)),
        AtDistance(2, 2, pytest.approx(0.2), pytest.approx(0.3), pytest.approx(0.4)),
    ]
    assert iou_by_distance([]) == []
    assert iou_by_distance([(np.ones(2), np.ones(2, bool))]) == []  # nothing is tracked


def test_frames_that_are_scored_are_those_that_iou_averages():
    gts, preds = ([[OWN, NONE]] * 3, [[OWN, OTHER], [HALF, OTHER], [OWN, NONE]])
    for boundary in (True, False):
        metrics = VideoMetrics(boundary)
        masks = (torch.from_numpy(np.array(each)) for each in (preds, gts))
        metrics.update(*masks, torch.tensor([True, False, False]), [7, 7], [1, 2])
        assert list(metrics.frame_ious) == [(7, 1)]
        assert metrics.frame_ious[7, 1].tolist() == pytest.approx([np.nan, 0.5, 1.0], nan_ok=True)


def track(*words, category=-1):
    told = Told.nothing(len(words), 1)
    codes = np.array([OUTCOMES.index(word) for word in words], np.uint8)
    none = told.predicted_ious[:, 0]
    return Track(codes, told.frames[:, 0], none, none, none, codes == 1, none, none, none, category)


def test_shares_add_up_to_one_and_leave_out_what_is_not_scored():
    found = shares([track("prompted", "held", "lost", "absent"), track("unscored", "unscored")])
    assert {name: share for name, share in found.items() if share} == pytest.approx(
        {"held": 1 / 3, "lost": 1 / 3, "absent": 1 / 3}
    )
    assert sum(found.values()) == pytest.approx(1)
    assert shares([track("unscored", "unscored")]) == shares([]) == {}


def test_failures_switches_and_the_first_failure_are_counted():
    tracks = {
        (0, 1): track("prompted", "held", "swapped", "swapped", "returned", "swapped"),
        (0, 2): track("prompted", "held", "absent", "held", "held", "held", category=0),
        (0, 3): track("unscored", "unscored"),
    }
    values = failure_scalars(tracks, ["liver", "duct"])
    assert values["failures/swapped"] == pytest.approx(3 / 10)
    assert values["failures/swapped/liver"] == values["identity_switches/liver"] == 0
    assert values["frames_until_failure/liver"] == 5
    assert values["identity_switches"] == 2
    assert values["frames_until_failure"] == (1 + 5) / 2
    assert {key.split("/")[1] for key in values if key.startswith("failures/")} == set(FAILURES)
    assert not any(key.endswith("/duct") for key in values)
