"""Tracked frames as a film that every browser plays, in the colours of the sheets."""

import contextlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..visualization.drawing.paint import bounding_boxes, pack, paint_masks
from ..visualization.palette import colors_of
from .labels import label_size, write_text
from .movie import import_av

# Labels are enlarged where a film has about a multiple of so many lines.
_LABEL_LINES = 720
_DEFAULT_RATE = Fraction(25)
# BT.709 and limited range: untagged films are shown with other colours from 720 lines on.
_BT709, _LIMITED = 1, 1


def overlay(
    image: np.ndarray, masks: Mapping[int, np.ndarray], labels: Mapping[int, str]
) -> np.ndarray:
    """Return a frame with its masks tinted and outlined, and a label at each.

    Args:
        image: uint8 RGB [H, W, 3]; left as it is.
        masks: {object id: bool [H, W]}.
        labels: What to write at the objects; objects without one go unlabelled.
    """
    ids = tuple(sorted(masks))
    if not ids:
        return image
    stacked = np.stack([masks[key] for key in ids])
    colors = colors_of(ids)
    boxes = bounding_boxes(stacked)
    packed = paint_masks(pack(image), stacked, colors, boxes)
    painted = np.ascontiguousarray(packed.view(np.uint8).reshape(*image.shape[:2], 4)[..., :3])
    scale = max(1, round(image.shape[0] / _LABEL_LINES))
    for k, (rows, columns) in boxes:
        text = labels.get(ids[k])
        if text:
            height, width = label_size(text, scale)
            x = max(0, min(columns.start, image.shape[1] - width))
            y = max(0, rows.start - height)
            write_text(painted, x, y, text, ground=colors[k], scale=scale)
    return painted


class Film:
    """An H.264 file that is written frame by frame; use it in a ``with`` statement.

    A film that cannot be written, for want of space for example, is given up: `error` then says
    why, and further frames are ignored.

    Args:
        path: The ``.mp4`` file; its folder is made.
        rate: Frames per second; None: 25.

    Attributes:
        error: Why there is no film, None when there is one.
    """

    def __init__(self, path: Path, rate: Optional[Fraction] = None) -> None:
        self._av = import_av()
        self.path, self.rate = path, rate or _DEFAULT_RATE
        self.error: Optional[str] = None
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: Any) -> None:
        self._try(self._close)

    def add(self, image: np.ndarray) -> None:
        """Add a frame, uint8 RGB [H, W, 3]; all of one size."""
        self._try(lambda: self._encode(image))

    def _try(self, do: Any) -> None:
        if self.error is not None:
            return
        try:
            do()
        except (self._av.FFmpegError, OSError) as error:
            self.error = str(error)
            with contextlib.suppress(self._av.FFmpegError, OSError):
                if self._container is not None:
                    self._container.close()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _start(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": "+faststart"}
        self._container = self._av.open(str(self.path), "w", options=options)
        self._stream = self._container.add_stream(
            "libx264", rate=self.rate, options={"preset": "veryfast", "crf": "20"}
        )
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED

    def _encode(self, image: np.ndarray) -> None:
        # H.264 halves both sides of the colours
        height, width = (side + side % 2 for side in image.shape[:2])
        if self._container is None:
            self._start(height, width)
        even = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
        frame = self._av.VideoFrame.from_ndarray(np.pad(image, even, mode="edge"), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _close(self) -> None:
        if self._container is None:
            return
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
