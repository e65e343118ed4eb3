"""Whole videos of a data set: every frame, the masks of the annotated ones, and prompts."""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Optional, Protocol

import numpy as np
import torch

from ..checks import UserError, nearest
from ..config import DataConfig, clip_length
from ..data.datapoint import SYNTHETIC_VAL, make_generator
from ..data.readers.files import PICTURE_SUFFIXES, DataError, list_files, name_some
from ..data.readers.frames import AnnotatedFrame
from ..data.readers.label_maps import VOID, has_void
from ..data.readers.reader import Reader, has_category_layout
from ..data.split import split_videos
from ..data.synthetic import SyntheticDataset, make_clip
from ..tracking.clicks import place_click
from ..tracking.frames import Frames
from ..tracking.prompts import Prompt
from .settings import EvaluateConfig


class AnnotatedVideo(Protocol):
    """A video with masks on some frames.

    Attributes:
        annotated: The positions of the annotated frames, ascending.
        numbers: The number of each frame in the data set.
    """

    annotated: list[int]
    numbers: list[int]

    @property
    def frames(self) -> Frames:
        """All frames."""

    @property
    def object_names(self) -> Mapping[int, str]:
        """{object id: name}, empty where there are none."""

    def masks(self, position: int) -> dict[int, np.ndarray]:
        """Return {object id: bool mask [H, W]} of an annotated frame."""


@dataclass(frozen=True)
class Layout:
    """How a data set's masks are kept, on which protocols and files depend.

    Attributes:
        palette: One PNG per frame whose values are object ids.
        overlapping: Whether a pixel may belong to several objects.
        categories: Whether object ids are the slots of categories.
        complete: Whether an object that an annotated frame lacks is known not to be there.
    """

    palette: bool
    overlapping: bool
    categories: bool
    complete: bool


_PALETTE = Layout(palette=True, overlapping=False, categories=False, complete=True)
_PER_OBJECT = Layout(palette=False, overlapping=True, categories=False, complete=False)
_CATEGORIES = Layout(palette=False, overlapping=True, categories=True, complete=True)
_INSTANCES = Layout(palette=False, overlapping=True, categories=False, complete=True)
LAYOUTS = {
    "synthetic": _PALETTE,
    "vos_folder": _PALETTE,
    "png_folders": _PER_OBJECT,
    "sav": _PER_OBJECT,
    "sa1b": _INSTANCES,
    "mots": Layout(palette=False, overlapping=False, categories=False, complete=True),
    "coco_video": _INSTANCES,
    "youtube_vis": _INSTANCES,
    "coco_images": _INSTANCES,
}


def layout_of(data: DataConfig) -> Layout:
    """Return how the masks of a data set are kept."""
    return _CATEGORIES if has_category_layout(data) else LAYOUTS[data.source]


class _ReaderFrames:
    """The frames of a reader's video as `core.tracking` reads them."""

    def __init__(self, reader: Reader, frames: list[AnnotatedFrame]) -> None:
        self.reader, self.frames = reader, frames
        self.names = [_stem(frame) for frame in frames]
        width, height = reader.size(frames[0])
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, i: int) -> np.ndarray:
        return np.asarray(self.reader.image(self.frames[i]))


def _stem(frame: AnnotatedFrame) -> str:
    name = frame.image_path.replace("\\", "/").rsplit("/", 1)[-1]
    stem, _, suffix = name.rpartition(".")
    return f"{frame.frame_idx:05d}" if suffix.lower() == "mp4" else stem or name


