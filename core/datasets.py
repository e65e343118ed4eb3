"""Readers of annotated videos: folders of palette PNGs, PNGs per object, SA-V.

Every reader, that of `core.coco_video` too, offers the same few members, which `core.clips` cuts
clips with:

- ``names``: the videos' names; a video is addressed by its index in this list.
- ``video(i)``: its annotated frames in order, as the official ``VOSVideo``.
- ``size(frame)``: (width, height) of a frame from its header, without decoding it.
- ``image(frame)``: the frame as an RGB ``PIL.Image``.
- ``masks(i, frame)``: {object id: bool array [H, W]} of a frame; an object may be missing or empty.
- ``object_names(i)``: {object id: name} or None.

Files are not trusted: sizes are compared and limited before anything is decoded.
"""

import functools
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

import cv2
import numpy as np
from PIL import Image
from training.dataset.vos_raw_dataset import VOSFrame, VOSVideo
from training.dataset.vos_segment_loader import JSONSegmentLoader, PalettisedPNGSegmentLoader

from core.config import DataConfig

_FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
SAV_FRAMES_FPS = 24


class DataError(ValueError):
    """The data set, a file of it or a setting that names it is not usable; the message says why."""


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
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise DataError(f"{setting} does not exist, expected a JSON file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{setting} cannot be read as JSON: {error}") from error


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


def _by_number(files: Iterable[Path]) -> dict[int, Path]:
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
                f"{path.parent} has two files of number {int(stem)} ({first.name} and {path.name}),"
                " expected one"
            )
    return dict(sorted(numbered.items()))


def _frame_files(folder: Path) -> dict[int, Path]:
    """Return {frame number: file} of JPEGs and PNGs."""
    files = folder.iterdir()
    return _by_number(path for path in files if path.suffix.lower() in _FRAME_SUFFIXES)


def _with_480p(folder: Path) -> Path:
    # DAVIS keeps its frames and masks one level further down
    return folder / "480p" if (folder / "480p").is_dir() else folder


class VosFolderReader:
    """DAVIS, MOSE and YouTube-VOS (`per_object` False) or one folder of PNGs per object (True).

    Args:
        data: `data.root`, `data.image_folder`, `data.annotation_folder`, `data.max_image_pixels`.
        per_object: Masks are ``<video>/<object>/<frame>.png`` instead of palette PNGs
            ``<video>/<frame>.png``.

    Raises:
        DataError: A folder is missing, or there are no videos.
    """

    def __init__(self, data: DataConfig, per_object: bool = False) -> None:
        """List the videos."""
        root = Path(data.root)
        check_folder(root, f"data.root={data.root}")
        images, masks = root / data.image_folder, root / data.annotation_folder
        for name, folder, content in (
            ("image_folder", images, "frames"),
            ("annotation_folder", masks, "masks"),
        ):
            check_folder(
                folder,
                f"data.root={data.root}, data.{name}={getattr(data, name)}",
                f"a folder with one folder of {content} per video in it",
            )
        self.image_folder, self.mask_folder = _with_480p(images), _with_480p(masks)
        self.max_pixels = data.max_image_pixels
        self.per_object = per_object
        self.category_names = None
        self.names = sorted(
            entry.name
            for entry in self.image_folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
        if not self.names:
            raise DataError(
                f"data.root={data.root} has no videos: expected folders of frames in"
                f" {self.image_folder}"
            )
        self._meta = {}
        if (root / "meta.json").is_file():
            meta = read_json(str(root / "meta.json"), str(root / "meta.json"))
            if isinstance(meta, dict) and isinstance(meta.get("videos"), dict):
                self._meta = meta["videos"]

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a reader lives as long as the run)
    def _read(
        self, i: int
    ) -> tuple[VOSVideo, dict[int, dict[int, Path]], Optional[PalettisedPNGSegmentLoader]]:
        """Return the video, {frame number: {object id: mask file}} and the loader of palettes.

        A palette PNG is listed as object 0, which no object is.
        """
        name = self.names[i]
        frames, masks = self.image_folder / name, self.mask_folder / name
        pattern, other_pattern, other = "*.png", "*/*.png", "png_folders"
        if self.per_object:
            pattern, other_pattern, other = other_pattern, pattern, "vos_folder"
        if not any(masks.glob(pattern)):
            message = f"{frames} has frames without masks, expected {pattern} in {masks}"
            if any(masks.glob(other_pattern)):
                message += f"; what is there is read with data={other}"
            raise DataError(message)
        loader = None
        if self.per_object:
            files = _object_mask_files(masks)
        else:
            files = {number: {0: path} for number, path in _by_number(masks.glob("*.png")).items()}
            loader = _palette_loader(masks, files)
        images = _frame_files(frames)
        if not images:
            raise DataError(f"{frames} has no .jpg or .png frames")
        annotated = [
            VOSFrame(number, image_path=str(path))
            for number, path in images.items()
            if number in files
        ]
        if not annotated:
            raise DataError(
                f"{frames} has frames without masks: no frame number of it is found in {masks}"
            )
        return VOSVideo(name, i, annotated), files, loader

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many frames of video `i` have no mask, and how many masks no frame."""
        frames = _frame_files(self.image_folder / self.names[i]).keys()
        masks = self._read(i)[1].keys()
        return len(frames - masks), len(masks - frames)

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._read(i)[0]

    def size(self, frame: VOSFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header."""
        with open_image(frame.image_path, self.max_pixels) as image:
            return image.size

    def image(self, frame: VOSFrame) -> Image.Image:
        """Return a frame as RGB."""
        with open_image(frame.image_path, self.max_pixels) as image:
            return decode_image(image, frame.image_path)

    def masks(self, i: int, frame: VOSFrame) -> dict[int, np.ndarray]:
        """Return {object id: bool mask [H, W]} of a frame.

        Object folders count from 0 and objects from 1, as the official loader has it.
        """
        _, files, loader = self._read(i)
        paths = files[frame.frame_idx]
        size = self.size(frame)
        for path in paths.values():
            with open_image(str(path), self.max_pixels) as mask:
                check_mask_size(mask.size, size, f"mask {path}")
                if mask.mode not in ("P", "L", "1"):
                    raise DataError(
                        f"mask {path} has mode {mask.mode}, expected a palette or grey PNG whose"
                        " values are object ids"
                    )
        try:
            if loader is None:
                return {key: np.asarray(Image.open(path)) > 0 for key, path in paths.items()}
            segments = loader.load(frame.frame_idx)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"the masks of frame {frame.frame_idx} in {self.mask_folder / self.names[i]} cannot"
                f" be read: {error}"
            ) from error
        return {int(key): segment.numpy() for key, segment in segments.items()}

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {object id: category} from YouTube-VOS's ``meta.json``, None without it."""
        entry = self._meta.get(self.names[i])
        if not isinstance(entry, dict) or not isinstance(entry.get("objects"), dict):
            return None
        return {
            int(key): str(value["category"])
            for key, value in entry["objects"].items()
            if str(key).isdigit() and isinstance(value, dict) and "category" in value
        }


