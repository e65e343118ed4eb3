"""What was made fast gives the same as the plain way beside it."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scenes import make_scene
from sheet_reference import area_weights
from torch.utils._python_dispatch import TorchDispatchMode

from core.official import IMAGENET_MEAN, IMAGENET_STD
from core.visualization.drawing import paint
from core.visualization.drawing.paint import convert_colors, pack, paint_mask_prompts, paint_masks
from core.visualization.images import encode_png
from core.visualization.palette import category_color
from core.visualization.prompts import PromptData
from core.visualization.reduction import (
    Choice,
    Grid,
    OnCpu,
    OnCpuSmall,
    OnDevice,
    denormalize_array,
)
from core.visualization.snapshot import Moment, take_snapshot
from core.visualization.transfer import _pack, _unpack

CPU = torch.device("cpu")

# Display size 32: as it is, divided by 2, 3 and 4, and by no whole number.
SIZES = [32, 64, 96, 128, 80]


def spoiled_scene(size, dtype):
    batch, outs = make_scene(num_frames=3, size=size, num_objects=2)
    batch.img_batch = batch.img_batch.to(dtype)
    batch.img_batch[0, 0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    for item in outs:
        item["pred_masks_high_res"] = item["pred_masks_high_res"].to(dtype)
    outs[1]["pred_masks_high_res"][0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    outs[2]["pred_masks_high_res"][1, 0, 0, 0] = -float("inf")
    return batch, outs


def weigh(plane, weights):
    """Means by area; what has no weight does not count, not even NaN."""
    out = torch.zeros(len(weights), len(weights), dtype=torch.float64)
    for i, of_row in enumerate(weights):
        rows = of_row > 0
        for j, of_column in enumerate(weights):
            columns = of_column > 0
            part = plane[rows][:, columns]
            out[i, j] = (part * of_row[rows][:, None] * of_column[columns]).sum()
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_frames_are_reduced_alike_on_both_kinds_of_device(size, dtype):
    batch, _ = spoiled_scene(size, dtype)
    choice = Choice([0], [0, 2], [0, 2], [0, 2], [Grid.fit(size, size, 32)])
    of_device = OnDevice(choice, CPU).images(batch.img_batch)[0].numpy()
    of_cpu = OnCpu(choice, [0, 1]).images(batch.img_batch)[0]
    of_device, of_cpu = denormalize_array(of_device), denormalize_array(of_cpu)
    # The exact mean of each area; one that lies between two bytes is rounded up.
    statistics = (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in statistics)
    weights = torch.from_numpy(area_weights(size, 32))
    exact = batch.img_batch[[0, 2], 0].double()
    # Whatever is not finite stays so, where it has any weight.
    exact = torch.stack([weigh(plane, weights) for plane in exact.flatten(0, 1)])
    exact = exact.unflatten(0, (2, 3))
    exact = ((exact * std + mean) * 255).nan_to_num(0, 255, 0).clamp(0, 255)
    ties_up = 2**-12
    for reduced in (of_device, of_cpu):
        assert reduced.shape == (2, 3, 32, 32)
        assert reduced.dtype == np.uint8
        assert np.abs(reduced - exact.numpy() - ties_up).max() < 0.5001


@pytest.mark.parametrize(
    ("size", "panel_size"), [*((size, 32) for size in SIZES), (512, 256), (1024, 256), (512, 32)]
)
@pytest.mark.parametrize("original", [None, (480, 854), (90, 70)])
def test_frames_of_bytes_look_the_same_from_both_kinds_of_device(size, panel_size, original):
    batch, _ = make_scene(num_frames=3, size=size)
    choice = Choice(
        [0], [0, 1, 2], [0, 1, 2], [0, 1, 2], [Grid.fit(size, size, panel_size, original)]
    )
    of_device = denormalize_array(OnDevice(choice, CPU).images(batch.img_batch)[0].numpy())
    of_cpu = denormalize_array(OnCpu(choice, [0, 1, 2]).images(batch.img_batch)[0])
    assert np.array_equal(of_device, of_cpu)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest tensor has that an operator made, views aside."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.num_elements = max(self.num_elements, result.numel())
        return result


def test_a_device_needs_no_memory_for_many_frames_at_full_size():
    num_frames, size = 16, 96
    images = torch.rand(num_frames, 1, 3, size, size)
    frames = list(range(num_frames))
    choice = Choice([0], frames, frames, frames, [Grid.fit(size, size, 16)])
    with LargestTensor() as largest:
        (reduced,) = OnDevice(choice, CPU).images(images).values()
    assert reduced.shape == (num_frames, 3, 16, 16)
    assert largest.num_elements <= 3 * size * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [32, 45])
@pytest.mark.parametrize("rows", [[0, 1], [1]])
def test_masks_are_counted_and_kept_alike_however_they_are_reduced(size, dtype, rows):
    batch, outs = spoiled_scene(size, dtype)
    choice = Choice([0], [0, 2], [0, 1, 2], [0, 2], [Grid.fit(size, size, 32)])
    logits = [item["pred_masks_high_res"][:, 0] for item in outs]
    prompts = {0: outs[0]["mask_inputs"][:, 0]}
    plain = OnCpu(choice, rows).keep(batch, logits, prompts)
    assert plain.packed is None
    expected = [[False, False], [True, False], [False, True]]
    assert plain.counts.non_finite.tolist() == [[row[k] for k in rows] for row in expected]
    for reduction, places in (
        (OnDevice(choice, CPU), rows),
        (OnCpuSmall(choice, rows), slice(None)),
    ):
        kept = reduction.keep(batch, logits, prompts)
        for name, array in vars(kept.counts).items():
            counts = vars(plain.counts)[name]
            assert np.asarray(array).dtype == counts.dtype, name
            assert np.array_equal(np.asarray(array)[:, places], counts), name
        # Nothing is wide enough for a window: no frame is kept for one.
        assert kept.packed.frames == {}
        for packed, crops in (
            *zip(kept.packed.gt[:, places], plain.masks.gt, strict=True),
            *zip(kept.packed.pred[:, places], plain.masks.pred, strict=True),
            (kept.packed.mask_prompts[0], plain.mask_prompts[0]),
        ):
            for found, crop in zip(packed, crops, strict=True):
                mask = np.zeros((size, size), bool)
                crop.write(mask)
                assert np.array_equal(np.asarray(found), np.packbits(mask))


def test_logits_whose_sum_overflows_are_finite():
    batch, outs = make_scene(num_frames=1, size=32, num_objects=1)
    outs[0]["pred_masks_high_res"] = torch.full((1, 1, 32, 32), 1e38)
    snapshot = take_snapshot(batch, outs, Moment("train", 0))
    assert not snapshot.reduced.counts.non_finite.any()
    assert snapshot.reduced.counts.pred_areas.tolist() == [[32 * 32]]


def test_packed_tensors_come_back_as_they_were():
    tensors = {
        "wide": torch.arange(3),
        "floats": torch.randn(2, 3).t(),
        "column": torch.arange(6).view(3, 2)[:, 1],
        "column of one": torch.arange(2).view(1, 2)[:, 1],
        "column of none": torch.zeros(0, 2)[:, 1],
        "number": torch.tensor(3.0),
        "flags": torch.tensor([[True], [False], [True]]),
        "none": torch.zeros(0, 4),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    packed = _pack(tensors.values())
    assert packed.dtype == torch.uint8
    copies = _unpack(packed, tensors)
    for name, tensor in tensors.items():
        assert copies[name].dtype == tensor.dtype
        assert torch.equal(copies[name], tensor)


def test_obj_to_cat_is_copied():
    batch, outs = make_scene(num_frames=1, size=32, num_objects=2)
    obj_to_cat = torch.tensor([1, 0])
    snapshot = take_snapshot(batch, outs, Moment("train", 0), obj_to_cat=obj_to_cat)
    obj_to_cat.fill_(7)
    assert snapshot.reduced.obj_to_cat.tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(10))
def test_masks_painted_at_once_look_as_if_painted_one_by_one(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    image = pack(rng.integers(0, 255, (24, 31, 3), dtype=np.uint8))
    masks = np.zeros((20, 24, 31), bool)
    for mask in masks:
        y, x, side = rng.integers(0, 22), rng.integers(0, 29), rng.integers(0, 7)
        mask[y : y + side, x : x + side] = rng.random() < 0.9
    prompts = [PromptData("mask", k, mask=torch.from_numpy(m)) for k, m in enumerate(masks)]
    colors = [category_color(k) for k in range(len(masks))]
    pictures = []
    for many in (1, 1000):
        monkeypatch.setattr(paint, "_MANY", many)
        painted = paint_masks(image, masks, colors)
        pictures.append((painted, paint_mask_prompts(image, prompts, colors)))
    assert np.array_equal(pictures[0][0], pictures[1][0])
    assert np.array_equal(pictures[0][1], pictures[1][1])
    outside = ~masks.any(0)
    assert np.array_equal(pictures[0][0][outside], image[outside])


def test_colours_are_converted_in_strips_without_seams():
    image = np.random.default_rng(0).integers(0, 255, (300, 700, 4), dtype=np.uint8)
    assert np.array_equal(convert_colors(image, cv2.COLOR_RGBA2RGB, 3), image[..., :3])


def test_png_is_lossless():
    image = np.random.default_rng(0).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)
