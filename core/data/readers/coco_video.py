"""Reader of COCO-video JSON, the usual form of surgical data sets: one mask slot per category."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Optional

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from pycocotools import mask as mask_utils
from training.dataset.vos_raw_dataset import VOSFrame, VOSVideo

from ...config import DataConfig
from .files import DataError, check_folder, check_mask_size, decode_image, open_image, read_json


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
        categories: Optional[dict[int, str]] = None,
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
            self._parse(content, categories, data.num_categories)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{setting} has an entry without a needed field"
                f" ({type(error).__name__}: {error}), expected a COCO-video file"
            ) from error

    def _parse(
        self, content: dict, categories: Optional[dict[int, str]], num_categories: Optional[int]
    ) -> None:
        own = {item["id"]: str(item.get("name", item["id"])) for item in content["categories"]}
        if len(own) != len(content["categories"]):
            raise DataError(f"{self.setting} has two categories of the same id")
        for key, name in (categories or {}).items():
            other = own.get(key, name)
            # a category that a file gives no name goes by its id
            if other != name and str(key) not in (other, name):
                raise DataError(
                    f"{self.setting} calls category {key!r} {other!r}, expected the training file's"
                    f" name {name!r}"
                )
        self.categories = categories or dict(sorted(own.items()))
        if not self.categories:
            raise DataError(f"{self.setting} has no categories, expected at least one")
        self.num_categories = num_categories or len(self.categories)
        self.category_names = list(self.categories.values())[: self.num_categories]
        slots = {key: slot for slot, key in enumerate(self.categories)}

        annotations, cut = defaultdict(list), set()
        image_ids = {image["id"] for image in content["images"]}
        for item in content["annotations"]:
            if item["image_id"] not in image_ids:
                raise DataError(
                    f"{self.setting} has an annotation of image {item['image_id']!r}, which is not"
                    " among its `images`"
                )
            if item["category_id"] not in slots:
                raise DataError(
                    f"{self.setting} has an annotation of category {item['category_id']!r},"
                    f" expected one of {list(slots)}"
                )
            slot, segmentation = slots[item["category_id"]], item.get("segmentation")
            annotations[item["image_id"]].append((slot, segmentation))
            if slot >= self.num_categories and segmentation:
                cut.add(slot)
        if cut:
            names = [list(self.categories.values())[slot] for slot in sorted(cut)]
            rank_zero_warn(
                f"{self.setting} annotates {len(cut)} categories that data.num_categories="
                f"{num_categories} leaves out ({', '.join(names)}); null keeps all"
            )

        videos = defaultdict(list)
        for image in content["images"]:
            videos[str(image["video_id"])].append(image)
        if not videos:
            raise DataError(f"{self.setting} has no images, expected videos")
        titles = {
            str(item["id"]): str(item["name"])
            for item in content.get("videos") or []
            if "name" in item
        }
        # names must tell videos apart; ids do when the titles do not
        if len(set(titles.values())) < len(titles):
            titles = {}
        order = sorted(videos, key=lambda key: titles.get(key, key))
        self.names = [titles.get(key, key) for key in order]
        self._videos, self._segments = [], []
        for i, key in enumerate(order):
            frames, segments = self._frames(videos[key], annotations)
            self._videos.append(VOSVideo(self.names[i], i, frames))
            self._segments.append(segments)

    def _frames(self, images: list[dict], annotations: dict) -> tuple[list[VOSFrame], dict]:
        images = sorted(images, key=_order_key)
        numbers = [image.get("order_in_video") for image in images]
        if any(not isinstance(number, int) for number in numbers) or len(set(numbers)) < len(
            numbers
        ):
            numbers = range(len(images))
        frames, segments = [], {}
        for number, image in zip(numbers, images, strict=True):
            items = annotations.get(image["id"], [])
            known = [(slot, segmentation) for slot, segmentation in items if segmentation]
            if items and not known:
                continue
            frames.append(VOSFrame(number, image_path=self._image_path(image)))
            segments[number] = known
        return frames, segments

    def _image_path(self, image: dict) -> str:
        name = image.get("file_name")
        if self.image_root is not None:
            if not name:
                raise DataError(
                    f"{self.setting} has an image {image['id']!r} without `file_name`, which"
                    " data.image_root is to be joined with"
                )
            joined = os.path.normpath(os.path.join(self.image_root, name))
            root = os.path.normpath(self.image_root)
            if os.path.relpath(joined, root).split(os.sep)[0] == os.pardir:
                raise DataError(
                    f"{self.setting} has an image {name!r} outside data.image_root="
                    f"{self.image_root}, expected a path below it"
                )
            return joined
        path = image.get("path") or name
        if not path:
            raise DataError(f"{self.setting} has an image {image['id']!r} without `path`")
        beside = os.path.join(os.path.dirname(os.path.abspath(self.path)), name or path)
        # an absolute path of another machine: the file may still lie beside the JSON
        return path if os.path.isabs(path) and os.path.exists(path) else beside

    def video(self, i: int) -> VOSVideo:
        """Return the annotated frames of video `i`."""
        return self._videos[i]

    def size(self, frame: VOSFrame) -> tuple[int, int]:
        """Return (width, height) of a frame from its header."""
        if not os.path.exists(frame.image_path):
            hint = "" if self.image_root else "; data.image_root=DIR joins `file_name` to DIR"
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
        masks = {}
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


def _order_key(image: dict) -> tuple:
    order = image.get("order_in_video", image.get("frame_id"))
    return (order is None, order or 0, str(image.get("file_name") or image.get("path") or ""))
