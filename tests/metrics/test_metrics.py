"""J, F, IoU and Dice against independent implementations, and their accumulation."""

import csv
import math
import random
from pathlib import Path

import cv2
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.multiprocessing
from border_distances import border_distances
from lightning.pytorch.callbacks import ModelCheckpoint
from scenes import make_batch, moving_squares
from trainings import make_trainer, random_states

from core.config import Config, ModelConfig
from core.metrics.masks import boundary_f, copied_masks, mean_iou
from core.metrics.outcomes import frames_csv, strips_of
from core.metrics.video import VideoMetrics, as_csv, category_keys
from core.official import received_prompt
from core.trainer import CORE_LOSS, SAM2LightningModule
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot


def mask_pair(seed):
    """Some disks, and the same disks shifted, with a few wrong pixels."""
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(40, 160)), int(rng.integers(40, 160))
    ys, xs = np.mgrid[:height, :width]
    gt = np.zeros((height, width), dtype=bool)
    for _ in range(int(rng.integers(1, 4))):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(3, height / 3)
        gt |= (ys - y) ** 2 + (xs - x) ** 2 < radius * radius
    shift = tuple(rng.integers(-4, 5, 2))
    return np.roll(gt, shift, (0, 1)) ^ (rng.random((height, width)) < 0.002), gt


def square(top, left, side=8, size=32):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def row(pred, gt, name):
    """One number that `VideoMetrics` has of a mask, which follows a frame with a prompt."""
    pred, gt = (torch.from_numpy(np.stack([np.ones_like(gt), mask])) for mask in (pred, gt))
    metrics = VideoMetrics(boundary=False)
    metrics.update(pred[:, None], gt[:, None], torch.tensor([True, False]), [0], [1])
    return metrics.rows[0, 1][name]


def region_similarity(pred, gt):
    return row(pred, gt, "J")


def dice(pred, gt):
    return row(pred, gt, "dice")


# Seed, J and F of `mask_pair`, computed with vos-benchmark 0.1.0 from PyPI: `feed_frame` and
# `conclude` of its Evaluator, in an environment of its own (it needs opencv-python, which does not
# go with opencv-python-headless).
VOS_BENCHMARK = [
    (0, 0.886249727609501, 0.6167122288083164),
    (1, 0.6552380952380953, 0.3447285403905876),
    (2, 0.7756174461376772, 0.2690886049213222),
    (3, 0.539906103286385, 0.43611965334078834),
    (4, 0.8387404580152672, 0.3221875573499725),
    (5, 0.27450980392156865, 0.1622610817405449),
    (6, 0.8963875665079809, 0.811162188552558),
    (7, 0.8109028960817717, 0.19019966070729477),
]


@pytest.mark.parametrize(("seed", "j", "f"), VOS_BENCHMARK)
def test_j_and_f_equal_those_of_vos_benchmark(seed, j, f):
    pred, gt = mask_pair(seed)
    assert region_similarity(pred, gt) == pytest.approx(j, abs=1e-12)
    assert boundary_f(pred, gt) == pytest.approx(f, abs=1e-12)


def brute_force_boundary_f(pred, gt):
    """F from the distances of all pairs of boundary pixels, pixel by pixel."""

    def boundary(mask):
        height, width = mask.shape
        points = []
        for y in range(height):
            for x in range(width):
                right, below = min(x + 1, width - 1), min(y + 1, height - 1)
                others = [mask[y, right], mask[below, x]]
                if y + 1 < height and x + 1 < width:
                    others.append(mask[below, right])
                if any(other != mask[y, x] for other in others):
                    points.append((y, x))
        return np.array(points).reshape(-1, 2)

    a, b = boundary(pred), boundary(gt)
    if len(a) == 0 or len(b) == 0:
        return float(len(a) == len(b))
    radius = math.ceil(0.008 * math.hypot(*gt.shape))
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_f_equals_a_brute_force_reference(seed):
    rng = np.random.default_rng(seed)
    pred, gt = rng.random((2, 24, 140)) < 0.02
    assert boundary_f(pred, gt) == pytest.approx(brute_force_boundary_f(pred, gt), abs=1e-12)


def test_dice_follows_from_j():
    pred, gt = mask_pair(0)
    j = region_similarity(pred, gt)
    assert dice(pred, gt) == pytest.approx(2 * j / (1 + j))


