"""Sheets of clips of one frame: a row for each round of clicks, and what it changed."""

import numpy as np
import pytest
import torch
from books import make_book, read_runs
from devices import PretendedCuda
from fakes import RememberingLogger, visualizations
from scenes import make_batch, moving_squares, take
from trainings import assert_same_weights, make_trainer

from core.config import Config, ModelConfig
from core.official import IMAGENET_MEAN, IMAGENET_STD
from core.trainer import SAM2LightningModule
from core.visualization import limits
from core.visualization.drawing.sheet import render_sheet
from core.visualization.keeper import Keeper

SIZE, POSITIVE, NEGATIVE, PADDING = 48, 1, 0, -1


def clicked_image(num_rounds=3, size=SIZE, from_box=False):
    """Two images with two and one objects; each round predicts four more rows of each object.

    An object is 16 x 16 pixels, the click of round k lies at (k, row).
    """
    rows, height = 3, 16
    masks = torch.zeros(1, rows, size, size, dtype=torch.bool)
    for row in range(rows):
        masks[0, row, 8 : 8 + height, 8 * (row + 1) : 8 * (row + 1) + height] = True
    pixels = torch.randint(
        0, 256, (1, 2, 3, size, size), generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = (pixels / 255 - mean) / std
    batch = make_batch(images, masks, [0, 0, 1])
    batch.metadata.unique_objects_identifier[..., 2] = 30
    logits = torch.full((rows, num_rounds, size, size), -2.0)
    for k in range(num_rounds):
        logits[:, k] = torch.where(masks[0], 2.0, -2.0)
        logits[:, k, 8 + 4 * (k + 1) :] = -2.0
    columns = num_rounds + from_box
    coords = torch.tensor([[[k, row] for k in range(columns)] for row in range(rows)]).float()
    labels = torch.ones(rows, columns, dtype=torch.int32)
    labels[1, columns - 1] = NEGATIVE
    if from_box:
        labels[:, :2] = torch.tensor([2, 3])
    clicks = [
        {
            "point_coords": coords[:, : k + 1 + from_box],
            "point_labels": labels[:, : k + 1 + from_box],
        }
        for k in range(num_rounds)
    ]
    outs = {
        "pred_masks_high_res": logits[:, -1:],
        "point_inputs": clicks[0],
        "mask_inputs": None,
        "multistep_pred_masks_high_res": logits,
        "multistep_point_inputs": clicks,
        "multistep_pred_ious": [torch.full((rows, 1), 0.1 * (k + 1)) for k in range(num_rounds)],
        "multistep_object_score_logits": [
            torch.full((rows, 1), k + 1.0) for k in range(num_rounds)
        ],
    }
    return batch, [outs]


def test_each_round_has_a_row_with_its_clicks_prediction_and_scores():
    clip, other = take(*clicked_image(), videos=[0, 1], max_frames=1, frame_stride=2).clips()
    assert [str(frame.round) for frame in clip.frames] == ["1 click", "2 clicks", "3 clicks"]
    assert [frame.number for frame in clip.frames] == [30, 30, 30]
    assert clip.pred.areas.tolist() == [[64, 64], [128, 128], [192, 192]]
    assert (clip.pred.masks.sum((2, 3)) == clip.pred.areas).all()
    assert clip.gt.areas.tolist() == [[256, 256]] * 3
    assert clip.scores.ious.tolist() == [[0.25] * 2, [0.5] * 2, [0.75] * 2]
    assert np.allclose(clip.scores.predicted_ious[:, 0], [0.1, 0.2, 0.3])
    assert clip.scores.object_scores[:, 1].tolist() == [1, 2, 3]
    first, second = clip.frames[-1].prompts
    assert first.points.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert first.rounds.tolist() == [0, 1, 2]
    assert second.labels.tolist() == [POSITIVE, POSITIVE, NEGATIVE]
    assert [len(frame.prompts[0].points) for frame in clip.frames] == [1, 2, 3]
    assert clip.mean_iou == pytest.approx(0.75)
    assert (clip.images == clip.images[:1]).all()
    assert clip.images.flags.c_contiguous
    assert other.num_categories == 1
    assert clip.prompts_elsewhere == []


def test_a_box_counts_as_no_click(written):
    (clip,) = take(*clicked_image(from_box=True)).clips()
    assert [str(frame.round) for frame in clip.frames] == [
        "the box",
        "the box and 1 click",
        "the box and 2 clicks",
    ]
    assert [prompt.prompt_type for prompt in clip.frames[0].prompts] == ["bbox", "bbox"]
    render_sheet(clip)
    assert "after the box and 2 clicks" in written


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[1, 0], [1, 1], [-1, -1]], "2 clicks"),  # the third object is not there
        ([[2, 3, -1], [2, 3, 0], [2, 3, -1]], "the box and 1 click"),
        ([[-1, -1]] * 3, "0 clicks"),
    ],
)
@pytest.mark.parametrize("obj_to_cat", [None, [0]])  # of another length: prompts are not drawn
def test_labels_tell_clicks_from_a_box(labels, said, obj_to_cat, monkeypatch):
    batch, (outs,) = clicked_image(num_rounds=1)
    labels = torch.tensor(labels)
    clicks = {"point_coords": torch.full((*labels.shape, 2), 9.0), "point_labels": labels}
    outs |= {"point_inputs": clicks, "multistep_point_inputs": [clicks]}
    device = PretendedCuda(monkeypatch)
    on_device = device.put((batch, [outs]))
    with device.nothing_waits():
        snapshot = take(*on_device, obj_to_cat=obj_to_cat)
    for found in (take(batch, [outs], obj_to_cat=obj_to_cat), snapshot):
        (clip,) = found.clips()
        assert [str(frame.round) for frame in clip.frames] == [said]


