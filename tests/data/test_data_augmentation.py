"""Augmentation and synthetic clips."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sheet_reference import cielab

from core.config import AugmentationConfig, SyntheticConfig
from core.data import DataError
from core.data.augmentation import augment_clip
from core.data.synthetic import make_clip
from core.visualization.palette import category_color

WHITE = 255


def painted_clip(width: int = 32, num_frames: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Two rectangles of flat colour over black, well inside the frame."""
    masks = np.zeros((num_frames, 2, 32, width), bool)
    for t in range(num_frames):
        masks[t, 0, 8:16, 8 + t : 18 + t] = True
        masks[t, 1, 18:25, 12:20] = True
    images = np.zeros((num_frames, 32, width, 3), np.uint8)
    images[masks[:, 0]] = (WHITE, 0, 0)
    images[masks[:, 1]] = (0, 0, WHITE)
    return images, masks


def interior(mask: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours belong to the mask too."""
    padded = np.pad(mask, 1)
    size = mask.shape[0]
    shifted = [padded[y : y + size, x : x + size] for y in range(3) for x in range(3)]
    return np.logical_and.reduce(shifted)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    seed=st.integers(0, 2**32 - 1),
    degrees=st.floats(0, 60),
    shear=st.floats(0, 30),
    width=st.integers(24, 64),
)
def test_augmented_masks_stay_on_their_colours(seed, degrees, shear, width):
    images, masks = painted_clip(width)
    config = AugmentationConfig(horizontal_flip=0.5, degrees=degrees, shear=shear)
    images, masks = augment_clip(images, masks, config, np.random.default_rng(seed), side=32)
    for t in range(2):
        for o, channel in enumerate((0, 2)):
            inside = interior(masks[t, o])
            outside = interior(~masks[t, o])
            assert (images[t][inside][:, channel] > 200).all()
            # grey corners are filled with the ImageNet mean
            assert (images[t][outside][:, channel] <= 128).all()


def test_flip_mirrors_frames_and_masks():
    images, masks = painted_clip()
    config = AugmentationConfig(horizontal_flip=1)
    flipped, flipped_masks = augment_clip(images, masks, config, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    np.testing.assert_array_equal(flipped_masks, masks[..., ::-1])


def test_nothing_asked_changes_nothing_and_copies():
    images, masks = painted_clip()
    config = AugmentationConfig(horizontal_flip=0)
    new_images, new_masks = augment_clip(images, masks, config, np.random.default_rng(0))
    np.testing.assert_array_equal(new_images, images)
    np.testing.assert_array_equal(new_masks, masks)
    assert not np.shares_memory(new_images, images)


def test_input_is_left_alone():
    images, masks = painted_clip()
    before = images.copy(), masks.copy()
    config = AugmentationConfig(1.0, 25, 20, 0.1, 0.1, 0.1, 1.0, True)
    augment_clip(images, masks, config, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(masks, before[1])


def test_grey_clip_has_equal_channels():
    images, masks = painted_clip()
    config = AugmentationConfig(horizontal_flip=0, grayscale=1)
    grey, _ = augment_clip(images, masks, config, np.random.default_rng(0))
    assert (grey == grey[..., :1]).all()
    assert grey.max() > 0


@pytest.mark.parametrize("per_frame", [False, True])
def test_colour_jitter_is_the_same_in_every_frame_unless_asked(per_frame):
    images = np.full((3, 8, 8, 3), 100, np.uint8)
    masks = np.ones((3, 1, 8, 8), bool)
    config = AugmentationConfig(horizontal_flip=0, brightness=0.5, jitter_per_frame=per_frame)
    changed, _ = augment_clip(images, masks, config, np.random.default_rng(0))
    assert (changed[0] != 100).any()
    assert (changed[0] != changed[1]).any() == per_frame


def test_frames_may_be_jittered_by_more_than_the_clip():
    images, masks = np.full((40, 8, 8, 3), 100, np.uint8), np.ones((40, 1, 8, 8), bool)
    config = AugmentationConfig(
        horizontal_flip=0, brightness=0.01, jitter_per_frame=True, frame_brightness=0.2
    )
    changed, _ = augment_clip(images, masks, config, np.random.default_rng(0))
    levels = changed[:, 0, 0, 0].astype(int)
    assert levels.min() < 90
    assert levels.max() > 110
    assert 78 <= levels.min() <= levels.max() <= 123


def test_affine_that_loses_an_object_is_left_out():
    masks = np.zeros((1, 1, 32, 32), bool)
    masks[0, 0, 0, 0] = True
    images = np.zeros((1, 32, 32, 3), np.uint8)
    config = AugmentationConfig(horizontal_flip=0, degrees=45)
    for seed in range(20):
        _, moved = augment_clip(images, masks, config, np.random.default_rng(seed))
        assert moved.any()


def test_scale_and_translation_move_about_the_centre():
    images, masks = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 1, 32, 32), bool)
    masks[0, 0, 12:20, 12:20] = True
    config = AugmentationConfig(0, scale_min=2, scale_max=2)
    _, larger = augment_clip(images, masks, config, np.random.default_rng(0))
    assert np.array_equal(np.argwhere(larger[0, 0])[[0, -1]], [(8, 8), (23, 23)])
    config = AugmentationConfig(0, translate_x=0.2)
    _, moved = augment_clip(images, masks, config, np.random.default_rng(0))
    (top, left), (bottom, right) = np.argwhere(moved[0, 0])[[0, -1]]
    assert (top, bottom, right - left) == (12, 19, 7)
    assert left != 12


def test_hue_turns_the_colour_circle():
    images, masks = np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 1, 2, 2), bool)
    images[..., 0] = 200
    colours = [
        augment_clip(images, masks, AugmentationConfig(0, hue=0.5), np.random.default_rng(seed))[0][
            0, 0, 0
        ].tolist()
        for seed in range(12)
    ]
    assert all(max(colour) == 200 and min(colour) == 0 for colour in colours)
    assert {int(np.argmax(colour)) for colour in colours} == {0, 1, 2}


@pytest.mark.parametrize("flip", [False, True])
def test_a_mosaic_has_the_objects_in_one_of_its_copies(flip):
    images, masks = painted_clip()
    config = AugmentationConfig(0, mosaic=1, mosaic_rows=2, mosaic_columns=4, mosaic_flip=flip)
    frames, laid = augment_clip(images, masks, config, np.random.default_rng(1))
    copies = frames[0].reshape(2, 16, 4, 8, 3).swapaxes(1, 2).reshape(8, 16, 8, 3)
    mirrored = [np.array_equal(copy, copies[0][:, ::-1]) for copy in copies]
    assert all(
        np.array_equal(copy, copies[0]) or turned
        for copy, turned in zip(copies, mirrored, strict=True)
    )
    assert any(mirrored) == flip
    small = np.asarray(Image.fromarray(images[0]).resize((8, 16), Image.Resampling.BILINEAR))
    assert any(np.array_equal(copy, small) for copy in copies)
    inside = laid.any((0, 1)).reshape(2, 16, 4, 8).any((1, 3))
    assert inside.sum() == 1
    assert (frames[0][interior(laid[0, 0])][:, 0] > 120).all()


def synthetic_clip(seed=0, num_frames=6, max_objects=3, **options):
    rng = np.random.default_rng(seed)
    return make_clip(SyntheticConfig(**options), num_frames, 1, 64, max_objects, rng)


def test_synthetic_clip_repeats_by_seed():
    first, again, other = synthetic_clip(0), synthetic_clip(0), synthetic_clip(1)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("seed", range(10))
def test_synthetic_objects_stay_apart_and_inside(seed):
    images, masks = synthetic_clip(seed)
    assert images.shape == (6, 64, 64, 3)
    assert 2 <= masks.shape[1] <= 3
    assert masks.sum(1).max() == 1
    areas = masks.sum((2, 3))
    # nothing is cut off: every object keeps its area, up to its outline on the grid
    assert (areas.min(0) > 0.85 * areas.max(0)).all()


def test_synthetic_shapes_have_no_colour_that_masks_are_drawn_in():
    colours = [cielab(category_color(k)) for k in range(8)]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frames, masks = make_clip(SyntheticConfig(), 1, 1, 64, 3, rng)
        background = frames[0][~masks[0].any(0)].mean(0)
        for mask in masks[0]:
            shape = frames[0][mask].mean(0)
            assert min(math.dist(cielab(shape), colour) for colour in colours) > 30
            assert (background - shape).mean() > 40


def test_synthetic_objects_move_and_have_one_colour():
    images, masks = synthetic_clip(3)
    assert (masks[0] != masks[-1]).any((1, 2)).all()
    for o in range(masks.shape[1]):
        assert images[masks[:, o]].std(0).max() < 4


def test_synthetic_overlap_hides_but_never_shares_pixels():
    clips = [synthetic_clip(seed, overlap=True, speed=0.1) for seed in range(10)]
    assert all(masks.sum(1).max() == 1 for _, masks in clips)
    shrinks = [(m.sum((2, 3)).min(0) < 0.6 * m[0].sum((1, 2))).any() for _, m in clips]
    assert any(shrinks)


def test_synthetic_objects_leave_and_come_back():
    visible = np.concatenate(
        [synthetic_clip(seed, leave_frame=True)[1].any((2, 3)).T for seed in range(10)]
    )
    assert visible[:, 0].all()
    assert visible[:, -1].all()
    assert not visible.all()


def test_synthetic_texture_adds_contrast():
    images, masks = synthetic_clip(0, texture=0.5)
    background = ~masks.any(1)
    assert images[background].std() > 15


@pytest.mark.parametrize("num_objects", [1, 8])
def test_synthetic_objects_always_fit(num_objects):
    config = SyntheticConfig(min_objects=num_objects, max_objects=num_objects, max_radius=0.5)
    _, masks = make_clip(config, 16, 1, 64, 8, np.random.default_rng(0))
    assert masks.any((2, 3)).all()
    assert masks.shape[1] == num_objects


def test_shapes_that_never_fit_are_refused(monkeypatch):
    monkeypatch.setattr("core.data.synthetic._MAX_ATTEMPTS", 40)
    config = SyntheticConfig(min_objects=60, max_objects=60)
    with pytest.raises(DataError, match=r"60 shapes do not fit into frames of 6 x 6 pixels"):
        make_clip(config, 2, 1, 6, 60, np.random.default_rng(0))