@pytest.mark.parametrize("metric", [region_similarity, boundary_f, dice])
def test_two_empty_masks_count_one(metric):
    empty = np.zeros((8, 8), dtype=bool)
    assert metric(empty, empty) == 1.0


@pytest.mark.parametrize("metric", [region_similarity, boundary_f, dice])
def test_one_empty_mask_counts_zero(metric):
    empty = np.zeros((32, 32), dtype=bool)
    assert metric(empty, square(4, 4)) == 0.0
    assert metric(square(4, 4), empty) == 0.0


def test_tensors_and_arrays_give_the_same():
    pred, gt = mask_pair(1)
    assert boundary_f(torch.from_numpy(pred), torch.from_numpy(gt)) == boundary_f(pred, gt)


def test_f_forgives_a_shift_within_the_tolerance():
    pred, gt = square(20, 20, 40, 125), square(21, 20, 40, 125)
    assert boundary_f(pred, gt) == 1.0
    assert region_similarity(pred, gt) < 1.0


def test_masks_must_be_boolean():
    with pytest.raises(TypeError, match="pred must be bool, got float32"):
        boundary_f(torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool))


def test_masks_must_be_two_dimensional():
    masks = np.zeros((1, 4, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"pred must have shape \[H, W\], got \[1, 4, 4\]"):
        boundary_f(masks, masks)


def test_masks_must_agree_in_shape():
    with pytest.raises(ValueError, match=r"must agree in shape, got \[4, 4\] and \[4, 5\]"):
        boundary_f(np.zeros((4, 4), dtype=bool), np.zeros((4, 5), dtype=bool))


def clip(*objects):
    """[T, O, H, W] from one list of frames per object."""
    return torch.stack([torch.from_numpy(np.stack(frames)) for frames in objects], dim=1)


PROMPTED = torch.tensor([True, False, False])
A, B, EMPTY = square(4, 4), square(16, 16), np.zeros((32, 32), dtype=bool)


def test_prompted_frames_are_left_out():
    metrics = VideoMetrics()
    metrics.update(clip([EMPTY, A, A]), clip([A, A, A]), PROMPTED, [0], [1])
    assert metrics.compute()["iou"] == 1.0


def test_frames_prompted_for_one_object_count_for_the_other():
    metrics = VideoMetrics()
    prompted = torch.tensor([[True, False], [False, False]])
    metrics.update(clip([EMPTY, A], [EMPTY, A]), clip([A, A], [A, A]), prompted, [0, 0], [1, 2])
    assert metrics.compute()["J"] == pytest.approx((1.0 + 0.5) / 2)


def test_objects_weigh_the_same_whatever_their_frames():
    metrics = VideoMetrics()
    metrics.update(clip([A, A, A]), clip([A, A, A]), PROMPTED, [0], [1])
    metrics.update(clip([A, EMPTY]), clip([A, A]), PROMPTED[:2], [1], [1])
    result = metrics.compute()
    assert result["iou"] == result["J"] == 0.5
    assert result["J&F"] == pytest.approx((result["J"] + result["F"]) / 2)
    assert result["dice"] == 0.5


def test_objects_that_never_appear_are_left_out():
    metrics = VideoMetrics()
    preds, gts = clip([A, A, A], [A, A, A]), clip([A, A, A], [EMPTY, EMPTY, EMPTY])
    metrics.update(preds, gts, PROMPTED, [0, 0], [1, 2])
    assert metrics.compute()["iou"] == 1.0


def test_objects_that_appear_after_the_prompted_frames_are_left_out():
    metrics = VideoMetrics()
    gts = clip([A, A, A], [EMPTY, B, B])
    metrics.update(clip([A, A, A], [EMPTY, EMPTY, EMPTY]), gts, PROMPTED, [0, 0], [1, 2], [0, 1])
    result = metrics.compute()
    assert result["iou"] == result["J&F"] == result["dice"] == 1.0
    assert "iou/category_1" not in result


def test_an_object_that_is_there_on_any_prompted_frame_is_scored():
    metrics = VideoMetrics()
    prompted = torch.tensor([True, True, False])
    metrics.update(clip([EMPTY, B, EMPTY]), clip([EMPTY, B, B]), prompted, [0], [1])
    assert metrics.compute()["iou"] == 0.0


def test_objects_count_where_nothing_is_known_of_prompts():
    metrics = VideoMetrics()
    metrics.update(clip([EMPTY, A]), clip([EMPTY, A]), torch.tensor([False, False]), [0], [1])
    assert metrics.compute()["iou"] == 1.0


def test_mean_iou_of_a_batch_is_that_of_the_metrics():
    rng = np.random.default_rng(0)
    preds, gts = (torch.from_numpy(rng.random((4, 5, 16, 16)) < 0.4) for _ in range(2))
    gts[0, 1] = gts[:, 2] = gts[2, 3] = preds[2, 3] = False
    prompted = [True, False, False, True]
    gts[3, 1] = False  # on no prompted frame
    metrics = VideoMetrics(boundary=False)
    metrics.update(preds, gts, torch.tensor(prompted), [0] * 5, range(5))
    assert sorted(object_id for _, object_id in metrics.rows) == [0, 3, 4]
    assert mean_iou(preds, gts, prompted).item() == pytest.approx(metrics.compute()["iou"])


def test_mean_iou_of_a_batch_without_a_scored_object_is_nan():
    assert mean_iou(clip([A, A]), clip([A, A]), [True, True]).isnan()
    assert mean_iou(clip([A, A]), clip([EMPTY, A]), [True, False]).isnan()


def test_a_frame_that_the_object_has_left_counts_one_when_nothing_is_predicted():
    metrics = VideoMetrics()
    metrics.update(clip([A, A, EMPTY]), clip([A, A, EMPTY]), PROMPTED, [0], [1])
    metrics.update(clip([A, A, A]), clip([A, A, EMPTY]), PROMPTED, [1], [1])
    assert metrics.compute()["F"] == pytest.approx((1.0 + 0.5) / 2)


def test_objects_prompted_on_every_frame_give_no_row():
    metrics = VideoMetrics()
    metrics.update(clip([A]), clip([A]), torch.tensor([True]), [0], [1])
    assert metrics.compute() == {}


def test_categories_have_their_own_means():
    metrics = VideoMetrics()
    preds = clip([A, A, A], [B, B, B], [B, EMPTY, EMPTY])
    gts = clip([A, A, A], [B, B, B], [B, B, B])
    metrics.update(preds, gts, PROMPTED, [0, 0, 1], [1, 2, 2], categories=torch.tensor([0, 3, 3]))
    result = metrics.compute()
    assert result["iou/category_0"] == 1.0
    assert result["iou/category_3"] == 0.5
    assert result["dice/category_3"] == 0.5
    assert "iou/category_1" not in result


def test_keys_of_categories_are_their_names():
    metrics = VideoMetrics()
    masks = clip([A, A, A], [B, B, B])
    metrics.update(masks, masks, PROMPTED, [0, 0], [1, 2], categories=[0, 2])
    keys = metrics.compute(["left grasper", "unseen"]).keys()
    assert {key for key in keys if "/" in key} == {
        "iou/left_grasper", "dice/left_grasper", "iou/category_2", "dice/category_2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["grasper", "手术器械", "Ω-2.5_b"], ["grasper", "手术器械", "Ω-2.5_b"]),
        (["a/b", "../etc", "a\\b", "\n\x00 $x$"], ["a_b", ".._etc", "a_b_2", "_x_"]),
        (["", ".", "..", "/"], ["category_0", "category_1", "category_2", "category_3"]),
        (["tool", "tool", "tool_1", "tool"], ["tool", "tool_1", "tool_1_2", "tool_3"]),
        (["category_1"], ["category_1", "category_1_1"]),
        (["a", "b", "c"], ["a", "b"]),
    ],
    ids=["kept", "paths", "nothing left", "twice", "like another's index", "more than seen"],
)
def test_keys_of_categories_are_distinct_and_no_paths(names, keys):
    assert category_keys(names, len(keys)) == keys
    assert len(set(keys)) == len(keys)


