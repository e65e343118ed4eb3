"""COCO JSON of single images: every image is a video of one frame, every annotation an object."""

from collections import Counter

from ...config import DataConfig
from .coco import (
    CocoReader,
    CocoVideo,
    group_annotations,
    needed_fields,
    open_coco,
    read_categories,
    told_size,
    without_crowds,
)
from .segmentations import is_missing


def read_coco_images(path: str, setting: str, data: DataConfig) -> CocoReader:
    """Read COCO, as CVAT, Label Studio, Roboflow and FiftyOne export it.

    The objects of an image count from 1. Annotations without a mask are left out; an image that has
    no others has no known masks.

    Args:
        path: The JSON file.
        setting: How the user named it, e.g. ``data.train_annotations=a.json``.
        data: `data.image_root`, `data.max_image_pixels`.

    Raises:
        DataError: The file is missing or not COCO, names categories or images that it does not
            have, or a path leaves `data.image_root`.
    """
    file = open_coco(path, setting, data, ("images", "annotations", "categories"))
    with needed_fields(setting, "coco_images"):
        categories = read_categories(file)
        annotations = without_crowds(file, group_annotations(file, categories))
        images = file.content["images"]
        titles = [str(image.get("file_name") or image.get("path") or "") for image in images]
        counts = Counter(titles)
        videos = []
        for title, image in zip(titles, images, strict=True):
            items = annotations.get(image["id"], [])
            seen = [item for item in items if not is_missing(item.get("segmentation"))]
            names = {k + 1: categories[item["category_id"]] for k, item in enumerate(seen)}
            video = CocoVideo(title if counts[title] == 1 else str(image["id"]), names)
            where = file.image_path(image.get("file_name"), image.get("path"), image["id"])
            segments = [(k + 1, item["segmentation"]) for k, item in enumerate(seen)]
            unknown = bool(items) and not seen
            video.add_frame(0, where, told_size(image), None if unknown else segments)
            if len(seen) < len(items):
                video.bare.add(where)
            videos.append(video)
    return CocoReader(file, sorted(videos, key=lambda video: video.name), data, categories)
