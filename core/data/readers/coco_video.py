"""Reader of COCO-video JSON, the usual form of surgical data sets: one mask slot per category."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from pycocotools import mask as mask_utils
from training.dataset.vos_raw_dataset import VOSFrame, VOSVideo

from ...config import DataConfig
from .files import (
    DataError,
    check_folder,
    check_mask_size,
    decode_image,
    exists,
    open_image,
    read_json,
)

# the slot of an annotation's category, and its RLE, polygons or None, as the file has it
_SlotSegmentation = tuple[int, Any]


class CocoVideoReader:
    """COCO-video JSON in the category layout: the object ids are the categories' slots 0 .. N-1.

    Slots follow the categories sorted by id; annotations of those beyond `data.num_categories` are
    left out with a warning. All images of the file are taken as annotated, those without an
    annotation as empty; only images whose annotations all lack a segmentation are left out, because
    their masks are unknown.

    Args:
        path: The JSON file.
        setting: How the user named it, e.g. ``data.train_annotations=a.json``.
        data: `data.image_root`, `data.num_categories`, `data.max_image_pixels`.
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
            self.names = [name for name, _ in videos]
            self._videos: list[VOSVideo] = []
            self._all_frames: list[list[VOSFrame]] = []
            self._segments: list[dict[int, list[_SlotSegmentation]]] = []
            for i, (name, images) in enumerate(videos):
                frames, segments = self._frames(images, annotations)
                annotated = [frame for frame in frames if frame.frame_idx in segments]
                self._all_frames.append(frames)
                self._videos.append(VOSVideo(name, i, annotated))
                self._segments.append(segments)
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
            if slot >= self.num_categories and segmentation
        }
        if cut:
            names = [list(self.categories.values())[slot] for slot in sorted(cut)]
            rank_zero_warn(
                f"{self.setting} annotates {len(cut)} categories that data.num_categories="
                f"{self.num_categories} leaves out ({', '.join(names)}); data.num_categories=null"
                " keeps all"
            )

    def _frames(
        self, images: list[dict], annotations: dict[Any, list[_SlotSegmentation]]
    ) -> tuple[list[VOSFrame], dict[int, list[_SlotSegmentation]]]:
        """Return a video's frames and, of the annotated ones, {frame number: its annotations}."""
        images = sorted(images, key=_order_key)
        frames, segments = [], {}
        for number, image in zip(_frame_numbers(images), images, strict=True):
            items = annotations.get(image["id"], [])
            known = [(slot, segmentation) for slot, segmentation in items if segmentation]
            frames.append(VOSFrame(number, image_path=self._image_path(image)))
            if known or not items:
                segments[number] = known
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
            joined = os.path.normpath(Path(self.image_root) / name)
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
        beside = str(folder / (name or path))
        # an absolute path of another machine: the file may still lie beside the JSON
        return path if Path(path).is_absolute() and exists(Path(path)) else beside

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._videos[i]

    def all_frames(self, i: int) -> list[VOSFrame]:
        """Return every frame of video `i`, also those whose masks are unknown."""
        return self._all_frames[i]

    def size(self, frame: VOSFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header."""
        if not exists(Path(frame.image_path)):
            hint = (
                ""
                if self.image_root
                else "; set data.image_root=DIR to look for `file_name` in DIR"
            )
            raise DataError(
                f"{self.setting} names a frame {frame.image_path} that does not exist{hint}"
            )
        with open_image(frame.image_path, self.max_pixels) as image:
            return image.size

    def image(self, frame: VOSFrame) -> Image.Image:
        """Return a frame as RGB."""
        self.size(frame)
        with open_image(frame.image_path, self.max_pixels) as image:
            return decode_image(image, frame.image_path)

    def masks(self, i: int, frame: VOSFrame) -> dict[int, np.ndarray]:
        """Return {slot: bool mask [H, W]}: the union of a category's annotations in the frame."""
        width, height = self.size(frame)
        masks: dict[int, np.ndarray] = {}
        for slot, segmentation in self._segments[i][frame.frame_idx]:
            if slot >= self.num_categories:
                continue
            mask = self._decode_segmentation(segmentation, width, height, frame)
            masks[slot] = masks[slot] | mask if slot in masks else mask
        return masks

    def _decode_segmentation(
        self, segmentation: Any, width: int, height: int, frame: VOSFrame
    ) -> np.ndarray:
        where = f"a mask of {frame.image_path} in {self.setting}"
        try:
            if isinstance(segmentation, dict):
                size = segmentation["size"]
                check_mask_size((size[1], size[0]), (width, height), where)
                rle = segmentation
                if isinstance(rle["counts"], list):
                    rle = mask_utils.frPyObjects(rle, height, width)
            else:
                polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
                if not polygons:
                    return np.zeros((height, width), bool)
                rle = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
            return mask_utils.decode(rle).astype(bool)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{where} cannot be decoded ({error}), expected an RLE or polygons"
            ) from error

    def object_names(self, i: int) -> Optional[dict[int, str]]:
        """Return {slot: category name}."""
        return dict(enumerate(self.category_names))

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return (0, 0): a file lists its frames and their annotations together."""
        return 0, 0


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
    given = [image.get("order_in_video") for image in images]
    numbers = [number for number in given if isinstance(number, int)]
    return numbers if len(set(numbers)) == len(images) else range(len(images))


def _order_key(image: dict) -> tuple:
    order = image.get("order_in_video", image.get("frame_id"))
    return (order is None, order or 0, str(image.get("file_name") or image.get("path") or ""))