def test_repeated_objects_count_once():
    metrics = VideoMetrics()
    for _ in range(3):
        metrics.update(clip([A, EMPTY, EMPTY]), clip([A, A, A]), PROMPTED, [0], [1])
    metrics.update(clip([A, A, A]), clip([A, A, A]), PROMPTED, [1], [1])
    assert metrics.compute()["iou"] == 0.5


def test_f_can_be_left_out():
    metrics = VideoMetrics(boundary=False)
    metrics.update(clip([A, A, A]), clip([A, A, A]), PROMPTED, [0], [1])
    assert metrics.compute().keys() == {"iou", "J", "dice"}


def test_reset_forgets_the_rows():
    metrics = VideoMetrics()
    metrics.update(clip([A, A, A]), clip([A, A, A]), PROMPTED, [0], [1])
    metrics.reset()
    assert metrics.compute() == {}


def test_a_batch_without_objects_gives_no_row():
    metrics = VideoMetrics()
    none = torch.zeros(3, 0, 32, 32, dtype=torch.bool)
    metrics.update(none, none, PROMPTED, [], [])
    assert metrics.compute() == {}


def test_update_leaves_the_masks_alone():
    preds, gts = clip([A, B, EMPTY]), clip([A, A, A])
    before = preds.clone(), gts.clone()
    VideoMetrics().update(preds, gts, PROMPTED, [0], [1])
    assert torch.equal(preds, before[0])
    assert torch.equal(gts, before[1])


