"""OpenCV's distance to the border of one mask, at many places in memory."""

import cv2
import numpy as np


def border_distances():
    """Return the distances that are found, as bytes; with Intel's version there are several."""
    mask = (np.random.default_rng(0).random((66, 66)) < 0.9).astype(np.uint8)
    mask[20:44, 10:50] = 1  # far from the border distances are no whole numbers
    found, kept = set(), []
    for size in range(1, 300):
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, 0)
        found.add(distance.tobytes())
        kept += [distance, np.empty(37 * size, np.uint8)]  # the next one lies elsewhere
    return found
