"""Videos of moving shapes, drawn on the fly: a task that SAM 2 learns from scratch in minutes."""

import colorsys
import math
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
from torch.utils.data import Dataset
from training.utils.data_utils import VideoDatapoint

from ..config import DataConfig, SyntheticConfig, clip_length
from .augmentation import augment_clip
from .datapoint import (
    AUGMENT,
    SYNTHETIC_TRAIN,
    SYNTHETIC_VAL,
    count_clips,
    epoch_and_index,
    make_generator,
    to_datapoint,
    use_one_thread_in_workers,
)
from .readers.files import DataError

SHAPES = ("circle", "square", "triangle", "diamond")
# radius of the circle around a shape, in units of the shape's radius
_EXTENT = {"circle": 1.0, "square": 0.85 * math.sqrt(2), "triangle": 1.2, "diamond": 1.2}
_SENSOR_NOISE = 3  # grey levels; frames that are perfectly flat are not kind but degenerate
# By then shapes are 1e-5 of their size, and smaller ones do not fit better: the hardest settings
# tried, 40 shapes in frames of 32 pixels, took 203.
_MAX_ATTEMPTS = 900


@dataclass
class _Shape:
    """One shape of a clip: what it is, its radius in pixels, and its path (x, y) [T, 2]."""

    kind: str
    radius: float
    path: np.ndarray

    @property
    def extent(self) -> float:
        """Radius of the circle around the shape."""
        return self.radius * _EXTENT[self.kind]


class SyntheticDataset(Dataset):
    """Clips of moving shapes, drawn when they are asked for.

    Training clips depend on (seed, epoch, index), validation clips on (seed, index) alone and come
    from a generator of their own, so that they are never seen in training.
    """

    def __init__(self, data: DataConfig, image_size: int, seed: int, training: bool) -> None:
        """See the class."""
        self.data, self.image_size, self.seed, self.training = data, image_size, seed, training
        options = data.synthetic
        self.num_clips = options.num_train_clips if training else options.num_val_clips
        self.num_frames = clip_length(data, training)

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, key: Union[int, tuple[int, int]]) -> VideoDatapoint:
        """Return clip `index` of epoch `epoch`; `key` is (epoch, index) or an index."""
        use_one_thread_in_workers()
        epoch, index = epoch_and_index(key, len(self))
        data, size = self.data, self.image_size
        if self.training:
            rng = make_generator(SYNTHETIC_TRAIN, self.seed, epoch, index)
        else:
            rng = make_generator(SYNTHETIC_VAL, self.seed, index)
        images, masks = make_clip(
            data.synthetic, self.num_frames, data.frame_stride, size, data.max_objects, rng
        )
        if self.training:
            rng = make_generator(AUGMENT, self.seed, epoch, index)
            images, masks = augment_clip(images, masks, data.augmentation, rng)
        return to_datapoint(
            images,
            masks,
            object_ids=list(range(1, masks.shape[1] + 1)),
            frame_numbers=[t * data.frame_stride for t in range(self.num_frames)],
            video_id=index,
            original_size=(size, size),
        )

    @property
    def amount(self) -> str:
        """Say how many clips there are, for the table at the start."""
        return count_clips(len(self), self.training)

    def clip_name(self, video_id: int) -> str:
        """Return the name of clip `video_id`."""
        return f"synthetic_{'train' if self.training else 'val'}_{video_id:05d}"

    def object_names(self, video_id: int) -> Optional[dict[int, str]]:
        """Return None: shapes have no names."""
        return None


