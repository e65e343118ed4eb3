"""Videos of moving shapes, drawn on the fly: a task that SAM 2 learns from scratch in minutes."""

import colorsys
import itertools
import math

import numpy as np

from ..config import SyntheticConfig

SHAPES = ("circle", "square", "triangle", "diamond")
# radius of the circle around a shape, in units of the shape's radius
_EXTENT = {"circle": 1.0, "square": 0.85 * math.sqrt(2), "triangle": 1.2, "diamond": 1.2}
_SENSOR_NOISE = 3  # grey levels; frames that are perfectly flat are not kind but degenerate


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
    """
    num_objects = min(int(rng.integers(config.min_objects, config.max_objects + 1)), max_objects)
    times = np.arange(num_frames) * frame_stride
    shapes, radii, paths = _place(config, num_objects, times, size, rng)
    hues = (rng.random() + np.arange(num_objects) / num_objects + rng.uniform(0, 0.1)) % 1
    colours = [np.array(colorsys.hsv_to_rgb(hue, 1.0, rng.uniform(0.8, 1.0))) * 255 for hue in hues]
    background = rng.uniform(30, 200) + rng.uniform(-15, 15, 3)

    masks = np.stack(
        [
            _draw_shape(shape, radius, path, size)
            for shape, radius, path in zip(shapes, radii, paths, strict=True)
        ],
        axis=1,
    )
    # later objects lie in front
    for o in range(num_objects - 1):
        masks[:, o] &= ~masks[:, o + 1 :].any(axis=1)

    frames = np.empty((num_frames, size, size, 3), np.float32)
    frames[:] = background
    for o in range(num_objects):
        frames[masks[:, o]] = colours[o]
    if config.texture > 0:
        _add_texture(frames, masks, paths, config.texture, rng)
    noise = rng.integers(-_SENSOR_NOISE, _SENSOR_NOISE + 1, frames.shape, dtype=np.int8)
    return np.clip(frames + noise, 0, 255).astype(np.uint8), masks


def _place(
    config: SyntheticConfig,
    num_objects: int,
    times: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> tuple[list[str], list[float], list[np.ndarray]]:
    for attempt in itertools.count():
        # other sizes and places are tried before everything is made smaller
        shrink = 0.9 ** (attempt // 8)
        shapes, radii, paths = [], [], []
        for _ in range(num_objects):
            shape = SHAPES[rng.integers(len(SHAPES))]
            radius = shrink * rng.uniform(config.min_radius, config.max_radius) * size
            extent = radius * _EXTENT[shape]
            path = _free_path(config, times, size, extent, paths, radii, shapes, rng)
            if path is None:
                break
            shapes.append(shape)
            radii.append(radius)
            paths.append(path)
        else:
            return shapes, radii, paths


def _free_path(
    config: SyntheticConfig,
    times: np.ndarray,
    size: int,
    extent: float,
    paths: list[np.ndarray],
    radii: list[float],
    shapes: list[str],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Return a path [T, 2] that keeps clear of the others, None when 12 tries find none."""
    if 2 * extent >= size:
        return None
    for _ in range(12):
        path = _draw_path(config, times, size, extent, rng)
        # objects that may cross are apart in the first frame at least, where they are prompted
        compared = slice(0, 1) if config.overlap else slice(None)
        gaps = (
            np.linalg.norm(path[compared] - other[compared], axis=1).min()
            - (extent + radius * _EXTENT[shape])
            for other, radius, shape in zip(paths, radii, shapes, strict=True)
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


def _draw_shape(shape: str, radius: float, path: np.ndarray, size: int) -> np.ndarray:
    """Return the masks [T, S, S] of one shape along its path."""
    grid = np.arange(size, dtype=np.float32) + 0.5
    dx = grid[None, None, :] - path[:, 0].astype(np.float32)[:, None, None]
    dy = grid[None, :, None] - path[:, 1].astype(np.float32)[:, None, None]
    if shape == "circle":
        return dx * dx + dy * dy <= radius * radius
    if shape == "square":
        return (np.abs(dx) <= 0.85 * radius) & (np.abs(dy) <= 0.85 * radius)
    if shape == "diamond":
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