def _object_mask_files(folder: Path) -> dict[int, dict[int, Path]]:
    """Return {frame number: {object id: file}} of one folder of PNGs per object."""
    files: dict[int, dict[int, Path]] = defaultdict(dict)
    objects = (path for path in folder.iterdir() if path.is_dir())
    for object_number, object_folder in _by_number(objects).items():
        for number, path in _by_number(object_folder.glob("*.png")).items():
            files[number][object_number + 1] = path
    return dict(files)


def _palette_loader(folder: Path, files: dict[int, dict[int, Path]]) -> PalettisedPNGSegmentLoader:
    try:
        loader = PalettisedPNGSegmentLoader(str(folder))
    except ValueError as error:
        raise DataError(
            f"{folder} has a file whose name is not a number ({error}), expected masks like"
            " 00000.png"
        ) from error
    # it lists files of every kind: only those that are checked are to be read
    loader.frame_id_to_png_filename = {number: paths[0].name for number, paths in files.items()}
    return loader


class SavReader:
    """SA-V: ``<id>_manual.json`` beside ``<id>.mp4``, or frames in ``<image_folder>/<id>/``.

    Labels come at 6 fps for frames at 24 fps; frames without labels are left out, as the official
    reader does. Frames of an mp4 file are decoded in order when they are asked for.

    Raises:
        DataError: A folder is missing, or there are no videos.
    """

    def __init__(self, data: DataConfig) -> None:
        """List the videos."""
        root = Path(data.root)
        check_folder(root, f"data.root={data.root}")
        self.json_folder = root / data.annotation_folder
        check_folder(
            self.json_folder, f"data.root={data.root}, data.annotation_folder={self.json_folder}"
        )
        self.image_folder = root / data.image_folder
        self.max_pixels = data.max_image_pixels
        self.category_names = None
        # SA-V ships its videos in subfolders sav_000, sav_001, ...
        self.names = sorted(
            str(path.relative_to(self.json_folder))[: -len("_manual.json")]
            for path in self.json_folder.rglob("*_manual.json")
        )
        if not self.names:
            raise DataError(
                f"data.root={data.root} has no videos: expected <id>_manual.json files in"
                f" {self.json_folder}"
            )
        self._movie = _Movie()

    @functools.lru_cache(maxsize=8)  # noqa: B019 (a reader lives as long as the run)
    def _read(self, i: int) -> tuple[VOSVideo, JSONSegmentLoader]:
        name = self.names[i]
        json_path = self.json_folder / f"{name}_manual.json"
        try:
            loader = JSONSegmentLoader(video_json_path=str(json_path), frames_fps=SAV_FRAMES_FPS)
            labelled = [
                k * loader.ann_every
                for k, annotation in enumerate(loader.frame_annots)
                if annotation is not None and None not in annotation
            ]
        except (AssertionError, KeyError, TypeError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{json_path} is not an SA-V annotation file ({type(error).__name__}: {error}),"
                " expected a list `masklet` of RLE masks per frame and object"
            ) from error
        if not labelled:
            raise DataError(f"{json_path} has no annotated frame, expected masks in `masklet`")
        paths = self._frame_paths(name, json_path)
        frames = [VOSFrame(k, image_path=paths[k]) for k in labelled if k in paths]
        if not frames:
            raise DataError(
                f"{json_path} annotates frames {labelled[0]} to {labelled[-1]}, none of which is"
                f" among the {len(paths)} frames of the video"
            )
        return VOSVideo(name, i, frames), loader

    def _frame_paths(self, name: str, json_path: Path) -> dict[int, str]:
        """Return {frame number: its file, or the mp4 that it is in}."""
        folder = self.image_folder / name
        if folder.is_dir():
            return {number: str(path) for number, path in _frame_files(folder).items()}
        beside = (self.image_folder / f"{name}.mp4", self.json_folder / f"{name}.mp4")
        path = next((path for path in beside if path.is_file()), None)
        if path is None:
            raise DataError(f"{json_path} has no frames: expected {beside[1]} or a folder {folder}")
        return dict.fromkeys(range(_movie_info(str(path))[0]), str(path))

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._read(i)[0]

    def size(self, frame: VOSFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header."""
        if not frame.image_path.endswith(".mp4"):
            with open_image(frame.image_path, self.max_pixels) as image:
                return image.size
        width, height = _movie_info(frame.image_path)[1:]
        if width * height > self.max_pixels:
            raise DataError(
                f"{frame.image_path} has {width} x {height} pixels, more than"
                f" data.max_image_pixels={self.max_pixels} allows"
            )
        return width, height

    def image(self, frame: VOSFrame) -> Image.Image:
        """Return a frame as RGB."""
        self.size(frame)
        if frame.image_path.endswith(".mp4"):
            return Image.fromarray(self._movie.frame(frame.image_path, frame.frame_idx))
        with open_image(frame.image_path, self.max_pixels) as image:
            return decode_image(image, frame.image_path)

    def masks(self, i: int, frame: VOSFrame) -> dict[int, np.ndarray]:
        """Return {object id: bool mask [H, W]} of a frame, decoded by the official loader."""
        loader = self._read(i)[1]
        annotation = loader.frame_annots[frame.frame_idx // loader.ann_every]
        if not annotation:
            return {}
        where = f"a mask of frame {frame.frame_idx} in {self.names[i]}_manual.json"
        size = self.size(frame)
        for rle in annotation:
            if not isinstance(rle, dict) or len(rle.get("size", ())) != 2:
                raise DataError(f"{where} is not an RLE, expected a mapping of `size` and `counts`")
            check_mask_size((rle["size"][1], rle["size"][0]), size, where)
        try:
            segments = loader.load(frame.frame_idx)
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(f"{where} cannot be decoded: {error}") from error
        return {int(key): segment.numpy() > 0 for key, segment in segments.items()}

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return None: SA-V's objects have no names."""
        return None


@functools.lru_cache(maxsize=4096)
def _movie_info(path: str) -> tuple[int, int, int]:
    """Return (number of frames, width, height)."""
    capture = cv2.VideoCapture(path)
    properties = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    num_frames, width, height = (int(capture.get(prop)) for prop in properties)
    capture.release()
    if min(num_frames, width, height) < 1:
        raise DataError(f"{path} cannot be read as a video")
    return num_frames, width, height


class _Movie:
    """One open mp4 file, read forwards: seeking in compressed video is not exact everywhere."""

    def __init__(self) -> None:
        self._close()

    def _close(self) -> None:
        self.path, self.capture, self.next_index, self.pid = None, None, 0, None
        self.last_index, self.last = -1, None

    def __getstate__(self) -> dict:
        return {}

    def __setstate__(self, state: dict) -> None:
        self._close()

    def frame(self, path: str, index: int) -> np.ndarray:
        """Return frame `index` as uint8 RGB [H, W, 3]."""
        # a forked worker must not share its parent's file position
        same = self.path == path and self.pid == os.getpid()
        if same and index == self.last_index:
            return self.last
        if not same or index < self.next_index:
            self._close()
            self.path, self.capture, self.pid = path, cv2.VideoCapture(path), os.getpid()
        image = None
        while self.next_index <= index:
            if not self.capture.grab():
                break
            self.next_index += 1
        else:
            image = self.capture.retrieve()[1]
        if image is None:
            self._close()
            raise DataError(f"{path} cannot be decoded at frame {index}")
        self.last_index, self.last = index, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return self.last
