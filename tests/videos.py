"""Small videos of moving discs whose masks are known: objects may come late, vanish and overlap."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

COLORS = ((220, 40, 40), (40, 200, 60), (60, 80, 230), (230, 210, 40), (200, 60, 210))


@dataclass
class Disc:
    """One object: where it is on frame 0, how it moves, and on which frames it is there."""

    object_id: int
    center: tuple[float, float]
    radius: float
    step: tuple[float, float] = (1.5, 0.7)
    first: int = 0
    last: int = 10**9


@dataclass
class Video:
    """Frames uint8 [T, H, W, 3] and label maps int64 [T, H, W]."""

    images: np.ndarray
    labels: np.ndarray
    ids: list[int] = field(default_factory=list)

    def masks(self, object_id):
        return self.labels == object_id


def _reflect(position, radius, side):
    span = side - 2 * radius
    return radius + span - abs((position - radius) % (2 * span) - span)


def draw(num_frames, size, discs, seed=0):
    height, width = size
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    images = np.full((num_frames, height, width, 3), 110, np.uint8)
    labels = np.zeros((num_frames, height, width), np.int64)
    for t in range(num_frames):
        for k, disc in enumerate(discs):
            if not disc.first <= t <= disc.last:
                continue
            cx, cy = (
                _reflect(disc.center[i] + t * disc.step[i], disc.radius, side)
                for i, side in ((0, width), (1, height))
            )
            inside = (x - cx) ** 2 + (y - cy) ** 2 <= disc.radius**2
            images[t][inside] = COLORS[k % len(COLORS)]
            labels[t][inside] = disc.object_id
    noise = rng.integers(-3, 4, images.shape)
    images = np.clip(images.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    return Video(images, labels, [disc.object_id for disc in discs])


def write_vos(root, name, video, every=1):
    """Write a video as DAVIS, MOSE and YouTube-VOS have it; PNG frames, so that nothing is lost."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / name).mkdir(parents=True, exist_ok=True)
    for t, (image, labels) in enumerate(zip(video.images, video.labels, strict=True)):
        Image.fromarray(image).save(root / "JPEGImages" / name / f"{t:05d}.png")
        if t % every == 0:
            write_labels(root / "Annotations" / name / f"{t:05d}.png", labels)


def write_labels(path, labels):
    if labels.max() > 255:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(labels.astype(np.uint8))
    palette = [channel for color in ((0, 0, 0), *COLORS) for channel in color]
    image.putpalette(palette + [0] * (768 - len(palette)))  # a short one would be saved in 4 bits
    image.save(path)


@dataclass
class InMemory:
    """A video as `core.tracking.frames.Frames`, which notes which frames were asked for."""

    images: np.ndarray
    asked: list = field(default_factory=list)

    @property
    def names(self):
        return [f"{t:05d}" for t in range(len(self.images))]

    @property
    def size(self):
        return self.images.shape[1:3]

    def __len__(self):
        return len(self.images)

    def image(self, i):
        self.asked.append(i)
        return self.images[i]
