"""Whatever is in a mask is on the panel: thin things, specks and branches, of any size."""

import itertools
import math

import cv2
import numpy as np
import pytest

from core.visualization.coverage import Axis, cover_array
from core.visualization.reduction import Crop, Grid, KeptMasks, draw_mask

SIDE, PANEL = 1024, 256


def reduce(mask, height, width):
    out = np.empty((height, width), bool)
    cover_array(mask, Axis(mask.shape[0], height), Axis(mask.shape[1], width), out)
    return out


def parts_of(mask):
    """Connected parts, corners included, as masks."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [labels == number for number in range(1, count)], labels


def touched_by(part, size):
    """Panel pixels that have some area in common with a part, pixel by pixel."""
    (height, width), (h, w) = part.shape, size
    touched = np.zeros(size, bool)
    for y, x in np.argwhere(part):
        rows = slice(y * h // height, -(-(y + 1) * h // height))
        columns = slice(x * w // width, -(-(x + 1) * w // width))
        touched[rows, columns] = True
    return touched


def needle(angle, offset, thickness):
    """A bar 800 px long through a frame, moved across its direction by `offset` pixels."""
    ys, xs = np.mgrid[:SIDE, :SIDE] + 0.5
    along, across = math.cos(angle), math.sin(angle)
    centre = SIDE / 2 + offset
    u = (xs - SIDE / 2) * along + (ys - centre) * across
    v = (ys - centre) * along - (xs - SIDE / 2) * across
    return (abs(u) <= 400) & (-thickness / 2 < v) & (v <= thickness / 2)


def is_seen_from_end_to_end(drawn, mask):
    """One connected part that comes within a panel pixel of every pixel of the mask."""
    parts, _ = parts_of(drawn)
    near = cv2.dilate(drawn.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    factor = SIDE // PANEL
    return len(parts) == 1 and all(near[y // factor, x // factor] for y, x in np.argwhere(mask))


@pytest.mark.parametrize("thickness", [1, 2, 3, 4])
@pytest.mark.parametrize("degrees", [0, 90, 45])
def test_needle_is_seen_at_every_offset_in_every_panel(degrees, thickness):
    grid = Grid.fit(SIDE, SIDE, PANEL)
    empty = Crop.of(np.zeros((SIDE, SIDE), bool))
    for offset in range(16):
        mask = needle(math.radians(degrees), offset, thickness)
        kept = Crop.of(mask)
        assert is_seen_from_end_to_end(draw_mask(kept, grid), mask)  # as a mask prompt
        # Found, missed, and claimed where nothing is.
        for gt, pred, kind in ((kept, kept, 0), (kept, empty, 1), (empty, kept, 2)):
            drawn = KeptMasks([[gt]], [[pred]]).draw(np.array([0]), grid)
            if gt is kept:
                assert is_seen_from_end_to_end(drawn.gt[0, 0], mask)
            if pred is kept:
                assert is_seen_from_end_to_end(drawn.pred[0, 0], mask)
            assert is_seen_from_end_to_end(drawn.errors[0, kind], mask)
            assert not drawn.errors[0, [k for k in range(3) if k != kind]].any()


def draw_odd_mask(rng):
    """Thin, branching and dotted things beside large ones."""
    height, width = (int(side) for side in rng.integers(40, 200, 2))
    pixels = np.zeros((height, width), np.uint8)

    def place():
        return int(rng.integers(-10, width + 10)), int(rng.integers(-10, height + 10))

    for kind in rng.integers(0, 5, rng.integers(1, 8)):
        if kind == 0:
            cv2.line(pixels, place(), place(), 1, int(rng.integers(1, 5)))
        elif kind == 1:
            cv2.circle(pixels, place(), int(rng.integers(1, 30)), 1, -1)
        elif kind == 2:
            axes = tuple(int(axis) for axis in rng.integers(3, 40, 2))
            cv2.ellipse(pixels, place(), axes, 0, 0, int(rng.integers(20, 360)), 1, 2)
        elif kind == 3:
            for _ in range(20):
                cv2.circle(pixels, place(), int(rng.integers(0, 3)), 1, -1)
        else:
            pixels[rng.random(pixels.shape) < 0.02] = 1
    return pixels > 0


@pytest.mark.parametrize("seed", range(8))
def test_no_connected_part_is_lost_or_broken(seed):
    rng = np.random.default_rng(seed)
    for _ in range(25):
        mask = draw_odd_mask(rng)
        size = tuple(int(rng.integers(8, side + 1)) for side in mask.shape)
        drawn = reduce(mask, *size)
        _, labels = parts_of(drawn)
        reached = np.zeros(size, bool)
        for part in parts_of(mask)[0]:
            touched = touched_by(part, size)
            reached |= touched
            seen = set(labels[touched & drawn].tolist())
            assert len(seen) == 1, f"{part.sum()} pixels of {mask.shape} at {size}"
        assert not (drawn & ~reached).any()


@pytest.mark.parametrize("seed", range(4))
def test_pixels_half_covered_are_drawn(seed):
    rng = np.random.default_rng(seed)
    mask = draw_odd_mask(rng)
    height, width = mask.shape
    size = height // 2 - 3, width // 3
    # Each source pixel as a block of h x w, each panel pixel as one of H x W.
    blocks = mask.repeat(size[0], 0).repeat(size[1], 1)
    share = blocks.reshape(size[0], height, size[1], width).mean((1, 3))
    assert not (reduce(mask, *size) < (share >= 0.5)).any()


def thick_shapes():
    """Discs and turned rectangles at least three panel pixels wide, with their outlines' length."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:400, :400] + 0.5
    for trial in range(60):
        panel = int(rng.integers(60, 300))
        factor = 400 / panel
        cy, cx = rng.uniform(150, 250, 2)
        if trial % 2:
            radius = rng.uniform(1.5 * factor, 100)
            mask = (ys - cy) ** 2 + (xs - cx) ** 2 <= radius**2
            outline = 2 * math.pi * radius
        else:
            turn = rng.uniform(0, math.pi)
            u = (ys - cy) * math.cos(turn) + (xs - cx) * math.sin(turn)
            v = (xs - cx) * math.cos(turn) - (ys - cy) * math.sin(turn)
            half = rng.uniform(1.5 * factor, 60, 2) if 1.5 * factor < 60 else [60, 60]
            mask = (abs(u) <= half[0]) & (abs(v) <= half[1])
            outline = 4 * (half[0] + half[1])
        yield mask, panel, outline / factor


