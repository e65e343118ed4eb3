"""Reader of JSON files in COCO's form, whatever they call a video and an object."""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from .files import DataError, NoAnnotatedFrameError, check_folder, exists, read_json
from .frames import AnnotatedFrame, frame_size, load_frame, remarks_on_frame
from .kinds import hint_at_kind
from .packed import Packed
from .remarks import Remark
from .segmentations import decode_polygons, decode_rle, fault_of_polygons, is_missing, rle_size

# above, integers that are told as floats are not exact
_LARGEST_NUMBER = 2**53

# an object id or slot, and its RLE or polygons as the file has them
ObjectSegmentation = tuple[int, Any]
# {image id: its annotations}
Annotations = dict[Any, list[dict]]


@dataclass(frozen=True)
class CocoFile:
    """A JSON file in COCO's form.

    Attributes:
        path: The file.
        setting: How the user named it, e.g. ``data.train_annotations=a.json``.
        content: What it holds.
        image_root: The folder that the user says the images are below.
        image_root_setting: How the user named it, e.g. ``data.image_root=images``, or would name it
            for this file, e.g. ``data.val_image_root=DIR``.
    """

    path: str
    setting: str
    content: dict[str, Any]
    image_root: Optional[str]
    image_root_setting: str

    def image_path(self, name: Optional[str], path: Optional[str], key: Any) -> str:
        """Return where an image lies.

        Args:
            name: Its `file_name`.
            path: Its `path`.
            key: Its id, for messages.

        Raises:
            DataError: It has no name, or one that leaves `image_root`.
        """
        if self.image_root is not None:
            if not name:
                raise DataError(
                    f"{self.setting} has an image {key!r} without `file_name`, which"
                    f" {self.image_root_setting} needs"
                )
            # by the names alone: links below the root may lead wherever their owner wants
            joined = _below(Path(self.image_root), name)
            if not _stays_below(self.image_root, name, joined):
                raise DataError(
                    f"{self.setting} has an image {name!r} outside {self.image_root_setting},"
                    " expected a path below it"
                )
            return joined
        if not (path or name):
            raise DataError(f"{self.setting} has an image {key!r} without `path`")
        folder = Path(os.path.normpath(Path(self.path).absolute())).parent
        # a `path` of another machine: the file may still lie beside the JSON
        if path and name and exists(Path(found := _below(folder, path))):
            return found
        return _below(folder, name or path or "")


def open_coco(path: str, setting: str, data: DataConfig, lists: tuple[str, ...]) -> CocoFile:
    """Read a JSON file that has these lists.

    Args:
        path: The file.
        setting: How the user named it.
        data: `data.image_root` is where its images are; `data.val_image_root` is the same where
            the user gave it for this file, and None otherwise.
        lists: Their keys.

    Raises:
        DataError: The file or `data.image_root` is missing, or a list; where the file is of another
            format that can be read, the message names its source.
    """
    # where neither has a folder, `image_root` would be that of training too
    own = data.image_root is None and setting.startswith("data.val_annotations=")
    name = "val_image_root" if own or data.val_image_root is not None else "image_root"
    root_setting = f"data.{name}={data.image_root or 'DIR'}"
    if data.image_root is not None:
        check_folder(Path(data.image_root), root_setting)
    content = read_json(path, setting)
    if not isinstance(content, dict):
        raise DataError(f"{setting} holds a {type(content).__name__}, expected a COCO mapping")
    for key in lists:
        if not isinstance(content.get(key), list):
            raise DataError(
                f"{setting} has no list `{key}`, expected"
                f" {expected_file(data.source)}{hint_at_kind(content, data.source)}"
            )
    _check_masks(content["annotations"], setting)
    return CocoFile(path, setting, content, data.image_root, root_setting)


def _check_masks(annotations: list, setting: str) -> None:
    """Refuse a file of boxes or points."""
    count = sum(isinstance(item, dict) for item in annotations)
    if count and not has_masks(annotations):
        raise DataError(
            f"{setting} has {count} annotations, none with a `segmentation`: it holds boxes or"
            " points, expected masks; export it as instance segmentation"
        )


