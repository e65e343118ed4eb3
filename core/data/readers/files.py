"""Opening files that are not trusted."""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ...checks import UserError
from ...config import DataConfig

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png",)
PICTURE_SUFFIXES = (*FRAME_SUFFIXES, ".gif")
# What file servers and operating systems put between people's folders, in small letters.
_FOREIGN_FOLDERS = {
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "@eadir",
    "@recycle",
    "__macosx",
    "__pycache__",
    "lost+found",
    "network trash folder",
    "system volume information",
    "temporary items",
}

# How torch raises the error of a loader's worker again.
_FROM_WORKER = re.compile(r"Caught \w+ in .*Original Traceback.*\n[\w.]*Error: (.*)\n", re.DOTALL)


class DataError(UserError):
    """The data set, a file of it or a setting that names it is not usable; the message says why."""

    def __init__(self, message: str) -> None:
        """Take the message; of one that a worker's traceback comes with, the sentence alone."""
        found = _FROM_WORKER.fullmatch(message)
        super().__init__(found[1] if found else message)


class NoAnnotatedFrameError(DataError):
    """A video has no frame with a mask, because one or the other is missing; others may have."""


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
    check_is_file(Path(path), path, "an image file")
    try:
        image = Image.open(path)
    except Exception as error:  # Pillow raises many kinds at damaged files
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
    check_is_file(Path(path), setting, "a JSON file")
    try:
        # programs on Windows begin a file with a byte order mark
        with Path(path).open(encoding="utf-8-sig") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
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


def check_is_file(path: Path, setting: str, expected: str) -> None:
    """Raise `DataError` unless `path` is a file: pipes and devices may have no end."""
    if not exists(path):
        raise DataError(f"{setting} does not exist, expected {expected}")
    if not path.is_file():
        raise DataError(f"{setting} is not a file, expected {expected}")


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; False, not an error, when nobody can tell."""
    return exists(path) and path.is_dir()


def check_folder(path: Path, setting: str, expected: str = "the data set's folder") -> None:
    """Raise `DataError` unless `path` is a folder that can be listed."""
    if not is_folder(path):
        found = "is not a folder" if exists(path) else "does not exist"
        raise DataError(f"{setting}: {path} {found}, expected {expected}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{setting}: {path} cannot be read, expected a readable folder")


def check_mask_size(found: tuple[int, int], frame_size: tuple[int, int], where: str) -> None:
    """Raise `DataError` unless the mask `where` has its frame's (width, height)."""
    if tuple(found) != tuple(frame_size):
        raise DataError(
            f"{where} is {found[0]} x {found[1]} pixels, expected its frame's"
            f" {frame_size[0]} x {frame_size[1]}"
        )


def is_foreign(name: str) -> bool:
    """Return whether a file or folder is hidden, or a system's own among those of people."""
    return name.startswith(".") or name.lower() in _FOREIGN_FOLDERS


def list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, without `is_foreign` ones; none if it is missing."""
    return [folder / entry.name for entry in _list(folder) if _is_folder(entry)]


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return what in a folder has one of the suffixes, in capitals or not, by name.

    Without `is_foreign` names; none if the folder is missing.
    """
    paths = (folder / entry.name for entry in _list(folder))
    return [path for path in paths if path.suffix.lower() in suffixes]


def find_files(folder: Path, ending: str) -> list[str]:
    """Return the files below a folder whose names end so, sorted, without `is_foreign` ones.

    Links to folders elsewhere are followed, each of those folders once.

    Args:
        folder: Where to look.
        ending: Such as ``.json``.

    Returns:
        Paths relative to `folder`, with ``/`` on every system.
    """
    entered = {Path(os.path.realpath(folder))}
    found: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place).relative_to(folder)
        # A folder that is called like a file is refused by who reads it.
        named_so = (name for name in [*files, *folders] if name.endswith(ending))
        found += [(here / name).as_posix() for name in named_so if not is_foreign(name)]
        folders[:] = [
            name
            for name in folders
            if not is_foreign(name) and _may_be_entered(Path(place, name), entered)
        ]
    return sorted(found)


def _may_be_entered(path: Path, entered: set[Path]) -> bool:
    """Return whether a folder is no link, or one to a folder of which nothing was entered yet."""
    if not path.is_symlink():
        return True
    target = Path(os.path.realpath(path))
    if any(target.is_relative_to(other) or other.is_relative_to(target) for other in entered):
        return False
    entered.add(target)
    return True


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, or in circles
        return False


def _list(folder: Path) -> list["os.DirEntry[str]"]:
    """Return what is in a folder, by name; an entry knows without asking whether it is one."""
    if not is_folder(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_foreign(entry.name)]
        return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}), expected a readable folder") from error


def natural_key(name: str) -> list:
    """Return what puts frame_2 before frame_10: texts and numbers in turn."""
    parts: list = re.split(r"([0-9]+)", name)
    for k in range(1, len(parts), 2):
        digits = parts[k].lstrip("0")
        parts[k] = (len(digits), digits)
    return parts


def by_number(files: Iterable[Path], expected: str = "") -> dict[int, Path]:
    """Return {number: file} in the order of the numbers, however many digits the names have.

    The official readers sort by name, which puts 10.jpg before 2.jpg, and find some masks and
    frames by five digits alone.

    Raises:
        DataError: Two files have the same number, or one has none; see `_numbers_of`.
    """
    return _each_once(_numbers_of(files, expected))


def _numbers_of(files: Iterable[Path], expected: str) -> dict[Path, int]:
    """Return {file: number} by name; a number may stand behind a text that all names begin with.

    A name without one, or with another text, is refused with what was `expected`.
    """
    paths = sorted(files)
    stems = [path.name.split(".")[0] for path in paths]
    texts = [stem.rstrip(string.digits) for stem in stems]
    counts = Counter(texts)
    # of several the rarer ones are refused, of two as frequent ones not that of bare numbers
    shared = max(counts, key=lambda text: (counts[text], not text), default="")
    numbers = {}
    for path, stem, text in zip(paths, stems, texts, strict=True):
        if text != shared or stem == text:
            raise DataError(
                f"{path.parent} has a file whose name is not a number ({path.name}), expected"
                f" {expected or f'names like 00000{path.suffix}'}"
            )
        numbers[path] = int(stem.removeprefix(text))
    return numbers


def _each_once(numbers: Mapping[Path, int]) -> dict[int, Path]:
    """Return {number: file} in the order of the numbers, each of which one file has."""
    numbered: dict[int, Path] = {}
    for path, number in numbers.items():
        first = numbered.setdefault(number, path)
        if first is not path:
            raise DataError(
                f"{path.parent} has two files with number {number} ({first.name} and"
                f" {path.name}), expected one"
            )
    return dict(sorted(numbered.items()))


def mask_files(folder: Path) -> dict[int, Path]:
    """Return {frame number: file} of PNGs.

    Raises:
        DataError: A file has no number, two masks have the same, or a frame has a picture of
            another kind only: its mask would be missed in silence.
    """
    numbers = _numbers_of(list_files(folder, PICTURE_SUFFIXES), "masks like 00000.png")
    masks = _each_once(
        {path: number for path, number in numbers.items() if path.suffix.lower() in MASK_SUFFIXES}
    )
    for path, number in numbers.items():
        if number not in masks:
            raise DataError(f"mask {path} is not a PNG, expected one: other formats change ids")
    return masks


def frame_files(folder: Path) -> dict[int, Path]:
    """Return {frame number: file} of the pictures in a folder."""
    return by_number(list_files(folder, FRAME_SUFFIXES))
