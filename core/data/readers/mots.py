"""Reader of MOTS: PNGs of 16 bits whose values are 1000 x class + instance."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from .files import (
    FRAME_SUFFIXES,
    MASK_SUFFIXES,
    DataError,
    NoAnnotatedFrameError,
    check_folder,
    check_is_file,
    check_mask_size,
    data_root,
    exists,
    is_folder,
    list_files,
    list_folders,
    natural_key,
    open_image,
)
from .frames import AnnotatedFrame, PictureFiles
from .label_maps import LABEL_MODES, LabelMap, read_labels, read_mask

_INSTANCES = 1000  # per class
_MODES = set(LABEL_MODES) - {"RGB", "RGBA", "LA"}  # colours are no numbers of classes
_CLASSES = {1: "car", 2: "pedestrian"}
_IGNORED = 10
# where KITTI MOTS has its frames
_KITTI = ("image_02", "training/image_02")


@dataclass(frozen=True)
class _Place:
    """Where the frames and masks of a video, or of several, are.

    Attributes:
        frames: The folder of frames, or of folders of them.
        masks: The folder of masks, or of folders of them.
        classes: {class: name}.
        labels: The file that has them, None without one.
        object_names: {value: name of its class} of all values that these classes can have.
    """

    frames: Path
    masks: Path
    classes: dict[int, str]
    labels: Optional[Path]
    object_names: dict[int, str]


class MotsReader(PictureFiles):
    """MOTS in both layouts, with masks in ``instances`` and frames in ``images``.

    MOTSChallenge and KITTI MOTS have a folder per video in both; class 10 marks regions that nobody
    annotated (`ignored`). CVAT's "MOTS PNG" has the files themselves there, or folders of
    them, and ``instances/labels.txt``, whose k-th line names class k. Object ids are the values.

    Args:
        data: `data.root`, `data.image_folder`, `data.annotation_folder`, `data.max_image_pixels`.

    Raises:
        DataError: A folder is missing, or there are no videos.
    """

    def __init__(self, data: DataConfig) -> None:
        """List the videos."""
        root = data_root(data)
        self.max_pixels = data.max_image_pixels
        self.num_categories = self.category_names = None
        setting = f"data.root={data.root}, data.annotation_folder={data.annotation_folder}"
        places = [root, *list_folders(root)]
        places = [place for place in places if is_folder(place / data.annotation_folder)]
        if not places:
            check_folder(root / data.annotation_folder, setting, "a folder of masks, or of videos")
        # CVAT has a folder for each subset of a task
        places = places[:1] if places[0] == root else places
        self._places = [_read_place(place, data) for place in places]
        found = [
            (_title(place, folder, root), number, folder)
            for number, place in enumerate(places)
            for folder in _folders_of_videos(place / data.annotation_folder)
        ]
        if not found:
            raise DataError(f"{setting} has no videos: expected PNGs, or folders of them")
        found.sort(key=lambda item: item[0])
        self.names = [name for name, _, _ in found]
        # the place and the folder in it: not an object with paths for each video, see `Packed`
        self._found = [(number, folder) for _, number, folder in found]
        for number in {number for number, _ in self._found}:
            expected = f"data.root={data.root}, data.image_folder={data.image_folder}"
            check_folder(self._places[number].frames, expected)

    def _place(self, i: int) -> _Place:
        """Return where video `i` itself is."""
        number, folder = self._found[i]
        place = self._places[number]
        return dataclasses.replace(place, frames=place.frames / folder, masks=place.masks / folder)

    def depends_on(self, i: int) -> list[str]:
        """Return the folders of the frames and masks of video `i`, and the file of its classes."""
        place = self._place(i)
        labels = [] if place.labels is None else [place.labels]
        return [str(path) for path in (place.frames, place.masks, *labels)]

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        folders = self._place(i)
        masks = _by_stem(list_files(folders.masks, MASK_SUFFIXES))
        frames = []
        for number, path in self._numbered(i):
            if path.stem in masks:
                frames.append(AnnotatedFrame(number, str(path), masks_size=masks[path.stem]))
        if not frames:
            raise NoAnnotatedFrameError(
                f"no mask in {folders.masks} has the name of a frame in {folders.frames}"
            )
        return VOSVideo(self.names[i], i, frames)

    def _numbered(self, i: int) -> list[tuple[int, Path]]:
        """Return the frames of a video with their numbers: those in their names, or their order."""
        frames = _by_stem(list_files(self._place(i).frames, FRAME_SUFFIXES))
        order = sorted(frames, key=natural_key)
        numbers = [int(stem) for stem in order if stem.isdecimal()]
        if len(set(numbers)) < len(order):
            numbers = list(range(len(order)))
        return [(number, frames[stem]) for number, stem in zip(numbers, order, strict=True)]

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return every frame of video `i`, annotated or not."""
        known = {frame.frame_idx: frame for frame in self.video(i).frames}
        size = next(iter(known.values())).masks_size
        return [
            known.get(number) or AnnotatedFrame(number, str(path), masks_size=size)
            for number, path in self._numbered(i)
        ]

    def masks(self, i: int, frame: AnnotatedFrame) -> LabelMap:
        """Return {value: bool mask [H, W]} of a frame, without regions to ignore."""
        masks, ignored = self._all_masks(i, frame)
        if not ignored:
            return masks
        values = np.zeros(np.iinfo(masks.numbers.dtype).max + 1, np.int32)
        for value in masks:
            values[masks.number_of(value)] = 0 if value in ignored else value
        return LabelMap(values[masks.numbers])

    def ignored(self, i: int, frame: AnnotatedFrame) -> np.ndarray:
        """Return where nobody annotated anything: bool [H, W]."""
        masks, ignored = self._all_masks(i, frame)
        return np.isin(masks.numbers, [masks.number_of(value) for value in ignored])

    def _all_masks(self, i: int, frame: AnnotatedFrame) -> tuple[LabelMap, list[int]]:
        """Return the masks of all values of a frame, and which of these are regions to ignore."""
        path = frame.masks_size
        assert isinstance(path, Path)  # `video` gave it
        with open_image(str(path), self.max_pixels) as mask:
            check_mask_size(mask.size, self.size(frame), f"mask {path}")
            if mask.mode not in _MODES:
                raise DataError(f"mask {path} has mode {mask.mode}, expected a grey PNG of 16 bits")
        masks = LabelMap(read_mask(read_labels, path))
        wrong = [value for value in masks if value < _INSTANCES]
        if wrong:
            raise DataError(
                f"mask {path} has value {wrong[0]}, expected 1000 x class + instance; masks whose"
                " values are object ids need data=vos_folder"
            )
        return masks, [value for value in masks if not self._is_object(i, value, str(path))]

    def _is_object(self, i: int, value: int, path: str) -> bool:
        """Return False for a region to ignore; refuses classes that nobody names."""
        folders, number = self._places[self._found[i][0]], value // _INSTANCES
        if number == _IGNORED and _IGNORED not in folders.classes:
            return False
        if folders.labels is not None and number not in folders.classes:
            raise DataError(
                f"mask {path} has class {number}, but {folders.labels} names"
                f" {len(folders.classes)}, expected one of these"
            )
        return True

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {value: class name}."""
        return self._places[self._found[i][0]].object_names

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many frames of video `i` have no mask, and how many masks no frame."""
        folders = self._place(i)
        frames = _by_stem(list_files(folders.frames, FRAME_SUFFIXES)).keys()
        masks = _by_stem(list_files(folders.masks, MASK_SUFFIXES)).keys()
        return len(frames - masks), len(masks - frames)


