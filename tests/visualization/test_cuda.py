"""Snapshots of tensors that live on a GPU: nothing waits, and the pictures are those of CPU."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from devices import PretendedCuda, RealCuda
from fakes import HookedModule, RememberingLogger
from scenes import clicked_clips, make_scene, take

from core.visualization import limits
from core.visualization.drawing.sheet import render_sheet
from core.visualization.reduction import denormalize


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


@pytest.mark.parametrize("size", [64, 512, 600])
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


def sheets_of(inputs, device=None, **options):
    """Draw every clip; of `device`, or where the tensors are."""
    if device is None:
        snapshot = take(*inputs, **options)
    else:
        inputs = device.put(inputs)
        options = {name: device.put(value) for name, value in options.items()}
        with device.nothing_waits():
            snapshot = take(*inputs, **options)
    return [render_sheet(clip) for clip in snapshot.clips()]


@pytest.mark.parametrize("size", [64, 512, 600, 768])
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