class _ReaderVideo:
    """One video of a reader; see `AnnotatedVideo`."""

    def __init__(self, reader: Reader, i: int, layout: Layout, max_frames: Optional[int]) -> None:
        self.reader, self.i = reader, i
        every = reader.all_frames(i)[:max_frames]
        self.frames = _ReaderFrames(reader, every)
        self.numbers = [frame.frame_idx for frame in every]
        positions = {number: position for position, number in enumerate(self.numbers)}
        self._annotations = {
            positions[frame.frame_idx]: frame
            for frame in reader.video(i).frames
            if frame.frame_idx in positions
        }
        self.annotated = sorted(self._annotations)
        self.object_names = reader.object_names(i) or {}
        self._layout = layout
        # folders of masks count from 0, the objects of the reader from 1
        self._shift = -1 if not layout.palette and getattr(reader, "per_object", False) else 0

    def masks(self, position: int) -> dict[int, np.ndarray]:
        masks = self.reader.masks(self.i, self._annotations[position])
        return {
            key + self._shift: mask
            for key, mask in masks.items()
            if not (self._layout.palette and key == VOID and self._has_void)
        }

    @cached_property
    def _has_void(self) -> bool:
        """Whether 255 is no object here: evaluators do not count it."""
        found = (self.reader.masks(self.i, frame) for frame in self._annotations.values())
        return has_void(np.array(sorted({key for masks in found for key in masks})))


@dataclass
class _Drawn:
    """The frames of a synthetic clip."""

    images: np.ndarray
    names: list[str] = field(init=False)
    size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"{t:05d}" for t in range(len(self.images))]
        self.size = (self.images.shape[1], self.images.shape[2])

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> np.ndarray:
        return self.images[i]


class _SyntheticVideo:
    """One validation clip of moving shapes, which no training saw; see `AnnotatedVideo`."""

    object_names: Mapping[int, str] = {}

    def __init__(self, images: np.ndarray, masks: np.ndarray) -> None:
        self._masks = masks
        self.frames = _Drawn(images)
        self.annotated = self.numbers = list(range(len(images)))

    def masks(self, position: int) -> dict[int, np.ndarray]:
        return {o + 1: mask for o, mask in enumerate(self._masks[position])}


@dataclass(frozen=True)
class Videos:
    """The videos to evaluate, each opened when its turn comes.

    Attributes:
        names: What they are called, and their files too: see `path_of`.
    """

    names: list[str]
    _config: EvaluateConfig
    _places: dict[str, tuple[Optional[Reader], int]]

    def open(self, name: str) -> AnnotatedVideo:
        """Return a video; raises `DataError` where it cannot be read."""
        reader, i = self._places[name]
        config = self._config
        if reader is not None:
            return _ReaderVideo(reader, i, layout_of(config.data), config.max_frames)
        rng = make_generator(SYNTHETIC_VAL, config.seed, i)
        data, size = config.data, config.model.image_size
        length = clip_length(data, training=False)
        images, masks = make_clip(
            data.synthetic, length, data.frame_stride, size, data.max_objects, rng
        )
        return _SyntheticVideo(images[: config.max_frames], masks[: config.max_frames])

    def stamp(self, name: str) -> str:
        """Return a text that changes when the annotations of a video do; nothing is opened.

        Where frames are files in a folder it changes with them too. The settings alone decide what
        a synthetic clip is, and its text is empty.
        """
        reader, i = self._places[name]
        return "" if reader is None else _stamp_of(reader.depends_on(i))


def _stamp_of(paths: Iterable[str]) -> str:
    """Return a text that changes when one of some files, or a picture in one of some folders, does.

    Times of folders do not count, nor do files that a system puts beside those of people.
    """
    told = []
    for path in map(Path, paths):
        for file in list_files(path, PICTURE_SUFFIXES) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):  # there is no such file
                found = file.stat()
                told.append((str(file), found.st_mtime_ns, found.st_size))
    return hashlib.blake2b(repr(told).encode(), digest_size=12).hexdigest()