def has_masks(annotations: Any) -> bool:
    """Return whether one of a list's annotations has a mask; False for what is no list."""
    items = annotations if isinstance(annotations, list) else []
    return any(
        not is_missing(item.get(key))
        for item in items
        if isinstance(item, dict)
        for key in ("segmentation", "segmentations")
    )


def expected_file(source: str) -> str:
    """Return what a source reads, after "expected"."""
    return {
        "coco_video": "a COCO-video file",
        "coco_images": "a COCO file of images",
        "youtube_vis": "a YouTube-VIS file",
    }[source]


@contextlib.contextmanager
def needed_fields(setting: str, source: str) -> Iterator[None]:
    """Turn what a missing or malformed field raises into a `DataError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{setting} has an entry without a needed field"
            f" ({type(error).__name__}: {error}), expected {expected_file(source)}"
        ) from error


def read_categories(file: CocoFile, expected: Optional[dict[Any, str]] = None) -> dict[Any, str]:
    """Return {category id: name} by id, or `expected`, which the file must not contradict."""
    items, setting = file.content["categories"], file.setting
    own = {item["id"]: str(item.get("name", item["id"])) for item in items}
    if len(own) != len(items):
        raise DataError(f"{setting} has two categories with the same id")
    for key, name in (expected or {}).items():
        other = own.get(key, name)
        # a category that a file gives no name goes by its id
        if other != name and str(key) not in (other, name):
            raise DataError(
                f"{setting} calls category {key!r} {other!r}, expected the training file's"
                f" name {name!r}"
            )
    categories = expected or dict(sorted(own.items()))
    if not categories:
        raise DataError(f"{setting} has no categories, expected at least one")
    return categories


def group_annotations(file: CocoFile, categories: dict[Any, str]) -> Annotations:
    """Return {image id: its annotations}.

    Raises:
        DataError: Two images have the same id, or an annotation names an image or a category that
            the file does not have.
    """
    setting, images = file.setting, file.content["images"]
    image_ids = {image["id"] for image in images}
    if len(image_ids) != len(images):
        counts = Counter(image["id"] for image in images)
        raise DataError(
            f"{setting} has two images with the id {counts.most_common(1)[0][0]!r}: it is not known"
            " whose masks are whose"
        )
    grouped: Annotations = defaultdict(list)
    for item in file.content["annotations"]:
        if item["image_id"] not in image_ids:
            raise DataError(
                f"{setting} has an annotation of image {item['image_id']!r}, which is not"
                " among its `images`"
            )
        if item["category_id"] not in categories:
            raise DataError(
                f"{setting} has an annotation of category {item['category_id']!r},"
                f" expected one of {list(categories)}"
            )
        grouped[item["image_id"]].append(item)
    return dict(grouped)


def without_crowds(file: CocoFile, annotations: Annotations) -> Annotations:
    """Leave out annotations of crowds, which are many objects in one mask, with a warning.

    CVAT marks every mask that is no polygon so, and is known by the `attributes` it writes.
    """
    kept = {
        key: [item for item in items if not item.get("iscrowd") or "attributes" in item]
        for key, items in annotations.items()
    }
    left_out = sum(len(items) - len(kept[key]) for key, items in annotations.items())
    if left_out:
        rank_zero_warn(
            f"{file.setting} has {left_out} annotations with `iscrowd`, which are left out: each is"
            " many objects in one mask"
        )
    return kept


def check_files_apart(file: CocoFile, videos: "list[CocoVideo]") -> None:
    """Refuse two frames that are one file: the masks of one would lie on the other's picture."""
    owners: dict[str, tuple[CocoVideo, CocoFrame]] = {}
    for video in videos:
        for frame in video.frames:
            first = owners.setdefault(frame.image_path, (video, frame))
            if first[1] is not frame:
                places = (
                    f"frame {found.frame_idx} of video {owner.name!r}"
                    for owner, found in (first, (video, frame))
                )
                raise DataError(
                    f"{file.setting} has {' and '.join(places)} in one file, {frame.image_path}:"
                    " expected a `file_name` that tells them apart, with the folder of its video"
                )


def told_size(image: dict) -> Optional[tuple[int, int]]:
    """Return (width, height) as the file has them, None where it tells no size."""
    width, height = number_of(image.get("width")), number_of(image.get("height"))
    if width is None or height is None or width < 1 or height < 1:
        return None
    return round(width), round(height)