def test_rows_equal_the_functions_on_the_frames():
    frames = [mask_pair(0) for _ in range(3)]
    preds, gts = clip([pred for pred, _ in frames]), clip([gt for _, gt in frames])
    metrics = VideoMetrics()
    metrics.update(preds, gts, PROMPTED, [0], [1])
    result = metrics.compute()
    pred, gt = frames[0]
    assert result["J"] == pytest.approx((pred & gt).sum() / (pred | gt).sum())
    assert result["F"] == pytest.approx(boundary_f(pred, gt))
    assert result["dice"] == pytest.approx(2 * (pred & gt).sum() / (pred.sum() + gt.sum()))


def test_update_names_a_wrong_number_of_ids():
    masks = clip([A, A, A])
    with pytest.raises(ValueError, match=r"object_ids must have one entry per object \(1\), got 2"):
        VideoMetrics().update(masks, masks, PROMPTED, [0], [1, 2])


def test_update_names_a_wrong_shape_of_prompted():
    masks = clip([A, A, A])
    with pytest.raises(ValueError, match=r"prompted must have shape \[3\] or \[3, 1\], got \[2\]"):
        VideoMetrics().update(masks, masks, PROMPTED[:2], [0], [1])


def test_update_refuses_logits():
    masks = clip([A, A, A])
    with pytest.raises(TypeError, match=r"pred_masks must be bool, got torch\.float32"):
        VideoMetrics().update(masks.float(), masks, PROMPTED, [0], [1])


def add_clip(metrics, video_id):
    """Object 1 of clip v is right on v of the 3 frames after the prompted one."""
    right = [A if t < video_id else EMPTY for t in range(3)]
    prompted = torch.tensor([True, False, False, False])
    metrics.update(clip([A, *right]), clip([A, A, A, A]), prompted, [video_id], [1], [video_id % 2])


def table_of_frames(metrics):
    return frames_csv(strips_of(metrics.tracks, str, lambda video: None))


def compute_on_rank(rank, shares, init_file, results):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{init_file}", rank=rank, world_size=len(shares)
    )
    metrics = VideoMetrics()
    for video_id in shares[rank]:
        add_clip(metrics, video_id)
    results[rank] = metrics.compute(["even", "odd/one"])
    results[f"rows of {rank}"] = metrics.rows
    results[f"frames of {rank}"] = table_of_frames(metrics)
    torch.distributed.destroy_process_group()


def test_ranks_with_uneven_and_repeated_shares_equal_one_process(tmp_path):
    alone = VideoMetrics()
    for video_id in range(4):
        add_clip(alone, video_id)
    expected = alone.compute(["even", "odd/one"])
    # Clip 0 is the sampler's padding, and the last rank has no rows at all.
    shares = [[0, 1, 2], [3, 0], []]
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = (shares, str(tmp_path / "init"), results)
        torch.multiprocessing.spawn(compute_on_rank, arguments, nprocs=len(shares))
        for rank in range(len(shares)):
            assert results[rank] == pytest.approx(expected)
            assert results[f"rows of {rank}"] == alone.rows
            table = table_of_frames(alone)
            assert results[f"frames of {rank}"] == table
        assert len(table.splitlines()) == 1 + 4 * 4
        assert results[0] == results[1] == results[2]
    assert expected["iou"] == pytest.approx((0 + 1 + 2 + 3) / 3 / 4)