def find_videos(config: EvaluateConfig) -> Videos:
    """Find the videos that the settings name.

    Raises:
        DataError: The data set cannot be read.
        UserError: It has no such video, or none that trains where those are asked for.
    """
    if config.split == "train" and not config.data.trains:
        raise UserError(
            "split=train: with weight 0 no video of this data set trains, expected split=val"
        )
    places = dict(_places(config))
    if config.videos is None:
        return Videos(list(places), config, places)
    chosen = {name: name if name in places else path_of(name) for name in config.videos}
    missing = [name for name, path in chosen.items() if path not in places]
    if missing:
        near = nearest(missing[0], places)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(
            f"videos: split={config.split} has no {name_some(missing)}, but"
            f" {name_some(list(places))}{hint}"
        )
    return Videos(list(dict.fromkeys(chosen.values())), config, places)


def _places(config: EvaluateConfig) -> Iterator[tuple[str, tuple[Optional[Reader], int]]]:
    if config.data.source == "synthetic":
        if config.split != "val":
            raise UserError(
                f"split={config.split}: synthetic clips of training have no end, expected split=val"
            )
        clips = SyntheticDataset(config.data, config.model.image_size, config.seed, training=False)
        for i in range(len(clips)):
            yield clips.clip_name(i), (None, i)
        return
    split = split_videos(config.data)
    taken: set[str] = set()
    # of all videos, whatever is chosen: results of one split may join those of another in a folder
    of_val = of_train = [_own_path(name, taken) for name in split.val.reader.names]
    if split.train.reader is not split.val.reader:
        # two files may number their videos alike
        of_train = [_own_path(name, taken, "train/") for name in split.train.reader.names]
    train, val = (split.train, of_train), (split.val, of_val)
    for part, names in {"val": [val], "train": [train], "all": [train, val]}[config.split]:
        for i in part.indices:
            yield names[i], (part.reader, i)


def path_of(name: str) -> str:
    """Return the name of a video as a path that stays in the folder it is put in, on any system.

    A data set may call its videos by their folders: root, drive and ``..`` are left out.
    """
    path = PureWindowsPath(name)  # it takes both slashes, and knows drives
    return "/".join(part for part in path.parts if part not in (path.anchor, "..")) or "video"


def _own_path(name: str, taken: set[str], folder: str = "") -> str:
    """Return `path_of` a video and take it; where it is taken, below a folder or with a number."""
    path = path_of(name)
    numbered = (f"{folder}{path}_{k}" for k in itertools.count(2))
    path = next(
        path for path in itertools.chain((path, f"{folder}{path}"), numbered) if path not in taken
    )
    taken.add(path)
    return path


def first_masks(video: AnnotatedVideo) -> dict[int, tuple[int, np.ndarray]]:
    """Return where each object first appears: {object id: (position, mask)}.

    Raises:
        DataError: No annotated frame has an object.
    """
    first: dict[int, tuple[int, np.ndarray]] = {}
    for position in video.annotated:
        for key, mask in video.masks(position).items():
            if key not in first and mask.any():
                first[key] = (position, mask)
    if not first:
        raise DataError("no annotated frame has an object")
    return dict(sorted(first.items()))


def prompts_of(first: Mapping[int, tuple[int, np.ndarray]], kind: str) -> list[Prompt]:
    """Return one prompt per object, where it first appears.

    Args:
        first: What `first_masks` returned.
        kind: ``mask``; ``bbox``, the bounds of the mask; ``point``, SAM 2's own: the centre of the
            mask.
    """
    return [make_prompt(key, position, mask, kind) for key, (position, mask) in first.items()]


def make_prompt(key: int, position: int, mask: np.ndarray, kind: str) -> Prompt:
    """Return the prompt of one object; see `prompts_of`."""
    if kind == "mask":
        return Prompt(position, key, mask=mask)
    if kind == "bbox":
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1]))
        return Prompt(position, key, box=box)
    gt = torch.from_numpy(mask)[None, None]
    points, labels = place_click(gt, torch.zeros_like(gt))
    return Prompt(position, key, points=points.numpy(), labels=labels.numpy())