def test_thick_shapes_keep_their_area():
    for mask, panel, outline in thick_shapes():
        true_area = mask.mean() * panel**2
        assert abs(reduce(mask, panel, panel).sum() - true_area) <= 0.5 * outline


def test_masks_of_the_panels_size_stay_as_they_are():
    mask = np.random.default_rng(0).random((24, 31)) < 0.3
    assert np.array_equal(reduce(mask, 24, 31), mask)


def test_panels_have_the_aspect_of_the_video_and_are_never_enlarged():
    sizes = {
        (1024, 256, (1080, 1920)): (144, 256),
        (1024, 256, (1920, 1080)): (256, 144),
        (1024, 256, None): (256, 256),
        (128, 256, (480, 854)): (72, 128),
        (128, 256, (854, 480)): (128, 72),
        (512, 256, (10, 2000)): (1, 256),
    }
    for (side, panel, original), expected in sizes.items():
        assert Grid.fit(side, side, panel, original).size == expected, original


def test_a_thin_miss_lies_above_what_is_hit():
    gt = np.zeros((SIDE, SIDE), bool)
    gt[200:600, 200:600] = True
    pred = gt.copy()
    pred[401] = False
    grid = Grid.fit(SIDE, SIDE, PANEL)
    drawn = KeptMasks([[Crop.of(gt)]], [[Crop.of(pred)]]).draw(np.array([0]), grid)
    missed = np.argwhere(drawn.errors[0, 1])
    assert missed.tolist() == [[100, x] for x in range(50, 150)]


def test_crops_come_back_as_they_were():
    rng = np.random.default_rng(0)
    for height, width in itertools.product((1, 7, 64), repeat=2):
        mask = np.zeros((height, width), bool)
        mask[height // 3 :, width // 4 : width // 2 + 1] = True
        mask &= rng.random(mask.shape) < 0.7
        out = np.zeros_like(mask)
        Crop.of(mask).write(out)
        assert np.array_equal(out, mask)