def squares_batch(gts, videos=None):
    """A batch of [T, O, H, W] ground truth; by default one video."""
    num_frames, num_objects = gts.shape[:2]
    videos = [0] * num_objects if videos is None else videos
    return make_batch(torch.zeros(num_frames, max(videos) + 1, 3, 32, 32), gts, videos)


def click(num_objects=1, num_clicks=1):
    return {
        "point_coords": torch.full((num_objects, num_clicks, 2), 8.0),
        "point_labels": torch.ones(num_objects, num_clicks, dtype=torch.int32),
    }


def outputs(preds, prompts=None):
    """SAM 2's outputs: frame 0 has a mask prompt of every object, `prompts` changes frames."""
    outs = []
    for t, masks in enumerate(preds):
        given = masks[:, None] if t == 0 else None
        outs.append({"pred_masks_high_res": masks[:, None] * 20.0 - 10, "mask_inputs": given})
        outs[-1] |= {"point_inputs": None, "multistep_point_inputs": [None]}
        outs[-1] |= (prompts or {}).get(t, {})
    return outs


CORRECTED = {"multistep_point_inputs": [None, click()]}


@pytest.mark.parametrize(
    ("output", "received"),
    [
        ({}, False),
        ({"point_inputs": None, "mask_inputs": None, "multistep_point_inputs": [None]}, False),
        ({"point_inputs": click(), "multistep_point_inputs": [click()]}, True),
        ({"point_inputs": click()}, True),
        ({"mask_inputs": torch.zeros(1, 1, 8, 8)}, True),
        ({"point_inputs": None, **CORRECTED}, True),
        ({"point_inputs": click(0), "multistep_point_inputs": [click(0)]}, False),
        ({"mask_inputs": torch.zeros(0, 1, 8, 8)}, False),
    ],
    ids=["unknown", "none", "click", "bare", "mask", "correction", "no click row", "no mask row"],
)
def test_a_frame_received_a_prompt_when_any_row_did(output, received):
    assert received_prompt(output) is received


class Scripted(SAM2LightningModule):
    """The training module with outputs that are given instead of a model's."""

    def __init__(self, outs, **sections):
        super().__init__(Config(**{"model": ModelConfig(image_size=64), **sections}))
        self.outs = outs
        del self.loss
        self.loss = lambda outs, masks: {CORE_LOSS: 0 * self.model.no_mem_embed.sum()}

    def forward(self, batch):
        return self.outs


class Batches(pl.LightningDataModule):
    """One batch for training and validation alike; attributes as keywords."""

    def __init__(self, batch, **attributes):
        super().__init__()
        self.batch = batch
        vars(self).update(attributes)

    def train_dataloader(self):
        # A loader without a generator of its own moves the global one.
        own = torch.Generator()
        return torch.utils.data.DataLoader([self.batch], batch_size=None, generator=own)

    def val_dataloader(self):
        return self.train_dataloader()


def test_train_iou_leaves_out_frames_that_were_corrected(tmp_path):
    gts, preds = clip([A, A, A]), clip([A, A, EMPTY])
    module = Scripted(outputs(preds, {1: CORRECTED}))
    trainer = make_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(module, Batches(squares_batch(gts)))
    assert trainer.callback_metrics["train/iou"] == 0.0


def test_val_iou_leaves_out_frames_that_were_corrected(tmp_path):
    gts, preds = clip([A, A, A]), clip([A, A, EMPTY])
    module = Scripted(outputs(preds, {1: CORRECTED}))
    trainer = make_trainer(tmp_path)
    (result,) = trainer.validate(module, Batches(squares_batch(gts)), verbose=False)
    assert result["val/iou"] == 0.0


