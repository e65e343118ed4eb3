"""Frames and masks become what the official pipeline makes of them, in one step."""

import io
import math

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image
from training.dataset.vos_raw_dataset import VOSFrame

from core.data.readers.frames import load_frame
from core.data.readers.label_maps import LabelMap
from core.data.warp import Movement, needed_side, warp_frame, warp_masks

AFFINE = Movement(True, -25, 20)
ZOOM = Movement(angle=5, scale=1.4, translate=(0.1, 0.2))
MEAN = (123, 116, 103)


def official(picture: Image.Image, movement: Movement, side: int, is_mask=False) -> np.ndarray:
    """Flip, then the affine at full size, then the square, as the official transforms do."""
    width, height = picture.size
    if movement.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if movement.is_affine:
        turn, shear = math.radians(movement.angle), math.tan(math.radians(movement.shear))
        cos, sin = math.cos(turn), math.sin(turn)
        forward = movement.scale * np.array([[cos, cos * shear - sin], [sin, sin * shear + cos]])
        back, centre = np.linalg.inv(forward), np.array([width / 2, height / 2])
        offset = centre - back @ (centre + np.array(movement.translate) * [width, height])
        numbers = np.column_stack([back, offset]).ravel().tolist()
        how = Image.Resampling.NEAREST if is_mask else Image.Resampling.BILINEAR
        fill = 0 if is_mask else MEAN
        picture = picture.transform(
            picture.size, Image.Transform.AFFINE, numbers, resample=how, fillcolor=fill
        )
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def photo(size: tuple[int, int]) -> bytes:
    path = f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg"
    file = io.BytesIO()
    Image.open(path).convert("RGB").resize(size, Image.Resampling.LANCZOS).save(
        file, "JPEG", quality=92
    )
    return file.getvalue()


@pytest.mark.parametrize("size", [(1920, 1080), (854, 480)])
def test_photos_are_those_of_the_official_pipeline(tmp_path, size):
    (tmp_path / "0.jpg").write_bytes(photo(size))
    frame = VOSFrame(0, str(tmp_path / "0.jpg"))
    frame.masks_size = None
    whole = Image.open(tmp_path / "0.jpg").convert("RGB")
    for side, movement, limit in (
        (1024, Movement(), 1.0), (512, Movement(), 1.0), (256, Movement(True), 2.5),
        (128, Movement(), 2.5), (1024, AFFINE, 1.5), (512, AFFINE, 1.5), (256, ZOOM, 3.0),
        (128, AFFINE, 3.0),
    ):  # fmt: skip
        stored = np.asarray(load_frame(frame, 10**8, needed_side(side, movement)))
        assert min(stored.shape[:2]) >= min(side, *size)
        found = warp_frame(stored, movement, side, size).astype(int)
        assert np.abs(found - official(whole, movement, side)).mean() <= limit


@pytest.mark.parametrize(("period", "side"), [(2, 512), (2, 640), (3, 512), (4, 256), (2, 100)])
@pytest.mark.parametrize("movement", [Movement(), AFFINE])
def test_a_grating_too_fine_for_the_square_becomes_even(period, side, movement):
    stripes = np.arange(1000) // math.ceil(period / 2) % 2 if period != 3 else np.arange(1000) % 3
    image = np.zeros((1000, 1000, 3), np.uint8)
    image[:] = (stripes * (255 // stripes.max()))[None, :, None]
    moved = warp_frame(image, movement, side, (1000, 1000)).astype(int)
    inside = moved[side * 2 // 5 : side * 3 // 5, side * 2 // 5 : side * 3 // 5]
    expected = official(Image.fromarray(image), movement, side).astype(int)
    evened = expected[side * 2 // 5 : side * 3 // 5, side * 2 // 5 : side * 3 // 5]
    assert np.abs(inside - evened).mean() < 12


def blobs(size: tuple[int, int]) -> np.ndarray:
    labels = np.zeros(size[::-1], np.uint8)
    for key in range(1, 7):
        centre = size[0] * key // 7, size[1] * (1 + key % 3) // 4
        cv2.ellipse(labels, centre, (size[0] // 16, size[1] // 9), 20 * key, 0, 360, key, -1)
    return labels


@pytest.mark.parametrize("size", [(1920, 1080), (320, 180)])
@pytest.mark.parametrize("movement", [Movement(), Movement(True), AFFINE, ZOOM])
def test_outlines_lie_within_a_pixel_of_the_official_ones(size, movement):
    labels, side = blobs(size), 256
    found = warp_masks(LabelMap(labels), list(range(1, 8)), movement, side)
    window = np.ones((3, 3), np.uint8)
    for key in range(1, 7):
        picture = Image.fromarray((labels == key) * np.uint8(255))
        expected = (official(picture, movement, side, is_mask=True) >= 128).astype(np.uint8)
        mask = found[key - 1].astype(np.uint8)
        assert (mask <= cv2.dilate(expected, window)).all()
        assert (cv2.erode(expected, window) <= mask).all()
    assert not found[6].any()


@pytest.mark.parametrize("movement", [Movement(), Movement(True), AFFINE])
@pytest.mark.parametrize("shift", [0, 1000])
def test_one_map_and_single_masks_move_alike_and_overlaps_lose_nothing(movement, shift):
    labels = blobs((320, 180))
    ids = [key + shift for key in range(1, 7)]
    as_map = LabelMap(labels if shift == 0 else np.where(labels > 0, labels + np.int32(shift), 0))
    alone = {key: np.array(as_map[key]) for key in as_map}
    found = warp_masks(as_map, ids, movement, 128)
    single = warp_masks(alone, ids, movement, 128)
    # rounding at the pixels' borders may differ where the box moves the origin
    assert (found != single).mean() < 1e-3
    alone[99] = np.ones((180, 320), bool)
    again = warp_masks(alone, [*ids, 99], movement, 128)
    assert np.array_equal(again[:-1], single)
    assert (again[-1] | ~single.any(0)).all()


@pytest.mark.parametrize("movement", [Movement(), Movement(True)])
@pytest.mark.parametrize("as_map", [True, False])
def test_an_object_between_the_nearest_pixels_stays_where_it_covers_half(movement, as_map):
    mask = np.ones((30, 30), bool)
    # 30 to 10: the middle column of each three is taken
    mask[:, 1::3] = False
    masks = LabelMap(mask.astype(np.uint8)) if as_map else {1: mask}
    expected = official(Image.fromarray(mask * np.uint8(255)), movement, 10) >= 128
    assert expected.any()
    assert np.array_equal(warp_masks(masks, [1], movement, 10)[0], expected)


def test_a_label_map_lists_objects_by_their_first_pixels():
    labels = np.array([[0, 7, 3], [2, 3, 7]], np.int32)
    for dtype in (np.uint8, np.int32):
        masks = LabelMap(labels.astype(dtype))
        assert list(masks) == [7, 3, 2]
        assert 5 not in masks
        assert masks[3].tolist() == [[False, False, True], [False, True, False]]
    assert list(LabelMap(np.full((2, 2), 300))) == [300]