def make_clip(
    config: SyntheticConfig,
    num_frames: int,
    frame_stride: int,
    size: int,
    max_objects: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one clip; every object is visible in the first frame.

    Shapes whose paths do not fit side by side are made smaller until they do.

    Args:
        config: What to draw.
        num_frames: T.
        frame_stride: Frames of movement from one drawn frame to the next.
        size: S, side of the frames in pixels.
        max_objects: At most so many objects, on top of ``config.max_objects``.
        rng: The only source of randomness: the same state gives the same clip.

    Returns:
        Frames uint8 [T, S, S, 3] and masks bool [T, O, S, S] of what is visible of each object.

    Raises:
        DataError: So many shapes do not fit into the frames.
    """
    num_objects = min(int(rng.integers(config.min_objects, config.max_objects + 1)), max_objects)
    times = np.arange(num_frames) * frame_stride
    shapes = _place(config, num_objects, times, size, rng)
    # Dark shapes on a light background: far from the palette's first colours, in which masks are
    # drawn over them.
    hues = (rng.random() + np.arange(num_objects) / num_objects + rng.uniform(0, 0.1)) % 1
    colours = [np.array(colorsys.hsv_to_rgb(hue, 0.6, rng.uniform(0.2, 0.4))) * 255 for hue in hues]
    background = rng.uniform(140, 230) + rng.uniform(-15, 15, 3)

    masks = np.stack([_draw_shape(shape, size) for shape in shapes], axis=1)
    # later objects lie in front
    for o in range(num_objects - 1):
        masks[:, o] &= ~masks[:, o + 1 :].any(axis=1)

    frames = np.empty((num_frames, size, size, 3), np.float32)
    frames[:] = background
    for o in range(num_objects):
        frames[masks[:, o]] = colours[o]
    if config.texture > 0:
        _add_texture(frames, masks, [shape.path for shape in shapes], config.texture, rng)
    noise = rng.integers(-_SENSOR_NOISE, _SENSOR_NOISE + 1, frames.shape, dtype=np.int8)
    return np.clip(frames + noise, 0, 255).astype(np.uint8), masks


def _place(
    config: SyntheticConfig,
    num_objects: int,
    times: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> list[_Shape]:
    for attempt in range(_MAX_ATTEMPTS):
        # other sizes and places are tried before everything is made smaller
        placed = _try_to_place(config, num_objects, times, size, 0.9 ** (attempt // 8), rng)
        if placed is not None:
            return placed
    raise DataError(
        f"{num_objects} shapes do not fit into frames of {size} x {size} pixels, however small they"
        " are drawn: expected a smaller data.synthetic.max_objects"
    )


def _try_to_place(
    config: SyntheticConfig,
    num_objects: int,
    times: np.ndarray,
    size: int,
    shrink: float,
    rng: np.random.Generator,
) -> Optional[list[_Shape]]:
    """Draw shapes, `shrink` times as large as asked for; None when one finds no free path."""
    placed: list[_Shape] = []
    for _ in range(num_objects):
        kind = SHAPES[rng.integers(len(SHAPES))]
        radius = shrink * rng.uniform(config.min_radius, config.max_radius) * size
        path = _free_path(config, times, size, radius * _EXTENT[kind], placed, rng)
        if path is None:
            return None
        placed.append(_Shape(kind, radius, path))
    return placed


def _free_path(
    config: SyntheticConfig,
    times: np.ndarray,
    size: int,
    extent: float,
    others: list[_Shape],
    rng: np.random.Generator,
) -> Optional[np.ndarray]:
    """Return a path [T, 2] that keeps clear of the others, None when 12 tries find none."""
    if 2 * extent >= size:
        return None
    for _ in range(12):
        path = _draw_path(config, times, size, extent, rng)
        # objects that may cross are apart in the first frame at least, where they are prompted
        compared = slice(0, 1) if config.overlap else slice(None)
        gaps = (
            np.linalg.norm(path[compared] - other.path[compared], axis=1).min()
            - (extent + other.extent)
            for other in others
        )
        if all(gap >= 1 for gap in gaps):
            return path
    return None


def _draw_path(
    config: SyntheticConfig,
    times: np.ndarray,
    size: int,
    extent: float,
    rng: np.random.Generator,
) -> np.ndarray:
    low, span = extent, size - 2 * extent
    start = rng.uniform(0, span, 2)
    angle = rng.uniform(0, 2 * math.pi)
    direction = np.array([math.cos(angle), math.sin(angle)])
    if config.leave_frame and len(times) >= 3 and rng.random() < 0.5:
        # out of the frame half way and back again, however fast that is
        away = np.sin(math.pi * times / times[-1])[:, None] * direction * (math.sqrt(2) * size)
        return low + start + 1.1 * away
    speed = rng.uniform(0.6, 1.0) * config.speed * size
    travelled = start + times[:, None] * speed * direction
    # reflected at the walls
    return low + span - np.abs(travelled % (2 * span) - span)


def _draw_shape(shape: _Shape, size: int) -> np.ndarray:
    """Return the masks [T, S, S] of one shape along its path."""
    radius, path = shape.radius, shape.path
    grid = np.arange(size, dtype=np.float32) + 0.5
    dx = grid[None, None, :] - path[:, 0].astype(np.float32)[:, None, None]
    dy = grid[None, :, None] - path[:, 1].astype(np.float32)[:, None, None]
    if shape.kind == "circle":
        return dx * dx + dy * dy <= radius * radius
    if shape.kind == "square":
        return (np.abs(dx) <= 0.85 * radius) & (np.abs(dy) <= 0.85 * radius)
    if shape.kind == "diamond":
        return np.abs(dx) + np.abs(dy) <= 1.2 * radius
    # an equilateral triangle pointing up, around its centre of gravity
    reach = 1.2 * radius
    return (dy <= reach / 2) & (math.sqrt(3) * np.abs(dx) - dy <= reach)


def _add_texture(
    frames: np.ndarray,
    masks: np.ndarray,
    paths: list[np.ndarray],
    amplitude: float,
    rng: np.random.Generator,
) -> None:
    size = frames.shape[1]

    def pattern() -> np.ndarray:
        coarse = rng.uniform(-1, 1, (-(-size // 8), -(-size // 8), 3))
        coarse = coarse.repeat(8, axis=0).repeat(8, axis=1)[:size, :size]
        fine = rng.uniform(-1, 1, (size, size, 3))
        return (64 * amplitude * (coarse + fine)).astype(np.float32)

    still = pattern()
    textured = frames + still
    for o, path in enumerate(paths):
        own = pattern()
        for t, (x, y) in enumerate(np.rint(path).astype(int)):
            # the texture moves with its object
            moved = np.roll(own, (y, x), axis=(0, 1))
            inside = masks[t, o]
            textured[t][inside] = frames[t][inside] + moved[inside]
    frames[:] = textured