def test_val_iou_is_the_mean_iou_of_the_sheet(tmp_path):
    """One object is there throughout, one leaves, one appears too late to be prompted."""
    gts = clip([A, A, A, A], [B, B, EMPTY, EMPTY], [EMPTY, A, A, A])
    preds = clip([A, A, EMPTY, A], [B, EMPTY, EMPTY, EMPTY], [EMPTY, B, B, B])
    batch, outs = squares_batch(gts), outputs(preds)
    (result,) = make_trainer(tmp_path).validate(Scripted(outs), Batches(batch), verbose=False)
    options = SnapshotOptions(measure_all_frames=True)
    (sheet,) = take_snapshot(batch, outs, Moment("val", 0), options).clips()
    assert result["val/iou"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert sheet.mean_iou == pytest.approx(result["val/iou"])


def test_copying_keeps_each_object_where_it_was_prompted_last():
    gts = clip([A, EMPTY, B, A], [EMPTY, A, B, A])
    copied = copied_masks(gts, [True, False, True, False])
    assert torch.equal(copied, clip([A, A, B, B], [EMPTY, EMPTY, B, B]))
    absent = copied_masks(clip([A, EMPTY, B]), [True, True, False])
    assert torch.equal(absent, clip([A, A, A]))  # nothing was prompted on frame 1


def test_val_iou_copy_is_what_leaving_the_prompt_in_place_scores(tmp_path):
    """Whatever the model predicts: one object stays, one moves away, one leaves half-way."""
    gts = clip([A, A, A], [B, A, A], [A, A, EMPTY])
    module, trainer = Scripted(None), make_trainer(tmp_path)
    for batch, scored in ((gts, (1 + 0 + 1 / 2) / 3), (gts[:, :2], 1 / 2)):
        module.outs = outputs(~batch)
        (result,) = trainer.validate(module, Batches(squares_batch(batch)), verbose=False)
        assert result["val/iou_copy"] == pytest.approx(scored)


def test_validating_the_same_weights_twice_gives_the_same_numbers(tmp_path):
    """Box prompts have noise, and other generators have moved in between."""
    model = ModelConfig(image_size=64, prompt_type="bbox", num_correction_points=1)
    module = SAM2LightningModule(Config(model=model))
    boxes = []
    module.model.register_forward_hook(
        lambda model, inputs, outs: boxes.append(outs[0]["point_inputs"]["point_coords"])
    )
    data, results = Batches(moving_squares()), []
    for seed in (1, 2):
        pl.seed_everything(seed, verbose=False)
        module.model.rng.random(seed)
        results += make_trainer(tmp_path).validate(module, data, verbose=False)
    assert torch.equal(*boxes)
    assert results[0] == results[1]


def test_clicks_of_a_validation_do_not_depend_on_where_masks_lie_in_memory(tmp_path):
    inside = []

    class Measuring(Scripted):
        def forward(self, batch):
            inside.append(border_distances())
            return super().forward(batch)

    masks, ipp = clip([A, A]), cv2.ipp.useIPP()
    module = Measuring(outputs(masks))
    make_trainer(tmp_path).validate(module, Batches(squares_batch(masks)), verbose=False)
    assert [len(found) for found in inside] == [1]
    assert cv2.ipp.useIPP() == ipp


def test_validation_draws_from_every_generator_anew_and_puts_them_back(tmp_path):
    drawn = []

    class Drawing(Scripted):
        def forward(self, batch):
            drawn.append(random_states(self.model.rng))
            random.random(), np.random.rand(), torch.rand(1), self.model.rng.random()
            return super().forward(batch)

    masks = clip([A, A])
    module, data = Drawing(outputs(masks)), Batches(squares_batch(masks))
    for seed in (1, 2):
        pl.seed_everything(seed, verbose=False)
        module.model.rng.random()
        before = random_states(module.model.rng)
        make_trainer(tmp_path).validate(module, data, verbose=False)
        assert random_states(module.model.rng) == before
    assert drawn[0] == drawn[1]


def test_training_after_an_interrupted_validation_goes_on_with_its_own_states(tmp_path):
    masks = clip([A, A])
    module = Scripted(outputs(masks))
    before = random_states(module.model.rng)
    module.trainer = make_trainer(tmp_path)
    module.on_validation_start()
    torch.rand(1)
    module.on_train_batch_start(None, 0)
    assert random_states(module.model.rng) == before


def test_infinite_logits_are_no_mask(tmp_path):
    gts = clip([A, A])
    outs = outputs(gts)
    outs[1]["pred_masks_high_res"][gts[1][:, None]] = math.inf
    trainer = make_trainer(tmp_path)
    (result,) = trainer.validate(Scripted(outs), Batches(squares_batch(gts)), verbose=False)
    assert result["val/iou"] == 0.0


def test_validation_names_the_categories_of_the_datamodule(tmp_path):
    masks = clip([A, A], [B, B])
    data = Batches(
        squares_batch(masks), category_layout=True, category_names=["liver", "left/duct"]
    )
    (result,) = make_trainer(tmp_path).validate(Scripted(outputs(masks)), data, verbose=False)
    assert {key for key in result if key.startswith("val/iou/")} == {
        "val/iou/liver", "val/iou/left_duct",
    }  # fmt: skip


def validate(tmp_path, gts, preds, videos=None, **datamodule):
    batch = squares_batch(gts, videos)
    trainer = make_trainer(tmp_path)
    trainer.validate(Scripted(outputs(preds)), Batches(batch, **datamodule), verbose=False)


def table_of(tmp_path, step=0):
    text = (tmp_path / "metrics" / f"val_step{step}.csv").read_text(encoding="utf-8")
    return list(csv.reader(text.splitlines()))


def test_validation_lists_its_objects_in_a_table(tmp_path):
    gts, preds = clip([A, A, A], [B, B, B], [A, A, A]), clip([A, A, A], [B, B, EMPTY], [A, B, B])
    validate(
        tmp_path,
        gts,
        preds,
        videos=[0, 0, 1],
        clip_name=lambda stage, video: f"{stage} clip, {video}",
        object_names=lambda stage, video: {1: "猫"} if video == 0 else None,
    )
    assert table_of(tmp_path) == [
        ["video", "clip", "first_frame", "object", "name", "J", "F", "J&F", "dice"],
        ["val clip, 0", "0", "0", "0", "", "1.000000", "1.000000", "1.000000", "1.000000"],
        ["val clip, 0", "0", "0", "1", "猫", "0.500000", "0.500000", "0.500000", "0.500000"],
        ["val clip, 1", "1", "0", "2", "", "0.000000", "0.000000", "0.000000", "0.000000"],
    ]


def test_each_data_set_has_an_iou_of_its_own(tmp_path):
    """The three objects have IoU 1, 0.5 and 0; the mean of the means is not the mean."""
    gts, preds = clip([A, A, A], [B, B, B], [A, A, A]), clip([A, A, A], [B, B, EMPTY], [A, B, B])
    data = Batches(
        squares_batch(gts, [0, 0, 1]), source_of=lambda stage, video: ["sav", "mine"][video]
    )
    (result,) = make_trainer(tmp_path).validate(Scripted(outputs(preds)), data, verbose=False)
    names = [name for name in result if "source" in name]
    assert [(name, result[name]) for name in names] == [
        ("val/source/sav/iou", 0.75),
        ("val/source/mine/iou", 0.0),
    ]
    assert result["val/iou"] == 0.5


def test_validation_lists_the_outcome_of_every_frame(tmp_path):
    """The second object leaves after the prompt, and is found where the first one is."""
    gts, preds = clip([A, A, A], [B, EMPTY, B]), clip([A, A, EMPTY], [B, A, B])
    outs = outputs(preds)
    for t, out in enumerate(outs):
        out["multistep_pred_ious"] = [torch.zeros(2, 3), torch.tensor([[0.1, 0.5, t / 4]] * 2)]
        out["multistep_object_score_logits"] = [torch.tensor([[2.0], [-1.0]])]
    trainer = make_trainer(tmp_path)
    data = Batches(squares_batch(gts), clip_name=lambda stage, video: "clip, a")
    (result,) = trainer.validate(Scripted(outs), data, verbose=False)
    text = (tmp_path / "metrics/val_step0_frames.csv").read_text(encoding="utf-8")
    one, other = "2.000000", "-1.000000"
    assert list(csv.reader(text.splitlines())) == [
        [
            "video",
            "clip",
            "first_frame",
            "object",
            "name",
            "frame",
            "outcome",
            "iou",
            "predicted_iou",
            "object_score",
            "prompted",
        ],
        ["clip, a", "0", "0", "0", "", "0", "prompted", "1.000000", "0.500000", one, "true"],
        ["clip, a", "0", "0", "0", "", "1", "held", "1.000000", "0.500000", one, "false"],
        ["clip, a", "0", "0", "0", "", "2", "lost", "0.000000", "0.500000", one, "false"],
        ["clip, a", "0", "0", "1", "", "0", "prompted", "1.000000", "0.500000", other, "true"],
        ["clip, a", "0", "0", "1", "", "1", "swapped", "0.000000", "0.500000", other, "false"],
        ["clip, a", "0", "0", "1", "", "2", "returned", "1.000000", "0.500000", other, "false"],
    ]
    assert result["val/failures/swapped"] == result["val/failures/lost"] == 0.25
    assert result["val/failures/partial"] == 0
    assert result["val/identity_switches"] == 1
    assert result["val/frames_until_failure"] == 0.5


def test_failures_are_logged_by_category(tmp_path):
    masks = clip([A, A], [B, B])
    data = Batches(squares_batch(masks), category_layout=True, category_names=["liver", "duct"])
    outs = outputs(clip([A, A], [B, EMPTY]))
    (result,) = make_trainer(tmp_path).validate(Scripted(outs), data, verbose=False)
    assert result["val/failures/lost"] == 0.5
    assert result["val/failures/lost/liver"] == 0
    assert result["val/failures/lost/duct"] == 1


def test_table_names_categories_where_objects_have_no_names(tmp_path):
    masks = clip([A, A], [B, B])
    validate(tmp_path, masks, masks, category_layout=True, category_names=["liver", "duct"])
    assert [line[:5] for line in table_of(tmp_path)[1:]] == [
        ["video 0", "0", "0", "0", "liver"],
        ["video 0", "0", "0", "1", "duct"],
    ]


def test_table_of_metrics_without_boundaries_leaves_f_empty():
    table = as_csv({(0, 1): {"J": 0.25, "dice": 0.4}}, {}, str, lambda video: None)
    assert table.splitlines()[1] == "0,0,,1,,0.250000,,,0.400000"


def test_every_validation_has_a_table_of_its_own(tmp_path):
    masks = clip([A, A])
    trainer = make_trainer(tmp_path, max_steps=2, max_epochs=2, num_sanity_val_steps=1)
    trainer.fit(Scripted(outputs(masks)), Batches(squares_batch(masks)))
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == [
        "val_step1.csv", "val_step1_frames.csv", "val_step2.csv", "val_step2_frames.csv",
    ]  # fmt: skip


def test_a_table_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog):
    masks = clip([A, A])
    (tmp_path / "metrics").write_text("in the way")
    trainer = make_trainer(tmp_path, max_steps=2, max_epochs=2)
    trainer.fit(Scripted(outputs(masks)), Batches(squares_batch(masks)))
    assert trainer.global_step == 2
    assert trainer.callback_metrics["val/iou"] == 1.0
    (said,) = [record for record in caplog.records if record.name == "core.trainer"]
    assert "metrics/val_step1.csv was not written; training continues" in said.getMessage()


