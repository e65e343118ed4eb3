"""Reader of COCO-video JSON, the usual form of surgical data sets: one mask slot per category."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from training.dataset.vos_raw_dataset import VOSVideo

from ...config import DataConfig
from .files import DataError, check_folder, exists, name_some, read_json
from .frames import AnnotatedFrame, frame_size, load_frame, remarks_on_frame
from .remarks import Remark
from .segmentations import decode_polygons, decode_rle, fault_of_polygons, rle_size

# above, integers that are told as floats are not exact
_LARGEST_NUMBER = 2**53

# the slot of an annotation's category, and its RLE, polygons or None, as the file has it
_SlotSegmentation = tuple[int, Any]


class CocoVideoReader:
    """COCO-video JSON in the category layout: the object ids are the categories' slots 0 .. N-1.

    Slots follow the categories sorted by id; annotations of those beyond `data.num_categories` are
    left out with a warning. Images without an annotation are taken as frames without objects, with
    a warning, or left out with `data.unlabelled=skip`. Images whose annotations all lack a
    segmentation are left out, because their masks are unknown.

    Args:
        path: The JSON file.
        setting: How the user named it, e.g. ``data.train_annotations=a.json``.
        data: `data.image_root`, `data.num_categories`, `data.unlabelled`, `data.max_image_pixels`.
        categories: Categories of the training file, which define the slots; None: this file's.

    Raises:
        DataError: The file is missing or not COCO-video, names categories or images that it does
            not have, calls a category otherwise than `categories` does, or a path leaves
            `data.image_root`.
    """

    def __init__(
        self,
        path: str,
        setting: str,
        data: DataConfig,
        categories: Optional[dict[Any, str]] = None,
    ) -> None:
        """Read the file."""
        self.path, self.setting = path, setting
        self.image_root = data.image_root
        self.max_pixels = data.max_image_pixels
        if self.image_root is not None:
            check_folder(Path(self.image_root), f"data.image_root={self.image_root}")
        content = read_json(path, setting)
        if not isinstance(content, dict):
            raise DataError(f"{setting} holds a {type(content).__name__}, expected a COCO mapping")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise DataError(f"{setting} has no list `{key}`, expected a COCO-video file")
        try:
            self.categories = _read_categories(content, setting, categories)
            self.num_categories = data.num_categories or len(self.categories)
            self.category_names = list(self.categories.values())[: self.num_categories]
            annotations = _group_annotations(content, setting, self.categories)
            self._warn_of_cut_slots(annotations)
            videos = _name_videos(content, setting)
            self.skip_unlabelled = data.unlabelled == "skip"
            self._warn_of_unlabelled(content["images"], annotations)
            self._num_left_out: list[int] = []
            self.names = [name for name, _ in videos]
            self._videos: list[VOSVideo] = []
            self._told: dict[str, tuple[int, int]] = {}  # sizes of frames, by their paths
            self._bare: dict[str, int] = {}  # annotations without a mask beside others, likewise
            self._images: list[list[dict]] = []
            self._segments: list[dict[int, list[_SlotSegmentation]]] = []
            for i, (name, images) in enumerate(videos):
                frames, segments = self._frames(images, annotations)
                self._images.append(images)
                self._videos.append(VOSVideo(name, i, frames))
                self._segments.append(segments)
                self._num_left_out.append(len(images) - len(frames))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{setting} has an entry without a needed field"
                f" ({type(error).__name__}: {error}), expected a COCO-video file"
            ) from error

    def _warn_of_cut_slots(self, annotations: dict[Any, list[_SlotSegmentation]]) -> None:
        cut = {
            slot
            for items in annotations.values()
            for slot, segmentation in items
            if slot >= self.num_categories and not _is_missing(segmentation)
        }
        if cut:
            names = [list(self.categories.values())[slot] for slot in sorted(cut)]
            rank_zero_warn(
                f"{self.setting} annotates {len(cut)} categories that data.num_categories="
                f"{self.num_categories} leaves out ({', '.join(names)}); data.num_categories=null"
                " keeps all"
            )

    def _warn_of_unlabelled(
        self, images: list[dict], annotations: dict[Any, list[_SlotSegmentation]]
    ) -> None:
        names = [
            str(image.get("file_name") or image.get("path") or image["id"])
            for image in images
            if image["id"] not in annotations
        ]
        if names and not self.skip_unlabelled:
            some = "1 image" if len(names) == 1 else f"{len(names)} images"
            rank_zero_warn(
                f"{self.setting} has {some} without an annotation ({name_some(names)}), taken as"
                " frames without objects; if they were never labelled, set data.unlabelled=skip"
            )

    def _frames(
        self, images: list[dict], annotations: dict[Any, list[_SlotSegmentation]]
    ) -> tuple[list[AnnotatedFrame], dict[int, list[_SlotSegmentation]]]:
        """Return a video's annotated frames and {frame number: its annotations}."""
        images = _in_order(images)
        frames, segments = [], {}
        for number, image in zip(_frame_numbers(images), images, strict=True):
            items = annotations.get(image["id"], [])
            known = [item for item in items if not _is_missing(item[1])]
            if not known and (items or self.skip_unlabelled):
                continue
            told = _told_size(image)
            frame = AnnotatedFrame(number, self._image_path(image), masks_size=told)
            if told is None:
                sizes = (rle_size(segmentation) for _, segmentation in known)
                frame.masks_size = next((size for size in sizes if size is not None), None)
            else:
                self._told[frame.image_path] = told
            frames.append(frame)
            segments[number] = known
            self._bare[frame.image_path] = len(items) - len(known)
        return frames, segments

    def _image_path(self, image: dict) -> str:
        name = image.get("file_name")
        if self.image_root is not None:
            if not name:
                raise DataError(
                    f"{self.setting} has an image {image['id']!r} without `file_name`, which"
                    " data.image_root needs"
                )
            # by the names alone: links below the root may lead wherever their owner wants
            joined = _below(Path(self.image_root), name)
            root = os.path.normpath(self.image_root)
            if Path(os.path.relpath(joined, root)).parts[:1] == (os.pardir,):
                raise DataError(
                    f"{self.setting} has an image {name!r} outside data.image_root="
                    f"{self.image_root}, expected a path below it"
                )
            return joined
        path = image.get("path") or name
        if not path:
            raise DataError(f"{self.setting} has an image {image['id']!r} without `path`")
        folder = Path(os.path.normpath(Path(self.path).absolute())).parent
        beside = _below(folder, name or path)
        # an absolute path of another machine: the file may still lie beside the JSON
        return path if Path(path).is_absolute() and exists(Path(path)) else beside

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._videos[i]

    def all_frames(self, i: int) -> list[AnnotatedFrame]:
        """Return every frame of video `i`, also those whose masks are unknown."""
        known = {frame.frame_idx: frame for frame in self.video(i).frames}
        size = next((frame.masks_size for frame in self.video(i).frames), None)
        images = _in_order(self._images[i])
        return [
            known.get(number) or AnnotatedFrame(number, self._image_path(image), masks_size=size)
            for number, image in zip(_frame_numbers(images), images, strict=True)
        ]

    def size(self, frame: AnnotatedFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header, which must be those of the JSON."""
        if not exists(Path(frame.image_path)):
            hint = (
                ""
                if self.image_root
                else "; set data.image_root=DIR to look for `file_name` in DIR"
            )
            raise DataError(
                f"{self.setting} names a frame {frame.image_path} that does not exist{hint}"
            )
        size = frame_size(frame, self.max_pixels)
        told = self._told.get(frame.image_path, size)
        if size != told:
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
        if self._bare[frame.image_path]:
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

    def _used_segments(self, i: int, frame: AnnotatedFrame) -> list[_SlotSegmentation]:
        segments = self._segments[i][frame.frame_idx]
        return [item for item in segments if item[0] < self.num_categories]

    def masks(self, i: int, frame: AnnotatedFrame) -> dict[int, np.ndarray]:
        """Return {slot: bool mask [H, W]}: the union of a category's annotations in the frame."""
        width, height = self.size(frame)
        masks: dict[int, np.ndarray] = {}
        for slot, segmentation in self._used_segments(i, frame):
            mask = self._decode_segmentation(segmentation, width, height, frame)
            masks[slot] = masks[slot] | mask if slot in masks else mask
        return masks

    def _decode_segmentation(
        self, segmentation: Any, width: int, height: int, frame: AnnotatedFrame
    ) -> np.ndarray:
        where = f"a mask of {frame.image_path} in {self.setting}"
        decode = decode_rle if isinstance(segmentation, dict) else decode_polygons
        return decode(segmentation, (width, height), where)

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {slot: category name}."""
        return dict(enumerate(self.category_names))

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many images of video `i` are left out, and 0: no mask is without its image."""
        return self._num_left_out[i], 0


def _read_categories(
    content: dict, setting: str, expected: Optional[dict[Any, str]]
) -> dict[Any, str]:
    """Return {category id: name} in the order of the slots, which are `expected`'s if given."""
    own = {item["id"]: str(item.get("name", item["id"])) for item in content["categories"]}
    if len(own) != len(content["categories"]):
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


def _group_annotations(
    content: dict, setting: str, categories: dict[Any, str]
) -> dict[Any, list[_SlotSegmentation]]:
    """Return {image id: its annotations}."""
    slots = {key: slot for slot, key in enumerate(categories)}
    image_ids = {image["id"] for image in content["images"]}
    if len(image_ids) != len(content["images"]):
        counts = Counter(image["id"] for image in content["images"])
        raise DataError(
            f"{setting} has two images with the id {counts.most_common(1)[0][0]!r}: it is not known"
            " whose masks are whose"
        )
    grouped = defaultdict(list)
    for item in content["annotations"]:
        if item["image_id"] not in image_ids:
            raise DataError(
                f"{setting} has an annotation of image {item['image_id']!r}, which is not"
                " among its `images`"
            )
        if item["category_id"] not in slots:
            raise DataError(
                f"{setting} has an annotation of category {item['category_id']!r},"
                f" expected one of {list(slots)}"
            )
        slot = slots[item["category_id"]]
        grouped[item["image_id"]].append((slot, item.get("segmentation")))
    return dict(grouped)


def _name_videos(content: dict, setting: str) -> list[tuple[str, list[dict]]]:
    """Return (name, images) of the videos, sorted by name."""
    videos = defaultdict(list)
    for image in content["images"]:
        videos[str(image["video_id"])].append(image)
    if not videos:
        raise DataError(f"{setting} has no images, expected videos")
    titles = {
        str(item["id"]): str(item["name"]) for item in content.get("videos") or [] if "name" in item
    }
    # names must tell videos apart; ids do when the titles do not
    if len(set(titles.values())) < len(titles):
        titles = {}
    named = [(titles.get(key, key), images) for key, images in videos.items()]
    return sorted(named, key=lambda item: item[0])


def _frame_numbers(images: list[dict]) -> Sequence[int]:
    """Return `order_in_video` where it numbers all images, and their positions otherwise."""
    given = [_number(image.get("order_in_video")) for image in images]
    numbers = [int(number) for number in given if number is not None and number == int(number)]
    return numbers if len(set(numbers)) == len(images) else range(len(images))


def _in_order(images: list[dict]) -> list[dict]:
    """Order by the first number that all images of a video have, and by the numbers in their names.

    Those that have no number would all come last, wherever they belong.
    """
    for key in ("order_in_video", "frame_id"):
        numbers = {id(image): _number(image.get(key)) for image in images}
        if None not in numbers.values():
            return sorted(images, key=lambda image: (numbers[id(image)], _name_key(image)))
    return sorted(images, key=_name_key)


def _name_key(image: dict) -> tuple[list, str]:
    name = str(image.get("file_name") or image.get("path") or "")
    return _natural_key(name), name


def _natural_key(name: str) -> list:
    """Return what puts frame_2 before frame_10: texts and numbers in turn."""
    parts: list = re.split(r"([0-9]+)", name)
    for k in range(1, len(parts), 2):
        digits = parts[k].lstrip("0")
        parts[k] = (len(digits), digits)
    return parts


def _number(value: Any) -> Optional[float]:
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


def _told_size(image: dict) -> Optional[tuple[int, int]]:
    """Return (width, height) as the file has them, None where it tells no size."""
    width, height = _number(image.get("width")), _number(image.get("height"))
    if width is None or height is None or width < 1 or height < 1:
        return None
    return round(width), round(height)


def _is_missing(segmentation: Any) -> bool:
    """Return whether an annotation has no mask, which is something else than a malformed one."""
    return segmentation is None or segmentation == []
