"""A first frame with a grid of pixels, and a JSON of prompts to fill in: starting without a GUI."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..tracking.frames import Chosen
from ..tracking.labels import write_text

# Lines are so far apart that there are about a dozen of them across.
_STEPS = (10, 20, 25, 50, 100, 200, 250, 500, 1000)
_MARGIN = 44


def write_template(frames: Chosen, out: Path) -> tuple[Path, Path]:
    """Write ``first_frame.png`` and ``prompts.json``; an existing JSON is left as it is.

    Args:
        frames: The video.
        out: The folder; it is made.

    Returns:
        The two files.
    """
    out.mkdir(parents=True, exist_ok=True)
    picture, template = out / "first_frame.png", out / "prompts.json"
    draw_grid(frames.image(0)).save(picture)
    if not template.exists():
        height, width = frames.size
        box = [width // 4, height // 4, width // 2, height // 2]
        prompts = [
            {"frame": frames.indices[0], "object": 1, "box": box},
            {
                "frame": frames.indices[0],
                "object": 2,
                "points": [[width // 2, height // 2], [width // 8, height // 8]],
                "labels": [1, 0],
            },
        ]
        lines = ",\n".join(f"  {json.dumps(prompt)}" for prompt in prompts)
        template.write_text(f"[\n{lines}\n]\n")
    return picture, template


def draw_grid(image: np.ndarray) -> Image.Image:
    """Return a frame, uint8 RGB [H, W, 3], under a grid whose lines tell x and y in pixels."""
    height, width = image.shape[:2]
    step = next((step for step in _STEPS if max(height, width) / step <= 14), _STEPS[-1])
    factor = max(1, round(800 / max(height, width)))
    size = (width * factor, height * factor)
    drawn = np.full((size[1] + _MARGIN, size[0] + _MARGIN, 3), 255, np.uint8)
    drawn[_MARGIN:, _MARGIN:] = image.repeat(factor, 0).repeat(factor, 1)
    for x in range(0, width, step):
        at = _MARGIN + x * factor
        _draw_line(drawn[_MARGIN - 6 :, at : at + 2].swapaxes(0, 1))
        write_text(drawn, at - 3, _MARGIN - 26, str(x))
    for y in range(0, height, step):
        at = _MARGIN + y * factor
        _draw_line(drawn[at : at + 2, _MARGIN - 6 :])
        write_text(drawn, 1, at - 10, str(y))
    write_text(drawn, _MARGIN - 3, 0, "x")
    write_text(drawn, 1, _MARGIN - 32, "y")
    return Image.fromarray(drawn)


def _draw_line(pixels: np.ndarray) -> None:
    """Mix white and black side by side into two lines [2, N, 3], which show on any ground."""
    pixels[0] = pixels[0] // 2 + 127
    pixels[1:] = pixels[1:] // 2
