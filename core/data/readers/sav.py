"""Reader of SA-V."""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import numpy as np
from PIL import Image
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from .files import (
    DataError,
    NoAnnotatedFrameError,
    check_folder,
    check_is_file,
    data_root,
    find_files,
    frame_files,
    is_folder,
)
from .frames import (
    AnnotatedFrame,
    frame_size,
    load_frame,
    remarks_on_frame,
    text_of_stored,
    text_of_turned,
)
from .remarks import Remark
from .segmentations import decode_rle, rle_size

SAV_FRAMES_FPS = 24
# those that the labels of SA-V as Meta publishes it are apart, which do not say so
_SAV_EVERY = 4
# nearer frames of a movie are reached by decoding those before them
_FAR = 32
# of a frame: how well the time of one that was sought has to agree
_EXACT = 0.01


class SavReader:
    """SA-V: ``<id>_manual.json`` beside ``<id>.mp4``, or frames in ``<image_folder>/<id>/``.

    Labels come at 6 fps for frames at 24 fps, unless `fps` says otherwise, or the video has as many
    frames as another rate needs. Frames without labels are left out, as the official reader does.
    Frames of an mp4 file are decoded when they are asked for.

    Raises:
        DataError: A folder is missing, or there are no videos.
    """

    def __init__(self, data: DataConfig) -> None:
        """List the videos."""
        root = data_root(data)
        self.json_folder = root / data.annotation_folder
        check_folder(
            self.json_folder, f"data.root={data.root}, data.annotation_folder={self.json_folder}"
        )
        self.image_folder = root / data.image_folder
        self.max_pixels = data.max_image_pixels
        self.num_categories = self.category_names = None
        # SA-V ships its videos in subfolders sav_000, sav_001, ...
        found = find_files(self.json_folder, "_manual.json")
        # lists name videos with `/` on every system
        self.names = sorted(name.removesuffix("_manual.json") for name in found)
        if not self.names:
            raise DataError(
                f"data.root={data.root} has no videos: expected <id>_manual.json files in"
                f" {self.json_folder}"
            )
        self._movie = _Movie()

    @functools.lru_cache(maxsize=8)  # noqa: B019 (a reader lives as long as the run)
    def _read(self, i: int) -> tuple[VOSVideo, "_Masklet"]:
        name = self.names[i]
        json_path = self.json_folder / f"{name}_manual.json"
        check_is_file(json_path, str(json_path), "an SA-V annotation file")
        try:
            masklet = _read_masklet(json_path, lambda: max(self._frame_paths(name, json_path)) + 1)
        except DataError:
            raise
        except (OSError, KeyError, TypeError, ArithmeticError, ValueError, RecursionError) as error:
            raise DataError(
                f"{json_path} is not an SA-V annotation file ({type(error).__name__}: {error}),"
                " expected a list `masklet` of RLE masks per frame and object"
            ) from error
        labelled = masklet.labelled()
        if not labelled:
            raise NoAnnotatedFrameError(
                f"{json_path} has no annotated frame, expected masks in `masklet`"
            )
        paths = self._frame_paths(name, json_path)
        frames = [
            AnnotatedFrame(k, paths[k], masks_size=_size_of_first(masklet.rles(k)))
            for k in labelled
            if k in paths
        ]
        if 2 * len(frames) < len(labelled):
            missing = "none" if not frames else f"only {len(frames)}"
            raise NoAnnotatedFrameError(
                f"{json_path} annotates frames {labelled[0]} to {labelled[-1]}, {missing} of which"
                f" is among the {len(paths)} frames of the video: expected all frames of the movie,"
                " numbered from 0"
            )
        return VOSVideo(name, i, frames), masklet

    def _frame_paths(self, name: str, json_path: Path) -> dict[int, str]:
        """Return {frame number: its file, or the mp4 that it is in}."""
        folder = self.image_folder / name
        if is_folder(folder):
            files = frame_files(folder)
            if not files:
                raise NoAnnotatedFrameError(f"{folder} has no frames, expected JPEG or PNG files")
            return {number: str(path) for number, path in files.items()}
        beside = self._movie_paths(name)
        path = next((path for path in beside if path.is_file()), None)
        if path is None:
            raise NoAnnotatedFrameError(
                f"{json_path} has no frames: expected {beside[1]} or a folder {folder}"
            )
        return dict.fromkeys(range(_movie_info(str(path)).num_frames), str(path))

    def _movie_paths(self, name: str) -> list[Path]:
        folders, suffixes = (self.image_folder, self.json_folder), (".mp4", ".MP4")
        return [place / f"{name}{suffix}" for suffix in suffixes for place in folders]

    def depends_on(self, i: int) -> list[str]:
        """Return the JSON file of video `i`, the folder of its frames and the files it may be."""
        name = self.names[i]
        paths = [self.json_folder / f"{name}_manual.json", self.image_folder / name]
        return [str(path) for path in (*paths, *self._movie_paths(name))]

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._read(i)[0]

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return every frame of video `i`, labelled or not."""
        name = self.names[i]
        paths = self._frame_paths(name, self.json_folder / f"{name}_manual.json")
        known = {frame.frame_idx: frame for frame in self.video(i).frames}
        size = self.video(i).frames[0].masks_size
        return [
            known.get(number) or AnnotatedFrame(number, path, masks_size=size)
            for number, path in paths.items()
        ]

    def size(self, frame: AnnotatedFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header."""
        if not _is_movie(frame):
            return frame_size(frame, self.max_pixels)
        width, height = _movie_info(frame.image_path).size(_stands_upright(frame))
        if width * height > self.max_pixels:
            raise DataError(
                f"{frame.image_path} has {width} x {height} pixels, more than"
                f" data.max_image_pixels={self.max_pixels} allows"
            )
        return width, height

    def image(self, frame: AnnotatedFrame, at_least: Optional[int] = None) -> Image.Image:
        """Return a frame as RGB."""
        self.size(frame)
        if _is_movie(frame):
            upright = _stands_upright(frame)
            return Image.fromarray(self._movie.frame(frame.image_path, frame.frame_idx, upright))
        return load_frame(frame, self.max_pixels, at_least)

    def remarks(self, i: int, frame: AnnotatedFrame) -> list[Remark]:
        """Return what a person should know of the files of a frame."""
        if not _is_movie(frame):
            return remarks_on_frame(frame, self.max_pixels)
        rotation = f"rotation of {_movie_info(frame.image_path).rotation} degrees"
        if rotation == "rotation of 0 degrees":
            return []
        text = text_of_turned(rotation) if _stands_upright(frame) else text_of_stored(rotation)
        return [Remark(frame.image_path, text)]

    def masks(self, i: int, frame: AnnotatedFrame) -> dict[int, np.ndarray]:
        """Return {object id: bool mask [H, W]} of a frame; ids are positions in the masklet."""
        where = f"a mask of frame {frame.frame_idx} in {self.names[i]}_manual.json"
        size, rles = self.size(frame), self._read(i)[1].rles(frame.frame_idx)
        return {key: decode_rle(rle, size, where) for key, rle in enumerate(rles)}

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return None: SA-V's objects have no names."""
        return None

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return 0, as frames between labelled ones are meant to have no mask, and labels left out.

        Their frames are not there: frames may be missing, or be counted from 1.
        """
        video, masklet = self._read(i)
        return 0, len(masklet.labelled()) - len(video.frames)


def _size_of_first(rles: list) -> Optional[tuple[int, int]]:
    return rle_size(rles[0]) if rles else None


def _is_movie(frame: AnnotatedFrame) -> bool:
    return frame.image_path.lower().endswith(".mp4")


def _stands_upright(frame: AnnotatedFrame) -> bool:
    """Return whether a movie's frame is turned as the file says, not if only stored it fits."""
    info = _movie_info(frame.image_path)
    upright, stored = info.size(True), info.size(False)
    return not (frame.masks_size == stored != upright)


