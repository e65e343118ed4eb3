"""Opening files that are not trusted."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from ...checks import UserError
from ...config import DataConfig

_FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


class DataError(UserError):
    """The data set, a file of it or a setting that names it is not usable; the message says why."""


def name_some(names: list[str], limit: int = 5) -> str:
    """Join the first names for a message."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def open_image(path: str, max_pixels: int) -> Image.Image:
    """Open an image file and check its size, without decoding its pixels.

    Args:
        path: The file.
        max_pixels: ``data.max_image_pixels``.

    Returns:
        The image; its pixels are decoded when they are first asked for.

    Raises:
        DataError: The file is missing, not an image, or larger than allowed.
    """
    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected an image file") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{path} has {width} x {height} pixels, more than"
            f" data.max_image_pixels={max_pixels} allows"
        )
    return image


def read_json(path: str, setting: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        setting: How the user named it, for the message.

    Raises:
        DataError: The file is missing or not JSON.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise DataError(f"{setting} does not exist, expected a JSON file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{setting} cannot be read as JSON: {error}") from error


def data_root(data: DataConfig) -> Path:
    """Return ``data.root``, or raise `DataError` when it is not a folder that can be listed."""
    assert data.root is not None  # `DataConfig` asks for it
    root = Path(data.root)
    check_folder(root, f"data.root={data.root}")
    return root


def exists(path: Path) -> bool:
    """Return whether there is such a file; False, not an error, when nobody can tell.

    ``Path.exists`` raises where a folder may not be entered or a name is too long.
    """
    try:
        return path.exists()
    except OSError:
        return False


def check_folder(path: Path, setting: str, expected: str = "the data set's folder") -> None:
    """Raise `DataError` unless `path` is a folder that can be listed."""
    if not path.is_dir():
        found = "is not a folder" if path.exists() else "does not exist"
        raise DataError(f"{setting}: {path} {found}, expected {expected}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{setting}: {path} cannot be read, expected a readable folder")


def decode_image(image: Image.Image, path: str) -> Image.Image:
    """Return an opened image's pixels as RGB, or raise `DataError` naming `path`."""
    try:
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be decoded: {error}") from error


def check_mask_size(found: tuple[int, int], frame_size: tuple[int, int], where: str) -> None:
    """Raise `DataError` unless the mask `where` has its frame's (width, height)."""
    if tuple(found) != tuple(frame_size):
        raise DataError(
            f"{where} is {found[0]} x {found[1]} pixels, expected its frame's"
            f" {frame_size[0]} x {frame_size[1]}"
        )


def by_number(files: Iterable[Path]) -> dict[int, Path]:
    """Return {number: file} in the order of the numbers, however many digits the names have.

    The official readers sort by name, which puts 10.jpg before 2.jpg, and find some masks and
    frames by a name of five digits alone.
    """
    numbered: dict[int, Path] = {}
    for path in sorted(files):
        if path.name.startswith("."):
            continue
        stem = path.name.split(".")[0]
        if not stem.isdecimal():
            raise DataError(
                f"{path.parent} has a file whose name is not a number ({path.name}), expected names"
                f" like 00000{path.suffix}"
            )
        first = numbered.setdefault(int(stem), path)
        if first is not path:
            raise DataError(
                f"{path.parent} has two files with number {int(stem)} ({first.name} and"
                f" {path.name}), expected one"
            )
    return dict(sorted(numbered.items()))


def frame_files(folder: Path) -> dict[int, Path]:
    """Return {frame number: file} of JPEGs and PNGs."""
    files = folder.iterdir()
    return by_number(path for path in files if path.suffix.lower() in _FRAME_SUFFIXES)
