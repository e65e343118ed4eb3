"""The video that the command line names, and which of its frames."""

from pathlib import Path
from typing import Optional

from ..checks import UserError
from ..tracking.frames import Chosen, Frames, ImageFolder
from ..tracking.movie import MOVIE_SUFFIXES, Movie


def open_source(source: str, max_pixels: int) -> Frames:
    """Open a movie or a folder of images.

    Args:
        source: The path.
        max_pixels: ``data.max_image_pixels``.

    Raises:
        UserError: There is no such video, or it cannot be read.
    """
    path, setting = Path(source), f"source={source}"
    if path.is_dir():
        return ImageFolder(path, setting, max_pixels)
    if not path.is_file():
        raise UserError(f"{setting} does not exist, expected a movie or a folder of images")
    if path.suffix.lower() not in MOVIE_SUFFIXES:
        raise UserError(
            f"{setting} is no movie ({', '.join(MOVIE_SUFFIXES)}) and no folder of images"
        )
    return Movie(path, setting, max_pixels)


def choose_frames(frames: Frames, chosen: Optional[str]) -> Chosen:
    """Return the frames that ``frames=FIRST:END:STRIDE`` names, as Python counts them.

    Raises:
        UserError: It names none.
    """
    every = range(len(frames))
    if chosen is not None and ":" not in chosen:
        chosen = f"{chosen}:{int(chosen or 0) + 1}"
    parts = [int(part) if part else None for part in (chosen or ":").split(":")]
    indices = every[slice(*parts)]
    if not indices:
        raise UserError(
            f"frames={chosen} names no frame: the video has the frames 0 to {every[-1]}"
        )
    return Chosen(frames, indices)