@dataclass(frozen=True)
class _Masklet:
    """What an annotation file holds.

    Attributes:
        frames: The RLEs of each labelled frame's objects; None, or None among them: not labelled.
        every: Frames of the video from one to the next.
    """

    frames: list[Optional[list]]
    every: int

    def labelled(self) -> list[int]:
        """Return the numbers of the frames that are labelled."""
        kept = (rles is not None and None not in rles for rles in self.frames)
        return [k * self.every for k, labelled in enumerate(kept) if labelled]

    def rles(self, number: int) -> list:
        """Return what stands for the objects of a frame."""
        return self.frames[number // self.every] or []


def _read_masklet(path: Path, count_frames: Callable[[], int]) -> _Masklet:
    """Read an annotation file as the official ``JSONSegmentLoader`` does, checking it.

    Args:
        path: The file.
        count_frames: Returns how many frames the video has, for a file that does not tell.
    """
    # programs on Windows begin a file with a byte order mark
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    told: Optional[dict] = None
    if isinstance(content, dict):
        told = content
        content = content["masklet" if "masklet" in content else "masks"]
    if not isinstance(content, list) or not all(
        rles is None or isinstance(rles, list) for rles in content
    ):
        raise TypeError("no list per frame")
    every = 1 if told is None else _every(told, len(content), count_frames)
    counts = {len(rles): k * every for k, rles in enumerate(content) if rles}
    if len(counts) > 1:
        said = ", ".join(f"{count} at frame {number}" for count, number in sorted(counts.items()))
        raise ValueError(
            f"its frames have different numbers of masks, {said}: an object is its position in the"
            " list, so every labelled frame needs all objects, an empty RLE where one is absent"
        )
    return _Masklet(content, every)


def _every(told: dict, num_labels: int, count_frames: Callable[[], int]) -> int:
    """Return how many frames lie from one label of a file to the next.

    The files that Meta publishes have no `fps`, but the number of frames, which tells them from
    those of other programs that label every frame.
    """
    if "fps" in told:
        fps = told["fps"]
        fps = int(fps[0] if isinstance(fps, list) and fps else fps)
        if fps < 1 or SAV_FRAMES_FPS % fps:
            raise ValueError(f"fps is {fps}, expected a divisor of {SAV_FRAMES_FPS}")
        return SAV_FRAMES_FPS // fps
    num_frames = told.get("video_frame_count")
    if not isinstance(num_frames, (int, float)):
        num_frames = count_frames()
    # of a few labels several steps may fit: SA-V's comes first
    divisors = (every for every in range(1, SAV_FRAMES_FPS + 1) if SAV_FRAMES_FPS % every == 0)
    for every in (_SAV_EVERY, *divisors):
        if (num_labels - 1) * every < num_frames <= num_labels * every:
            return every
    return _SAV_EVERY


@dataclass(frozen=True)
class _MovieInfo:
    """What an mp4 file says of itself.

    Attributes:
        num_frames: Its frames.
        width: That of its frames as they are stored.
        height: The same.
        rotation: By how many degrees they are turned to stand upright, from 0 to 359.
    """

    num_frames: int
    width: int
    height: int
    rotation: int

    def size(self, upright: bool) -> tuple[int, int]:
        """Return (width, height) of its frames, upright or as they are stored."""
        if upright and self.rotation % 180 == 90:
            return self.height, self.width
        return self.width, self.height


def _open_movie(path: str, upright: bool) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(path)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(upright))
    return capture


