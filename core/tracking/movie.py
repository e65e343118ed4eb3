"""The frames of a movie file, decoded one at a time."""

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import UserError

MOVIE_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def import_av() -> Any:
    """Return PyAV, which reads and writes movies.

    Raises:
        UserError: It is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError(
            "movies need the package av, which is not installed: pip install 'av>=14', or use a"
            " folder of images"
        ) from error
    return av


class Movie:
    """A movie as `core.tracking.frames.Frames`, upright as phones record it.

    Frames are found by their time stamps. One that lies elsewhere is decoded from the last key
    frame before it, or from an earlier one where that does not lead to it: containers look for key
    frames by other stamps, and after a key frame may come frames that are shown before it and need
    those before it (an open GOP). Whatever decodes from the start of the file is found.

    Args:
        path: The file.
        setting: How the user named it, for messages.
        max_pixels: Movies with more pixels per frame are refused.

    Raises:
        UserError: The file has no frame that can be decoded, or PyAV is missing.
    """

    def __init__(self, path: Path, setting: str, max_pixels: int) -> None:
        self._av = import_av()
        self._path, self._setting = path, setting
        self._container: Any = None
        self._decoded: Iterator[Any] = iter(())
        self._begun = 0  # the key frame that decoding began with, by its place in `_keys`
        self._next = 0
        self.rate, frames = self._look_through(max_pixels)
        self._stamps = [stamp for stamp, _ in frames]
        self._index = {stamp: i for i, stamp in enumerate(self._stamps)}
        # the first stands for the start of the file, whatever it is
        self._keys = [i for i, (_, is_key) in enumerate(frames) if is_key or i == 0]
        self.names = [f"{i:05d}" for i in range(len(self._stamps))]
        image = self.image(0)
        self.size = (image.shape[0], image.shape[1])

    def __len__(self) -> int:
        return len(self._stamps)

    def _look_through(self, max_pixels: int) -> tuple[Fraction, list[tuple[int, bool]]]:
        """Return the frames per second, and (time stamp, whether it is a key frame) of each frame.

        Nothing is decoded.
        """
        self._open()
        stream = self._stream()
        if stream.width * stream.height > max_pixels:
            raise UserError(
                f"{self._setting} has {stream.width} x {stream.height} pixels, more than"
                f" data.max_image_pixels={max_pixels} allows"
            )
        frames = [
            (packet.pts, packet.is_keyframe)
            for packet in self._container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        if not frames:
            raise UserError(f"{self._setting} is a movie without frames")
        stamps = {stamp for stamp, _ in frames}
        if None in stamps or len(stamps) < len(frames):
            raise UserError(
                f"{self._setting} is a movie whose frames have no time stamps of their own: convert"
                " it, or use a folder of images"
            )
        rate = stream.average_rate or Fraction(25)
        self.close()
        return rate, sorted(frames)

    def _open(self) -> None:
        self.close()
        try:
            self._container = self._av.open(str(self._path))
        except (self._av.FFmpegError, OSError) as error:
            raise UserError(f"{self._setting} cannot be read as a movie: {error}") from error

    def _stream(self) -> Any:
        if not self._container.streams.video:
            raise UserError(f"{self._setting} has no pictures, expected a movie")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        return stream

    def close(self) -> None:
        """Close the file; `image` opens it again."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def image(self, i: int) -> np.ndarray:
        """See `core.tracking.frames.Frames`."""
        key, step = bisect_right(self._keys, i) - 1, 1
        if self._container is None or i < self._next or self._next < self._keys[key]:
            self._begin(key)
        while True:
            try:
                return _upright(self._read(i))
            except UserError:
                if self._begun == 0:
                    self.close()
                    raise
            self._begin(max(0, self._begun - step))
            step *= 2

    def _begin(self, key: int) -> None:
        """Have decoding begin at a key frame, or wherever the container takes it to be."""
        self._open()
        stream = self._stream()
        if key > 0:
            self._container.seek(self._stamps[self._keys[key]], stream=stream, backward=True)
        self._begun = key
        self._decoded = self._container.decode(stream)

    def _read(self, i: int) -> Any:
        """Decode as far as a frame and return it; raise `UserError` where it does not come."""
        found = -1
        while found < i:
            frame = self._decode(i)
            found = self._index.get(frame.pts, -1)
            self._next = found + 1
        if found > i:
            raise UserError(
                f"{self._setting} cannot be decoded at frame {i}: convert it, or use a folder of"
                " images"
            )
        return frame

    def _decode(self, i: int) -> Any:
        try:
            frame = next(self._decoded, None)
        except (self._av.FFmpegError, OSError) as error:
            raise UserError(f"{self._setting} cannot be decoded at frame {i}: {error}") from error
        if frame is None:
            raise UserError(
                f"{self._setting} ends before frame {i}, although it lists {len(self)} frames"
            )
        return frame


def _upright(frame: Any) -> np.ndarray:
    """Return a frame as it is to be shown: phones turn the picture, not the pixels."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns % 4 else image
