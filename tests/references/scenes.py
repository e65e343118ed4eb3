"""Label maps of 20 videos, as annotated and as some tracker might have found them."""

import numpy as np

SIZES = ((37, 53), (64, 64), (41, 96), (90, 57), (120, 214))
LENGTHS = (8, 9, 12, 17, 25, 30, 41, 10, 14, 300, 11, 8, 20, 33, 15, 270, 13, 9, 22, 18)


def scene(index):
    """Return labels uint8 [T, H, W] as annotated and as predicted.

    Objects drift, cross each other, appear late, vanish and come back; predictions are displaced,
    thick or thin, noisy, swapped, missing, or there where nothing is.
    """
    rng = np.random.default_rng([16, index])
    num_frames = LENGTHS[index]
    height, width = SIZES[0 if num_frames > 200 else index % len(SIZES)]
    num_objects = int(rng.integers(1, 5))
    gt = np.zeros((num_frames, height, width), np.uint8)
    pred = np.zeros_like(gt)
    y, x = np.mgrid[:height, :width]
    for key in range(1, num_objects + 1):
        first, last = 0, num_frames - 1
        if key > 1 and rng.random() < 0.4:
            first = int(rng.integers(1, num_frames - 3))
        if rng.random() < 0.3:
            last = int(rng.integers(first + 1, num_frames))
        start, step = rng.uniform(0.2, 0.8, 2), rng.uniform(-0.02, 0.02, 2)
        radius = rng.uniform(0.06, 0.25) * min(height, width)
        shift, scale = rng.normal(0, 1.5, 2), rng.uniform(0.8, 1.2)
        ghost = rng.random() < 0.15
        for t in range(num_frames):
            center = ((start + t * step) % 1) * (height, width)
            distance = np.hypot(y - center[0], x - center[1])
            there = first <= t <= last and not (t % 11 == 7 and index % 3 == 0)
            if there:
                gt[t][distance <= radius] = key
            if (there and rng.random() > 0.05) or (ghost and rng.random() < 0.5):
                distance = np.hypot(y - center[0] - shift[0], x - center[1] - shift[1])
                found = distance <= radius * scale
                found &= rng.random(found.shape) > 0.02
                pred[t][found] = key
    swapped = rng.random(num_frames) < 0.05
    if num_objects > 1:
        pred[swapped] = np.array([0, 2, 1, *range(3, 256)], np.uint8)[pred[swapped]]
    return gt, pred