def _read_place(place: Path, data: DataConfig) -> _Place:
    """Return where the frames and masks in a folder are, and what their classes are called."""
    masks = place / data.annotation_folder
    candidates = [place / folder for folder in (data.image_folder, *_KITTI)]
    images = next((path for path in candidates if is_folder(path)), candidates[0])
    labels = masks / "labels.txt"
    classes = _read_classes(labels) if exists(labels) else _CLASSES
    names = {
        _INSTANCES * number + instance: text
        for number, text in classes.items()
        for instance in range(_INSTANCES)
    }
    return _Place(images, masks, classes, labels if exists(labels) else None, names)


def _folders_of_videos(masks: Path) -> list[str]:
    """Return the folders of masks in a folder; empty, itself, if it has masks too."""
    inside = [path.name for path in list_folders(masks)]
    return ([""] if list_files(masks, MASK_SUFFIXES) else []) + inside


def _title(place: Path, folder: str, root: Path) -> str:
    """Return what a video is called: its folders, or that of the data set where it has none."""
    parts = ("" if place == root else place.name, folder)
    return "/".join(part for part in parts if part) or place.absolute().name


def _read_classes(path: Path) -> dict[int, str]:
    """Return {class: name} of a file with one name per line, from class 1."""
    check_is_file(path, str(path), "a text file of class names")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a text file of class names"
        ) from error
    return {k + 1: text for k, text in enumerate(line.strip() for line in lines if line.strip())}


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Return {name without suffix: file}; two files of one name are refused."""
    found: dict[str, Path] = {}
    for path in files:
        first = found.setdefault(path.stem, path)
        if first is not path:
            raise DataError(
                f"{path.parent} has two files of frame {path.stem} ({first.name} and {path.name}),"
                " expected one"
            )
    return found
