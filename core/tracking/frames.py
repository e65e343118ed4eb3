"""The frames of a video, one at a time: nothing is kept that is not asked for again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..checks import UserError
from ..data.readers.files import FRAME_SUFFIXES, list_files
from ..data.readers.frames import AnnotatedFrame, load_frame

# So many frames are decoded at once where a video is walked backwards: a movie can only be decoded
# forwards, from one of its key frames.
_BACKWARD_CHUNK = 32


class Frames(Protocol):
    """A video. Frames are cheap in ascending order; others may have to be looked for.

    Attributes:
        names: What the file of each frame's mask is called, without a suffix.
        size: (height, width), the same for all frames.
    """

    @property
    def names(self) -> Sequence[str]:
        """See the class."""

    @property
    def size(self) -> tuple[int, int]:
        """See the class."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray:
        """Return frame `i` as uint8 RGB [H, W, 3]; not to be written to."""


class ImageFolder:
    """A folder of images, in the order of the numbers in their names, read as training does.

    Args:
        folder: The folder; its files need names with a number in them, hidden files are left out.
        setting: How the user named it, for messages.
        max_pixels: Images with more are refused.

    Raises:
        UserError: There is no image, the names give no order, or the first image cannot be read.
    """

    def __init__(self, folder: Path, setting: str, max_pixels: int) -> None:
        self.setting, self.max_pixels = setting, max_pixels
        self.paths = _in_order(list_files(folder, FRAME_SUFFIXES), setting)
        if not self.paths:
            raise UserError(f"{setting} has no images ({', '.join(FRAME_SUFFIXES)})")
        self.names = [path.stem for path in self.paths]
        self.size = self._read(0).shape[:2]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> np.ndarray:
        """See `Frames`."""
        image = self._read(i)
        check_size(image, self.size, str(self.paths[i]))
        return image

    def _read(self, i: int) -> np.ndarray:
        return np.asarray(load_frame(AnnotatedFrame(i, str(self.paths[i])), self.max_pixels))


def _in_order(paths: list[Path], setting: str) -> list[Path]:
    numbered: dict[tuple[int, ...], Path] = {}
    for path in sorted(paths):
        numbers = tuple(int(digits) for digits in re.findall(r"\d+", path.stem))
        if not numbers:
            raise UserError(f"{setting} has an image without a number in its name: {path.name}")
        first = numbered.setdefault(numbers, path)
        if first is not path:
            raise UserError(
                f"{setting} has two images with the same number: {first.name} and {path.name}"
            )
    return [numbered[numbers] for numbers in sorted(numbered)]


def check_size(image: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raise UserError unless a frame has the video's size."""
    if image.shape[:2] != tuple(size):
        raise UserError(
            f"{name} is {image.shape[1]} x {image.shape[0]} pixels, expected"
            f" {size[1]} x {size[0]} as the frames before it"
        )


@dataclass
class Chosen:
    """Some frames of a video, in the order of `indices`."""

    frames: Frames
    indices: Sequence[int]

    def __post_init__(self) -> None:
        names = self.frames.names
        self.names = [names[i] for i in self.indices]
        self.size = self.frames.size

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, i: int) -> np.ndarray:
        """See `Frames`."""
        return self.frames.image(self.indices[i])


@dataclass
class Backwards:
    """A video from its last frame to its first, decoded forwards, a few frames at a time."""

    frames: Frames
    _first: int = 0  # the video's frame that `_chunk` begins with
    _chunk: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = list(reversed(self.frames.names))
        self.size = self.frames.size

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, i: int) -> np.ndarray:
        """See `Frames`."""
        wanted = len(self.frames) - 1 - i
        if not self._first <= wanted < self._first + len(self._chunk):
            self._first = max(0, wanted - _BACKWARD_CHUNK + 1)
            self._chunk = []
            self._chunk = [self.frames.image(k) for k in range(self._first, wanted + 1)]
        return self._chunk[wanted - self._first]