def test_a_row_says_what_its_click_changed(written):
    (clip,) = take(*clicked_image()).clips()
    sheet = render_sheet(clip)
    assert sheet.shape[0] > 3 * 240
    said = " ".join(written)
    assert "mean IoU 0.750 after 3 clicks" in said
    assert "1 IoU 0.50 (+0.25) est. 0.20 score +2.0" in said
    assert "0 IoU 0.25 est. 0.10 score +1.0" in said
    assert "small: given in a row above" in written
    assert [text for text in written if text.startswith("after")] == [
        "after 1 click",
        "after 2 clicks",
        "after 3 clicks",
    ]
    assert (written.count("1"), written.count("2")) == (1, 0)  # in the legend: clicks have none


def test_of_many_rounds_the_first_ones_are_drawn_and_the_last():
    (clip,) = take(*clicked_image(num_rounds=12)).clips()
    assert [frame.round.number for frame in clip.frames] == [*range(7), 11]


@pytest.mark.parametrize("size", [SIZE, 320])
@pytest.mark.parametrize("from_box", [False, True])
def test_sheet_is_the_same_from_a_device_that_is_not_waited_for(size, from_box, monkeypatch):
    inputs, options = clicked_image(size=size, from_box=from_box), {"videos": [0, 1]}
    on_cpu = take(*inputs, **options).clips()
    assert all((clip.close_up is not None) == (size == 320) for clip in on_cpu)
    device = PretendedCuda(monkeypatch)
    on_device = device.put(inputs)
    with device.nothing_waits():
        snapshot = take(*on_device, **options)
    for of_cpu, of_device in zip(on_cpu, snapshot.clips(), strict=True):
        assert np.array_equal(render_sheet(of_cpu), render_sheet(of_device))


def test_the_image_is_kept_once():
    reduced = take(*clicked_image(size=320), panel_size=128).reduced
    assert [len(images) for images in reduced.images.values()] == [1]
    assert [len(images) for images in reduced.close_ups.values()] == [1]


def test_the_book_keeps_the_last_round_and_the_sheet_its_first_validation(tmp_path):
    book = make_book(tmp_path)
    keeper = Keeper(limits.Troubles(strict=True), book)
    batch, outs = clicked_image()
    (first,) = take(batch, outs).clips()
    keeper.store([first], "val")
    (second,) = take(batch, outs).clips()
    second.moment = type(second.moment)("val", 5)
    keeper.store([second], "val")
    assert first.baseline_ious is None
    assert np.array_equal(
        second.baseline_ious, [[np.nan] * 2, [np.nan] * 2, [0.75] * 2], equal_nan=True
    )
    (clip,) = read_runs(tmp_path)[0]["clips"]
    assert clip["frame_numbers"] == [30]
    event = clip["events"][-1]
    assert event["scores"][0][0]["iou"] == 0.75
    assert event["prompted"] == [False]
    assert [item["round"] for item in event["prompts"][0] if item["object"] == 0] == [0, 1, 2]
    assert event["mean_iou"] == 0.75


def test_pictures_of_a_training_on_images_change_nothing_of_it(tmp_path):
    def train(section, logger):
        torch.manual_seed(0)
        model = ModelConfig(image_size=64, prompt_type="point", num_correction_points=2)
        module = SAM2LightningModule(Config(model=model, visualizations=section))
        data = torch.utils.data.DataLoader([moving_squares(1)] * 2, batch_size=None)
        make_trainer(tmp_path, logger, max_steps=2).fit(module, data, data)
        return module

    logger = RememberingLogger()
    on = train(visualizations(run_book=False, worst_clips=1, strict=True), logger)
    off = train(visualizations(enabled=False), RememberingLogger())
    assert_same_weights(on.state_dict(), off.state_dict())
    assert on.model.rng.bit_generator.state == off.model.rng.bit_generator.state
    assert logger.steps() == [0, 1]
    drawn = {key for key, _ in logger.images}
    assert {"val/composites", "val/worst", "val/outcomes"} <= drawn
    assert "val/iou_by_distance" not in drawn  # nothing was tracked
