"""Snapshots of tensors that live on a GPU: nothing waits, and the pictures are those of CPU."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from devices import PretendedCuda, RealCuda
from fakes import HookedModule, RememberingLogger
from scenes import clicked_clips, make_batch, make_scene, moving_squares, take

from core.official import IMAGENET_MEAN, IMAGENET_STD, original_sizes_of
from core.visualization import limits
from core.visualization.drawing.sheet import render_sheet
from core.visualization.reduction import denormalize
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot


@pytest.fixture(
    params=[
        pytest.param(
            lambda monkeypatch: RealCuda(),
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
            ],
            id="cuda",
        ),
        pytest.param(PretendedCuda, id="pretended"),
    ]
)
def device(request, monkeypatch):
    """The GPU where there is one, and in any case a pretended one."""
    return request.param(monkeypatch)


@pytest.mark.parametrize("size", [64, 512, pytest.param(600, marks=pytest.mark.long)])
def test_hook_waits_for_no_device(size, device, monkeypatch):
    synchronize = torch.cuda.Event.synchronize

    def wait_on_the_worker_alone(event):
        assert threading.current_thread() is not threading.main_thread()
        synchronize(event)

    # Of an event the device's debug mode says nothing.
    monkeypatch.setattr(torch.cuda.Event, "synchronize", wait_on_the_worker_alone)
    # The pretended device computes slowly.
    monkeypatch.setattr(limits, "GRACE_S", 1e9)
    logger = RememberingLogger()
    module = HookedModule(logger, worst_clips=2, max_pending=100, max_overhead=1.0)
    scene = device.put(make_scene(size=size))
    with device.nothing_waits():
        module.event(1, scene)
        for batch_idx in range(4):
            module.event(1, scene, "val", batch_idx)
        module.visualizer.log_worst([logger], 1)
    module.visualizer.flush()
    assert sorted(key for key, _ in logger.images) == [
        "train/composites",
        "val/composites",
        "val/composites_batch1",
        "val/composites_batch2",
        "val/composites_batch3",
        "val/worst",
    ]
    assert not module.visualizer.disabled


def clips_of(inputs, device=None, **options):
    """Take every clip; from `device`, or from where the tensors are."""
    if device is None:
        return take(*inputs, **options).clips()
    inputs = device.put(inputs)
    options = {name: device.put(value) for name, value in options.items()}
    with device.nothing_waits():
        snapshot = take(*inputs, **options)
    return snapshot.clips()


def sheets_of(inputs, device=None, **options):
    """Draw every clip; of `device`, or where the tensors are."""
    return [render_sheet(clip) for clip in clips_of(inputs, device, **options)]


@pytest.mark.parametrize("size", [64, 512, 600, pytest.param(768, marks=pytest.mark.long)])
def test_sheet_is_the_same_as_on_cpu(size, device):
    scene = make_scene(size=size)
    scene[1][1]["pred_masks_high_res"][0, 0, :3, :3] = float("nan")
    scene[1][1]["pred_masks_high_res"][1, 0, :3, :3] = float("inf")
    [of_device] = sheets_of(scene, device, videos=[0], panel_size=256)
    [of_cpu] = sheets_of(scene, videos=[0], panel_size=256)
    assert np.array_equal(of_device, of_cpu)


@pytest.mark.parametrize("masks_given", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"videos": [0, 1]},
        {"videos": [1], "panel_size": 20, "frame_stride": 2},
        {"videos": [0, 1], "num_categories": 1, "measure_all_frames": True, "max_frames": 1},
        {"videos": [0, 1], "num_categories": 5, "draw_all_frames": True, "max_frames": 1},
        {"videos": [0, 1], "obj_to_cat": torch.tensor([2, 0, 1])},
        {"videos": [0, 1], "obj_to_cat": [0, 1, 2]},
    ],
    ids=str,
)
def test_sheets_of_a_batch_of_two_videos_are_the_same_as_on_cpu(options, masks_given, device):
    inputs = clicked_clips(masks_given=masks_given)
    pairs = zip(sheets_of(inputs, device, **options), sheets_of(inputs, **options), strict=True)
    assert all(np.array_equal(of_device, of_cpu) for of_device, of_cpu in pairs)


@pytest.mark.parametrize("left_behind", ["the batch", "the outputs"])
@pytest.mark.parametrize("size", [48, 512])
def test_batch_and_outputs_of_two_devices_are_drawn_as_well(left_behind, size, device):
    batch, outs = clicked_clips() if size == 48 else small_objects(size, "point")
    with_device = device.put((batch, outs))
    mixed = (batch, with_device[1]) if left_behind == "the batch" else (with_device[0], outs)
    with device.nothing_waits():
        snapshot = take(*mixed, videos=[0, 1])
    sheets = [render_sheet(clip) for clip in snapshot.clips()]
    expected = sheets_of((batch, outs), videos=[0, 1])
    assert all(np.array_equal(one, other) for one, other in zip(sheets, expected, strict=True))


@pytest.mark.parametrize("kept_by", ["datamodule", "module", None])
def test_sizes_of_videos_are_told_before_the_batch_goes_to_the_device(kept_by, device, caplog):
    batch, outs = make_scene(size=64)
    batch.metadata.frame_orig_size[:] = torch.tensor([32, 64])
    logger = RememberingLogger()
    module = HookedModule(logger, max_overhead=1.0, panel_size=64, max_frames=2, run_book=False)
    keeper = {"module": module, "datamodule": SimpleNamespace()}.get(kept_by, SimpleNamespace())
    keeper.original_sizes = original_sizes_of(batch)
    module.trainer.datamodule = keeper if kept_by == "datamodule" else None
    scene = device.put((batch, outs))
    with device.nothing_waits():
        module.event(0, scene)
        module.event(1, scene)
    module.visualizer.flush()
    warnings = [record.getMessage() for record in caplog.records]
    (of_device,) = logger.images["train/composites", 1]
    options = SnapshotOptions(
        max_frames=2, panel_size=64, aspect="original" if kept_by else "model"
    )
    (clip,) = take_snapshot(batch, outs, Moment("train", 1), options).clips()
    assert np.array_equal(of_device, render_sheet(clip, panel_size=64))
    assert clip.images.shape[1:3] == ((32, 64) if kept_by else (64, 64))
    said = [
        warning for warning in warnings if "metadata.frame_orig_size lies on a device" in warning
    ]
    assert len(said) == len(warnings) == (0 if kept_by else 1)


def small_objects(size, prompt):
    """One video whose two objects lie near each other, another whose one fills the frame."""
    batch, outs = moving_squares(num_frames=3, size=48, num_videos=2), []
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 2, 3, size, size), generator=generator)
    masks = torch.zeros(3, 4, size, size, dtype=torch.bool)
    masks[:, :, size // 2 : size // 2 + 48, 20:68] = batch.masks
    masks[:, 3] = True
    outs = []
    for t in range(3):
        logits = torch.where(masks[t].roll(2, -1), 5.0, -5.0)[:, None]
        logits[0, 0, 3:6, -20:] = 5.0
        outs.append({"pred_masks_high_res": logits, "point_inputs": None, "mask_inputs": None})
    if prompt == "mask":
        outs[0]["mask_inputs"] = masks[0][:, None].roll(9, -1)
    else:
        corners = torch.tensor([[[30.0, size // 2 + 5], [75.0, size // 2 + 50]]] * 4)
        labels = torch.tensor([[2, 3], [1, 0], [1, 1], [-1, -1]], dtype=torch.int32)
        outs[0]["point_inputs"] = {"point_coords": corners, "point_labels": labels}
    frames = (pixels / 255 - mean) / std
    return make_batch(frames, masks, [0, 0, 1, 1]), outs


@pytest.mark.parametrize("prompt", ["mask", "points"])
# What the window shows is enlarged in panels of 256 px, and reduced in those of 48 px.
@pytest.mark.parametrize(("size", "panel_size"), [(320, 256), (321, 48)])
def test_small_objects_get_the_same_window_as_on_cpu(prompt, size, panel_size, device):
    inputs = small_objects(size, prompt)
    (zoomed, whole), expected = (
        clips_of(inputs, where, videos=[0, 1], panel_size=panel_size, max_frames=2)
        for where in (device, None)
    )
    assert zoomed.close_up.window == expected[0].close_up.window
    assert zoomed.close_up.num_outside.sum() == 2 * 3 * 20
    assert whole.close_up is None
    for clip, of_cpu in zip((zoomed, whole), expected, strict=True):
        sheets = [render_sheet(each, panel_size=panel_size) for each in (clip, of_cpu)]
        assert np.array_equal(*sheets)


@pytest.mark.parametrize(("size", "zoom"), [(159, "auto"), (320, "off")])
def test_no_frame_is_copied_whole_where_no_window_is_possible(size, zoom, device):
    inputs = device.put(small_objects(size, "mask"))
    with device.nothing_waits():
        snapshot = take_snapshot(*inputs, Moment("val", 0), SnapshotOptions(zoom=zoom))
    assert snapshot.reduced.packed.frames == {}


@pytest.mark.parametrize("num_objects", [0, 1])
def test_sheet_of_few_objects_is_the_same_as_on_cpu(num_objects, device):
    batch, outs = make_scene(size=64, num_objects=1)
    batch = SimpleNamespace(
        img_batch=batch.img_batch,
        masks=batch.masks[:, :num_objects],
        obj_to_frame_idx=batch.obj_to_frame_idx[:, :num_objects],
        metadata=SimpleNamespace(
            unique_objects_identifier=batch.metadata.unique_objects_identifier[:, :num_objects]
        ),
    )
    outs = [{"pred_masks_high_res": item["pred_masks_high_res"][:num_objects]} for item in outs]
    [of_device], [of_cpu] = sheets_of((batch, outs), device), sheets_of((batch, outs))
    assert np.array_equal(of_device, of_cpu)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sheets_of_half_precision_are_the_same_as_on_cpu(dtype, device):
    batch, outs = make_scene(size=64)
    batch.img_batch = batch.img_batch.to(dtype)
    for item in outs:
        for name in ("multistep_pred_ious", "multistep_object_score_logits"):
            item[name] = [scores.to(dtype) for scores in item[name]]
        item["pred_masks_high_res"] = item["pred_masks_high_res"].to(dtype)
    [of_device], [of_cpu] = sheets_of((batch, outs), device), sheets_of((batch, outs))
    assert np.array_equal(of_device, of_cpu)


def test_frames_are_denormalised_where_they_are(device):
    images = make_scene(size=64)[0].img_batch
    on_device = device.put(images)
    with device.nothing_waits():
        denormalized = denormalize(on_device)
    assert np.array_equal(denormalized.cpu().numpy(), denormalize(images).numpy())