@functools.lru_cache(maxsize=4096)
def _movie_info(path: str) -> _MovieInfo:
    capture = _open_movie(path, upright=False)
    properties = (
        cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT,
        cv2.CAP_PROP_ORIENTATION_META,
    )  # fmt: skip
    num_frames, width, height, rotation = (int(capture.get(prop)) for prop in properties)
    capture.release()
    if min(num_frames, width, height) < 1:
        raise DataError(f"{path} cannot be read as a video")
    return _MovieInfo(num_frames, width, height, rotation % 360)


@dataclass
class _OpenFile:
    """A movie file that is being read, as far as it was read."""

    path: str
    upright: bool
    pid: int
    capture: cv2.VideoCapture
    next_index: int = 0
    last: Optional[np.ndarray] = None  # frame `next_index` - 1


class _Movie:
    """One open mp4 file, which is read forwards to near frames and seeks those that are far.

    Seeking in compressed video is not exact everywhere: where the frame that was found has not the
    time of the one asked for, the file is read from its beginning, and is not trusted again.
    """

    def __init__(self) -> None:
        self._file: Optional[_OpenFile] = None
        self._inexact: set[str] = set()

    def __getstate__(self) -> dict:
        # an open file cannot travel to a worker
        return {"_file": None, "_inexact": self._inexact}

    def frame(self, path: str, index: int, upright: bool = True) -> np.ndarray:
        """Return frame `index` as uint8 RGB [H, W, 3], upright or as it is stored."""
        file = self._file
        # a forked worker must not share its parent's file position
        key = (path, upright, os.getpid())
        if file is None or (file.path, file.upright, file.pid) != key:
            self._file = file = _OpenFile(*key, _open_movie(path, upright))
        if index == file.next_index - 1 and file.last is not None:
            return file.last
        if not self._reaches(file, index):
            self._file = file = _OpenFile(*key, _open_movie(path, upright))
        image = _read_on(file, index)
        if image is None:
            self._file = None
            raise DataError(f"{path} cannot be decoded at frame {index}")
        file.last = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return file.last

    def _reaches(self, file: _OpenFile, index: int) -> bool:
        """Seek a frame that is far; return whether reading on gets to it."""
        ahead = index - file.next_index
        if index < _FAR or 0 <= ahead < _FAR or file.path in self._inexact:
            return ahead >= 0
        if _seek(file, index):
            return True
        self._inexact.add(file.path)
        return False


def _seek(file: _OpenFile, index: int) -> bool:
    """Decode frame `index` from the key frame before it; False: another one was found, or none."""
    capture = file.capture
    if not (capture.set(cv2.CAP_PROP_POS_FRAMES, index) and capture.grab()):
        return False
    position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 * capture.get(cv2.CAP_PROP_FPS)
    file.next_index = index + 1
    return abs(position - index) <= _EXACT


def _read_on(file: _OpenFile, index: int) -> Optional[np.ndarray]:
    """Read forwards to frame `index` and return it as BGR, None where the movie ends before."""
    while file.next_index <= index:
        if not file.capture.grab():
            return None
        file.next_index += 1
    return file.capture.retrieve()[1]