def number_of(value: Any) -> Optional[float]:
    """Return a number that may be written as a text, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < _LARGEST_NUMBER else None


def _below(folder: Path, name: str) -> str:
    """Return the path of a file in a folder, whose name may be written as on Windows."""
    path = os.path.normpath(folder / name)
    if "\\" in name and not exists(Path(path)):
        path = os.path.normpath(folder / name.replace("\\", "/"))
    return path


def _stays_below(folder: str, name: str, joined: str) -> bool:
    if os.pardir not in name and not name.startswith(("/", "\\")):
        return True
    return Path(os.path.relpath(joined, folder)).parts[:1] != (os.pardir,)


@dataclass
class CocoFrame(AnnotatedFrame):
    """A frame of a file.

    Attributes:
        told: (width, height) as the file has them; None: it has not, or no masks of the frame.
    """

    told: Optional[tuple[int, int]] = None


@dataclass
class CocoVideo:
    """A video of a file.

    Attributes:
        name: What it is called.
        object_names: {object id or slot: name}.
        frames: All of its frames, in order.
        segments: {frame number: its masks} of those whose masks are known.
        bare: Paths of those that have annotations without a mask beside others.
    """

    name: str
    object_names: dict[int, str]
    frames: list[CocoFrame] = field(default_factory=list)
    segments: dict[int, list[ObjectSegmentation]] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)

    def add_frame(
        self,
        number: int,
        path: str,
        told: Optional[tuple[int, int]],
        segments: Optional[list[ObjectSegmentation]],
    ) -> None:
        """Add a frame.

        Args:
            number: Its number in the video.
            path: Its file.
            told: (width, height) as the file has them.
            segments: Its masks, some of them missing perhaps; None: they are not known.
        """
        frame = CocoFrame(number, path, masks_size=told)
        self.frames.append(frame)
        if segments is None:
            return
        frame.told = told
        known = [item for item in segments if not is_missing(item[1])]
        self.segments[number] = known
        if len(known) < len(segments):
            self.bare.add(path)
        if told is None:
            sizes = (rle_size(segmentation) for _, segmentation in known)
            frame.masks_size = next((size for size in sizes if size is not None), None)


@dataclass(frozen=True)
class _Video:
    """A `CocoVideo` whose masks lie elsewhere.

    Attributes:
        name: What it is called.
        frames: All of its frames, in order.
        places: {frame number: where its masks lie among those of all videos}.
        bare: Paths of frames that have annotations without a mask beside others.
    """

    name: str
    frames: list[CocoFrame]
    places: dict[int, int]
    bare: set[str]


class CocoReader:
    """Videos of one file; see ``reader.Reader``.

    Args:
        file: The file.
        videos: What it holds.
        data: `data.max_image_pixels`.
        categories: {category id: name}, in the order of the slots.
        num_categories: Slots of the category layout, masks of slots beyond them are left out; None:
            object layout.
    """

    def __init__(
        self,
        file: CocoFile,
        videos: list[CocoVideo],
        data: DataConfig,
        categories: dict[Any, str],
        num_categories: Optional[int] = None,
    ) -> None:
        """See the class."""
        if not videos:
            raise DataError(f"{file.setting} has no images, expected videos")
        self.setting, self.image_root = file.setting, file.image_root
        self.image_root_setting = file.image_root_setting
        self.max_pixels = data.max_image_pixels
        self.categories, self.num_categories = categories, num_categories
        self.category_names = (
            None if num_categories is None else list(categories.values())[:num_categories]
        )
        self.names = [video.name for video in videos]
        self._path, places = file.path, itertools.count()
        # frame by frame: all masks of a long video take much longer to unpack than a clip's
        self._segments = Packed(items for video in videos for items in video.segments.values())
        self._videos = Packed(
            _Video(video.name, video.frames, {t: next(places) for t in video.segments}, video.bare)
            for video in videos
        )
        self._object_names = Packed(video.object_names for video in videos)
        self._first_paths = Packed(
            [frame.image_path for frame in video.frames if frame.frame_idx in video.segments][:1]
            for video in videos
        )

    # A clip asks for one video again and again, and so does each of the four threads that look for
    # clips. More would have every worker own what it has read, which `Packed` is there to prevent.
    @functools.lru_cache(maxsize=4)  # noqa: B019 (a reader lives as long as the run)
    def _read(self, i: int) -> tuple[_Video, VOSVideo]:
        """Return a video, and its frames whose masks are known."""
        video = self._videos[i]
        known = [frame for frame in video.frames if frame.frame_idx in video.places]
        return video, VOSVideo(video.name, i, known)

    def depends_on(self, i: int) -> list[str]:
        """Return the file, and the first frame whose masks are known."""
        return [self._path, *self._first_paths[i]]

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        video = self._read(i)[1]
        if not video.frames:
            raise NoAnnotatedFrameError(
                f"{self.setting} has no known masks for it, expected annotations with a"
                " `segmentation`"
            )
        return video

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return every frame of video `i`, also those whose masks are unknown."""
        video, known = self._read(i)
        size = next((frame.masks_size for frame in known.frames), None)
        return [
            frame if frame.masks_size else dataclasses.replace(frame, masks_size=size)
            for frame in video.frames
        ]

    def size(self, frame: AnnotatedFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header, which must be those of the JSON."""
        if not exists(Path(frame.image_path)):
            hint = (
                ""
                if self.image_root
                else f"; set {self.image_root_setting} to look for `file_name` in DIR"
            )
            raise DataError(
                f"{self.setting} names a frame {frame.image_path} that does not exist{hint}"
            )
        size = frame_size(frame, self.max_pixels)
        told = frame.told if isinstance(frame, CocoFrame) else None
        if told is not None and size != told:
            raise DataError(
                f"{frame.image_path} is {size[0]} x {size[1]} pixels, but {self.setting} gives"
                f" {told[0]} x {told[1]}: its masks belong to frames of that size"
            )
        return size

    def image(self, frame: AnnotatedFrame, at_least: Optional[int] = None) -> Image.Image:
        """Return a frame as RGB."""
        self.size(frame)
        return load_frame(frame, self.max_pixels, at_least)

    def remarks(self, i: int, frame: AnnotatedFrame) -> list[Remark]:
        """Return what a person should know of the files of a frame."""
        width, height = self.size(frame)
        remarks = remarks_on_frame(frame, self.max_pixels)
        if frame.image_path in self._read(i)[0].bare:
            text = (
                f"{self.setting} annotates objects without a mask beside those that have one: they"
                " count as absent"
            )
            remarks.append(Remark(frame.image_path, text))
        for _, segmentation in self._used_segments(i, frame):
            mask = self._decode_segmentation(segmentation, width, height, frame)
            fault = fault_of_polygons(segmentation, mask)
            if fault is not None:
                text = f"has polygons in {self.setting} that {fault}"
                remarks.append(Remark(frame.image_path, text))
        return remarks

    def _used_segments(self, i: int, frame: AnnotatedFrame) -> list[ObjectSegmentation]:
        segments = self._segments[self._read(i)[0].places[frame.frame_idx]]
        limit = self.num_categories
        return [item for item in segments if limit is None or item[0] < limit]

    def masks(self, i: int, frame: AnnotatedFrame) -> dict[int, np.ndarray]:
        """Return {object id or slot: bool mask [H, W]}, the union of its parts in the frame."""
        width, height = self.size(frame)
        masks: dict[int, np.ndarray] = {}
        for key, segmentation in self._used_segments(i, frame):
            mask = self._decode_segmentation(segmentation, width, height, frame)
            masks[key] = masks[key] | mask if key in masks else mask
        return masks

    def _decode_segmentation(
        self, segmentation: Any, width: int, height: int, frame: AnnotatedFrame
    ) -> np.ndarray:
        where = f"a mask of {frame.image_path} in {self.setting}"
        decode = decode_rle if isinstance(segmentation, dict) else decode_polygons
        return decode(segmentation, (width, height), where)

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {object id or slot: category name}."""
        return self._object_names[i]

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many images of video `i` are left out, and 0: no mask is without its image."""
        video, known = self._read(i)
        return len(video.frames) - len(known.frames), 0
