"""A first frame with a grid of pixels, and a JSON of prompts to fill in: starting without a GUI."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..tracking.film import label_font
from ..tracking.frames import Chosen

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
    drawn = Image.new("RGB", (size[0] + _MARGIN, size[1] + _MARGIN), (255, 255, 255))
    drawn.paste(Image.fromarray(image).resize(size, Image.Resampling.NEAREST), (_MARGIN, _MARGIN))
    pen, font = ImageDraw.Draw(drawn, "RGBA"), label_font(13)
    for x in range(0, width, step):
        at = _MARGIN + x * factor
        pen.line((at, _MARGIN - 6, at, drawn.height), fill=(255, 255, 255, 150))
        pen.line((at + 1, _MARGIN - 6, at + 1, drawn.height), fill=(0, 0, 0, 150))
        pen.text((at, _MARGIN - 22), str(x), font=font, fill=(0, 0, 0))
    for y in range(0, height, step):
        at = _MARGIN + y * factor
        pen.line((_MARGIN - 6, at, drawn.width, at), fill=(255, 255, 255, 150))
        pen.line((_MARGIN - 6, at + 1, drawn.width, at + 1), fill=(0, 0, 0, 150))
        pen.text((4, at - 8), str(y), font=font, fill=(0, 0, 0))
    pen.text((4, 4), "x", font=font, fill=(0, 0, 0))
    pen.text((_MARGIN - 40, _MARGIN - 22), "y", font=font, fill=(0, 0, 0))
    return drawn
