"""Videos of textured discs on a textured ground, as folders of frames and masks, to spoil."""

from collections.abc import Callable
from pathlib import Path
from typing import Optional

import cv2
import numpy as np
from PIL import Image

from core.data.readers.label_maps import davis_palette

WIDTH, HEIGHT = 320, 180


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """Return a bool mask [HEIGHT, WIDTH]."""
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.hypot(columns - x, rows - y) <= radius


def draw_video(
    seed: int, num_frames: int = 8, speed: float = 6.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return frames uint8 [HEIGHT, WIDTH, 3] and masks uint8 [HEIGHT, WIDTH] of two discs."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, WIDTH, 3)), (0, 0), 14)
    ground = (ground - ground.mean()) * 6 + rng.uniform(90, 150)
    colours = rng.uniform(0, 255, (2, 3)).round()
    starts = np.array([(60, 60), (200, 110)]) + rng.uniform(-15, 15, (2, 2))
    frames, masks = [], []
    for t in range(num_frames):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        image = ground.copy()
        for k in range(2):
            place = disc(starts[k, 0] + speed * t, starts[k, 1], 22)
            labels[place] = k + 1
            image[place] = colours[k]
        image += rng.normal(0, 4, image.shape)
        frames.append(image.clip(0, 255).astype(np.uint8))
        masks.append(labels)
    return frames, masks


Spoil = Callable[[list[np.ndarray], list[np.ndarray]], None]


def write_video(
    root: Path, name: str, seed: int, spoil: Optional[Spoil] = None, num_frames: int = 8
) -> None:
    """Write a video in DAVIS's layout; `spoil` changes its frames and masks before."""
    frames, masks = draw_video(seed, num_frames)
    if spoil is not None:
        spoil(frames, masks)
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / name).mkdir(parents=True)
    for t, (frame, labels) in enumerate(zip(frames, masks, strict=True)):
        Image.fromarray(frame).save(root / "JPEGImages" / name / f"{t:05d}.jpg", quality=92)
        mask = Image.fromarray(labels)
        mask.putpalette(davis_palette())
        mask.save(root / "Annotations" / name / f"{t:05d}.png", bits=8)


def shift(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Move the masks 16 pixels left and 10 up, so that the edges are 16 right and 10 down."""
    for labels in masks:
        labels[:] = np.roll(labels, (-10, -16), (0, 1))


def delay(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Give every frame the masks of the one before it; disc 2 goes up where disc 1 goes right."""
    for labels, image in zip(masks, frames, strict=True):
        labels[:] = 0
        image[:] = 120
    for t, image in enumerate(frames):
        for k, place in enumerate((disc(40 + 9 * t, 60, 20), disc(230, 140 - 9 * t, 20))):
            image[place] = (40, 200)[k]
            if t + 1 < len(masks):
                masks[t + 1][place] = k + 1
    masks[0][:] = masks[1]


def change_id(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Give disc 1 the id 7 from frame 4 on."""
    for labels in masks[4:]:
        labels[labels == 1] = 7


def jump(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Let id 2 go to another place from frame 5 on."""
    for labels in masks[5:]:
        labels[labels == 2] = 0
        labels[disc(40, 150, 22)] = 2


def forget(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Leave disc 2 out of frame 3."""
    masks[3][masks[3] == 2] = 0


def fill(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Label the background as object 9."""
    for labels in masks:
        labels[labels == 2] = 0
        labels[labels == 0] = 9


def shrink(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Let disc 1 be of 3 x 3 pixels."""
    for labels in masks:
        y, x = np.argwhere(labels == 1).mean(0).round().astype(int)
        labels[labels == 1] = 0
        labels[y - 1 : y + 2, x - 1 : x + 2] = 1


def flash(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Let an object 5 be there in frame 2 alone."""
    masks[2][disc(280, 40, 15)] = 5


def smudge(frames: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Give disc 1 two specks and a hole of one pixel, in frame 6."""
    y, x = np.argwhere(masks[6] == 1).mean(0).round().astype(int)
    masks[6][y, x] = 0
    masks[6][y + 40, x], masks[6][y + 50, x + 3] = 1, 1


SPOILS = {
    "shifted": shift,
    "two ids": change_id,
    "jumps": jump,
    "gaps": forget,
    "whole": fill,
    "tiny": shrink,
    "brief": flash,
    "slips": smudge,
}