def test_a_table_whose_names_fail_is_said_and_stops_nothing(tmp_path, caplog):
    def clip_name(stage, video):
        raise KeyError(video)

    masks = clip([A, A])
    validate(tmp_path, masks, masks, clip_name=clip_name)
    assert "val_step0.csv was not written" in caplog.text


def test_names_that_are_no_text_do_not_cost_the_table(tmp_path):
    masks = clip([A, A])
    validate(tmp_path, masks, masks, clip_name=lambda stage, video: "\udcff.mp4")
    assert table_of(tmp_path)[1][0] == "\\udcff.mp4"


def test_ranks_other_than_zero_write_no_table(tmp_path, monkeypatch):
    masks = clip([A, A])
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    validate(tmp_path, masks, masks)
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize("gts", [clip([EMPTY, A, A]), clip([A])], ids=["too late", "one frame"])
def test_validation_without_an_object_to_score_is_said_and_ends_no_training(gts, tmp_path):
    checkpoints = ModelCheckpoint(tmp_path / "checkpoints", monitor="val/iou", mode="max")
    trainer = make_trainer(tmp_path, enable_checkpointing=True, callbacks=[checkpoints])
    with pytest.warns(UserWarning, match="val/iou is NaN: no validation clip has both an object"):
        trainer.fit(Scripted(outputs(gts)), Batches(squares_batch(gts)))
    assert trainer.callback_metrics["val/iou"].isnan()
    assert Path(checkpoints.best_model_path).is_file()
